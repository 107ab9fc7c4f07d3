"""Hold: what a rank keeps between instructions, by holder, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpsim.lowering.holdings import Holdings, SharedGradients
from mpsim.lowering.instructions import Compute, Drop, Hold, Instructions, backward_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.passes.hold_units import hold_units
from mpsim.lowering.stages import Stage, gradient_bytes, share_bytes, shares_of
from mpsim.plan.model import Plan

__all__ = ["copied_bytes", "hold"]


def hold(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put holds and drops around what makes a rank keep something.

    Activations from a micro-batch's forward to the end of its backward, those that are computed again from then on;
    gradients from the first backward, which makes them, to the update, those of a parameter that several of the rank's
    stages share once; what each pass and the update take for a while; and, where stages update while micro-batches are
    under way, the parameters that those went forward with.
    """
    holdings = _of_rank(instructions, lowering)
    stages = [lowering.stages[number] for number in holdings]
    sharded = any(stage.units for stage in lowering.stages)
    found = hold_units(instructions, lowering) if sharded else _hold(instructions, holdings)
    copied = copied_bytes(stages, lowering.plan)
    return _around_update(found, copied) if copied else found


def _hold(instructions: Instructions, holdings: Mapping[int, Holdings]) -> Instructions:
    """Put holds and drops around whole passes, and the updates of stages."""
    begun: set[tuple[int, int]] = set()
    found: Instructions = []
    for at, one in enumerate(instructions):
        if type(one) is not Compute:
            found.append(one)
            continue
        of_stage = holdings[one.stage]
        if _begins(one, of_stage.layers, begun):
            found += of_stage.before(backward_of(instructions, at) if one.pass_kind == "R" else one)
        found.append(one)
        if _ends(one, of_stage.layers):
            found += of_stage.after(one)
    return found + [drop for one in holdings.values() for drop in one.updated()]


def _begins(one: Compute, layers: range, begun: set[tuple[int, int]]) -> bool:
    """Whether a computation is the first of its pass; what runs again is part of the backward behind it."""
    if one.pass_kind in "RBI":
        key = (one.stage, one.microbatch)
        before = key in begun
        begun.add(key)
        return not before
    return layers.start == one.first if one.pass_kind == "F" else layers.stop == one.last


def _ends(one: Compute, layers: range) -> bool:
    """Whether a computation is the last of its pass."""
    if one.pass_kind == "R":
        return False
    return layers.stop == one.last if one.pass_kind == "F" else layers.start == one.first


def copied_bytes(stages: Sequence[Stage], plan: Plan) -> int:
    """Return the bytes that an update of all stages of a rank, which is one call, takes for a while: of its share."""
    experts = frozenset().union(*(stage.experts for stage in stages))
    return stages[0].update_copies * share_bytes(gradient_bytes(stages), experts, shares_of(plan))


def _around_update(instructions: Instructions, count: int) -> Instructions:
    """Hold so many bytes from the first to the last part of the update of a whole step."""
    parts = [
        i
        for i, one in enumerate(instructions)
        if isinstance(one, Compute) and one.pass_kind == "U" and one.microbatch < 0
    ]
    if not parts:
        return instructions
    first, behind = parts[0], parts[-1] + 1
    held: Instructions = [Hold(("update",), "transients", count), *instructions[first:behind], Drop(("update",))]
    return instructions[:first] + held + instructions[behind:]


def _of_rank(instructions: Instructions, lowering: Lowering) -> dict[int, Holdings]:
    """Return what the rank that has these instructions holds of each of its stages; nothing yet."""
    shape = lowering.shape
    numbers = shape.held_by(next(shape.home[one.stage] for one in instructions if isinstance(one, Compute)))
    shared = SharedGradients([lowering.stages[number] for number in numbers])

    def holdings(number: int) -> Holdings:
        return Holdings(
            number,
            lowering.stages[number],
            shared,
            lambda microbatch: lowering.computed_again(number, microbatch) is not None,
        )

    return {number: holdings(number) for number in numbers}
