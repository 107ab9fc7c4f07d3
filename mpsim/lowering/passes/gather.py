"""Gather: replicas that shard their parameters gather each layer's before a pass uses it, and scatter its gradients."""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Instruction, Instructions, Unit, Wait
from mpsim.lowering.model import Lowering

__all__ = ["gather"]


def gather(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Gather parameters ahead of the computations that use them; reduce-scatter gradients behind those that make them.

    With one layer gathered ahead, and dropped once it is used::

        gathers   g0  g1  g2      g2  g1  g0
        compute       F0  F1  F2      B2  B1  B0
        scatters                          s2  s1  s0
    """
    if not any(stage.units for stage in lowering.stages):
        return instructions
    uses = list(_uses(instructions, lowering))
    ahead = lowering.plan.sharding.gather_ahead
    # Each is posted before the computation that uses the one so many before it, and dropped after its own.
    before: dict[int, Instructions] = {}
    behind: dict[int, Instructions] = {}
    for i, (_, last, one) in enumerate(uses):
        hold = Hold(("held", *one.key), "gathered", one.bytes)
        before.setdefault(uses[max(i - ahead, 0)][0], []).extend([hold, one])
        behind.setdefault(last, []).append(Drop(hold.key))
    awaited = {first: one.key for first, _, one in uses}
    found: Instructions = []
    for at, each in enumerate(instructions):
        found += before.get(at, [])
        if at in awaited:
            found.append(Wait((awaited[at],)))
        found += [each, *behind.get(at, []), *_scatters(each, lowering)]
    return found


def _uses(instructions: Instructions, lowering: Lowering) -> Iterator[tuple[int, int, Collective]]:
    """Yield the gathers of a row, each with the places of the first and the last computation that uses it."""
    keeps = lowering.plan.sharding.keep_gathered
    runs = [
        (at, one, layer, count)
        for at, one in enumerate(instructions)
        if isinstance(one, Compute) and one.pass_kind in "FRBI"
        for layer, (count, _) in lowering.stages[one.stage].units.items()
        if one.first <= layer < one.last and count
    ]
    last = {(one.stage, layer): at for at, one, layer, _ in runs}
    seen: set[tuple[int, int]] = set()
    # A backward right behind the layer's second forward uses what was gathered for that.
    ends = {
        i: runs[i + 1][0] for i in range(len(runs) - 1) if runs[i][1].pass_kind == "R" and _same(runs[i], runs[i + 1])
    }
    for i, (at, one, layer, count) in enumerate(runs):
        if i - 1 in ends or (keeps and (one.stage, layer) in seen):
            continue
        seen.add((one.stage, layer))
        key = ("gather", one.stage, one.pass_kind, one.microbatch, layer)
        until = last[one.stage, layer] if keeps else ends.get(i, at)
        yield at, until, Collective(key, Unit(layer), "all_gather", "dp", (), count, one.stage, one.microbatch)


def _same(one: tuple[int, Compute, int, int], other: tuple[int, Compute, int, int]) -> bool:
    """Whether two uses are of one layer in one micro-batch."""
    return (one[1].stage, one[1].microbatch, one[2]) == (other[1].stage, other[1].microbatch, other[2])


def _scatters(one: Instruction, lowering: Lowering) -> Iterator[Collective]:
    """Yield the reductions of the gradients that a computation has made."""
    if isinstance(one, Compute) and one.pass_kind in "BW":
        for layer, (_, count) in lowering.stages[one.stage].units.items():
            if one.first <= layer < one.last and count:
                key = ("scatter", one.stage, one.microbatch, layer)
                yield Collective(key, Unit(layer), "reduce_scatter", "dp", (), count, one.stage, -1)
