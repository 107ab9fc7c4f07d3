"""Analytical costs: the roofline of each operation, for a model too large for the device at hand.

Nothing is computed: the model runs, forward and backward, on fake tensors, which have shapes and no memory, and is
watched as a real one is; the clock is the roofline that its operations are charged (:mod:`mpsim.workload.roofline`).
Attention is the fused kernel that a GPU runs. Caches and overlap are not modelled.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mpsim.workload.account import Account
from mpsim.workload.casting import cast, computing, loss_scale, precision_of
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_example, fake_mode_of
from mpsim.workload.feeds import feeds_of
from mpsim.workload.folding import Fold, folds_of, shortened, unfolded
from mpsim.workload.found_plans import planned
from mpsim.workload.fused import fused_attention
from mpsim.workload.layers import Fidelity
from mpsim.workload.measure import ACCUMULATE, Stopwatch, quiet, rounded, samples_of
from mpsim.workload.model import Precision
from mpsim.workload.model_source import Source
from mpsim.workload.point import Point, described
from mpsim.workload.precision import watched_dtype
from mpsim.workload.roofline import DeviceSpec, Roofline, widest
from mpsim.workload.shapes import without_logs
from mpsim.workload.sharding import sharded
from mpsim.workload.split import WHOLE, Split, split_of
from mpsim.workload.step import step_of
from mpsim.workload.update import optimizer_state_bytes, shares, updated_bytes
from mpsim.workload.watch import Graph, Watch, calls_of
from mpsim.workload.wrappers import unwrapped

__all__ = ["DeviceSpec", "Rooflines"]

# Reads gradient, parameter and state, writes parameter and state: passes over memory of the parameters' size.
_OPTIMIZER_PASSES = {"adam": 7, "adamw": 7, "momentum": 5, "sgd": 3, "sparse-adam": 7}
_OPTIMIZER_KERNELS = {
    "adam": 12,
    "adamw": 13,
    "momentum": 3,
    "sgd": 1,
    "sparse-adam": 12,
}  # each for all tensors at once
_GROUPED = {"aten::_grouped_mm", "transformers::grouped_mm_fallback"}


class Rooflines:
    """Points of a model at any micro-batch and split, of roofline costs; nothing is computed, no memory is needed.

    Of blocks that are alike a few are watched, and stand for the others (:mod:`mpsim.workload.folding`).

    Parameters
    ----------
    source : Source
        The model.
    spec : DeviceSpec
        The device.
    precision : Precision or None
        In which the step runs; None: as the model is.
    depth, optimizer, context, regather
        As of :func:`mpsim.trace`.
    folded : bool
        Whether alike blocks stand for one another.
    """

    def __init__(
        self,
        source: Source,
        spec: DeviceSpec,
        precision: Precision | None = None,
        *,
        depth: int | str,
        optimizer: str,
        context: str = "all-gather",
        regather: bool = False,
        folded: bool = True,
    ) -> None:
        self.source, self.spec, self.precision = source, spec, precision
        self.depth, self.optimizer, self.context, self.regather = depth, optimizer, context, regather
        self.seen = replace(precision, compute=watched_dtype(precision)) if precision is not None else None
        self._built: dict[int, tuple[Example, tuple[str, ...]]] = {}
        self._folds: tuple[Fold, ...] | None = None if folded else ()

    def point(self, microbatch: int, split: Split | int) -> Point:
        """Return the point of a micro-batch and a split.

        Raises
        ------
        MpsimError
            The model cannot be built or run on fake tensors, or has no form for the split that was asked for.
        """
        split = split_of(split)
        example, notes = self._example(microbatch)
        found = self._folded(example, microbatch, split) or self._watched(example, microbatch, split)
        point = self._finished(found, example)
        point.notes[:0] = notes
        if split.cp > 1 and self.context != "ulysses":
            point.notes.append(
                f"{split.text}: a roofline counts the whole square of a causal attention, and of one that ranks share"
                f" what these do: where attention is all, cp looks {2 * split.cp / (split.cp + 1):.2f} times too good"
            )
        return point

    def _example(self, microbatch: int) -> tuple[Example, tuple[str, ...]]:
        """Return the model with a batch, without wrappers and in its precision, and what was taken off."""
        if microbatch not in self._built:
            example = fake_example(self.source, microbatch)
            model, notes = unwrapped(example.model)
            example = replace(example, model=model)
            if self.seen is not None:
                with fake_mode_of(example):
                    example = cast(example, self.seen)
            self._built[microbatch] = example, notes
        return self._built[microbatch]

    def _folded(self, example: Example, microbatch: int, split: Split) -> _Found | None:
        """Return what was found with a few of the alike blocks standing for all; None where that does not go."""
        if self._folds is None:
            self._folds = folds_of(example.model)
        if not self._folds:
            return None
        try:
            styled, said = planned(example) if split.tp > 1 else (example, ())
            paths = frozenset(path for path, _ in example.model.named_modules())
            with shortened(example.model, self._folds):
                short = self._watched(_without(styled, paths), microbatch, split, said)
            for fold in self._folds:
                short.unfold(fold)
            return short
        except Exception:  # the whole model then runs, or says why it does not
            self._folds = ()
            return None

    def _watched(self, example: Example, microbatch: int, split: Split, said: tuple[str, ...] = ()) -> _Found:
        found: list[_Found] = []

        def costed(local: Example) -> Point:
            found.append(self._costed(local, microbatch))
            found[0].own_notes = len(found[0].point.notes)
            return found[0].point

        if split == WHOLE:
            costed(example)
        else:
            computed = partial(computing, self.seen, "cpu")
            sharded(example, split, costed, computed, context=self.context, regather=self.regather)
        found[0].point.notes[found[0].own_notes : found[0].own_notes] = said
        return found[0]

    def _costed(self, example: Example, microbatch: int) -> _Found:
        model = example.model
        model.train()
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        roofline = Roofline(self.spec)
        step = step_of(example, lambda: computing(self.seen, "cpu"), loss_scale(self.seen))
        with fake_mode_of(example), fused_attention(), without_logs():
            forward = step_of(example, lambda: computing(self.seen, "cpu"), backward=False)
            calls = calls_of(model, forward, self.depth)
            clock, tally = _RooflineClock(roofline), _Tally(roofline, len(calls))
            account = Account(
                len(calls), parameters, buffers, feeds_of(example), lambda: roofline.flops, _RooflineClock(roofline).lap
            )
            stopwatch = Stopwatch(clock, {})
            with quiet(collect=False), account, roofline:  # when memory is freed does not hang on when it collects
                Watch(model, calls, _All(account, stopwatch, tally), inputs=True).run(step)
        point = described(calls, account, model, microbatch)
        point.fidelity = Fidelity.ANALYTICAL
        if roofline.uncounted:
            names = ", ".join(sorted(roofline.uncounted)[:5])
            point.notes.append(f"costed by their bytes alone, as their FLOPs cannot be counted: {names}")
        if roofline.called & _GROUPED:
            point.notes.append("experts are costed as if each got an equal share of the tokens: shapes do not route")
        held = [[parameters[name] for name in names if parameters[name].requires_grad] for names in point.owned]
        one = stopwatch.round()
        for i, items in enumerate(held):  # a gradient is added to one that is there: two are read, one is written
            one.pieces.append(((ACCUMULATE, i), (sum(self.spec.seconds(0, 3 * item.nbytes, "") for item in items),)))
        point.samples = samples_of([one], len(held), 0, [0.0] * len(held))
        for parameter in parameters.values():
            parameter.grad = None
        master = self.precision.master if self.precision is not None else ""
        sizes = [(len(items), sum(updated_bytes(item, master) for item in items)) for items in held]
        return _Found(point=point, tallies=tally.layers, updated=sizes, roofline=roofline)

    def _finished(self, found: _Found, example: Example) -> Point:
        """Return the point with its precision, and what one update of all the layers takes of each and keeps."""
        point, counted = found.point, sum(found.tallies, Counter[str]())
        found.roofline.check(counted)
        point.compute = widest(counted)
        point.precision = self.precision or precision_of(example.model, point.compute)
        point.optimizer = self.optimizer
        point.optimizer_bytes = [optimizer_state_bytes(self.optimizer, size, count) for count, size in found.updated]
        total = sum(size for _, size in found.updated)
        update_s = _update_s(self.optimizer, total, self.spec) if total else 0.0
        point.samples = [
            replace(samples, optimizer_s=rounded([share * update_s]))
            for samples, share in zip(point.samples, shares(found.updated, (0.0, 1.0)), strict=True)
        ]
        return point


@dataclass(slots=True)
class _Found:
    """What a watched step shows before it is known what one update of all takes.

    Attributes
    ----------
    point : Point
        Without that.
    tallies : list of Counter
        FLOPs by type, for each layer.
    updated : list of (int, int)
        Tensors and bytes that the optimizer updates, for each layer.
    roofline : Roofline
        That it was charged by.
    own_notes : int
        How many of the point's first notes are not of its split.
    """

    point: Point
    tallies: list[Counter[str]]
    updated: list[tuple[int, int]]
    roofline: Roofline
    own_notes: int = 0

    def unfold(self, fold: Fold) -> None:
        """Let the blocks that were left out be there."""
        self.point, source = unfolded(self.point, fold)
        self.tallies = [self.tallies[i] for i in source]
        self.updated = [self.updated[i] for i in source]


def _without(example: Example, whole: frozenset[str]) -> Example:
    """Return the example without styles for those of the whole model's modules that were left out of it."""
    left = whole - {path for path, _ in example.model.named_modules()}
    kept = {glob: style for glob, style in example.tensor_parallel.items() if glob not in left}
    return replace(example, tensor_parallel=kept)


class _RooflineClock:
    """A clock of what operations are charged: a stretch of them takes the same wherever it begins."""

    names: tuple[str, ...] = ("roofline",)
    two = False

    def __init__(self, roofline: Roofline) -> None:
        self.roofline = roofline
        self.began = 0

    def start(self, what: Any) -> int:
        return len(self.roofline.charged)

    def end(self, start: int) -> float:
        return math.fsum(self.roofline.charged[start:])

    def lap(self) -> float:
        """Return what the operations since the last lap were charged."""
        began, self.began = self.began, len(self.roofline.charged)
        return math.fsum(self.roofline.charged[began:])

    def seconds(self, piece: float) -> tuple[float, ...]:
        return (piece,)

    def finish(self) -> None: ...

    def whole_s(self, run: Any) -> float:
        start = self.start(run)
        run()
        return self.end(start)


class _Tally:
    """A listener that notes the FLOPs of each layer by type, in all passes."""

    def __init__(self, roofline: Roofline, layers: int) -> None:
        self.roofline = roofline
        self.layers: list[Counter[str]] = [Counter() for _ in range(layers)]
        self._now, self._before = 0, Counter[str]()

    def at(self, phase: str, layer: int) -> None:
        counted = self.roofline.tally()
        self.layers[self._now] += counted - self._before
        self._now, self._before = layer, counted

    def graph(self, graph: Graph) -> None: ...

    def returned(self, output: Any) -> None: ...


class _All:
    """A listener that is several."""

    def __init__(self, *those: Any) -> None:
        self.those = those

    def at(self, phase: str, layer: int) -> None:
        for one in self.those:
            one.at(phase, layer)

    def graph(self, graph: Graph) -> None:
        for one in self.those:
            one.graph(graph)

    def returned(self, output: Any) -> None:
        for one in self.those:
            one.returned(output)


def _update_s(optimizer: str, size: int, spec: DeviceSpec) -> float:
    moved_s = _OPTIMIZER_PASSES[optimizer] * size / spec.memory_bytes_per_s
    return moved_s + _OPTIMIZER_KERNELS[optimizer] * spec.kernel_floor_s
