"""Awaited: the reductions of gradients between replicas are complete before a stage updates."""

from __future__ import annotations

from mpsim.lowering.instructions import Collective, Compute, Instructions, Key, Wait
from mpsim.lowering.model import Lowering

__all__ = ["awaited"]


_DATA = ("dp", "edp", "shard", "replica")


def awaited(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put a wait for all reductions that replicas have posted before the first update that comes behind them."""
    if lowering.plan.replicas == 1:
        return instructions
    found: Instructions = []
    under_way: list[Key] = []
    for one in instructions:
        if isinstance(one, Compute) and one.pass_kind == "U" and under_way:
            found.append(Wait(tuple(under_way)))
            under_way = []
        if isinstance(one, Wait):  # such as before the next reduction, whose memory it frees
            under_way = [key for key in under_way if key not in one.keys]
        found.append(one)
        if isinstance(one, Collective) and one.axis in _DATA and one.kind != "all_gather":
            under_way.append(one.key)
    return found
