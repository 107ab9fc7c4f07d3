"""Shard: the ranks that share a layer exchange what it needs, and wait for it."""

from __future__ import annotations

from mpsim.lowering.instructions import Collective, Compute, Instructions, Shard, Wait
from mpsim.lowering.model import Lowering

__all__ = ["shard"]


def shard(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put the collectives of a layer behind the computation that ends with it, each awaited before what follows."""
    if not any(stage.exchanges for stage in lowering.stages):
        return instructions
    found: Instructions = []
    for one in instructions:
        found.append(one)
        if isinstance(one, Compute):
            for i, (kind, size) in enumerate(lowering.exchanged_after(one)):
                layer = one.last - 1 if one.pass_kind == "F" else one.first
                key = ("shard", one.stage, one.pass_kind, one.microbatch, layer, i)
                of = Shard(layer, i, one.name)
                found += [Collective(key, of, kind, "tp", (), size, one.stage, one.microbatch), Wait((key,))]
    return found
