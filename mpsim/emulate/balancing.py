"""Where to cut a model so that its parts take equal times, measured here."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.parts import Part
from mpsim.plan.partition import balance
from mpsim.workload.clock import Clock, clock_for

__all__ = ["measured_boundaries", "measured_seconds", "untouched"]


def measured_boundaries(
    cut: Cut, model: nn.Module, feeds: Mapping[str, Any], stages: int, *, device: str | None = None, repeats: int = 3
) -> tuple[int, ...]:
    """Time each unit's forward and backward and return the boundaries that leave the slowest part fastest.

    Without gradients (``torch.no_grad``) the forward alone counts. On a CPU with one thread the clock is the thread's
    own, which other programs do not disturb; on a CUDA device events count.

    Parameters
    ----------
    cut : Cut
        Of the model.
    model : torch.nn.Module
        Which is left as it was.
    feeds : mapping of str to torch.Tensor
        One chunk.
    stages : int
        Parts.
    device : str or None
        Where to time; None: where the model is.
    repeats : int
        Rounds whose median counts, after one that does not.

    Raises
    ------
    MpsimError
        There are fewer units than parts.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(2000, 20), nn.Linear(20, 20))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(8, 2000),)))
    >>> len(measured_boundaries(cut, model, {"input": torch.ones(8, 2000)}, 2))  # Most likely (1,).
    1
    """
    before = np.cumsum([0.0, *measured_seconds(cut, model, feeds, device=device, repeats=repeats)])
    return balance([before - before[:, None]] * stages)


def measured_seconds(
    cut: Cut, model: nn.Module, feeds: Mapping[str, Any], *, device: str | None = None, repeats: int = 3
) -> list[float]:
    """Return what each unit's forward and backward take; see `measured_boundaries`.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> len(measured_seconds(cut, model, {"input": torch.ones(3, 4)}))
    2
    """
    part = Part(cut, model, range(len(cut.units)), device=device)
    kind = torch.device(device).type if device else _device_type(feeds)
    clock = clock_for(kind, torch.get_num_threads())
    with untouched(part):
        rounds = [_seconds(part, feeds, clock) for _ in range(repeats + 1)][1:]
    return [statistics.median(one) for one in zip(*rounds, strict=True)]


@contextlib.contextmanager
def untouched(part: Part) -> Iterator[None]:
    """Leave what a forward moves and the generator of random numbers as they were; drop gradients.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> part = Part(capture(Example(model=model, inputs=(torch.ones(3, 2),))), model, range(2))
    >>> with untouched(part):
    ...     part.start({}, {"input": torch.ones(3, 2)}).forward(0, 2)
    >>> int(model[1].num_batches_tracked)
    0
    """
    moved = {name: part.parameters[name] for name in part.cut.moved if name in part.parameters}
    held = moved | part.buffers
    saved = {name: tensor.detach().clone() for name, tensor in held.items()}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for name, value in saved.items():
            with torch.no_grad():
                held[name].copy_(value)
        part.drop_gradients()


def _device_type(feeds: Mapping[str, Any]) -> str:
    return next((str(one.device.type) for one in feeds.values() if isinstance(one, torch.Tensor)), "cpu")


def _seconds(part: Part, feeds: Mapping[str, Any], clock: Clock) -> list[float]:
    flight = part.start({}, feeds)
    pieces = {layer: [_timed(clock, ("F", layer), flight.forward, layer, layer + 1)] for layer in part.layers}
    flight.receive({name: torch.ones_like(value) for name, value in flight.results.items() if value.requires_grad})
    if torch.is_grad_enabled():
        for layer in reversed(part.layers):
            pieces[layer].append(_timed(clock, ("B", layer), flight.backward, layer, layer + 1))
    clock.finish()
    return [sum(clock.seconds(piece)[0] for piece in pieces[layer]) for layer in part.layers]


def _timed(clock: Clock, what: Any, run: Callable[..., None], *arguments: Any) -> Any:
    start = clock.start(what)
    run(*arguments)
    return clock.end(start)
