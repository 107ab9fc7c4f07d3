"""What a rank holds of each of its stages, pass after pass: activations, gradients, transients, older parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mpsim.lowering.instructions import Compute, Drop, Hold, Instructions
from mpsim.lowering.memory import within
from mpsim.lowering.stages import Stage, gradient_bytes

__all__ = ["Holdings", "SharedGradients"]

_NONE: frozenset[str] = frozenset()


class SharedGradients:
    """Gradients that several stages of a rank add to: each is there once, until all that added to it have updated."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        times = Counter(gradient.parameter for stage in stages for _, gradient in stage.gradients)
        self.names = {name for name, count in times.items() if count > 1}
        self._added: dict[str, set[int]] = {name: set() for name in self.names}

    def there(self, gradients: Mapping[str, int]) -> frozenset[str]:
        """Return those of some gradients that are there already."""
        return frozenset(name for name in gradients if self._added[name])

    def add(self, number: int, gradients: Mapping[str, int]) -> Instructions:
        """Let a stage add to gradients; return the holds of those that it is the first to make."""
        made = [name for name in gradients if not self._added[name]]
        for name in gradients:
            self._added[name].add(number)
        return [Hold(("gradients", name), "gradients", gradients[name]) for name in made]

    def updated(self, number: int, gradients: Mapping[str, int]) -> Instructions:
        """Let a stage update with gradients; return the drops of those that no other stage still updates with."""
        for name in gradients:
            self._added[name].discard(number)
        return [Drop(("gradients", name)) for name in gradients if not self._added[name]]


class Holdings:
    """What a rank holds of one stage, pass after pass; `again` tells which micro-batches compute anything again."""

    def __init__(
        self, number: int, stage: Stage, shared: SharedGradients, again: Callable[[int], bool] = lambda _: False
    ) -> None:
        self.number, self.stage, self.again = number, stage, again
        self.layers = self.stage.layers
        self.sizes = gradient_bytes([stage])
        self.own = {name: count for name, count in self.sizes.items() if name not in shared.names}
        self.gradients = stage.sharded_bytes(self.own)
        parts = {False: stage.shares, True: stage.expert_shares}
        self._sharded = frozenset(name for name in self.sizes if parts[name in stage.experts] > 1)
        self.shared, self.others = shared, {name: self.sizes[name] for name in self.sizes if name in shared.names}
        # Whether the next backward makes gradients, and does not add to some; what each kind of pass takes for a while.
        self.makes = True
        self._takes: dict[tuple[str, bool, frozenset[str], bool], tuple[tuple[str, int], ...]] = {}
        self._now: dict[tuple[str, int], tuple[tuple[str, int], ...]] = {}
        # The update that each micro-batch under way went forward after, and how many there are of each.
        self.version = 0
        self.under_way: dict[int, int] = {}

    def before(self, one: Compute) -> Instructions:
        """Return what is held from the beginning of a pass: of what it makes all, less what is not there yet."""
        stage, kind, microbatch = one[:3]
        taken = self._now[kind, microbatch] = self._taken(one)
        found: Instructions = [Hold((holder, stage, kind, microbatch), holder, count) for holder, count in taken]
        if kind == "F":
            self.under_way[microbatch] = self.version
            if count := self.stage.kept_bytes(self.again(microbatch)):
                found.append(Hold(("activations", stage, microbatch), "activations", count))
        elif kind == "I" and self.stage.recomputed and not self.stage.recomputed.partly and self.again(microbatch):
            # Until the second part of the backward ends.
            count = sum(self.stage.recomputed.again)
            found.append(Hold(("recomputation", stage, microbatch), "recomputation", count))
        elif kind == "U":
            found += self._stashed()
        elif kind in "BW":
            found += self._made()
        return found

    def after(self, one: Compute) -> Instructions:
        """Return what is held up to the end of a pass."""
        stage, kind, microbatch = one[:3]
        found: Instructions = [
            Drop((holder, stage, kind, microbatch)) for holder, _ in self._now.pop((kind, microbatch))
        ]
        if kind == "U":
            found += self.updated()
            self.makes, self.version = True, self.version + 1
        elif kind in "BW":
            if self.stage.kept_bytes(self.again(microbatch)):
                found.append(Drop(("activations", stage, microbatch)))
            if kind == "W" and self.stage.recomputed:
                found.append(Drop(("recomputation", stage, microbatch)))
            found += self._returned(microbatch)
        return found

    def _made(self) -> Instructions:
        """Return the holds of the gradients that a backward makes, and does not add to some that are there."""
        makes, self.makes = self.makes, False
        own: Instructions = [Hold(("gradients", self.number), "gradients", self.gradients)]
        return (own if makes and self.gradients else []) + self.shared.add(self.number, self.others)

    def _stashed(self) -> Instructions:
        """Return the hold of the parameters that micro-batches under way went forward with, and come back through."""
        if self.version not in self.under_way.values():
            return []
        count = sum(self.stage.held["parameters"].values())
        return [Hold(("stash", self.number, self.version), "parameters", count)]

    def updated(self) -> Instructions:
        """Return the drops of the gradients that are there, once there is no more use for them."""
        if self.makes:
            return []
        own: Instructions = [Drop(("gradients", self.number))] if self.gradients else []
        return own + self.shared.updated(self.number, self.others)

    def _returned(self, microbatch: int) -> Instructions:
        """Return the drop of an earlier update's parameters, with the last micro-batch that went forward with them."""
        version = self.under_way.pop(microbatch)
        stale = version != self.version and version not in self.under_way.values()
        return [Drop(("stash", self.number, version))] if stale else []

    def _taken(self, one: Compute) -> tuple[tuple[str, int], ...]:
        """Return what a pass takes for a while, by holder, beside what it leaves behind."""
        there = self.shared.there(self.others) if self.others else _NONE
        again = one.pass_kind != "U" and self.again(one.microbatch)
        key = (one.pass_kind, self.makes, there, again)
        if key not in self._takes:
            if one.pass_kind == "U":
                # Of a whole step's update all stages of the rank are one call.
                copies = self.stage.update_copies if one.microbatch >= 0 else 0
                found = [("transients", copies * sum(self.sizes.values()))]
            else:
                # Sharded ones are whole for as long as it takes to scatter them, layer by layer.
                there = self._sharded.union(there if self.makes else there.union(self.own))
                gradients, transients, released, made = within(self.stage, one.kind, there, again)
                if one.pass_kind in "BW":
                    gradients -= sum(count for name, count in self.sizes.items() if name not in there)
                found = [
                    ("gradients", gradients),
                    ("transients", transients),
                    ("activations", -released),
                    ("recomputation", made),
                ]
            self._takes[key] = tuple((holder, count) for holder, count in found if count)
        return self._takes[key]
