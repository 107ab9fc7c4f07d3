"""From the points of a trace to the workload: layers with their costs, and the tensors between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpsim.errors import MpsimError
from mpsim.workload.graph import Cut, Unit
from mpsim.workload.model import Cost, Gradient, Layer, Shard, StepCheck, Tensor, TensorShard
from mpsim.workload.point import Point

__all__ = ["layers_of", "step_checks", "tensors_of"]


def layers_of(points: Sequence[Point]) -> tuple[Layer, ...]:
    """Return the layers, with one cost for each point and one shard for each tensor-parallel size.

    Raises
    ------
    MpsimError
        A point has other units than the first.
    """
    first = points[0]
    for point in points:
        _check_units(first, point)
    shards = list({point.tensor_parallel: point for point in points}.values())
    return tuple(
        Layer(
            name=unit.name,
            kind=unit.kind,
            shards=tuple(_shard(point, i) for point in shards),
            costs=tuple(_cost(point, i) for point in points),
        )
        for i, unit in enumerate(first.cut.units)
    )


def _check_units(first: Point, other: Point) -> None:
    here, there = ([unit.name for unit in point.cut.units] for point in (first, other))
    if here != there:
        odd = next((name for name in [*here, *there] if (name in here) != (name in there)), "their order")
        raise MpsimError(
            f"at micro-batch {other.microbatch}, tp={other.tensor_parallel} the model has {len(there)} layers, at"
            f" micro-batch {first.microbatch}, tp={first.tensor_parallel} {len(here)} ({odd}): try another --depth"
        )


def _shard(point: Point, index: int) -> Shard:
    unit = point.cut.units[index]
    known = point.parameters or {}
    order = [name for name in known if name in unit.parameters]
    ready = point.account.units[index].gradients
    buffers = point.buffer_bytes or {}
    return Shard(
        tensor_parallel=point.tensor_parallel,
        parameters=tuple(known[name] for name in order),
        gradients=tuple(Gradient(parameter=name, bytes=known[name].bytes) for name in ready),
        optimizer_bytes=point.optimizer_bytes[index],
        buffer_bytes=sum(buffers[name] for name in unit.buffers),
    )


def _cost(point: Point, index: int) -> Cost:
    if point.measured is None:
        raise MpsimError(f"micro-batch {point.microbatch} was captured but not measured")
    entry = point.account.units[index]
    return Cost(
        microbatch=point.microbatch,
        tensor_parallel=point.tensor_parallel,
        samples=point.measured.samples[index],
        wall=point.measured.wall[index] if point.measured.wall else None,
        fidelity=point.fidelity,
        saved_bytes=entry.saved_bytes,
        flops=entry.flops,
        collectives=point.collectives[index] if point.collectives else (),
    )


def step_checks(points: Sequence[Point]) -> tuple[StepCheck, ...]:
    """Return how close the sum of layers came to the whole step at each measured point.

    Examples
    --------
    >>> step_checks([])
    ()
    """
    return tuple(
        StepCheck(
            microbatch=point.microbatch,
            tensor_parallel=point.tensor_parallel,
            whole_s=point.measured.whole_s,
            layers_s=point.measured.layers_s,
        )
        for point in points
        if point.measured is not None and point.measured.whole_s
    )


def tensors_of(reference: Point, other: Point, shards: Sequence[Point] = ()) -> tuple[Tensor, ...]:
    """Return every tensor that goes between layers, in and out of the model.

    Parameters
    ----------
    reference : Point
        Whose shapes are given.
    other : Point
        At another micro-batch: the dimension that grows in proportion is the batch's.
    shards : sequence of Point
        The reference micro-batch at each tensor-parallel size above one.
    """
    edges = _edges(reference.cut)
    sizes = {point.tensor_parallel: _matched(edges, _edges(point.cut), point) for point in shards}
    grown = _matched(edges, _edges(other.cut), other)
    return tuple(
        _tensor(
            edge, reference, grown[edge.value], other.microbatch, {tp: found[edge.value] for tp, found in sizes.items()}
        )
        for edge in edges
    )


class _Edge:
    """A value with the units at its two ends."""

    def __init__(self, value: str, producer: Unit | None, cut: Cut) -> None:
        self.value = value
        self.producer = producer.name if producer else ""
        self.consumers = tuple(unit.name for unit in cut.units if value in unit.inputs)
        self.role = _role(value, producer, cut)

    @property
    def ends(self) -> tuple[Any, ...]:
        return (self.producer, self.consumers, self.role)


def _role(value: str, producer: Unit | None, cut: Cut) -> str:
    if producer is None:
        return "target" if value in cut.target else "input"
    return "output" if value in cut.outputs else "activation"


def _edges(cut: Cut) -> list[_Edge]:
    fed = [_Edge(name, None, cut) for name in dict.fromkeys(cut.feeds) if name]
    made = [_Edge(name, unit, cut) for unit in cut.units for name in unit.outputs if name != cut.loss]
    return [edge for edge in [*fed, *made] if edge.consumers or edge.role != "target"]


def _matched(edges: list[_Edge], others: list[_Edge], point: Point) -> dict[str, tuple[int, ...]]:
    """Return the shape at another point of each edge here, matched by the two ends, then by order."""
    if [edge.ends for edge in edges] != [edge.ends for edge in others]:
        raise MpsimError(
            f"at micro-batch {point.microbatch}, tp={point.tensor_parallel} other tensors go between the layers than at"
            " the reference: the model's graph depends on its sizes"
        )
    return {edge.value: point.account.shapes[other.value][0] for edge, other in zip(edges, others, strict=True)}


def _tensor(
    edge: _Edge, point: Point, grown: tuple[int, ...], microbatch: int, shards: dict[int, tuple[int, ...]]
) -> Tensor:
    shape, dtype = point.account.shapes[edge.value]
    return Tensor(
        name=f"{edge.producer}.{edge.value}" if edge.producer else edge.value,
        producer=edge.producer,
        consumers=edge.consumers,
        shape=shape,
        dtype=dtype,
        batch_dim=_batch_dim(shape, point.microbatch, grown, microbatch),
        role=edge.role,
        needs_gradient=edge.value in point.account.sent_back,
        saved_by=point.account.saved_by.get(edge.value, ""),
        shards=tuple(TensorShard(tensor_parallel=tp, shape=part) for tp, part in shards.items() if part != shape),
    )


def _batch_dim(shape: tuple[int, ...], microbatch: int, grown: tuple[int, ...], other: int) -> int | None:
    """Return the dimension that grows in proportion to the micro-batch, None if none does."""
    for i, (here, there) in enumerate(zip(shape, grown, strict=False)):
        if here != there and here * other == there * microbatch:
            return i
    return None
