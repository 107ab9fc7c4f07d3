"""Computations that take longer while bytes move beside them, by a factor that their device states.

Communication takes memory bandwidth and processor time (on a GPU, multiprocessors) from the computation beside it. By
how much hangs on the device and the model: the factor is measured there and given (`benchmarks/overlap.py` does so on
CPUs); without one a computation takes what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy

from mpsim.program.model import Stream, Task
from mpsim.topology.model import Device

__all__ = ["Interference"]


class _Work:
    """A computation under way: seconds left if nothing slowed it, and how fast they pass."""

    __slots__ = ("device", "event", "rate", "remaining_s", "since_s", "task")

    def __init__(self, task: int, device: int, seconds: float) -> None:
        self.task, self.device, self.remaining_s = task, device, seconds
        self.rate = self.since_s = 0.0
        self.event: simpy.Event | None = None


class Interference:
    """The computations on devices that state a slowdown, and how many transfers move bytes beside them.

    Parameters
    ----------
    env : simpy.Environment
        Its clock.
    devices : sequence of Device
        Of the topology.
    streams : sequence of Stream
        Of the program.
    done : callable
        Called with a computation's index when it ends.
    """

    def __init__(
        self, env: simpy.Environment, devices: Sequence[Device], streams: Sequence[Stream], done: Callable[[int], None]
    ) -> None:
        self._env, self._done = env, done
        self._device_of = [stream.device for stream in streams]
        self.slowdown = {i: device.overlap_slowdown for i, device in enumerate(devices) if device.overlap_slowdown > 1}
        self._moving = dict.fromkeys(self.slowdown, 0)
        self._works: dict[int, dict[int, _Work]] = {device: {} for device in self.slowdown}
        self._beside: dict[int, list[int]] = {}

    def device(self, task: Task) -> int:
        """Return the device that a computation runs on."""
        return self._device_of[task.streams[0]]

    def compute(self, i: int, task: Task, seconds: float) -> None:
        """Begin a computation of so many seconds on a device that states a slowdown."""
        device = self.device(task)
        work = self._works[device][i] = _Work(i, device, seconds)
        self._set_rate(work, self._rate(device))

    def begin(self, i: int, task: Task) -> None:
        """Let the bytes of a transfer begin to move."""
        devices = dict.fromkeys(self._device_of[stream] for stream in task.streams)
        self._beside[i] = [device for device in devices if device in self.slowdown]
        self._change(self._beside[i], 1)

    def end(self, i: int) -> None:
        """Let a transfer be over, if its bytes ever moved."""
        self._change(self._beside.pop(i, []), -1)

    def _change(self, devices: Sequence[int], by: int) -> None:
        for device in devices:
            before = self._rate(device)
            self._moving[device] += by
            after = self._rate(device)
            if after != before:
                for work in self._works[device].values():
                    self._set_rate(work, after)

    def _rate(self, device: int) -> float:
        return 1.0 / self.slowdown[device] if self._moving[device] else 1.0

    def _set_rate(self, work: _Work, rate: float) -> None:
        """Settle what passed at the old rate, and plan the end at the new one."""
        now = self._env.now
        work.remaining_s = max(0.0, work.remaining_s - work.rate * (now - work.since_s))
        work.since_s, work.rate = now, rate
        work.event = simpy.Timeout(self._env, work.remaining_s / rate, work)
        work.event.callbacks.append(self._end)

    def _end(self, event: simpy.Event) -> None:
        work: _Work = event._value
        if work.event is event:
            work.event = None
            del self._works[work.device][work.task]
            self._done(work.task)
