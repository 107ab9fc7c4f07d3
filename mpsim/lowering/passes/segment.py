"""Segment: a computation is cut where its layers exchange something, and where backward completes a bucket."""

from __future__ import annotations

from mpsim.lowering.instructions import Compute, Instructions
from mpsim.lowering.model import Lowering

__all__ = ["segment"]


def segment(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Cut computations into runs of layers, in the order in which they run: forward ascending, backward descending."""
    if not any(stage.exchanges or stage.buckets or stage.units or stage.offloaded for stage in lowering.stages):
        return instructions
    found: Instructions = []
    for one in instructions:
        found += _runs(one, lowering) if isinstance(one, Compute) and one.pass_kind != "U" else [one]
    return found


def _runs(one: Compute, lowering: Lowering) -> list[Compute]:
    ends = lowering.ends(one)
    if one.pass_kind in "FR":
        edges = sorted({end + 1 for end in ends if one.first < end + 1 < one.last})
        return [
            one._replace(first=first, last=last)
            for first, last in zip([one.first, *edges], [*edges, one.last], strict=True)
        ]
    edges = sorted({end for end in ends if one.first < end < one.last}, reverse=True)
    return [
        one._replace(first=first, last=last)
        for first, last in zip([*edges, one.first], [one.last, *edges], strict=True)
    ]
