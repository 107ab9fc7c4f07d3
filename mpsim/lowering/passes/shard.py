"""Shard: the ranks that share a layer exchange what it needs, and wait for it."""

from __future__ import annotations

from mpsim.lowering.instructions import Collective, Compute, Instructions, Key, Shard, Wait
from mpsim.lowering.model import Lowering
from mpsim.workload.layers import ShardCollective

__all__ = ["shard"]


def shard(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put the collectives of a layer before or behind the computation that has it, each awaited before what follows.

    What goes on beside a layer is posted before its computation, and awaited behind it.
    """
    if not any(stage.exchanges for stage in lowering.stages):
        return instructions
    found: Instructions = []
    for one in instructions:
        if not isinstance(one, Compute):
            found.append(one)
            continue
        before, behind = lowering.exchanged(one)
        beside: list[Key] = []
        for i, call in enumerate(before):
            collective = _posted(one, call, True, i)
            found.append(collective)
            if call.when == "beside":
                beside.append(collective.key)
            else:
                found.append(Wait((collective.key,)))
        found.append(one)
        found += [Wait(tuple(beside))] if beside else []
        for i, call in enumerate(behind):
            collective = _posted(one, call, False, i)
            found += [collective, Wait((collective.key,))]
    return found


def _posted(one: Compute, call: ShardCollective, begins: bool, number: int) -> Collective:
    """Return a collective of the layer with which a computation begins or ends."""
    layer = one.first if begins == (one.pass_kind in "FR") else one.last - 1
    key = ("shard", one.stage, one.pass_kind, one.microbatch, layer, call.when, number)
    of = Shard(layer, number, one.name)
    return Collective(key, of, call.kind, call.axis, (), call.bytes, one.stage, one.microbatch)
