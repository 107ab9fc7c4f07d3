"""Buckets: gradients of replicas are all-reduced bucket by bucket, while the last backward goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from mpsim.lowering.instructions import Bucket, Collective, Compute, Instructions, Key, Wait
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import gradient_bytes
from mpsim.lowering.units import communicated
from mpsim.workload.model import DTYPE_BYTES, Parameter

__all__ = ["buckets"]


def buckets(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put an all-reduce behind the computation that completes a bucket.

    Where replicas shard what the optimizer keeps, each gets its part of the bucket alone (reduce-scatter), and what it
    has updated is gathered behind the update, each in its type of communication.
    """
    if not any(stage.buckets for stage in lowering.stages):
        return instructions
    found: Instructions = []
    gathered: list[Key] = []
    for one in instructions:
        found.append(one)
        if isinstance(one, Compute):
            for i in lowering.filled_after(one):
                found += _reductions(one, i, lowering)
            if one.pass_kind == "U" and lowering.plan.sharding.zero:
                for i, bucket in enumerate(lowering.stages[one.stage].buckets):
                    key = ("updated", one.stage, i, one.microbatch)
                    size = _parameters(bucket.bytes, one.stage, lowering)
                    axis = _axis(bucket.axis, lowering)
                    found.append(Collective(key, Bucket(i), "all_gather", axis, (), size, one.stage, -1))
                    gathered.append(key)
    return [*found, Wait(tuple(gathered))] if gathered else found


def _reductions(one: Compute, i: int, lowering: Lowering) -> Iterator[Collective]:
    """Yield what reduces a bucket; where replicas are groups that shard, its shards between those too."""
    bucket, sharding = lowering.stages[one.stage].buckets[i], lowering.plan.sharding
    size, axis = _gradients(bucket.bytes, one.stage, lowering), _axis(bucket.axis, lowering)
    kind = "reduce_scatter" if sharding.zero else "all_reduce"
    first = ("bucket", one.stage, i, one.microbatch)
    yield Collective(first, Bucket(i), kind, axis, (), size, one.stage, -1)
    if axis == "shard" and lowering.plan.replicas > sharding.shards:
        key = ("replicas", one.stage, i, one.microbatch)
        yield Collective(key, Bucket(i), "all_reduce", "replica", (), -(-size // sharding.shards), one.stage, -1, first)


def _axis(axis: str, lowering: Lowering) -> str:
    """Return the axis along which a bucket is reduced: where not all replicas shard together, theirs that do."""
    return "shard" if axis == "dp" and lowering.plan.sharding.shards else axis


def _gradients(count: int, number: int, lowering: Lowering) -> int:
    """Return the bytes that so many of gradients are in their type of communication."""
    dtype = lowering.plan.sharding.reduce_dtype
    return count if not dtype else _share(count, number, lowering, lambda one: DTYPE_BYTES[dtype])


def _parameters(count: int, number: int, lowering: Lowering) -> int:
    """Return the bytes that parameters are, in their type of communication, whose gradients are so many."""
    precision, sharding = lowering.workload.precision, lowering.plan.sharding
    return _share(count, number, lowering, lambda one: DTYPE_BYTES[communicated(one.dtype, precision, sharding)])


def _share(count: int, number: int, lowering: Lowering, width: Callable[[Parameter], int]) -> int:
    """Return a bucket's share of what all trained parameters of a stage are at so many bytes a number each."""
    stage = lowering.stages[number]
    sizes = gradient_bytes([stage])
    layers = (lowering.workload.layers[i] for i in stage.layers)
    held = {one.name: one for layer in layers for one in layer.shard(lowering.plan.split).parameters}
    trained = (held[name] for name in sizes if name in held)
    return -(-count * sum(math.prod(one.shape) * width(one) for one in trained) // sum(sizes.values()))
