"""Analytical costs: the roofline of each operation, for a model too large for the device at hand.

Nothing is computed: the model runs, forward and backward, on fake tensors, which have shapes and no memory, and is
watched as a real one is; the clock is the roofline that its operations are charged (:mod:`mpsim.workload.roofline`).
Attention is the fused kernel that a GPU runs. Caches and overlap are not modelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mpsim.garbage import collector_paused
from mpsim.workload.account import Account
from mpsim.workload.assemble import layers_of, tensors_of
from mpsim.workload.casting import cast, computing, loss_scale, precision_of
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_example, fake_mode_of
from mpsim.workload.feeds import feeds_of
from mpsim.workload.folding import Fold, folds_of, shortened, unfolded
from mpsim.workload.found_plans import planned
from mpsim.workload.fused import fused_attention
from mpsim.workload.layers import Fidelity
from mpsim.workload.measure import ACCUMULATE, Stopwatch, rounded, samples_of
from mpsim.workload.model import Precision
from mpsim.workload.model_source import Source
from mpsim.workload.point import Point, described
from mpsim.workload.precision import watched_dtype
from mpsim.workload.roofline import DeviceSpec, Roofline, widest
from mpsim.workload.shapes import without_logs
from mpsim.workload.sharding import exchanging, shared_by
from mpsim.workload.split import WHOLE, Split, split_of
from mpsim.workload.stand_in import STAND_IN, StandIn, picked, summed
from mpsim.workload.step import step_of
from mpsim.workload.tensor_parallel import RecordedCollective
from mpsim.workload.update import optimizer_state_bytes, shares, updated_bytes
from mpsim.workload.watch import Call, Graph, Watch, calls_of
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
    microbatches : sequence of int
        All that will be asked for: where a model does the same at all of them, one run tells them all
        (:mod:`mpsim.workload.stand_in`).
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
        microbatches: Sequence[int] = (),
    ) -> None:
        self.source, self.spec, self.precision = source, spec, precision
        self.depth, self.optimizer = depth, optimizer
        self.shared: dict[str, Any] = {"context": context, "regather": regather}
        self.seen = replace(precision, compute=watched_dtype(precision)) if precision is not None else None
        self._several = tuple(sorted(set(microbatches))) if source.by_shape else ()
        self._checked = len(self._several) < 2  # then there is nothing to gain
        self._built: dict[int, tuple[Example, tuple[str, ...]]] = {}
        self._folds: tuple[Fold, ...] | None = None
        self._found: dict[tuple[int, Split], Point] = {}
        self._called: dict[tuple[str, ...], tuple[Call, ...]] = {}
        self._exchanged: dict[tuple[Split, tuple[Fold, ...]], tuple[RecordedCollective, ...]] = {}

    def point(self, microbatch: int, split: Split | int) -> Point:
        """Return the point of a micro-batch and a split.

        Raises
        ------
        MpsimError
            The model cannot be built or run on fake tensors, or has no form for the split that was asked for.
        """
        split = split_of(split)
        if not self._checked:
            self._checked, self._several = True, self._alike_sizes()
        if (
            (microbatch, split) not in self._found
            and len(self._several) > 1
            and (self._several[0], split) not in self._found
        ):
            self._at_once(split)  # in whatever order they are asked for: what one sample exchanges is known from it
        if (microbatch, split) not in self._found:
            (self._found[microbatch, split],) = self._points(split, (microbatch,))
        return self._found[microbatch, split]

    def _alike_sizes(self) -> tuple[int, ...]:
        """Return the micro-batches that one run tells: whether it does is seen of the whole at the smallest.

        One sample is at times another case, of one split and not of another (nothing is summed over a batch of one, a
        part of it needs no copy): it is always run itself.
        """
        if not self._at_once(WHOLE):
            return ()
        told = {size: self._found.pop((size, WHOLE)) for size in self._several}
        several = tuple(size for size in self._several if size > 1)
        if not several:
            return ()
        (real,) = self._points(WHOLE, several[:1])
        if _says(real) != _says(told[several[0]]):
            return ()
        self._found |= {(size, WHOLE): told[size] for size in several}
        return several

    def _at_once(self, split: Split) -> bool:
        """Find the points of a split at all the micro-batches from one run; return whether that goes."""
        try:
            points = self._points(split, self._several)
        except Exception:  # each is then watched, or says why it cannot be
            self._several = ()
            return False
        self._found |= {(point.microbatch, split): point for point in points}
        return True

    def _points(self, split: Split, sizes: tuple[int, ...]) -> list[Point]:
        """Return the points of a split from one watched run: at a micro-batch, or at the stand-in for several."""
        with collector_paused():  # when memory is freed does not hang on when it collects
            return self._watched_points(split, sizes)

    def _watched_points(self, split: Split, sizes: tuple[int, ...]) -> list[Point]:
        example, notes = self._example(sizes[0] if len(sizes) == 1 else STAND_IN)
        points = []
        for found in self._folded(example, sizes, split) or self._watched(example, sizes, split):
            point = self._finished(found, example)
            point.notes[:0] = notes
            if split.cp > 1 and self.shared["context"] != "ulysses":
                point.notes.append(
                    f"{split.text}: a roofline counts the whole square of a causal attention, and of one that ranks"
                    " share what these do: where attention is all, cp looks"
                    f" {2 * split.cp / (split.cp + 1):.2f} times too good"
                )
            points.append(point)
        return points

    def _example(self, microbatch: int) -> tuple[Example, tuple[str, ...]]:
        """Return the model with a batch, without wrappers, and what was taken off."""
        if microbatch not in self._built:
            example = fake_example(self.source, microbatch, only_fake=microbatch == STAND_IN)
            model, notes = unwrapped(example.model)
            example = replace(example, model=model)
            self._built[microbatch] = example, notes
        return self._built[microbatch]

    def _folded(self, example: Example, sizes: tuple[int, ...], split: Split) -> list[_Found]:
        """Return what was found with a few of the alike blocks standing for all; nothing where that does not go."""
        if self._folds is None:
            self._folds = folds_of(example.model)
        if not self._folds:
            return []
        try:
            styled, said = planned(example) if split.tp > 1 else (example, ())
            paths = frozenset(path for path, _ in example.model.named_modules())
            with shortened(example.model, self._folds):
                short = self._watched(_without(styled, paths), sizes, split, said)
            for one in short:
                for fold in self._folds:
                    one.unfold(fold)
            self._folds = tuple(fold.held for fold in self._folds)
            return short
        except Exception:  # the whole model then runs, or says why it does not
            self._folds = ()
            return []

    def _watched(
        self, example: Example, sizes: tuple[int, ...], split: Split, said: tuple[str, ...] = ()
    ) -> list[_Found]:
        if self.seen is not None:
            with fake_mode_of(example):
                example = cast(example, self.seen)
        if split == WHOLE:
            return self._costed(example, sizes)
        key, known = (split, self._folds or ()), None
        if sizes == (1,) and key in self._exchanged:  # what is exchanged is of one sample what it is of more
            known = _exchanged_at(self._exchanged[key], StandIn(sizes), 0)
        local = shared_by(example, split, partial(computing, self.seen, "cpu"), known=known, **self.shared)
        local = replace(local, notes=said + local.notes)
        if len(sizes) > 1:
            self._exchanged[key] = local.collectives
        made = self._costed(local.example, sizes)
        for i, found in enumerate(made):
            if found.stand_in is not None:
                exchanged = _exchanged_at(self._exchanged[key], found.stand_in, i)
                local = replace(local, collectives=exchanged)
            exchanging(found.point, local, split, **self.shared)
        return made

    def _costed(self, example: Example, sizes: tuple[int, ...]) -> list[_Found]:
        """Return what a step is found to cost: of one that runs at the stand-in at each of the micro-batches."""
        model = example.model
        model.train()
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        stand_in = None if len(sizes) == 1 else StandIn(sizes, _natural([*parameters.values(), *buffers.values()]))
        roofline = Roofline(self.spec, stand_in)
        step = step_of(example, lambda: computing(self.seen, "cpu"), loss_scale(self.seen))
        with fake_mode_of(example), fused_attention(), without_logs():
            calls = self._calls_of(example)
            clock, tally = _RooflineClock(roofline), _Tally(roofline, len(calls))
            account = Account(
                len(calls), parameters, buffers, feeds_of(example), lambda: roofline.flops,
                _RooflineClock(roofline).lap, stand_in.number if stand_in is not None else int,
            )  # fmt: skip
            stopwatch = Stopwatch(clock, {})
            with account, roofline:
                Watch(model, calls, _All(account, stopwatch, tally), inputs=True).run(step)
        point = self._described(calls, account, model, roofline)
        held = [[parameters[name] for name in names if parameters[name].requires_grad] for names in point.owned]
        for parameter in parameters.values():
            parameter.grad = None
        one = stopwatch.round()
        for i, items in enumerate(held):  # a gradient is added to one that is there: two are read, one is written
            added_s = sum(self.spec.seconds(0, 3 * item.nbytes, "") for item in items)
            one.pieces.append(((ACCUMULATE, i), (added_s,) * len(sizes)))
        master = self.precision.master if self.precision is not None else ""
        updated = [(len(items), sum(updated_bytes(item, master) for item in items)) for items in held]
        made = []
        for i, size in enumerate(sizes):
            told = (
                replace(point, microbatch=size, notes=list(point.notes))
                if stand_in is None
                else _at(point, stand_in, i)
            )
            told.samples = samples_of([one], len(held), i, [0.0] * len(held))
            tallies = [Counter({k: n for k, v in layer.items() if (n := picked(v, i))}) for layer in tally.layers]
            made.append(_Found(told, tallies, list(updated), roofline, stand_in))
        return made

    def _calls_of(self, example: Example) -> tuple[Call, ...]:
        """Return the calls of a model's layers; what is called does not hang on the split or the micro-batch."""
        modules = dict(example.model.named_modules(remove_duplicate=False))
        key = tuple(modules)
        if key not in self._called or not self.source.by_shape:
            forward = step_of(example, lambda: computing(self.seen, "cpu"), backward=False)
            self._called[key] = calls_of(example.model, forward, self.depth)
        return tuple(replace(call, module=modules[call.path]) for call in self._called[key])

    def _described(self, calls: Sequence[Any], account: Account, model: Any, roofline: Roofline) -> Point:
        point = described(calls, account, model, 1)
        point.fidelity = Fidelity.ANALYTICAL
        if roofline.uncounted:
            names = ", ".join(sorted(roofline.uncounted)[:5])
            point.notes.append(f"costed by their bytes alone, as their FLOPs cannot be counted: {names}")
        if roofline.called & _GROUPED:
            point.notes.append("experts are costed as if each got an equal share of the tokens: shapes do not route")
        return point

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
    stand_in : StandIn or None
        Where one run told several micro-batches.
    """

    point: Point
    tallies: list[Counter[str]]
    updated: list[tuple[int, int]]
    roofline: Roofline
    stand_in: StandIn | None

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


def _natural(tensors: Sequence[Any]) -> frozenset[int]:
    """Return the sizes that are the model's own."""
    return frozenset(size for tensor in tensors for size in (*tensor.shape, tensor.numel()))


def _at(point: Point, stand_in: StandIn, index: int) -> Point:
    """Return a point that was found at the stand-in as it is at one of the micro-batches."""
    read = partial(picked, index=index)
    accounts = [
        replace(
            account,
            saved_bytes=read(account.saved_bytes),
            flops=read(account.flops),
            forward_transient_bytes=read(account.forward_transient_bytes),
            backward_transient_bytes=read(account.backward_transient_bytes),
            cores=account.cores.as_read(read),
        )
        for account in point.accounts
    ]
    values = [
        replace(value, shape=stand_in.shape(value.shape, index), readers=dict(value.readers)) for value in point.values
    ]
    return replace(point, microbatch=stand_in.sizes[index], accounts=accounts, values=values, notes=list(point.notes))


def _exchanged_at(
    exchanged: Sequence[RecordedCollective], stand_in: StandIn, index: int
) -> tuple[RecordedCollective, ...]:
    """Return what a rank exchanges as it is at one of the micro-batches."""
    return tuple(replace(one, bytes=stand_in.at(one.bytes, index)) for one in exchanged)


def _says(point: Point) -> tuple[Any, ...]:
    """Return all that a workload has of a point."""
    return layers_of([point]), tensors_of(point, None)


class _RooflineClock:
    """A clock of what operations are charged: a stretch of them takes the same wherever it begins."""

    names: tuple[str, ...] = ("roofline",)
    two = False

    def __init__(self, roofline: Roofline) -> None:
        self.roofline = roofline
        self.began = 0

    def start(self, what: Any) -> int:
        return len(self.roofline.charged)

    def end(self, start: int) -> Any:
        return summed(self.roofline.charged[start:])

    def lap(self) -> Any:
        """Return what the operations since the last lap were charged."""
        began, self.began = self.began, len(self.roofline.charged)
        return summed(self.roofline.charged[began:])

    def seconds(self, piece: Any) -> tuple[float, ...]:
        """Return a piece's seconds, at each micro-batch."""
        count = 1 if self.roofline.stand_in is None else len(self.roofline.stand_in.sizes)
        return tuple(picked(piece, i) for i in range(count))

    def finish(self) -> None: ...

    def whole_s(self, run: Any) -> Any:
        start = self.start(run)
        run()
        return self.end(start)


class _Tally:
    """A listener that notes the FLOPs of each layer by type, in all passes."""

    def __init__(self, roofline: Roofline, layers: int) -> None:
        self.roofline = roofline
        self.layers: list[dict[str, Any]] = [{} for _ in range(layers)]
        self._now = 0
        self._before: dict[str, Any] = {}

    def at(self, phase: str, layer: int) -> None:
        counted = self.roofline.tally()
        own = self.layers[self._now]
        for kind, count in counted.items():
            own[kind] = own.get(kind, 0) + (count - self._before.get(kind, 0))
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
