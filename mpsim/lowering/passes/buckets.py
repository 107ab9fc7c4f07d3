"""Buckets: gradients of replicas are all-reduced bucket by bucket, while the last backward goes on."""

from __future__ import annotations

from mpsim.lowering.instructions import Bucket, Collective, Compute, Instructions, Key, Wait
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import Stage, gradient_bytes

__all__ = ["buckets"]


def buckets(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put an all-reduce behind the computation that completes a bucket.

    Where replicas shard what the optimizer keeps, each gets its part of the bucket alone (reduce-scatter), and what it
    has updated is gathered behind the update.
    """
    if not any(stage.buckets for stage in lowering.stages):
        return instructions
    kind = "reduce_scatter" if lowering.plan.sharding.zero else "all_reduce"
    found: Instructions = []
    gathered: list[Key] = []
    for one in instructions:
        found.append(one)
        if isinstance(one, Compute):
            for i in lowering.filled_after(one):
                key = ("bucket", one.stage, i, one.microbatch)
                bucket = lowering.stages[one.stage].buckets[i]
                found += _reduced(
                    Collective(key, Bucket(i), kind, bucket.axis, (), bucket.bytes, one.stage, -1), lowering
                )
            if one.pass_kind == "U" and lowering.plan.sharding.zero:
                for i, bucket in enumerate(lowering.stages[one.stage].buckets):
                    key = ("updated", one.stage, i, one.microbatch)
                    size = _parameters(bucket.bytes, lowering.stages[one.stage])
                    axis = "shard" if lowering.plan.sharding.shards else bucket.axis
                    found.append(Collective(key, Bucket(i), "all_gather", axis, (), size, one.stage, -1))
                    gathered.append(key)
    return [*found, Wait(tuple(gathered))] if gathered else found


def _reduced(one: Collective, lowering: Lowering) -> list[Collective]:
    """Return what reduces a bucket: where only some replicas shard it, each part is then reduced among the others."""
    shards = lowering.plan.sharding.shards
    if not shards:
        return [one]
    part = one._replace(key=("replica", *one.key), kind="all_reduce", axis="replica", bytes=-(-one.bytes // shards))
    return [one._replace(axis="shard"), part]


def _parameters(count: int, stage: Stage) -> int:
    """Return the bytes of the parameters whose gradients are so many: the two may be of unlike types."""
    sizes = gradient_bytes([stage])
    held = sum(stage.held["parameters"].get(("parameter", name), 0) for name in sizes)
    return -(-count * held // sum(sizes.values()))
