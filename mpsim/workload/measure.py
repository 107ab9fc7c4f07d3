"""Time a model's training step: whole and unwatched, and layer by layer, in turn.

Watched, a step's forward, backward and update are the stretches of its layers, which add up to it. Before its own
backward, another runs over the same graph for the gradients of what goes between layers alone: a layer's backward for
weights is what is left when that is taken from its whole backward, and zero where noise makes it less. After it, each
layer's gradients are added to once more, as the backward of a later micro-batch does.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mpsim.workload.clock import Clock
from mpsim.workload.layers import Samples
from mpsim.workload.state import from_one_seed
from mpsim.workload.step import Step
from mpsim.workload.watch import BACKWARD, FORWARD, INPUTS, NOTHING, UPDATE, Call, Graph, Watch

__all__ = ["ACCUMULATE", "Repetition", "Stopwatch", "measure", "quiet", "rounded", "samples_of", "two_clock_step"]

ACCUMULATE = "accumulate"
Key = tuple[str, int]


@dataclass(slots=True)
class Repetition:
    """One repetition: seconds by each of a clock's names, in the order in which a step has them.

    Examples
    --------
    >>> Repetition(whole_s=1.0, pieces=[(("forward", 0), (0.25,)), (("backward", 0), (0.5,))]).layers_s(False)
    0.75
    """

    whole_s: float = 0.0
    pieces: list[tuple[Key, tuple[float, ...]]] = field(default_factory=list)

    def total(self, phase: str, layer: int, clock: int) -> float:
        """Return what a layer took in a phase."""
        return sum(seconds[clock] for key, seconds in self.pieces if key == (phase, layer))

    def layers_s(self, two: bool) -> float:
        """Return the step that the layers make."""
        parts = [seconds for (phase, _), seconds in self.pieces if phase in (FORWARD, BACKWARD, UPDATE)]
        return two_clock_step([(one[0], one[1]) for one in parts]) if two else sum(one[0] for one in parts)


def two_clock_step(parts: Sequence[tuple[float, float]]) -> float:
    """Return what a step takes, among steps that follow one another, of pieces that take (device, host) seconds.

    The host launches one piece after the other and runs ahead of the device; a piece's kernels start when the first of
    them is launched and the device has done those before, and end no sooner than the last is launched.

    Examples
    --------
    >>> two_clock_step([(2.0, 1.0), (2.0, 1.0)]), two_clock_step([(1.0, 2.0), (1.0, 2.0)])
    (4.0, 4.0)
    """
    host = device = 0.0
    ends = []
    for _ in range(3):
        for device_s, host_s in parts:
            device = max(max(device, host) + device_s, host + host_s)
            host += host_s
        ends.append(device)
    return ends[-1] - ends[-2]


class Stopwatch:
    """A listener that times what it is told of.

    Examples
    --------
    >>> from mpsim.workload.clock import CpuClock
    >>> watch = Stopwatch(CpuClock(1), {})
    >>> watch.at("forward", 0)
    >>> watch.at("", 0)
    >>> [key for key, _ in watch.round().pieces]
    [('forward', 0)]
    """

    def __init__(self, clock: Clock, accumulating: Mapping[int, Sequence[Any]]) -> None:
        self.clock, self.accumulating = clock, accumulating
        self._pieces: list[tuple[Key, Any]] = []
        self._key: Key = (NOTHING, 0)
        self._open: Any = None

    def at(self, phase: str, layer: int) -> None:
        """A layer begins a pass, and what was at work ends."""
        if self._open is not None:
            self._pieces.append((self._key, self.clock.end(self._open)))
            self._open = None
        if phase == UPDATE:
            self._accumulate()
        if phase != NOTHING:
            self._key = (phase, layer)
            self._open = self.clock.start(self._key)

    def graph(self, graph: Graph) -> None:
        """Do nothing."""

    def returned(self, output: Any) -> None:
        """Do nothing."""

    def round(self) -> Repetition:
        """Return what was timed."""
        self.clock.finish()
        return Repetition(pieces=[(key, self.clock.seconds(piece)) for key, piece in self._pieces])

    def _accumulate(self) -> None:
        """Add to the gradients once more, of zeros: the same work."""
        for layer, parameters in self.accumulating.items():
            gradients = [p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse]
            if not gradients:
                continue
            most = max(gradients, key=lambda one: one.nbytes)
            zeros = torch.zeros(most.numel(), dtype=most.dtype, device=most.device)
            pairs = [(one, zeros[: one.numel()].view(one.shape).to(one.dtype)) for one in gradients]
            start = self.clock.start((ACCUMULATE, layer))
            for gradient, more in pairs:
                gradient.add_(more)
            self._pieces.append(((ACCUMULATE, layer), self.clock.end(start)))


def measure(
    step: Step,
    calls: Sequence[Call],
    clock: Clock,
    accumulating: Mapping[int, Sequence[nn.Parameter]],
    *,
    repeats: int,
    warmup: int,
    inputs: bool,
    again: Callable[[], None] = from_one_seed,
    each: Callable[[], None] = lambda: None,
) -> list[Repetition]:
    """Time a step `repeats` times after `warmup` rounds that are not kept.

    Parameters
    ----------
    step : Step
        What is timed.
    calls : sequence of Call
        Its layers.
    clock : Clock
        Its clock.
    accumulating : mapping of int to sequence of Parameter
        For each layer the parameters whose gradients are added to.
    inputs : bool
        Whether the graph can be gone through twice, for the gradients of what goes between layers alone.
    again : callable
        Called before each run, so that all take the same path.
    each : callable
        Called after each round.
    """
    rounds = []
    with quiet():
        for i in range(warmup + repeats):
            again()
            whole_s = clock.whole_s(step)
            again()
            stopwatch = Stopwatch(clock, accumulating)
            Watch(step.model, calls, stopwatch, inputs=inputs).run(step)
            one = stopwatch.round()
            one.whole_s = whole_s
            if i >= warmup:
                rounds.append(one)
            each()
    return rounds


def samples_of(
    rounds: Sequence[Repetition], layers: int, clock: int, shares: Sequence[float], split: bool = True
) -> list[Samples]:
    """Return each layer's samples by one of the clocks.

    Parameters
    ----------
    rounds : sequence of Repetition
        What was timed.
    layers : int
        How many there are.
    clock : int
        Position in the clock's names.
    shares : sequence of float
        Each layer's share of the update.
    split : bool
        Whether backward was timed for inputs alone; otherwise all of it is given to them.
    """
    return [_samples(rounds, layer, clock, share, split) for layer, share in zip(range(layers), shares, strict=True)]


def _samples(rounds: Sequence[Repetition], layer: int, clock: int, share: float, split: bool) -> Samples:
    def each(phase: str) -> list[float]:
        return [one.total(phase, layer, clock) for one in rounds]

    both = each(BACKWARD)
    inputs = [min(a, b) for a, b in zip(each(INPUTS), both, strict=True)] if split else both
    return Samples(
        forward_s=rounded(each(FORWARD)),
        backward_input_s=rounded(inputs),
        backward_weight_s=rounded([a - b for a, b in zip(both, inputs, strict=True)]),
        optimizer_s=rounded([share * one.total(UPDATE, 0, clock) for one in rounds]),
        accumulate_s=rounded(each(ACCUMULATE)),
    )


def rounded(seconds: Sequence[float]) -> tuple[float, ...]:
    """Return seconds in four digits: what a clock is good for, and no more in the file.

    Examples
    --------
    >>> rounded([1.23456, -1e-9])
    (1.235, 0.0)
    """
    return tuple(float(f"{max(0.0, one):.4g}") for one in seconds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the garbage collector out of the measurement."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
