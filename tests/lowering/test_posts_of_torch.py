"""What a stage posts and waits for, against what torch's own schedules post and wait for.

https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

import pytest
from cases import chained, layer

from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Compute, Receive, Send, Wait
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan
from mpsim.plan.schedules import SCHEDULES, gpipe, one_f_one_b
from mpsim.plan.shape import shape_of
from mpsim.topology.builders import chain

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")

KINDS = {"gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B}


class Recorder:
    """A pipeline stage whose messages are names, and which writes down what happens to them."""

    def __init__(self, stage: int, stages: int) -> None:
        self.stage_index, self.stages, self.log = stage, stages, []

    def forward_one_chunk(self, microbatch, *_, **__):
        self.log.append(("compute", (f"{self.stage_index}F{microbatch}",)))

    def backward_one_chunk(self, microbatch, **_):
        self.log.append(("compute", (f"{self.stage_index}B{microbatch}",)))

    def perform_reduce_grad(self, _):
        pass

    def get_fwd_recv_ops(self, k):
        return [("receive", f"{self.stage_index}F{k}")] if self.stage_index else []

    def get_fwd_send_ops(self, k):
        return [("send", f"{self.stage_index}F{k}")] if self.stage_index < self.stages - 1 else []

    def get_bwd_recv_ops(self, k):
        return [("receive", f"{self.stage_index}B{k}")] if self.stage_index < self.stages - 1 else []

    def get_bwd_send_ops(self, k):
        return [("send", f"{self.stage_index}B{k}")] if self.stage_index else []


def run(monkeypatch, name: str, stages: int, stage: int, microbatches: int):
    """Return what torch's schedule does on one stage, waits in a row taken together."""
    nothing = [None] * microbatches
    monkeypatch.setattr(KINDS[name], "_check_inputs", lambda *_: (nothing, nothing))
    for method in ("_initialize_stage", "_maybe_compute_loss", "_maybe_get_loss", "_update_losses"):
        monkeypatch.setattr(KINDS[name], method, lambda *_: None)
    recorder = Recorder(stage, stages)

    def post(operations, desc=None):
        recorder.log.extend((do, (op,)) for do, op in operations)
        return operations

    def wait(work):
        if work and recorder.log[-1][0] == "wait":
            recorder.log[-1] = ("wait", (*recorder.log[-1][1], *(op for _, op in work)))
        elif work:
            recorder.log.append(("wait", tuple(op for _, op in work)))

    monkeypatch.setattr(schedules, "_batch_p2p", post)
    monkeypatch.setattr(schedules, "_sorted_batch_p2p", lambda ops, desc=None: {0: post(ops)} if ops else {})
    monkeypatch.setattr(schedules, "_wait_batch_p2p", wait)
    schedule = object.__new__(KINDS[name])
    schedule._num_stages, schedule._n_microbatches, schedule.scale_grads = stages, microbatches, True
    schedule._stage = recorder
    schedule._step_microbatches()
    return recorder.log


def lowered(name, ranks: int, microbatches: int):
    """Return the lowering of a plan, a layer a stage."""
    plan = Plan(pp=ranks, microbatches=microbatches, schedule=name, runtime="torch-gloo")
    work = chained([layer(f"layer{i}") for i in range(shape_of(plan.rows()).stages)], 64)
    return lower(work, chain(ranks, link="1GB/s@0"), plan)


def ours(name, ranks: int, microbatches: int) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Return what the lowering has each rank do."""
    lowering = lowered(name, ranks, microbatches)
    return [said(instructions_of(lowering, rank)) for rank in range(ranks)]


def said(instructions) -> list[tuple[str, tuple[str, ...]]]:
    """Return instructions in torch's words."""
    found, names = [], {}
    for one in instructions:
        match one:
            case Compute() if one.pass_kind != "U":
                found.append(("compute", (one.name,)))
            case Send():
                names[one.key] = f"{one.stage}{one.direction}{one.microbatch}"
                found.append(("send", (names[one.key],)))
            case Receive():
                names[one.key] = f"{one.to}{one.direction}{one.microbatch}"
                found.append(("receive", (names[one.key],)))
            case Wait():
                found.append(("wait", tuple(names[key] for key in one.keys)))
    return found


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", KINDS)
def test_the_same_posts_and_waits(monkeypatch, name, stages):
    for microbatches in (1, 2, 3, 4, 7, 8, 16):
        if (name, microbatches) == ("1f1b", 1):
            continue  # these are the rows of GPipe
        found = ours(name, stages, microbatches)
        for stage in range(stages):
            assert found[stage] == run(monkeypatch, name, stages, stage, microbatches)


COMPUTED = {
    "F": schedules.FORWARD,
    "B": schedules.FULL_BACKWARD,
    "I": schedules.BACKWARD_INPUT,
    "W": schedules.BACKWARD_WEIGHT,
}
POSTED = {
    schedules.SEND_F: ("send", "F"),
    schedules.SEND_B: ("send", "B"),
    schedules.RECV_F: ("receive", "F"),
    schedules.RECV_B: ("receive", "B"),
}
# Two directions, updates amid a step and several rounds are not torch's; the rows of two names have classes of theirs.
OF_ITS_RUNTIME = sorted(
    {*SCHEDULES} - {"dualpipe", "chimera", "pipedream", "gpipe-accumulated", "naive", "gpipe", "1f1b"}
)


def actions(row):
    """Return a row in torch's words, two operations of a cell as one action."""
    found, cell = [], []
    for one in row:
        cell.append(schedules._Action(one.stage, COMPUTED[one.kind], one.microbatch))
        if not one.overlaps:
            both = schedules._Action(-1, schedules.OVERLAP_F_B, None, tuple(cell))
            found.append(cell[0] if len(cell) == 1 else both)
            cell = []
    return found


def with_messages(rows, shape, microbatches: int) -> list[list[tuple[str, str]]]:
    """Return what torch's runtime makes of rows: computations, and messages where they are posted."""
    prepared = {
        rank: schedules._add_reduce_grad(schedules._add_unshard_reshard(actions(row)), microbatches)
        for rank, row in enumerate(rows)
    }
    made = schedules._add_send_recv(prepared, lambda stage: shape.home[stage], shape.stages)
    return [[what for one in made[rank] for what in in_words(one)] for rank in range(len(rows))]


def in_words(action) -> list[tuple[str, str]]:
    kind, stage, k = action.computation_type, action.stage_index, action.microbatch_index
    if kind in POSTED:
        do, way = POSTED[kind]
        return [(do, f"{stage}{way}{k}")]
    if kind == schedules.OVERLAP_F_B:
        return [what for one in action.sub_actions for what in in_words(one)]
    letter = next((letter for letter, known in COMPUTED.items() if known == kind), "")
    return [("compute", f"{stage}{letter}{k}")] if letter else []


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("name", OF_ITS_RUNTIME)
def test_messages_are_posted_where_torchs_runtime_posts_them(name, ranks):
    for microbatches in (2, 4, 5, 8, 16):
        try:
            lowering = lowered(name, ranks, microbatches)
        except MpsimError:
            continue  # numbers that the schedule cannot have
        if lowering.posting != "early":
            continue  # with so few micro-batches these are the rows of GPipe
        expected = with_messages(lowering.rows, lowering.shape, microbatches)
        for rank, row in enumerate(ours(name, ranks, microbatches)):
            # torch sends for both of a cell once both are done; what is posted in between is the same.
            assert [(do, what[0]) for do, what in row if do != "wait"] == expected[rank]


def test_other_rows_wait_for_their_sends_at_the_end():
    def mine(stages, microbatches):
        return gpipe(stages, microbatches)[:-1] + one_f_one_b(stages, microbatches)[-1:]

    first, _ = ours(mine, 2, 3)
    assert first[-2:] == [("compute", ("0B2",)), ("wait", ("0F0", "0F1", "0F2"))]
    assert [do for do, _ in first].count("wait") == 4


def test_rows_count_and_not_the_name_they_were_asked_for_by():
    assert ours(one_f_one_b, 3, 4) == ours("1f1b", 3, 4)
    assert ours(lambda stages, microbatches: gpipe(stages, microbatches), 3, 4) == ours("gpipe", 3, 4)
