"""Offload: what layers keep for backward is at the host meanwhile: away behind forward, and back ahead of backward."""

from __future__ import annotations

from bisect import bisect_left

from mpsim.lowering.instructions import Compute, Copy, Drop, Hold, Instructions, Wait
from mpsim.lowering.model import Lowering

__all__ = ["offload"]

_Use = tuple[int, int, int]


def offload(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put a copy to the host behind each forward of an offloaded layer, and one back a run ahead of its backward.

    What a layer keeps is on the device until the copy away ends, and again from the beginning of the copy back to the
    end of the layer's backward::

        compute   F0  F1  F2  B2  B1  B0
        away          0   1   2
        back                  2 1 0
    """
    if not any(stage.offloaded for stage in lowering.stages):
        return instructions
    first, last, computed = _uses(instructions, lowering)
    before: dict[int, Instructions] = {}
    behind: dict[int, Instructions] = {}
    gone: dict[_Use, int] = {}
    for at, one in enumerate(instructions):
        if isinstance(one, Compute) and one.pass_kind == "F":
            for use, count in _kept(one, lowering):
                gone[use] = at
                key = ("away", *use)
                before.setdefault(at, []).append(Hold(key, "activations", count))
                behind.setdefault(at, []).append(Copy(key, True, count, *use))
    for use, at in first.items():
        before_it = computed[bisect_left(computed, at) - 1]
        ahead = before_it if before_it > gone[use] else at
        key = ("back", *use)
        count = lowering.kept_by(use[0], use[1], use[2])
        before.setdefault(ahead, []).append(Copy(key, False, count, *use))
        before.setdefault(at, []).append(Wait((key,)))
        behind.setdefault(last[use], []).append(Drop(key))
    found: Instructions = []
    for at, one in enumerate(instructions):
        found += [*before.get(at, []), one, *behind.get(at, [])]
    return found


def _kept(one: Compute, lowering: Lowering) -> list[tuple[_Use, int]]:
    """Return of the offloaded layers of a computation what they keep."""
    layers = lowering.stages[one.stage].offloaded.intersection(range(one.first, one.last))
    sizes = {layer: lowering.kept_by(one.stage, one.microbatch, layer) for layer in sorted(layers)}
    return [((one.stage, one.microbatch, layer), count) for layer, count in sizes.items() if count]


def _uses(instructions: Instructions, lowering: Lowering) -> tuple[dict[_Use, int], dict[_Use, int], list[int]]:
    """Return where what a layer keeps is needed first and last, and where something is computed."""
    first: dict[_Use, int] = {}
    last: dict[_Use, int] = {}
    computed = []
    for at, one in enumerate(instructions):
        if isinstance(one, Compute) and one.pass_kind != "U":
            computed.append(at)
            if one.pass_kind != "F":
                for use, _ in _kept(one, lowering):
                    first.setdefault(use, at)
                    last[use] = at
    return first, last, computed
