"""From the points of a trace to the workload: layers with their costs, and the tensors between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpsim.errors import MpsimError
from mpsim.workload.account import LayerAccount, Value
from mpsim.workload.model import Attention, Cost, Gradient, Layer, Shard, Tensor, TensorShard
from mpsim.workload.point import Point
from mpsim.workload.split import Split, axes_of

__all__ = ["layers_of", "tensors_of"]


def layers_of(points: Sequence[Point]) -> tuple[Layer, ...]:
    """Return the layers, with one cost for each point and one shard for each split.

    Raises
    ------
    MpsimError
        A point has other layers than the first.
    """
    first = points[0]
    for point in points:
        _check_layers(first, point)
    shards = list({point.split: point for point in points}.values())
    return tuple(
        Layer(
            name=name,
            kind=first.kinds[i],
            shards=tuple(_shard(point, i) for point in shards),
            costs=tuple(_cost(point, i) for point in points),
        )
        for i, name in enumerate(first.names)
    )


def _check_layers(first: Point, other: Point) -> None:
    if first.names != other.names:
        odd = next((n for n in [*first.names, *other.names] if (n in first.names) != (n in other.names)), "their order")
        raise MpsimError(
            f"at micro-batch {other.microbatch}, {other.split.text} the model calls {len(other.names)} layers,"
            f" at micro-batch {first.microbatch}, {first.split.text} {len(first.names)} ({odd}): its layers"
            " depend on the batch, so trace one size at a time with --batch"
        )


def _shard(point: Point, index: int) -> Shard:
    held, ready = point.held[index], point.accounts[index].gradients
    return Shard(
        **axes_of(point.split),
        parameters=tuple(point.parameters[name] for name in held),
        gradients=tuple(
            Gradient(
                parameter=name,
                bytes=point.parameters[name].bytes,
                expert=name in point.experts,
                partial=name in point.partial,
            )
            for name in ready
            if name in held
        ),
        optimizer_bytes=point.optimizer_bytes[index],
        buffer_bytes=point.buffer_bytes[index],
    )


def _cost(point: Point, index: int) -> Cost:
    account = point.accounts[index]
    return Cost(
        microbatch=point.microbatch,
        **axes_of(point.split),
        samples=point.samples[index],
        host=point.host[index] if point.host else None,
        wall=point.wall[index] if point.wall else None,
        fidelity=point.fidelity,
        saved_bytes=account.saved_bytes,
        flops=account.flops,
        forward_transient_bytes=account.forward_transient_bytes,
        backward_transient_bytes=account.backward_transient_bytes,
        collectives=tuple(point.collectives[index]) if point.collectives else (),
        attention=_attention(account),
    )


def _attention(account: LayerAccount) -> Attention | None:
    """Return the attention core of a layer, or of several all together; None where it has none."""
    cores = account.cores
    if not cores.found:
        return None
    part = sum(core.seconds for core in cores.found) / cores.seconds if cores.seconds else 0.0
    kept = sum(count for core in cores.found for count in core.kept.values())
    return Attention(forward_fraction=float(f"{min(part, 1.0):.4g}"), saved_bytes=min(kept, account.saved_bytes))


def tensors_of(reference: Point, other: Point | None, shards: Sequence[Point] = ()) -> tuple[Tensor, ...]:
    """Return every tensor that goes between layers, in and out of the model.

    Parameters
    ----------
    reference : Point
        Whose shapes are given.
    other : Point or None
        At another micro-batch: the dimension that grows in proportion is the batch's. Where there is none, the
        first that the micro-batch divides is taken for it; the workload then has costs at that size alone.

    Raises
    ------
    MpsimError
        Another point has other tensors.
    shards : sequence of Point
        The reference micro-batch at each split but the whole.
    """
    values = _going(reference)
    sizes = {point.split: _matched(reference, values, point) for point in shards}
    grown = _matched(reference, values, other) if other is not None else [value.shape for value in values]
    names = _names(reference, values)
    return tuple(
        Tensor(
            name=names[i],
            producer=reference.names[value.producer] if value.producer >= 0 else "",
            consumers=tuple(reference.names[layer] for layer in sorted(value.readers)),
            shape=value.shape,
            dtype=value.dtype,
            batch_dim=_batch_dim(value.shape, reference, grown[i], other),
            role=_role(value),
            needs_gradient=value.sent_back,
            saved_by=reference.names[value.saved_by] if value.saved_by >= 0 else "",
            shards=_shards(value, i, sizes),
        )
        for i, value in enumerate(values)
    )


def _going(point: Point) -> list[Value]:
    """Return the values that go somewhere, those that are fed first, then in the order in which they are made."""
    going = [one for one in point.values if one.readers or one.output or (one.producer < 0 and not one.target)]
    return sorted(going, key=lambda one: one.producer)


def _role(value: Value) -> str:
    if value.producer < 0:
        return "target" if value.target else "input"
    return "output" if value.output else "activation"


def _names(point: Point, values: Sequence[Value]) -> list[str]:
    """Return a name for each value: its layer's and its operation's, counted where there are several."""
    seen: dict[str, int] = {}
    names = []
    for value in values:
        name = f"{point.names[value.producer]}.{value.name}" if value.producer >= 0 else value.name
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}@{seen[name]}")
    return names


def _ends(value: Value) -> tuple[object, ...]:
    return value.producer, tuple(sorted(value.readers)), _role(value)


def _matched(reference: Point, values: Sequence[Value], point: Point) -> list[tuple[int, ...]]:
    """Return the shape at another point of each value here, matched by the two ends, then by order."""
    others = _going(point)
    for here, there in zip(values, others, strict=False):
        if _ends(here) != _ends(there):
            layer = reference.names[max(0, here.producer)]
            break
    else:
        if len(values) == len(others):
            return [value.shape for value in others]
        layer = reference.names[-1]
    raise MpsimError(
        f"at micro-batch {point.microbatch}, {point.split.text} other tensors go from layer {layer!r} on than"
        f" at micro-batch {reference.microbatch}: the number of tensors depends on the batch, so trace one size at a"
        " time with --batch"
    )


def _shards(value: Value, index: int, sizes: Mapping[Split, Sequence[tuple[int, ...]]]) -> tuple[TensorShard, ...]:
    return tuple(
        TensorShard(**axes_of(split), shape=shapes[index])
        for split, shapes in sizes.items()
        if shapes[index] != value.shape
    )


def _batch_dim(shape: tuple[int, ...], here: Point, grown: tuple[int, ...], other: Point | None) -> int | None:
    """Return the dimension that grows in proportion to the micro-batch, None if none does."""
    if other is None:
        return next((i for i, size in enumerate(shape) if size and size % here.microbatch == 0), None)
    for i, (before, after) in enumerate(zip(shape, grown, strict=False)):
        if before != after and before * other.microbatch == after * here.microbatch:
            return i
    return None
