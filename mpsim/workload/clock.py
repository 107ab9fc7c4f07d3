"""Clocks that time a piece of work on the device that does it."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

__all__ = ["Clock", "CpuClock", "CudaClock", "clock_for"]


class Clock(Protocol):
    """What the tracer asks of a clock.

    `names` has the clock that counts first. ``mark`` notes the present moment as cheaply as can be; ``between``
    turns two marks into seconds, one number for each name, after ``finish`` has waited for the device.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The clocks, the one that counts first."""
        ...

    def mark(self) -> Any:
        """Note the present moment."""

    def finish(self) -> None:
        """Wait until all marks have been reached."""

    def between(self, start: Any, end: Any) -> tuple[float, ...]:
        """Return the seconds between two marks."""


class CpuClock:
    """Processor time of this thread, and wall time.

    With one compute thread the thread's own clock is the better one: it does not count what the machine does
    meanwhile for others. (PyTorch runs a CPU backward in the thread that calls it.) With more threads the work
    of the others is not on this thread's clock, so wall time counts instead.

    Examples
    --------
    >>> clock = CpuClock(threads=1)
    >>> start = clock.mark()
    >>> thread_s, wall_s = clock.between(start, clock.mark())
    >>> thread_s >= 0 and wall_s >= 0
    True
    """

    def __init__(self, threads: int) -> None:
        self.names: tuple[str, ...] = ("thread-cpu", "wall") if threads == 1 else ("wall",)

    def mark(self) -> tuple[float, float]:
        """Note the present moment on both clocks."""
        return time.thread_time(), time.perf_counter()

    def finish(self) -> None:
        """Do nothing: the work is done when the call returns."""

    def between(self, start: Any, end: Any) -> tuple[float, ...]:
        """Return thread seconds and wall seconds, or with several threads wall seconds alone."""
        both = (end[0] - start[0], end[1] - start[1])
        return both if len(self.names) == 2 else both[1:]


class CudaClock:
    """CUDA events on the current stream: the device's own time, without waiting after each piece."""

    names: tuple[str, ...] = ("cuda-event",)

    def mark(self) -> Any:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> None:
        """Wait for the device, once a repetition."""
        torch.cuda.synchronize()

    def between(self, start: Any, end: Any) -> tuple[float, ...]:
        """Return the seconds between two events."""
        return (max(0.0, start.elapsed_time(end)) / 1000.0,)


def clock_for(device: str, threads: int) -> Clock:
    """Return the clock of a device type.

    Examples
    --------
    >>> clock_for("cpu", 1).names, clock_for("cpu", 4).names
    (('thread-cpu', 'wall'), ('wall',))
    """
    return CudaClock() if device == "cuda" else CpuClock(threads)
