"""Clocks that time a piece of work on what does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = ["Clock", "CpuClock", "CudaClock", "clock_for"]

_CYCLES_PER_S = 2.0e9  # of torch.cuda._sleep, about what current GPUs run at: the sleep may be longer, not shorter


class Clock(Protocol):
    """What the tracer asks of a clock.

    Attributes
    ----------
    names : tuple of str
        The clocks, the one that counts first.
    two : bool
        Whether the first is the device's alone and the second that of the host that launches.
    """

    names: tuple[str, ...]
    two: bool

    def start(self, what: Any) -> Any:
        """Note the moment at which a piece of work begins; `what` it is tells how long it took before."""

    def end(self, start: Any) -> Any:
        """Note the moment at which it ends."""

    def seconds(self, piece: Any) -> tuple[float, ...]:
        """Return what it took, one number for each name; after `finish`."""

    def finish(self) -> None:
        """Wait until everything has ended."""

    def whole_s(self, run: Callable[[], None]) -> float:
        """Run something and return what it takes, among such runs where a host runs ahead of its device."""


class CpuClock:
    """Processor time of this thread, and wall time.

    With one compute thread the thread's own clock is the better one: it does not count what the machine does
    meanwhile for others. (PyTorch runs a CPU backward in the thread that calls it.) With more threads the work
    of the others is not on this thread's clock, so wall time counts instead.

    Examples
    --------
    >>> clock = CpuClock(threads=1)
    >>> thread_s, wall_s = clock.seconds(clock.end(clock.start("nothing")))
    >>> thread_s >= 0 and wall_s >= 0
    True
    """

    two = False

    def __init__(self, threads: int) -> None:
        self.names: tuple[str, ...] = ("thread-cpu", "wall") if threads == 1 else ("wall",)

    def start(self, what: Any) -> tuple[float, float]:
        """Note the present moment on both clocks."""
        return time.thread_time(), time.perf_counter()

    def end(self, start: tuple[float, float]) -> tuple[float, float]:
        """Return seconds since then on both."""
        return time.thread_time() - start[0], time.perf_counter() - start[1]

    def seconds(self, piece: tuple[float, float]) -> tuple[float, ...]:
        """Return thread seconds and wall seconds, or with several threads wall seconds alone."""
        return piece[-len(self.names) :]

    def finish(self) -> None:
        """Do nothing: the work is done when the call returns."""

    def whole_s(self, run: Callable[[], None]) -> float:
        """Return what a run takes by the clock that counts."""
        start = self.start("whole")
        run()
        return self.seconds(self.end(start))[0]


class CudaClock:
    """The device's kernels alone, and the thread that launches them alone.

    Before a piece of work the device is put to sleep until all of its kernels are queued, so that they run with no
    gap between them, and events around them tell what they take; the queue was empty, so that the host never waits,
    and its own clock tells what launching takes. Pieces of more launches than the queue holds do wait.
    """

    names: tuple[str, ...] = ("cuda-kernel", "host")
    two = True

    def __init__(self) -> None:
        self._cover_s: dict[Any, float] = {}
        self._what: Any = None

    def start(self, what: Any) -> Any:
        """Empty the queue, send the device to sleep, and note the host's moment and the device's."""
        torch.cuda.synchronize()
        self._what = what
        torch.cuda._sleep(int(self._cover_s.get(what, 0.02) * _CYCLES_PER_S))
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event, time.perf_counter()

    def end(self, start: Any) -> Any:
        """Note the moments; the next piece of its name gets a sleep that covers its launches."""
        event, begun = start
        host_s = time.perf_counter() - begun
        self._cover_s[self._what] = 1.5 * host_s + 2e-4
        after = torch.cuda.Event(enable_timing=True)
        after.record()
        return event, after, host_s

    def seconds(self, piece: Any) -> tuple[float, ...]:
        """Return the device's seconds and the host's."""
        before, after, host_s = piece
        return max(0.0, before.elapsed_time(after)) / 1000.0, host_s

    def finish(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def whole_s(self, run: Callable[[], None]) -> float:
        """Return what a run takes among runs that follow one another: from the end of one to the end of the next."""
        torch.cuda.synchronize()
        ends = []
        for _ in range(2):
            run()
            ends.append(torch.cuda.Event(enable_timing=True))
            ends[-1].record()
        torch.cuda.synchronize()
        return float(ends[0].elapsed_time(ends[1])) / 1000.0


def clock_for(device: str, threads: int) -> Clock:
    """Return the clock of a device type.

    Examples
    --------
    >>> clock_for("cpu", 1).names, clock_for("cpu", 4).names
    (('thread-cpu', 'wall'), ('wall',))
    """
    return CudaClock() if device == "cuda" else CpuClock(threads)
