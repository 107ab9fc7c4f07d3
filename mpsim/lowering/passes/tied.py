"""Tied: gradients of what several stages hold are all-reduced between their ranks, after each stage's own."""

from __future__ import annotations

from mpsim.lowering.instructions import Collective, Compute, Instructions, Wait
from mpsim.lowering.model import Lowering

__all__ = ["tied"]


def tied(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put an all-reduce of each tied gradient before the updates of the stages that hold it, awaited one by one."""
    if not lowering.tied:
        return instructions
    found: Instructions = []
    updating: set[int] = set()
    for i, one in enumerate(instructions):
        if isinstance(one, Compute) and one.pass_kind == "U":
            if one.stage not in updating:
                updating = _together(instructions[i:])
                found += _reductions(updating, one.microbatch, lowering)
            updating = updating - {one.stage}
        found.append(one)
    return found


def _together(instructions: Instructions) -> set[int]:
    """Return the stages that update one after another from here on, with nothing but gathers between them."""
    stages: set[int] = set()
    for one in instructions:
        if isinstance(one, Compute) and one.pass_kind == "U":
            stages.add(one.stage)
        elif not isinstance(one, Collective):
            break
    return stages


def _reductions(updating: set[int], microbatch: int, lowering: Lowering) -> Instructions:
    found: Instructions = []
    for of, size, stages, ranks in lowering.tied:
        if updating.intersection(stages):
            key = ("tied", of, stages, microbatch)
            found += [Collective(key, of, "all_reduce", "pp", ranks, size, stages[0], -1), Wait((key,))]
    return found
