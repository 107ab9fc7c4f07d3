"""Analytical costs: the roofline of each operation, for a model too large for the device at hand.

Nothing is computed: the model runs, forward and backward, on fake tensors, which have shapes and no memory, and is
watched as a real one is; the clock is the roofline that its operations are charged (:mod:`mpsim.workload.roofline`).
Attention is the fused kernel that a GPU runs. Caches and overlap are not modelled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mpsim.workload.account import Account
from mpsim.workload.casting import cast, computing, loss_scale, precision_of
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_example, fake_mode_of
from mpsim.workload.feeds import feeds_of
from mpsim.workload.fused import fused_attention
from mpsim.workload.layers import Fidelity
from mpsim.workload.measure import ACCUMULATE, Repetition, Stopwatch, samples_of
from mpsim.workload.model import Precision
from mpsim.workload.model_source import Source
from mpsim.workload.point import Point, described
from mpsim.workload.precision import watched_dtype
from mpsim.workload.roofline import DeviceSpec, Roofline
from mpsim.workload.shapes import without_logs
from mpsim.workload.sharding import sharded
from mpsim.workload.split import WHOLE, Split, split_of
from mpsim.workload.step import step_of
from mpsim.workload.update import optimizer_state_bytes, shares, updated_bytes
from mpsim.workload.watch import UPDATE, Graph, Watch, calls_of
from mpsim.workload.wrappers import unwrapped

__all__ = ["DeviceSpec", "analytical_point"]

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


def analytical_point(
    source: Source,
    microbatch: int,
    split: Split | int,
    spec: DeviceSpec,
    precision: Precision | None = None,
    *,
    depth: int | str,
    optimizer: str,
    context: str = "all-gather",
    regather: bool = False,
) -> Point:
    """Return a point of roofline costs; nothing is computed and no memory is needed.

    Raises
    ------
    MpsimError
        The model cannot be built or run on fake tensors, or has no form for the split that was asked for.
    """
    split, example = split_of(split), fake_example(source, microbatch)
    model, notes = unwrapped(example.model)
    example = replace(example, model=model)
    seen = replace(precision, compute=watched_dtype(precision)) if precision is not None else None
    if seen is not None:
        with fake_mode_of(example):
            example = cast(example, seen)

    def costed(local: Example) -> Point:
        return _costed(local, microbatch, spec, precision, depth, optimizer)

    computed = partial(computing, seen, "cpu")
    point = (
        costed(example)
        if split == WHOLE
        else sharded(example, split, costed, computed, context=context, regather=regather)
    )
    point.precision = precision or precision_of(example.model, point.compute)
    point.notes[:0] = notes
    if split.cp > 1 and context != "ulysses":
        point.notes.append(
            f"{split.text}: a roofline counts the whole square of a causal attention, and of one that ranks share what"
            f" these do: where attention is all, cp looks {2 * split.cp / (split.cp + 1):.2f} times too good"
        )
    point.optimizer = optimizer
    return point


class _RooflineClock:
    """A clock of what operations are charged."""

    names: tuple[str, ...] = ("roofline",)
    two = False

    def __init__(self, roofline: Roofline) -> None:
        self.roofline = roofline

    def start(self, what: Any) -> float:
        return self.roofline.seconds

    def end(self, start: float) -> float:
        return self.roofline.seconds - start

    def seconds(self, piece: float) -> tuple[float, ...]:
        return (piece,)

    def finish(self) -> None: ...

    def whole_s(self, run: Any) -> float:
        start = self.roofline.seconds
        run()
        return self.roofline.seconds - start


class _Both:
    """A listener that is two."""

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


def _costed(
    example: Example, microbatch: int, spec: DeviceSpec, precision: Precision | None, depth: int | str, optimizer: str
) -> Point:
    model = example.model
    model.train()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    roofline = Roofline(spec)
    seen = replace(precision, compute=watched_dtype(precision)) if precision is not None else None
    step = step_of(example, lambda: computing(seen, "cpu"), loss_scale(seen))
    with fake_mode_of(example), fused_attention(), without_logs():
        calls = calls_of(model, step_of(example, lambda: computing(seen, "cpu"), backward=False), depth)
        account = Account(
            len(calls), parameters, buffers, feeds_of(example), lambda: roofline.flops, lambda: roofline.seconds
        )
        stopwatch = Stopwatch(_RooflineClock(roofline), {})
        with account, roofline:
            Watch(model, calls, _Both(account, stopwatch), inputs=True).run(step)
    roofline.check()
    point = described(calls, account, model, microbatch)
    point.compute = roofline.compute
    _add_times(point, stopwatch.round(), spec, optimizer, parameters, precision.master if precision is not None else "")
    if roofline.uncounted:
        names = ", ".join(sorted(roofline.uncounted)[:5])
        point.notes.append(f"costed by their bytes alone, as their FLOPs cannot be counted: {names}")
    if roofline.called & _GROUPED:
        point.notes.append("experts are costed as if each got an equal share of the tokens: shapes do not route")
    point.fidelity = Fidelity.ANALYTICAL
    for parameter in parameters.values():
        parameter.grad = None
    return point


def _add_times(
    point: Point, one: Repetition, spec: DeviceSpec, optimizer: str, parameters: dict[str, Any], master: str
) -> None:
    """Give a point its times, an update's by its passes over memory and its kernels, and what the optimizer keeps.

    Where there is a master copy it is what the optimizer updates, and its state is of that type.
    """
    owned = [[parameters[name] for name in names if parameters[name].requires_grad] for names in point.owned]
    sizes = [(len(items), sum(updated_bytes(item, master) for item in items)) for items in owned]
    point.optimizer_bytes = [optimizer_state_bytes(optimizer, size, tensors) for tensors, size in sizes]
    total = sum(size for _, size in sizes)
    for i, items in enumerate(owned):  # a gradient is added to one that is there: two are read, one is written
        one.pieces.append(((ACCUMULATE, i), (sum(spec.seconds(0, 3 * item.nbytes, "") for item in items),)))
    one.pieces.append(((UPDATE, 0), (_update_s(optimizer, total, spec) if total else 0.0,)))
    point.samples = samples_of([one], len(owned), 0, shares(sizes, (0.0, 1.0)))


def _update_s(optimizer: str, size: int, spec: DeviceSpec) -> float:
    moved_s = _OPTIMIZER_PASSES[optimizer] * size / spec.memory_bytes_per_s
    return moved_s + _OPTIMIZER_KERNELS[optimizer] * spec.kernel_floor_s
