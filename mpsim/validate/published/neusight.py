"""Training on 4 GPUs by one split each, from operators measured on one GPU (Lee et al., ASPLOS 2025).

Of a model the operators of one block were measured, and those before and behind all blocks, each alone. What measuring
an operator that does nothing shows is taken off each: it is the launch, which a step of such models hides.

What a shard computes is looked up, not divided: of a batch over t tensor-parallel ranks, a rank's products and
attention have as many multiplications, and its heads are as many, as those of a t-th of the batch on one device, where
they were measured. What Megatron does not split (norms, residuals, dropout of a block's output) is that of the batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation.run import simulate
from mpsim.topology.spec import parse_topology
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.table import Row, Table
from mpsim.workload.layers import Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard, ShardCollective
from mpsim.workload.model import Workload

__all__ = ["NEUSIGHT"]

_FLOAT = 4
_ONE_BUCKET = 2**40
_ONE_DEVICE = "single GPU"
# 4 GPUs of a node, and what their operators were measured on: the A100s of one chip have one peak of float32.
_NODES = {"NVIDIA_A100-SXM4-40GB": "nvlink3", "NVIDIA_H100_80GB_HBM3": "nvlink4"}
_STAND_IN = {"NVIDIA_A100-SXM4-40GB": "NVIDIA_A100_80GB_PCIe"}
_BLOCK = re.compile(r"\.(?:h|layers?|block)\.0(?:\.|$)")
_DOES_NOTHING = re.compile(r"^(?:size|dim|getattr|<built-in function getattr>)$")
# Of a block, what every tensor-parallel rank does for the whole batch.
_WHOLE = re.compile(r"ln_\d|layer_?norm|resid_dropout|mlp\.dropout|output\.dropout", re.IGNORECASE)


class _Operator(NamedTuple):
    target: str
    forward_ms: float
    backward_ms: float
    splits: bool


class _Part(NamedTuple):
    """Milliseconds of the operators before all blocks, of a block, or behind them: split by tp, and whole."""

    forward: tuple[float, float]
    backward: tuple[float, float]

    def scaled(self, times: float) -> _Part:
        return _Part(
            (self.forward[0] * times, self.forward[1] * times), (self.backward[0] * times, self.backward[1] * times)
        )


class _Profile(NamedTuple):
    before: _Part
    block: _Part
    behind: _Part


class _Profiles:
    """Operators by device, model, sequence and batch."""

    def __init__(self, table: Table) -> None:
        self._rows: dict[tuple[str, str, int], dict[int, list[Row]]] = {}
        for row in table.rows:
            key = (row.text("device"), row.text("model"), row.count("seq"))
            self._rows.setdefault(key, {}).setdefault(row.count("batch"), []).append(row)

    def at(self, device: str, model: str, sequence: int, batch: int, *, exact: bool = False) -> _Profile:
        """Return what was measured at a batch; else of the nearest, in proportion."""
        found = self._rows.get((device, model, sequence), {})
        if not found or (exact and batch not in found):
            at = f" at batch {batch}" if exact and found else ""
            raise MpsimError(f"no operators of {model}, sequence {sequence}, were measured on {device}{at}")
        nearest = batch if batch in found else max(found, key=lambda size: (size <= batch, -abs(size - batch)))
        parts = _parts(found[nearest])
        return parts if nearest == batch else _Profile(*(part.scaled(batch / nearest) for part in parts))


def _parts(rows: Sequence[Row]) -> _Profile:
    """Cut a list of operators into those before, of and behind the block."""
    of_block = [bool(_BLOCK.search(row.text("target"))) for row in rows]
    if True not in of_block:
        raise MpsimError(f"{rows[0].where}: no operator of a first block, by its name")
    first, last = of_block.index(True), len(rows) - 1 - of_block[::-1].index(True)
    modules = [i for i, row in enumerate(rows) if i > last and row.text("op") == "call_module"]
    behind = modules[0] if modules else len(rows)
    launch_ms = median([r.real("fwd_ms") for r in rows if _DOES_NOTHING.match(r.text("target"))] or [0.0])
    back_ms = min((r.real("bwd_ms") for r in rows if r.real("bwd_ms")), default=0.0)
    operators = [
        _Operator(
            row.text("target"),
            max(0.0, row.real("fwd_ms", 0) - launch_ms),
            max(0.0, row.real("bwd_ms", 0) - back_ms),
            not _WHOLE.search(row.text("target")),
        )
        for row in rows
    ]
    return _Profile(
        _summed(operators[:first], splits=False), _summed(operators[first:behind]), _summed(operators[behind:])
    )


def _summed(operators: Sequence[_Operator], *, splits: bool = True) -> _Part:
    kinds = [[one for one in operators if (one.splits and splits) == split] for split in (True, False)]
    forward, whole_forward = (sum(one.forward_ms for one in kind) for kind in kinds)
    backward, whole_backward = (sum(one.backward_ms for one in kind) for kind in kinds)
    return _Part((forward, whole_forward), (backward, whole_backward))


class _Model(NamedTuple):
    name: str
    blocks: int
    hidden: int
    vocabulary: int
    sequence: int
    batch: int


def _open(table: Table, inputs: Inputs) -> Predictor:
    profiles = _Profiles(inputs("neusight_op_profiles"))

    def predict(row: Row) -> Iterator[Outcome]:
        device = row.text("device")
        if row.text("mode") != "train":
            raise MpsimError("is inference: operators were measured in training")
        names = ("layers", "hidden", "vocab", "seq", "global_batch")
        model = _Model(row.text("model"), *(row.count(name) for name in names))
        measured_s = row.number("e2e_ms") / 1e3
        if row.text("parallel") == _ONE_DEVICE:
            whole = profiles.at(device, model.name, model.sequence, model.batch, exact=True)
            step_s = sum(
                sum(_seconds(part, part)) * times for part, times in zip(whole, (1, model.blocks, 1), strict=True)
            )
            yield Outcome(case=_case(row), what="one device", measured=measured_s, predicted=step_s)
            return
        yield Outcome(case=_case(row), measured=measured_s, predicted=_split_s(profiles, row, model))

    return predict


def _seconds(split: _Part, whole: _Part) -> tuple[float, float]:
    """Return forward and backward of what is split and what is not, each as measured at its batch."""
    return (split.forward[0] + whole.forward[1]) / 1e3, (split.backward[0] + whole.backward[1]) / 1e3


def _split_s(profiles: _Profiles, row: Row, model: _Model) -> float:
    """Return the step of a model under ``dp4``, ``tp4`` or ``pp4_1``, which are so many ranks or micro-batches."""
    parallel, device = row.text("parallel"), row.text("device")
    match = re.fullmatch(r"(dp|tp|pp)(\d+)(?:_(\d+))?", parallel)
    if match is None:
        raise MpsimError(f"split {parallel!r} is not known: dpN, tpN and ppN_MICROBATCHES are replayed")
    if device not in _NODES:
        raise MpsimError(f"how GPUs {device!r} are joined is not known: {', '.join(_NODES)} are")
    ranks, microbatches = int(match[2]), int(match[3] or 1)
    row.check_gpus(ranks)
    dp, tp, pp = (ranks if axis == match[1] else 1 for axis in ("dp", "tp", "pp"))
    batch, rest = divmod(model.batch, dp * microbatches)
    if rest:
        raise MpsimError(f"a batch of {model.batch} does not divide over {parallel}")
    work = _workload(profiles, _STAND_IN.get(device, device), model, batch, tp)
    plan = Plan(
        dp=dp, pp=pp, tp=tp, batch=model.batch, microbatches=microbatches, runtime="torch-nccl",
        bucket_bytes=_ONE_BUCKET, first_bucket_bytes=_ONE_BUCKET, boundaries=_boundaries(model.blocks, pp),
    )  # fmt: skip
    topology = parse_topology(f"switch:{ranks},link={_NODES[device]},costs=published")
    return simulate(work, topology, plan, spans=False).step_s


def _boundaries(blocks: int, stages: int) -> tuple[int, ...] | None:
    """Return as many blocks for each stage, the embedding before the first and the head behind the last."""
    if blocks % stages:
        raise MpsimError(f"{blocks} blocks do not divide over {stages} stages")
    return tuple(1 + i * blocks // stages for i in range(1, stages)) if stages > 1 else None


def _workload(profiles: _Profiles, device: str, model: _Model, batch: int, tp: int) -> Workload:
    """Return the model at a micro-batch on one of `tp` ranks."""
    whole = profiles.at(device, model.name, model.sequence, batch)
    split = profiles.at(device, model.name, model.sequence, batch // tp) if batch % tp == 0 else None
    if split is None:
        raise MpsimError(f"a batch of {batch} has no {tp}th, at which a shard's operators could have been measured")
    table, block = (count * _FLOAT // tp for count in (model.vocabulary * model.hidden, 12 * model.hidden**2))
    output = batch * model.sequence * model.hidden * _FLOAT

    def layer(name: str, parameter: str, size: int, part: int, exchanges: tuple[int, int]) -> Layer:
        cost = _cost(_seconds(split[part], whole[part]), batch, tp, _exchanged(output, *exchanges))
        return Layer(name=name, shards=(_shard(parameter, size, tp),), costs=(cost,))

    blocks = [layer(f"block{i}", f"block{i}", block, 1, (2, 2)) for i in range(model.blocks)]
    # The head's weights are the embedding's.
    made = [layer("before", "table", table, 0, (1, 0)), *blocks, layer("behind", "table", table, 2, (0, 1))]
    return Workload.chain(model.name, made, activation_bytes=output, microbatch=batch, sends="whole")


def _exchanged(output: int, forward: int, backward: int) -> tuple[ShardCollective, ...]:
    return tuple(
        ShardCollective(kind="all_reduce", bytes=output, phase=phase)
        for phase, count in (("forward", forward), ("backward", backward))
        for _ in range(count)
    )


def _cost(seconds: tuple[float, float], batch: int, tp: int, exchanged: tuple[ShardCollective, ...]) -> Cost:
    forward_s, backward_s = seconds
    samples = Samples(forward_s=(forward_s,), backward_input_s=(backward_s / 2,), backward_weight_s=(backward_s / 2,))
    return Cost(
        microbatch=batch,
        tensor_parallel=tp,
        samples=samples,
        fidelity=Fidelity.SCALED,
        collectives=exchanged if tp > 1 else (),
    )


def _shard(parameter: str, size: int, tp: int) -> Shard:
    return Shard(
        tensor_parallel=tp,
        parameters=(Parameter(name=parameter, shape=(size // _FLOAT,)),),
        gradients=(Gradient(parameter=parameter, bytes=size),),
    )


def _case(row: Row) -> str:
    names = ("device", "model", "global_batch", "parallel", "mode")
    device, model, batch, parallel, mode = map(row.text, names)
    return f"{device}, {model}, batch {batch}, {parallel}, {mode}"


NEUSIGHT = Adapter(
    file="neusight_measured",
    about="Operators measured on one GPU, replayed over four under data, tensor and naive model parallelism.",
    columns=("device", "model", "layers", "hidden", "vocab", "mode", "seq", "global_batch", "parallel", "e2e_ms"),
    open=_open,
    case=_case,
    goals={"time": 0.04},
)
