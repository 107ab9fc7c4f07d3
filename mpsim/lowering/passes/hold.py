"""Hold: what a rank keeps between instructions, by holder, and for how long."""

from __future__ import annotations

from mpsim.lowering.instructions import Compute, Drop, Hold, Instructions
from mpsim.lowering.memory import within
from mpsim.lowering.model import Lowering

__all__ = ["hold"]


def hold(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put holds and drops around what makes a rank keep something.

    Activations from a micro-batch's forward to the end of its backward; gradients from the end of the first backward,
    which makes them, to the update; what each pass and the update take for a while; and, where stages update while
    micro-batches are under way, the parameters that those went forward with.
    """
    holdings: dict[int, _Holdings] = {}
    found: Instructions = []
    for one in instructions:
        if type(one) is not Compute:
            found.append(one)
            continue
        stage, kind, _, first, last, *_ = one
        if stage not in holdings:
            holdings[stage] = _Holdings(stage, lowering)
        of_stage = holdings[stage]
        begins, ends = of_stage.layers.start == first, of_stage.layers.stop == last
        if kind != "F":
            begins, ends = ends, begins
        if begins:
            found += of_stage.before(one)
        found.append(one)
        if ends:
            found += of_stage.after(one)
    return [*found, *(Drop(("gradients", stage)) for stage, one in holdings.items() if one.gradients and not one.makes)]


class _Holdings:
    """What a rank holds of one stage, pass after pass."""

    def __init__(self, number: int, lowering: Lowering) -> None:
        self.number, self.stage = number, lowering.stages[number]
        self.layers = self.stage.layers
        self.gradients = sum(gradient.bytes for _, gradient in self.stage.gradients)
        # Whether the next backward makes gradients, and does not add to some; what each kind of pass takes for a while.
        self.makes = True
        self._takes: dict[tuple[str, bool], tuple[tuple[str, int], ...]] = {}
        # The update that each micro-batch under way went forward after, and how many there are of each.
        self.version = 0
        self.under_way: dict[int, int] = {}

    def before(self, one: Compute) -> Instructions:
        """Return what is held from the beginning of a pass."""
        stage, kind, microbatch = one[:3]
        found: Instructions = [Hold((holder, stage, kind, microbatch), holder, n) for holder, n in self._taken(one)]
        if kind == "F":
            self.under_way[microbatch] = self.version
            if self.stage.activation_bytes:
                found.append(Hold(("activations", stage, microbatch), "activations", self.stage.activation_bytes))
        elif kind == "U" and self.version in self.under_way.values():
            found.append(Hold(("stash", stage, self.version), "parameters", sum(self.stage.parameter_sizes)))
        return found

    def after(self, one: Compute) -> Instructions:
        """Return what is held up to the end of a pass, or from then on."""
        stage, kind, microbatch = one[:3]
        found: Instructions = [Drop((holder, stage, kind, microbatch)) for holder, _ in self._taken(one)]
        if kind == "U":
            found += [] if self.makes or not self.gradients else [Drop(("gradients", stage))]
            self.makes, self.version = True, self.version + 1
        elif kind in "BW":
            if self.stage.activation_bytes:
                found.append(Drop(("activations", stage, microbatch)))
            found += self._returned(microbatch)
            if self.makes and self.gradients:
                found.append(Hold(("gradients", stage), "gradients", self.gradients))
            self.makes = False
        return found

    def _returned(self, microbatch: int) -> Instructions:
        """Return the drop of an earlier update's parameters, with the last micro-batch that went forward with them."""
        version = self.under_way.pop(microbatch)
        stale = version != self.version and version not in self.under_way.values()
        return [Drop(("stash", self.number, version))] if stale else []

    def _taken(self, one: Compute) -> tuple[tuple[str, int], ...]:
        """Return what a pass takes for a while, by holder."""
        key = (one.pass_kind, self.makes)
        if key not in self._takes:
            if one.pass_kind == "U":
                found = [("transients", self.stage.update_bytes)]
            else:
                gradients, transients, released = within(self.stage, one.kind, adds=not self.makes)
                found = [("gradients", gradients), ("transients", transients), ("activations", -released)]
            self._takes[key] = tuple((holder, count) for holder, count in found if count)
        return self._takes[key]
