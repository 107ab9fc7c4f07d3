"""The program: streams of tasks, as CUDA streams run them; it knows no pipeline, tensor or data parallelism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mpsim.errors import MpsimError
from mpsim.reprs import short_repr

__all__ = ["Allocation", "Program", "Resident", "Stream", "Task", "Timing", "Traffic"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """What one transfer puts on the network: latency first, then bytes on each link at one pace.

    Attributes
    ----------
    latency_s : float
        All rounds of latency, and whatever else no bandwidth can shorten.
    links : tuple of int
        Indices into the topology's links.
    bytes : tuple of float
        On each of them.
    payload_bytes : int
        The size of the message, or of the collective's whole tensor.
    rounds : int
        Rounds of messages that `latency_s` stands for; 0: part of a message that another task carries.
    buffered_bytes : float
        What the sender's system holds of it at most while it moves: once no more is left, the sender is rid of it.
    algorithm : str
        Of a collective, where the model chose it.
    beyond : bool
        Whether its time is by costs measured for other sizes or numbers of ranks.
    unmeasured : str
        What its time is by, where nothing was measured of its links.
    alike : tuple of int
        How many transfers that do the same at the same time each link carries, where this one stands for all of them.
    copies : int
        How many those are.
    one : Traffic or None
        One of them, by itself.
    """

    latency_s: float = 0.0
    links: tuple[int, ...] = ()
    bytes: tuple[float, ...] = ()
    payload_bytes: int = 0
    rounds: int = 1
    buffered_bytes: float = 0.0
    algorithm: str = ""
    beyond: bool = False
    unmeasured: str = ""
    alike: tuple[int, ...] = ()
    copies: int = 1
    one: Traffic | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if len(self.links) != len(self.bytes):
            raise MpsimError(f"traffic names {len(self.links)} links and {len(self.bytes)} byte counts")
        if self.alike and (len(self.alike) != len(self.links) or min(self.alike) < 1):
            raise MpsimError(f"traffic names {len(self.links)} links, and says of how many alike {list(self.alike)}")
        if not self.alike and len(set(self.links)) != len(self.links):
            raise MpsimError(f"traffic names a link twice among {list(self.links)}: add their bytes up")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise MpsimError(f"traffic has a latency of {self.latency_s} s, expected 0 or more")
        if any(not (math.isfinite(count) and count > 0) for count in self.bytes):
            raise MpsimError("traffic has a link with no, negative or infinite bytes: leave that link out")

    @property
    def link_bytes(self) -> float:
        """Bytes summed over links, of one transfer."""
        return math.fsum(self.bytes) if self.one is None else self.one.link_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A queue of tasks; `device` is an index into the topology's devices.

    Attributes
    ----------
    slots : int
        0: its tasks run one at a time, in the program's order. More: so many at once, in the order in which they
        become ready (a wire, a pool of threads).
    host : bool
        A thread beside the device: its tasks launch what the device runs, and are no computation of it.
    """

    device: int
    name: str
    slots: int = 0
    host: bool = False

    def __post_init__(self) -> None:
        if self.slots < 0:
            raise MpsimError(f"stream {self.name!r} has {self.slots} slots, expected 0 or more")


class Task(NamedTuple):
    """One computation or transfer; it starts when it heads all its streams and all of `after` is done.

    A tuple rather than a dataclass: a program has hundreds of thousands of them.

    Attributes
    ----------
    name : str
        Such as ``"0F3"``.
    kind : str
        What a result calls it: ``forward``, ``backward``, ``optimizer``, ``send``, ``all_reduce``, ...
    streams : tuple of int
        Indices into the program's streams. One: a computation. Several: a rendezvous.
    after : tuple of int
        Indices of tasks that must be done first.
    duration_s : float
        Of a computation.
    traffic : Traffic or None
        Of a transfer; its duration follows from the network.
    axis : str
        ``dp``, ``pp``, ``tp`` or ``""``.
    stage, microbatch : int
        For people and plots; -1 where they have no meaning.
    after_buffered : tuple of int
        Indices of transfers whose sender has got rid of them: no more is left than their `Traffic.buffered_bytes`.
    """

    name: str
    kind: str
    streams: tuple[int, ...]
    after: tuple[int, ...] = ()
    duration_s: float = 0.0
    traffic: Traffic | None = None
    axis: str = ""
    stage: int = -1
    microbatch: int = -1
    after_buffered: tuple[int, ...] = ()


class Allocation(NamedTuple):
    """Memory that one device holds from the start of one task to the end of another; below 0, what it holds less.

    Of what begins and ends at one moment, as tasks that take no time do, `begins` and `ends` say the order: the places
    of both tasks among all those of the device.
    """

    device: int
    holder: str
    bytes: int
    first: int
    last: int
    begins: int
    ends: int


class Resident(NamedTuple):
    """Memory that one device holds throughout; `holder` as in `MemoryUse`, without ``_bytes``.

    `reserved` is what a caching allocator keeps for it; 0 where there is none.
    """

    device: int
    holder: str
    bytes: int
    reserved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Tasks in the order in which each of their streams runs them.

    Attributes
    ----------
    streams : tuple of Stream
        The queues.
    tasks : tuple of Task
        A stream runs its tasks in the order in which they stand here.
    residents, allocations : tuple
        Memory throughout, and between tasks.
    stands_for : mapping of int to int
        How many devices that do the same each one stands for; empty: each for itself.
    """

    streams: tuple[Stream, ...]
    tasks: tuple[Task, ...]
    residents: tuple[Resident, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    stands_for: Mapping[int, int] = field(default_factory=dict)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not self._sound():
            self._refuse()

    def _sound(self) -> bool:
        """Return whether the tasks name streams and tasks that there are, looking at all of them at once."""
        named = [stream for task in self.tasks for stream in task.streams]
        awaited = [i for task in self.tasks for i in (*task.after, *task.after_buffered)]
        return (
            all(task.streams and 0 <= task.duration_s < math.inf for task in self.tasks)
            and (not named or (min(named) >= 0 and max(named) < len(self.streams)))
            and (not awaited or (min(awaited) >= 0 and max(awaited) < len(self.tasks)))
            and all(len(set(task.streams)) == len(task.streams) for task in self.tasks if len(task.streams) > 1)
        )

    def _refuse(self) -> None:
        """Name the first task that is wrong."""
        n_tasks, n_streams = len(self.tasks), len(self.streams)
        for task in self.tasks:
            if not task.streams:
                raise MpsimError(f"task {task.name!r} is on no stream: give it one")
            if max(task.streams) >= n_streams or min(task.streams) < 0:
                raise MpsimError(f"task {task.name!r} names stream {max(task.streams)}, the program has {n_streams}")
            if len(task.streams) > 1 and len(set(task.streams)) < len(task.streams):
                raise MpsimError(f"task {task.name!r} names a stream twice: it would wait for itself")
            if task.after_buffered and not all(0 <= i < n_tasks for i in task.after_buffered):
                raise MpsimError(
                    f"task {task.name!r} waits for task {max(task.after_buffered)}, the program has {n_tasks}"
                )
            if task.after and (max(task.after) >= n_tasks or min(task.after) < 0):
                raise MpsimError(f"task {task.name!r} waits for task {max(task.after)}, the program has {n_tasks}")
            if not 0 <= task.duration_s < math.inf:
                raise MpsimError(f"task {task.name!r} lasts {task.duration_s} s, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When each task of a program started and ended, in seconds, in the program's order: replayed or measured.

    Attributes
    ----------
    released_by : tuple of int
        The task that let each one start, where it was asked for: the last to end of those that it waits for, the one
        that left its stream, or the transfer whose sender got rid of it; -1 of what waits for nothing.
    """

    start_s: tuple[float, ...]
    end_s: tuple[float, ...]
    released_by: tuple[int, ...] = ()

    __repr__ = short_repr

    @property
    def step_s(self) -> float:
        """When the last task ended."""
        return max(self.end_s, default=0.0)
