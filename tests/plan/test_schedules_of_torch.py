"""Schedules against torch's: the order in which GPipe and 1F1B run, and the ones that its generators draw.

https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

import csv

import pytest

from mpsim.plan.schedule_file import read_schedule, write_schedule
from mpsim.plan.schedules import SCHEDULES, Operation, format_rows
from mpsim.plan.shape import shape_of

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")

KINDS = {"gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B}
CASES = [(name, stages) for name in KINDS for stages in range(1, 17)]


class Recorder:
    """A pipeline stage that sends nothing and writes down what it is told to compute."""

    def __init__(self, stage: int) -> None:
        self.stage_index = stage
        self.row: list[Operation] = []

    def forward_one_chunk(self, microbatch, *_, **__):
        self.row.append(Operation(self.stage_index, "F", microbatch))

    def backward_one_chunk(self, microbatch, **_):
        self.row.append(Operation(self.stage_index, "B", microbatch))

    def perform_reduce_grad(self, _):
        pass

    def get_fwd_recv_ops(self, _):
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops


def not_set_up(name: str, stages: int, microbatches: int):
    """Return a schedule of torch that has no process group, only the two numbers which its order depends on."""
    schedule = object.__new__(KINDS[name])
    schedule._num_stages, schedule._n_microbatches, schedule.scale_grads = stages, microbatches, True
    return schedule


def run(monkeypatch, name: str, stages: int, microbatches: int) -> str:
    """Return what torch's schedule tells each stage to compute."""
    nothing = [None] * microbatches
    monkeypatch.setattr(KINDS[name], "_check_inputs", lambda *_: (nothing, nothing))
    for method in ("_initialize_stage", "_maybe_compute_loss", "_maybe_get_loss", "_update_losses"):
        monkeypatch.setattr(KINDS[name], method, lambda *_: None)
    rows = []
    for stage in range(stages):
        schedule = not_set_up(name, stages, microbatches)
        schedule._stage = Recorder(stage)
        schedule._step_microbatches()
        rows.append(schedule._stage.row)
    return format_rows(rows)


def drawn(name: str, stages: int, microbatches: int) -> list[str]:
    """Return the order that torch's generator draws, a line a stage."""
    kinds = {schedules._ComputationType.FORWARD: "F", schedules._ComputationType.FULL_BACKWARD: "B"}
    order = not_set_up(name, stages, microbatches)._get_pipeline_order()
    return [
        " ".join(
            str(Operation(action.stage_index, kinds[action.computation_type], action.microbatch_index))
            for action in order[stage]
            if action is not None and action.computation_type in kinds
        )
        for stage in range(stages)
    ]


@pytest.mark.parametrize(("name", "stages"), CASES)
def test_what_torch_runs(monkeypatch, name, stages):
    for microbatches in (*range(1, 9), 13, 16, 31, 32, 64):
        assert format_rows(SCHEDULES[name](stages, microbatches)) == run(monkeypatch, name, stages, microbatches)


@pytest.mark.parametrize(("name", "stages"), CASES)
def test_what_torch_draws(name, stages):
    """Of 1F1B torch draws micro-batches that do not exist where there are fewer of them than stages, and numbers the
    forwards of the last stage from 1, though it runs them from 0: both are left out."""
    for microbatches in range(1 if name == "gpipe" else stages, 65):
        ours = format_rows(SCHEDULES[name](stages, microbatches)).splitlines()
        torchs = drawn(name, stages, microbatches)
        if name == "1f1b":
            ours, torchs = ours[:-1], torchs[:-1]
        assert ours == torchs


SEVERAL = {
    "looped-bfs": schedules.ScheduleLoopedBFS,
    "interleaved-1f1b": schedules.ScheduleInterleaved1F1B,
    "interleaved-zb": schedules.ScheduleInterleavedZeroBubble,
    "zb-v": schedules.ScheduleZBVZeroBubble,
    "dualpipe-v": schedules.ScheduleDualPipeV,
}
CHUNKS = {name: (2,) if name in ("zb-v", "dualpipe-v") else (1, 2, 3, 4) for name in SEVERAL}


def order_of_several(name: str, ranks: int, microbatches: int, chunks: int) -> dict:
    """Return the order that torch's generator makes for several stages a rank, from the numbers that it depends on."""
    order = {}
    for rank in range(ranks):
        one = object.__new__(SEVERAL[name])
        one.pp_group_size, one.rank, one.n_local_stages, one._n_microbatches = ranks, rank, chunks, microbatches
        one._num_stages = one.num_stages = ranks * chunks
        one.number_of_rounds = max(1, microbatches // ranks)
        one.microbatches_per_round = microbatches // one.number_of_rounds
        one._stages = [None] * chunks
        order[rank] = one._calculate_single_rank_operations(rank)
    return order


def torch_takes(name: str, ranks: int, microbatches: int) -> bool:
    """What the constructors of torch's classes accept."""
    if name.startswith("interleaved"):
        return microbatches % max(1, microbatches // ranks) == 0
    return name != "dualpipe-v" or microbatches >= 2 * ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("name", "chunks"), [(name, chunks) for name in SEVERAL for chunks in CHUNKS[name]])
def test_several_stages_a_rank(tmp_path, name, chunks, ranks):
    """The order is torch's, cell by cell: torch's file of it, read, is ours, and ours, read by torch, is torch's."""
    taken = [k for k in (*range(1, 13), 16, 24, 31, 32) if torch_takes(name, ranks, k)]
    assert len(taken) > 3
    for microbatches in taken:
        torchs = order_of_several(name, ranks, microbatches, chunks)
        with open(tmp_path / "torch.csv", "w", newline="") as file:
            csv.writer(file).writerows(torchs.values())
        ours = SCHEDULES[name](ranks, microbatches, chunks)
        assert read_schedule(tmp_path / "torch.csv") == ours
        write_schedule(tmp_path / "ours.csv", ours)
        with open(tmp_path / "ours.csv", newline="") as file:
            read = [[schedules._Action.from_str(cell) for cell in row] for row in csv.reader(file)]
        assert read == [[action for action in row if action is not None] for row in torchs.values()]


@pytest.mark.parametrize(
    ("name", "chunks"), [("interleaved-1f1b", 2), ("zb-v", 2), ("dualpipe-v", 2), ("looped-bfs", 3)]
)
def test_what_torch_puts_between_computations_is_skipped(tmp_path, name, chunks):
    """Its lowered form, with sends, receives, gathers and reductions, reads as the same schedule."""
    ranks, microbatches = 4, 8
    order = order_of_several(name, ranks, microbatches, chunks)
    home = shape_of(SCHEDULES[name](ranks, microbatches, chunks)).home
    lowered = {
        rank: schedules._add_reduce_grad(schedules._add_unshard_reshard(row), microbatches)
        for rank, row in order.items()
    }
    lowered = schedules._add_send_recv(lowered, lambda stage: home[stage], len(home))
    with open(tmp_path / "torch.csv", "w", newline="") as file:
        csv.writer(file).writerows(lowered.values())
    text = (tmp_path / "torch.csv").read_text()
    assert all(word in text for word in ("SEND_F", "RECV_B", "UNSHARD", "REDUCE_GRAD"))
    assert read_schedule(tmp_path / "torch.csv") == SCHEDULES[name](ranks, microbatches, chunks)
