"""What a rank holds throughout a step, and for parts of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from mpsim.lowering.recomputation import Recomputed
from mpsim.lowering.stages import Stage, gradient_bytes
from mpsim.program.allocator import segment_bytes
from mpsim.program.model import Resident

__all__ = ["Pass", "residents_of", "within"]


def residents_of(stages: Sequence[Stage], device: int) -> list[Resident]:
    """Return what a device holds of its stages from the first task to the last, and the buffers of their buckets.

    What several of them hold of one parameter or layer is there once. Where the caching allocator keeps them, with what
    it reserves: tensors of one holder are made one after another.
    """
    held: dict[str, dict[tuple[str, str], int]] = {}
    for stage in stages:
        for holder, sizes in stage.held.items():
            held.setdefault(holder, {}).update(sizes)
    tensors = {holder: list(sizes.values()) for holder, sizes in held.items()}
    tensors["optimizer"] = _states(stages, sum(tensors["optimizer"]))
    tensors["buffers"] = [sum(tensors["buffers"]), *(bucket.bytes for stage in stages for bucket in stage.buckets)]
    return [
        Resident(device, holder, sum(sizes), segment_bytes(sizes) if stages[0].cached else 0)
        for holder, sizes in tensors.items()
        if sum(sizes)
    ]


def _states(stages: Sequence[Stage], count: int) -> list[int]:
    """Return the tensors of an optimizer's state of so many bytes: as many for each gradient as it has room for."""
    trained = gradient_bytes(stages)
    copies = count // sum(trained.values()) if sum(trained.values()) else 0
    return [*trained.values()] * copies + [count - copies * sum(trained.values())]


class Pass(NamedTuple):
    """What a rank holds in a pass when it holds most, beyond what it held before and what the pass leaves behind.

    `gradients` are those made by then, `transients` what is inside the layer, `released` the activations that the
    layers before it needed no longer, `again` those that were computed again.
    """

    gradients: int
    transients: int
    released: int
    again: int = 0

    @property
    def most(self) -> int:
        """All of it."""
        return self.gradients + self.transients - self.released + self.again


def within(stage: Stage, kind: str, there: Collection[str] = (), again: bool = False) -> Pass:
    """Return what a pass of a stage takes for a while: in layer after layer, the one in which it takes most.

    Parameters
    ----------
    kind : str
        ``forward``, ``backward``, ``backward_input`` or ``backward_weight``.
    there : collection of str
        The parameters whose gradients are there already: a backward holds a new one only until it is added.
    again : bool
        Whether the micro-batch computes again what its stage does not keep. Of a backward in two parts what it makes
        then counts from the first to the end of the second.
    """
    kept = stage.kept(again)
    if kind != "forward":
        return max(_backward(stage, kind, there, again), key=lambda one: one.most)
    # All activations count from the pass's beginning: of those behind a layer, none is there yet. What a layer makes
    # and does not keep is there at most until its end.
    behind = [sum(kept[i + 1 :]) for i in range(len(kept))]
    made = stage.recomputed.again if again and stage.recomputed else (0,) * len(kept)
    return max(
        (
            Pass(0, cost.forward_transient_bytes + own, missing)
            for cost, own, missing in zip(stage.costs, made, behind, strict=True)
        ),
        key=lambda one: one.most,
    )


def _backward(stage: Stage, kind: str, there: Collection[str], again: bool) -> Iterator[Pass]:
    """Yield what each layer of a backward takes, the last layer first, and what its second forward takes before it."""
    kept = stage.kept(again)
    recomputed = stage.recomputed if again else None
    held = _HeldAgain(recomputed, kind)
    if recomputed and recomputed.whole and kind != "backward_weight":
        for i, cost in enumerate(stage.costs):
            yield Pass(0, cost.forward_transient_bytes, 0, held.up_to(i))
    made = _Made(stage, kind, there)
    released = 0
    for i in reversed(range(len(kept))):
        gone = 0 if kind == "backward_input" else released
        cost, arriving = stage.costs[i], 0 if kind == "backward_weight" else stage.arriving[i]
        if recomputed and stage.layers.start + i in recomputed.layers and kind != "backward_weight":
            yield Pass(made.before, cost.forward_transient_bytes + arriving, gone, held.at(i))
        # What the layer begins and another completes is part of what it takes for a while.
        begun = sum(one.bytes for one in stage.begun[i]) if kind == "backward" else 0
        transients = 0 if kind == "backward_weight" else max(cost.backward_transient_bytes - begun, 0)
        yield Pass(made.within(i), transients + arriving, gone, held.at(i))
        released += kept[i]


class _Made:
    """Follows the gradients that a backward makes, from layer to layer.

    What a layer begins and another completes, as of a weight that both use, is there until then. Of gradients that are
    there a new one is held until it is added.
    """

    def __init__(self, stage: Stage, kind: str, there: Collection[str]) -> None:
        self._stage, self._kind, self._there = stage, kind, there
        self._made = 0
        self._pending: dict[str, int] = {}

    @property
    def before(self) -> int:
        """What is there when a layer's backward begins."""
        return 0 if self._kind == "backward_input" else self._made + sum(self._pending.values())

    def within(self, i: int) -> int:
        """Return what there is in the backward of a layer, and go on to the next."""
        if self._kind == "backward_input":
            return 0
        first = self._stage.layers.start
        new = {one.parameter: one.bytes for layer, one in self._stage.gradients if layer == first + i}
        begun = {one.parameter: one.bytes for one in self._stage.begun[i] if one.parameter not in new}
        own = sum(count for name, count in new.items() if name not in self._there)
        added = max((count for name, count in new.items() if name in self._there), default=0)
        found = self.before + own + added + sum(begun.values())
        self._made += own
        self._pending = {name: count for name, count in (self._pending | begun).items() if name not in new}
        return found


class _HeldAgain:
    """What a backward holds of what was computed again, beside all of it where it is in two parts."""

    def __init__(self, recomputed: Recomputed | None, kind: str) -> None:
        self._kind = kind
        self._sizes = recomputed.again if recomputed else ()
        self._whole = recomputed is not None and recomputed.whole
        # Whole layers are there to the end of a backward in two parts, attention cores in the first alone.
        self._partly = recomputed is not None and recomputed.partly
        self._beside = 0 if kind == "backward" or self._partly else sum(self._sizes)

    def up_to(self, i: int) -> int:
        """Return it once layers up to this one have run again, of a whole stage."""
        return sum(self._sizes[: i + 1]) - self._beside

    def at(self, i: int) -> int:
        """Return it while the backward of a layer runs."""
        if self._partly:
            return 0 if self._kind == "backward_weight" else self._sizes[i]
        if self._kind == "backward_input":
            return 0 if self._whole else sum(self._sizes[i:]) - self._beside
        if self._kind == "backward" and not self._whole:
            return self._sizes[i] if self._sizes else 0
        return self.up_to(i)
