"""Hold: what a rank keeps between instructions, by holder, and for how long."""

from __future__ import annotations

from mpsim.lowering.holdings import Holdings, SharedGradients
from mpsim.lowering.instructions import Compute, Instructions
from mpsim.lowering.model import Lowering

__all__ = ["hold"]


def hold(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put holds and drops around what makes a rank keep something.

    Activations from a micro-batch's forward to the end of its backward; gradients from the first backward,
    which makes them, to the update, those of a parameter that several of the rank's stages share once; what each pass
    and the update take for a while; and, where stages update while micro-batches are under way, the parameters that
    those went forward with.
    """
    holdings = _of_rank(instructions, lowering)
    found: Instructions = []
    for one in instructions:
        if type(one) is not Compute:
            found.append(one)
            continue
        stage, kind, _, first, last, *_ = one
        of_stage = holdings[stage]
        begins, ends = of_stage.layers.start == first, of_stage.layers.stop == last
        if kind != "F":
            begins, ends = ends, begins
        if begins:
            found += of_stage.before(one)
        found.append(one)
        if ends:
            found += of_stage.after(one)
    return [*found, *(drop for one in holdings.values() for drop in one.updated())]


def _of_rank(instructions: Instructions, lowering: Lowering) -> dict[int, Holdings]:
    """Return what the rank that has these instructions holds of each of its stages; nothing yet."""
    home = lowering.shape.home
    rank = next(home[one.stage] for one in instructions if isinstance(one, Compute))
    numbers = [stage for stage, where in enumerate(home) if where == rank]
    shared = SharedGradients([lowering.stages[number] for number in numbers])
    return {number: Holdings(number, lowering.stages[number], shared) for number in numbers}
