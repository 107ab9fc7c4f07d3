"""torchgpipe on up to 8 P40: GPipe with recomputation of all but the last micro-batch (Kim et al., arXiv 2004.09910).

Of each release the row without GPipe sets the device's speed; the others are judged by their speedup over it. Memory is
that of all devices together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from mpsim.errors import MpsimError
from mpsim.lowering.rescaling import roofline_of
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.result.model import Result
from mpsim.simulation.run import simulate
from mpsim.topology.spec import parse_topology
from mpsim.validate.published.folding import speed_at
from mpsim.validate.published.model import Adapter, Inputs, Outcome, Predictor
from mpsim.validate.published.sequential import Leaf, resnet101, unet
from mpsim.validate.published.table import Row, Table
from mpsim.workload.layers import Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.model import Workload
from mpsim.workload.tensors import Tensor

__all__ = ["TORCHGPIPE_MEMORY", "TORCHGPIPE_SPEED"]

_FLOAT = 4
_GIB = 2**30
_DEVICE, _LINK, _MOST = "P40", "pcie3_x16", 8
_AGAIN = {"except_last": "except-last", "always": "stages", "never": ""}


def _leaves(model: str, count: int) -> list[Leaf]:
    """Return the leaves of a model, of which so many lie on devices."""
    if model == "ResNet-101":
        return resnet101(activations=count != 304)
    if model == "U-Net":  # that of the benchmark of speed
        return unet(5, 64)
    match = re.fullmatch(r"U-Net\s*\((?:B,C\)=\()?(\d+),\s*(\d+)\)", model)
    if match is None:
        raise MpsimError(f"the layers of {model!r} are not counted here: those of ResNet-101 and U-Net (B, C) are")
    return unet(int(match[1]), int(match[2]))


def _workload(leaves: Sequence[Leaf], batch: int, speed: float) -> Workload:
    """Return leaves at a micro-batch, at a speed beside the roofline."""
    spec = roofline_of(_DEVICE)
    layers, tensors = [], []
    readers: dict[int, list[int]] = {i: [i + 1] for i in range(len(leaves) - 1)}
    for i, leaf in enumerate(leaves):
        if leaf.skip >= 0:
            readers[leaf.skip].append(i)
        forward_s = _seconds(spec.seconds(batch * leaf.flops, batch * leaf.moved * _FLOAT, "float32"), leaf, speed)
        backward_s = _seconds(
            spec.seconds(2 * batch * leaf.flops, batch * leaf.moved_back * _FLOAT, "float32"), leaf, speed
        )
        # Reads gradient and parameter, writes the parameter.
        update_s = spec.seconds(0, 3 * _FLOAT * leaf.parameters, "float32") / speed if leaf.parameters else 0.0
        samples = Samples(
            forward_s=(forward_s,), backward_input_s=(backward_s,), backward_weight_s=(0.0,), optimizer_s=(update_s,)
        )
        cost = Cost(
            microbatch=batch, samples=samples, fidelity=Fidelity.ANALYTICAL,
            saved_bytes=round(batch * leaf.saved * _FLOAT),
            backward_transient_bytes=round(2 * batch * leaf.output * _FLOAT),
        )  # fmt: skip
        size = _FLOAT * leaf.parameters
        shard = Shard(
            parameters=(Parameter(name=f"l{i}", shape=(leaf.parameters,)),) if size else (),
            gradients=(Gradient(parameter=f"l{i}", bytes=size),) if size else (),
        )
        layers.append(Layer(name=f"l{i}", shards=(shard,), costs=(cost,)))
    for i, leaf in enumerate(leaves):
        tensors.append(
            Tensor(
                name=f"l{i}.output", producer=f"l{i}", consumers=tuple(f"l{k}" for k in readers.get(i, ())),
                shape=(batch, round(leaf.output)), role="activation" if i in readers else "output",
                saved_by=_saved_by(leaves, readers.get(i, ())),
            )
        )  # fmt: skip
    return Workload(name="torchgpipe", layers=tuple(layers), tensors=tuple(tensors), microbatch=batch, device=_DEVICE)


def _saved_by(leaves: Sequence[Leaf], readers: Sequence[int]) -> str:
    """Return the first reader that keeps what it reads."""
    return next((f"l{k}" for k in sorted(readers) if leaves[k].saved), "")


def _seconds(roofline_s: float, leaf: Leaf, speed: float) -> float:
    return roofline_s / speed if leaf.moved else 0.0


class _Job:
    """A row: the leaves of each device, the micro-batches, and what is computed again."""

    def __init__(self, row: Row, recompute: str) -> None:
        words = row.text("balance").split()
        if wrong := [word for word in words if not word.isdecimal()]:
            raise MpsimError(f"{row.where}: balance has {wrong[0]!r}, expected numbers of layers")
        balance = [int(word) for word in words]
        row.check_gpus(max(1, len(balance)))
        self.leaves = _leaves(row.text("model"), sum(balance))
        if balance and sum(balance) != len(self.leaves):
            raise MpsimError(
                f"{row.where}: balance of {sum(balance)} layers, {row.text('model')} has {len(self.leaves)}"
            )
        self.boundaries = tuple(sum(balance[: i + 1]) for i in range(len(balance) - 1))
        self.batch, chunks = row.count("batch"), row.count("chunks")
        self.size = -(-self.batch // chunks)
        self.microbatches = -(-self.batch // self.size)
        self.recompute = recompute
        if len(balance) > _MOST:
            raise MpsimError(f"{row.where}: {len(balance)} devices, the machine had {_MOST}")

    def plan(self) -> Plan:
        """Return GPipe over the devices."""
        stages = len(self.boundaries) + 1
        return Plan(
            pp=stages, microbatches=self.microbatches, schedule="gpipe", boundaries=self.boundaries or None,
            sharding=Sharding(recompute=self.recompute),
        )  # fmt: skip

    def samples_per_s(self, speed: float) -> float:
        """Return the throughput at a speed beside the roofline."""
        return self.size * self.microbatches / self.run(speed).step_s

    def run(self, speed: float) -> Result:
        """Return the result."""
        topology = parse_topology(f"switch:{len(self.boundaries) + 1},link={_LINK},device={_DEVICE}")
        return simulate(_workload(self.leaves, self.size, speed), topology, self.plan(), spans=False)


def _alone(row: Row) -> bool:
    return row.text("checkpoint").startswith("none")


def _check_gpu(row: Row) -> None:
    """Refuse a row of another device, or of another figure, where it says so."""
    for column, wanted in (("gpu", f"Tesla {_DEVICE}"), ("unit", "samples/s")):
        if row.text(column) not in ("", wanted):
            raise MpsimError(f"{row.where}: {column} is {row.text(column)!r}: rows of {wanted!r} are replayed")


@cache
def _speed(row: Row) -> float:
    """Return the speed at which a row comes to what it measured."""
    job = _Job(row, "")
    return speed_at(lambda speed: 1 / job.samples_per_s(speed), 1 / row.number("value"))


def _open_speed(table: Table, inputs: Inputs) -> Predictor:
    committed = inputs("torchgpipe_speed", committed=True).rows
    setting = {(row.text("model"), row.text("version")): row for row in (*table.rows, *committed) if _alone(row)}

    def predict(row: Row) -> Iterator[Outcome]:
        _check_gpu(row)
        key = (row.text("model"), row.text("version"))
        if key not in setting:
            raise MpsimError(f"no row of {key[0]}, {key[1]}, without GPipe sets the speed")
        first = setting[key]
        speed, alone = _speed(first), first.number("value")
        if not _alone(row) and row.text("checkpoint") not in _AGAIN:
            raise MpsimError(f"checkpoint {row.text('checkpoint')!r} is not known here: {', '.join(_AGAIN)} are")
        job = _Job(row, "" if _alone(row) else _AGAIN[row.text("checkpoint")])
        found = Outcome(
            case=_case(row), what="speedup", unit="", measured=row.number("value") / alone,
            predicted=job.samples_per_s(speed) / alone,
        )  # fmt: skip
        sets = f"P40's speed, {speed:.3f} of its roofline"
        yield found.set_by(_case(first), sets, same=row.same(first, TORCHGPIPE_SPEED.columns))

    return predict


def _case(row: Row) -> str:
    return f"{row.text('experiment')} ({row.text('model')})"


def _recompute_of(experiment: str) -> str:
    """Return what a benchmark of memory computes again, by its name."""
    match = re.search(r"baseline$|pipeline-\d+$", experiment)
    if match is None:
        raise MpsimError(f"experiment {experiment!r} is not known here: NAME/baseline and NAME/pipeline-DEVICES are")
    return "" if match[0] == "baseline" else "except-last"


def _open_memory(table: Table, inputs: Inputs) -> Predictor:
    def predict(row: Row) -> Iterator[Outcome]:
        job = _Job(row, _recompute_of(row.text("experiment")))
        if not row.text("memory_total_GiB"):
            raise MpsimError("has no memory in all")
        peak = sum(use.count * use.memory.peak_bytes for use in job.run(1.0).devices)
        measured = row.number("memory_total_GiB") * _GIB
        yield Outcome(case=_case(row), what="memory", unit="bytes", measured=measured, predicted=peak)

    return predict


TORCHGPIPE_SPEED = Adapter(
    file="torchgpipe_speed",
    about="GPipe of ResNet-101 and U-Net on 1 to 8 P40 with recomputation, by rooflines of their layers: speedups.",
    columns=("experiment", "model", "batch", "chunks", "balance", "checkpoint", "version", "value"),
    open=_open_speed,
    case=_case,
    goals={"speedup": 0.10},
)
TORCHGPIPE_MEMORY = Adapter(
    file="torchgpipe_memory",
    about="Memory of U-Nets over up to 8 P40 by GPipe with recomputation, all devices together.",
    columns=("experiment", "model", "batch", "chunks", "balance", "memory_total_GiB"),
    open=_open_memory,
    case=_case,
    goals={"memory": 0.05},
)
