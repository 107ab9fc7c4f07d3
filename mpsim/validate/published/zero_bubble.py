"""Zero-bubble pipelines from their profiled times (Qi et al., ICLR 2024).

What was profiled are means over the stages of a pipeline, which are not alike: the model has ``L`` layers on ``p``
stages of ``(L + 2) / p``, the first and the last with one layer less, in whose place the last has head and loss.
A pipeline moves at the pace of its slowest stage, so a bare replay of the means is short by ``(L + 2) / (L + 1)`` in
each micro-batch (the head counted as one layer: the vocabulary is not stated). The rest of what is missing a
micro-batch are 1F1B's messages: a send and the receive of the same neighbour are one call that is waited for, twice a
micro-batch. Behind the last one comes the update, by its bytes over the memory's bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from mpsim.errors import MpsimError, unknown
from mpsim.plan.automatic import StageTimes, zero_bubble_rows
from mpsim.plan.flat import one_f_one_b
from mpsim.plan.looped import interleaved_1f1b
from mpsim.plan.model import Plan
from mpsim.plan.operations import Rows
from mpsim.simulation.run import simulate
from mpsim.topology.catalog import device
from mpsim.topology.grids import ring
from mpsim.topology.model import Topology
from mpsim.topology.wire import Wire
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table
from mpsim.workload.model import Layer, Workload

__all__ = ["ZERO_BUBBLE"]

_HEAD_LAYERS = 1  # What the head and the loss are counted as.
_HALF_BYTES = 2
# A parameter's update by Adam with fp16 parameters and fp32 gradients, master weights and two moments: reads 16 bytes
# and writes 14.
_UPDATE_BYTES = 30
_DEVICE = "A100-SXM4-80GB"


class _Profile(NamedTuple):
    """Mean seconds of a stage and of a message, and how many units of a layer all stages have together."""

    layers: int
    heads: int
    hidden: int
    sequence: int
    ranks: int
    microbatch: int
    microbatches: int
    forward_s: float
    inputs_s: float
    weights_s: float
    message_s: float

    def of_layer(self) -> tuple[float, float, float]:
        """Return forward, backward for inputs and backward for weights of one layer."""
        part = self.ranks / (self.layers + _HEAD_LAYERS)
        return part * self.forward_s, part * self.inputs_s, part * self.weights_s

    def stage(self, chunks: int) -> StageTimes:
        """Return one of `chunks` parts of a mean stage, as the authors' scheduler was given it.

        From F a layer holds 34·h + 5·a·s bytes for each token, of which W needs 32·h (section 2 of the paper).
        """
        kept = 32 * self.hidden / (34 * self.hidden + 5 * self.heads * self.sequence)
        means = (self.forward_s / chunks, self.inputs_s / chunks, self.weights_s / chunks)
        return StageTimes(*means, held=1.0, kept=kept)


def _profile(row: Row) -> _Profile:
    sizes = [
        row.count(name)
        for name in ("layers", "heads", "hidden", "seq", "pp", "micro_batch", "n_microbatches")
    ]  # fmt: skip
    return _Profile(*sizes, *(row.number(name) / 1e3 for name in ("T_F_ms", "T_B_ms", "T_W_ms", "T_comm_ms")))


def _open(table: Table, inputs: Inputs) -> Predictor:
    profiles = [_profile(row) for row in inputs("zero_bubble_profiled_times").rows]

    def predict(row: Row) -> Iterator[Outcome]:
        name = row.text("schedule")
        if name not in _SCHEDULES:
            raise unknown("schedule", name, _SCHEDULES)
        microbatches, batch = row.count("n_microbatches"), row.count("micro_batch")
        profile = _nearest(profiles, row)
        row.check_gpus(profile.ranks)
        measured_s = microbatches * batch / (row.number("samples_per_gpu_s") * row.count("n_gpus"))
        yield Outcome(case=_case(row), measured=measured_s, predicted=_step_s(name, profile, microbatches))

    return predict


@cache
def _step_s(name: str, profile: _Profile, microbatches: int) -> float:
    """Return the step of a schedule, or of its steps in a row the time between their ends."""
    schedule, ranks = _SCHEDULES[name], profile.ranks
    chunks = _chunks(profile) if schedule.chunks is None else schedule.chunks
    plan = Plan(
        pp=ranks, microbatches=microbatches, schedule=schedule.rows(profile, microbatches), runtime=schedule.runtime,
        boundaries=tuple(range(1, ranks * chunks)),
    )  # fmt: skip
    found = simulate(_workload(profile, chunks, name), _ring(profile), plan, spans=schedule.steady)
    return found.steady_s if schedule.steady and found.steady_s is not None else found.step_s


def _nearest(profiles: list[_Profile], row: Row) -> _Profile:
    """Return the profile of a row's pipeline, of the number of micro-batches nearest to its own."""
    wanted = {name: row.count(name) for name in ("layers", "heads", "hidden", "seq", "pp")}
    size = (wanted["layers"], wanted["heads"], wanted["hidden"], wanted["seq"])
    same = [one for one in profiles if (one.layers, one.heads, one.hidden, one.sequence) == size]
    batch = row.count("micro_batch")
    found = [one for one in same if one.microbatch == batch]
    if not found:
        have = sorted({one.microbatch for one in same})
        raise MpsimError(
            f"was profiled at micro-batch {', '.join(map(str, have)) or 'none'}, the row has {batch}:"
            " half a batch does not take half the time"
        )
    nearest = min(
        found, key=lambda one: (one.ranks != wanted["pp"], abs(one.microbatches - row.count("n_microbatches")))
    )
    if nearest.ranks == wanted["pp"]:
        return nearest
    # Stages of as many layers as this pipeline's, of the same layers.
    part = nearest.ranks / wanted["pp"]
    return nearest._replace(
        ranks=wanted["pp"], forward_s=part * nearest.forward_s, inputs_s=part * nearest.inputs_s,
        weights_s=part * nearest.weights_s,
    )  # fmt: skip


def _chunks(profile: _Profile) -> int:
    """Return the chunks of one layer that a rank of interleaved 1F1B has."""
    return (profile.layers + 2) // profile.ranks


def _workload(profile: _Profile, chunks: int, name: str) -> Workload:
    """Return a layer for each virtual stage: its share of nothing, the layers, and the head."""
    stages = profile.ranks * chunks
    each, rest = divmod(profile.layers + 2, stages)
    if rest or not each:
        raise MpsimError(f"{profile.layers} layers and two ends do not divide over {stages} stages")
    units = [0.0] + [1.0] * profile.layers + [float(_HEAD_LAYERS)]
    forward_s, inputs_s, weights_s = profile.of_layer()
    of_layer = 12 * profile.hidden**2 * _UPDATE_BYTES / device(_DEVICE).memory_bandwidth_bytes_per_s
    layers = []
    for i in range(stages):
        share = sum(units[each * i : each * (i + 1)])
        layers.append(
            Layer.given(
                f"stage{i}", forward_s=share * forward_s, backward_s=share * (inputs_s + weights_s),
                backward_weight_s=share * weights_s, optimizer_s=share * of_layer,
            )
        )  # fmt: skip
    return Workload.chain(name, layers, activation_bytes=_message_bytes(profile))


def _message_bytes(profile: _Profile) -> int:
    return profile.sequence * profile.microbatch * profile.hidden * _HALF_BYTES


def _ring(profile: _Profile) -> Topology:
    """Return ranks of which each reaches the next in the time that a message was profiled at."""
    return ring(profile.ranks, link=Wire(_message_bytes(profile) / profile.message_s))


class _Schedule(NamedTuple):
    """Rows of a published schedule, its stages a rank, and whether steps follow one another without a barrier.

    `chunks` is None where a rank has as many as layers.
    """

    rows: Callable[[_Profile, int], Rows]
    chunks: int | None = 1
    runtime: str = "ideal"
    steady: bool = False


def _zero_bubble(limit: int, chunks: int = 1) -> Callable[[_Profile, int], Rows]:
    """Return rows of the automatic scheduler, where a rank holds as much as `limit` times 1F1B's first one."""

    def rows(profile: _Profile, microbatches: int) -> Rows:
        return zero_bubble_rows(
            [profile.stage(chunks)] * chunks * profile.ranks, microbatches, message_s=profile.message_s,
            limits=float(limit * chunks * profile.ranks), chunks=chunks,
        )  # fmt: skip

    return rows


_ZB_2P = _Schedule(_zero_bubble(2), steady=True)
_SCHEDULES = {
    # Megatron's 1F1B hands a send and the receive of the same neighbour over as one and waits for both.
    "1F1B": _Schedule(lambda profile, m: one_f_one_b(profile.ranks, m), runtime="torch-nccl"),
    "1F1B-I": _Schedule(
        lambda profile, m: interleaved_1f1b(profile.ranks, m, _chunks(profile)), chunks=None, runtime="blocking"
    ),
    # Its update is checked after the fact, so that a rank goes on when its own part is done.
    "ZB-1p": _Schedule(_zero_bubble(1), steady=True),
    "ZB-2p": _ZB_2P,
    "ZB-2p post-validation": _ZB_2P,
    "ZB-2p* (b/2, 2m)": _ZB_2P,
    "ZB-2p all-reduce synchronisation": _Schedule(_zero_bubble(2)),
    "ZB-V": _Schedule(_zero_bubble(1, 2), chunks=2, steady=True),
}


def _case(row: Row) -> str:
    sizes = f"pp={row.text('pp')} micro-batch={row.text('micro_batch')} micro-batches={row.text('n_microbatches')}"
    return f"{row.text('schedule')}, {row.text('model')}, {sizes} ({row.text('table')})"


ZERO_BUBBLE = Adapter(
    file="zero_bubble_throughput",
    about="Profiled F, I, W and message times of pipelines whose stages are unequal, replayed by five schedules.",
    columns=("schedule", "model", "layers", "pp", "micro_batch", "n_microbatches", "samples_per_gpu_s"),
    open=_open,
    case=_case,
    goals={"time": 0.04},
)
