"""Stage times of pipelines with large vocabularies, replayed by 1F1B (Yeung et al., MLSys 2025)."""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation.run import simulate
from mpsim.topology.catalog import device
from mpsim.topology.spec import parse_topology
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table
from mpsim.workload.model import Layer, Workload

__all__ = ["VOCABULARY"]

_HALF_BYTES = 2  # fp16
_PLAIN = ("base", "redis")
# A parameter's update by Adam with fp16 parameters, fp32 gradients, master weights and two moments: reads 16 bytes and
# writes 14, which takes what the memory's bandwidth makes of it.
_UPDATE_BYTES = 30
_DEVICE = "A100-SXM4-80GB"
# One server with 8 A100. Megatron's 1F1B hands a send and the receive of the same neighbour over as one and waits for
# both: so does the class for 1F1B that this runtime stands for.
_SERVER, _RUNTIME = "dgx_a100", "torch-nccl"


def _open(table: Table, inputs: Inputs) -> Predictor:
    return _predict


def _predict(row: Row) -> Iterator[Outcome]:
    method, case = row.text("method"), row.text("case")
    if method not in _PLAIN:
        raise MpsimError(
            f"method {method!r} has passes of the vocabulary layers among those of 1F1B, of which no schedule is known"
            f" here: {' and '.join(_PLAIN)} are replayed"
        )
    stages, microbatches = row.count("pp"), row.count("n_microbatches")
    if row.count("tp", 1) > 1 or row.count("dp", 1) > 1:
        raise MpsimError(f"{row.where}: tp or dp is more than 1: times of whole stages are replayed by pipelines alone")
    row.check_gpus(stages)
    forward_us = row.all_numbers("fwd_us_per_stage", stages)
    backward_us = row.all_numbers("bwd_us_per_stage", stages)
    layers = [
        Layer.given(f"stage{i}", forward_s=f * 1e-6, backward_s=b * 1e-6, optimizer_s=_update_s(row, i, stages))
        for i, (f, b) in enumerate(zip(forward_us, backward_us, strict=True))
    ]
    message = row.count("micro_batch") * row.count("seq") * row.count("hidden") * _HALF_BYTES
    plan = Plan(
        pp=stages, microbatches=microbatches, boundaries=tuple(range(1, stages)) if stages > 1 else None,
        runtime=_RUNTIME,
    )  # fmt: skip
    work = Workload.chain(case, layers, activation_bytes=message)
    nodes = -(-stages // 8)
    step_s = simulate(work, parse_topology(f"{_SERVER}:{nodes}"), plan, spans=False).step_s
    yield Outcome(case=case, measured=row.number("iteration_ms") / 1e3, predicted=step_s)


def _update_s(row: Row, stage: int, stages: int) -> float:
    """Return the update of a stage of as many layers as a mean one, and of the table or the head at the ends."""
    hidden = row.count("hidden")
    ends = (stage == 0) + (stage == stages - 1)
    parameters = row.count("layers") / stages * 12 * hidden**2 + ends * row.count("vocab") * hidden
    return parameters * _UPDATE_BYTES / device(_DEVICE).memory_bandwidth_bytes_per_s


VOCABULARY = Adapter(
    file="vocab_parallel_stage_times",
    about="Measured forward and backward of each of a pipeline's unequal stages, replayed by 1F1B over NVLink.",
    columns=("case", "method", "pp", "n_microbatches", "iteration_ms", "fwd_us_per_stage", "bwd_us_per_stage"),
    open=_open,
    case=lambda row: row.text("case"),
    goals={"time": 0.01},
)
