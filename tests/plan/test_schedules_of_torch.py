"""GPipe and 1F1B against torch: the order in which its schedules run, and the one that its generators draw.

https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

import pytest

from mpsim.plan.schedules import SCHEDULES, Operation, format_rows

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
