"""Time a model's training step: whole, unit by unit, and unit by unit with backward for the inputs only.

The three are interleaved in every repetition, so that a drift of the machine meets all of them. A unit's backward for
inputs is timed alone (the third); its backward for weights is what is left when that is taken from its whole backward
(the second) of the same repetition, and zero where noise makes it less.

A unit alone pays for its own entry into autograd and into the optimizer, some tens of microseconds that the whole step
pays once. Steps of a few milliseconds show this in their check; nothing is subtracted for it.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mpsim.errors import MpsimError
from mpsim.workload.clock import Clock
from mpsim.workload.example import Example
from mpsim.workload.export import default_loss
from mpsim.workload.graph import Cut
from mpsim.workload.model import Samples
from mpsim.workload.run import run_step
from mpsim.workload.update import Updates

__all__ = ["Measured", "measure", "quiet"]

Durations = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Raw times of one model at one micro-batch.

    Attributes
    ----------
    samples : list of Samples
        One for each unit, by the clock that counts.
    wall : list of Samples or None
        The same by wall clock, where that is another.
    whole_s, layers_s : tuple of float
        The whole step and the sum over units, one entry a repetition.

    Examples
    --------
    >>> Measured(samples=[], wall=None, whole_s=(1.0,), layers_s=(1.0,)).wall is None
    True
    """

    samples: list[Samples]
    wall: list[Samples] | None
    whole_s: tuple[float, ...]
    layers_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repetition:
    """One repetition: for each clock of the clock's names, seconds."""

    whole: Durations
    forward: list[Durations]
    backward: list[Durations]
    backward_input: list[Durations]
    optimizer: list[Durations]


def measure(
    example: Example,
    cut: Cut,
    feeds: Mapping[str, Any],
    parameters: Mapping[str, Any],
    updates: Updates,
    clock: Clock,
    *,
    repeats: int,
    warmup: int,
) -> Measured:
    """Time a step `repeats` times after `warmup` rounds that are not kept.

    Raises
    ------
    MpsimError
        The loss is not finite.
    """
    with quiet():
        for i in range(warmup):
            _repeat(example, cut, feeds, parameters, updates, clock, check=i == 0)
        rounds = [_repeat(example, cut, feeds, parameters, updates, clock) for _ in range(repeats)]
    units = range(len(cut.units))
    return Measured(
        samples=[_samples(rounds, i, 0) for i in units],
        wall=[_samples(rounds, i, 1) for i in units] if len(clock.names) > 1 else None,
        whole_s=tuple(_round(one.whole[0]) for one in rounds),
        layers_s=tuple(_round(_sum_of_layers(one)) for one in rounds),
    )


def _sum_of_layers(one: _Repetition) -> float:
    return sum(seconds[0] for part in (one.forward, one.backward, one.optimizer) for seconds in part)


def _samples(rounds: list[_Repetition], unit: int, clock: int) -> Samples:
    inputs = [one.backward_input[unit][clock] for one in rounds]
    both = [one.backward[unit][clock] for one in rounds]
    return Samples(
        forward_s=tuple(_round(one.forward[unit][clock]) for one in rounds),
        backward_input_s=tuple(_round(seconds) for seconds in inputs),
        backward_weight_s=tuple(_round(max(0.0, a - b)) for a, b in zip(both, inputs, strict=True)),
        optimizer_s=tuple(_round(one.optimizer[unit][clock]) for one in rounds),
    )


def _round(seconds: float) -> float:
    """Four digits: what a clock is good for, and no more in the file."""
    return float(f"{max(0.0, seconds):.4g}")


def _repeat(
    example: Example,
    cut: Cut,
    feeds: Mapping[str, Any],
    parameters: Mapping[str, Any],
    updates: Updates,
    clock: Clock,
    check: bool = False,
) -> _Repetition:
    whole, loss = _whole_step(example, updates, clock)
    if check and not math.isfinite(loss):
        raise MpsimError(
            f"the loss of {type(example.model).__name__} is {loss}: give a batch and a loss that are finite"
        )
    forward, backward, optimizer = _layered_step(cut, feeds, parameters, updates, clock)
    _, backward_input, _ = _layered_step(cut, feeds, parameters, None, clock)
    return _Repetition(
        whole=whole, forward=forward, backward=backward, backward_input=backward_input, optimizer=optimizer
    )


def _whole_step(example: Example, updates: Updates, clock: Clock) -> tuple[Durations, float]:
    criterion = example.loss or default_loss
    start = clock.mark()
    output = example.model(*example.inputs, **example.keywords)
    loss = criterion(output, example.target)
    loss.backward()
    updates.whole()
    end = clock.mark()
    clock.finish()
    return clock.between(start, end), float(loss.detach())


def _layered_step(
    cut: Cut, feeds: Mapping[str, Any], parameters: Mapping[str, Any], updates: Updates | None, clock: Clock
) -> tuple[list[Durations], list[Durations], list[Durations]]:
    """Run a step unit by unit; without `updates`, backward is for inputs only and nothing is updated."""
    marks: list[Any] = []

    def mark(again: bool = False) -> None:
        marks.append(marks[-1] if again else clock.mark())

    run_step(cut, feeds, parameters, mark, accumulate=updates is not None)
    count = len(cut.units)
    if updates is not None:
        for work in (updates.step_unit, updates.drop_unit):
            for i in range(count):
                idle = not updates.updates(i)
                mark(idle)
                if not idle:
                    work(i)
                mark(idle)
    clock.finish()
    seconds = [clock.between(start, end) for start, end in zip(marks[::2], marks[1::2], strict=True)]
    forward, backward, step, drop = (seconds[i * count : (i + 1) * count] for i in range(4))
    optimizer = [tuple(a + b for a, b in zip(one, two, strict=True)) for one, two in zip(step, drop, strict=True)]
    return forward, backward[::-1], optimizer


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
