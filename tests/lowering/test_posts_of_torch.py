"""What a stage posts and waits for, against what torch's own schedules post and wait for.

https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

import pytest

from mpsim.lowering.bind import posts
from mpsim.plan.schedules import SCHEDULES, Operation

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


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", KINDS)
def test_the_same_posts_and_waits(monkeypatch, name, stages):
    for microbatches in (1, 2, 3, 4, 7, 8, 16):
        rows = SCHEDULES[name](stages, microbatches)
        for stage in range(stages):
            ours = [(do, tuple(str(op) for _, op in ops)) for do, ops in posts(rows[stage], stages, name)]
            assert ours == run(monkeypatch, name, stages, stage, microbatches)


def test_other_rows_wait_for_their_sends_at_the_end():
    row = [Operation(0, "F", 0), Operation(0, "F", 1), Operation(0, "B", 0), Operation(0, "B", 1)]
    found = posts(row, 2, "mine")
    assert found[-1].do == "wait"
    assert [str(op) for _, op in found[-1].operations] == ["0F0", "0F1"]
    assert [post.do for post in found].count("wait") == 3
