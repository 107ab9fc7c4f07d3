"""The critical path: the chain of tasks from the start of the step to its end, each of which let the next one start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.engine.network import Demand
from mpsim.explanation.kinds import Kinds
from mpsim.explanation.model import PathStep
from mpsim.program.model import Program, Task, Timing
from mpsim.topology.model import Topology

__all__ = ["Waited", "critical_path", "path_steps"]


class Waited(NamedTuple):
    """A task of the path, and from when to when the step waits for it."""

    task: int
    start_s: float
    end_s: float


def critical_path(timing: Timing) -> list[Waited]:
    """Return the critical path, the first task first; each ends as the next one starts.

    Of tasks that end with the step the last counts, of several that end as another starts the one that the engine
    ended last.

    Parameters
    ----------
    timing : Timing
        With `released_by`.

    Examples
    --------
    >>> timing = Timing(start_s=(0.0, 0.0, 2.0), end_s=(1.0, 2.0, 3.0), released_by=(-1, -1, 1))
    >>> [(one.task, one.start_s, one.end_s) for one in critical_path(timing)]
    [(1, 0.0, 2.0), (2, 2.0, 3.0)]
    """
    until = timing.step_s
    i = max((i for i, end in enumerate(timing.end_s) if end == until), default=-1)
    found: list[Waited] = []
    while i >= 0:
        found.append(Waited(i, timing.start_s[i], until))
        until, i = timing.start_s[i], timing.released_by[i]
    return found[::-1]


def path_steps(program: Program, topology: Topology, timing: Timing, kinds: Kinds) -> tuple[PathStep, ...]:
    """Return the critical path in the words of an explanation; what takes no time is left out.

    Parameters
    ----------
    program, topology, timing
        What was replayed, with `Timing.released_by`.
    kinds : Kinds
        Of the program's transfers.
    """
    names = _Names(program, topology)
    capacity = [link.bandwidth_bytes_per_s for link in topology.links]
    path = critical_path(timing)
    before = [-1, *(one.task for one in path[:-1])]
    found = []
    for (i, start_s, end_s), j in zip(path, before, strict=True):
        if end_s == start_s:
            continue
        task = program.tasks[i]
        what, link = (task.kind, "") if task.traffic is None else kinds.of(i)
        latency_s, shared_s = _of_transfer(task, end_s - start_s, capacity)
        found.append(
            PathStep(
                name=task.name,
                what=what,
                moves=task.traffic is not None,
                devices=names.of(task),
                stage=task.stage,
                microbatch=task.microbatch,
                start_s=start_s,
                end_s=end_s,
                link=link,
                latency_s=latency_s,
                shared_s=shared_s,
                because=_because(program, names, kinds, i, j),
            )
        )
    return tuple(found)


class _Names:
    """The names of the devices that tasks run on."""

    def __init__(self, program: Program, topology: Topology) -> None:
        self._topology = topology
        self._device = [stream.device for stream in program.streams]
        self._count = program.stands_for
        self._known: dict[tuple[int, ...], tuple[str, ...]] = {}

    def of(self, task: Task) -> tuple[str, ...]:
        """Return them, those of a message's sender first."""
        if task.streams not in self._known:
            devices = dict.fromkeys(self._device[stream] for stream in task.streams)
            self._known[task.streams] = tuple(map(self._name, devices))
        return self._known[task.streams]

    def _name(self, device: int) -> str:
        name, count = self._topology.devices[device].name, self._count.get(device, 1)
        return name if count == 1 else f"{name} × {count:,}"


def _of_transfer(task: Task, takes_s: float, capacity: list[float]) -> tuple[float, float]:
    """Return of a transfer's time the latency, and what it takes longer than alone."""
    if task.traffic is None:
        return 0.0, 0.0
    demand = Demand(task.traffic, capacity)
    latency_s = min(task.traffic.latency_s, takes_s)
    shared_s = takes_s - latency_s - demand.size / demand.rate
    return latency_s, shared_s if shared_s > 1e-9 * takes_s else 0.0


def _because(program: Program, names: _Names, kinds: Kinds, i: int, j: int) -> str:
    """Say what let a task start."""
    if j < 0:
        return "the step begins"
    task, before = program.tasks[i], program.tasks[j]
    if program.streams[before.streams[0]].host:
        return "its host was busy" if program.streams[task.streams[0]].host else "it was launched"
    told = _told(program, names, kinds, j)
    if j in task.after_buffered and j not in task.after:
        return f"{told} had left its sender"
    if j in task.after and before.traffic is not None:
        return f"{told} was there" if before.kind == "send" else f"{told} was over"
    if task.traffic is None or before.traffic is None:
        return f"{told} was done"
    return f"{told} was out of its way"


def _told(program: Program, names: _Names, kinds: Kinds, j: int) -> str:
    task = program.tasks[j]
    if task.traffic is not None:
        return f"{kinds.of(j)[0]} {task.name}"
    return f"{task.name} on {_and(names.of(task))}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
