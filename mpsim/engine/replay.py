"""Replay a program: every task's start and end, by discrete events.

The engine knows tasks, streams and links, and nothing of pipelines, tensors or data parallelism. It draws nothing:
the same program and topology give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import simpy

from mpsim.engine.interference import Interference
from mpsim.engine.network import Network, Observer
from mpsim.engine.queues import Queues
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.program.model import Program, Task, Timing, Traffic
from mpsim.topology.model import Topology

__all__ = ["Begun", "order_of", "replay"]


class Begun(NamedTuple):
    """A replay up to a moment before which no two transfers met.

    Attributes
    ----------
    time_s : float
        The moment: what ended before it has ended, what began before it has begun.
    start_s, moves_s, end_s : sequence of float
        When each task began, its first byte moved, and it ended or would if nothing met; of those not begun no matter.
    waiting : sequence of int
        For how many others each task waits that have not ended.
    under_way : sequence of int
        Those that have begun and not ended.
    left : int
        How many have not ended.
    followers : list of list of int
        The tasks that wait for each.
    """

    time_s: float
    start_s: Sequence[float]
    moves_s: Sequence[float]
    end_s: Sequence[float]
    waiting: Sequence[int]
    under_way: Sequence[int]
    left: int
    followers: list[list[int]]


def replay(
    program: Program,
    topology: Topology,
    *,
    free: bool = False,
    observer: Observer | None = None,
    durations: Sequence[float] | None = None,
    late: Sequence[float] | None = None,
    begun: Begun | None = None,
    releases: bool = False,
) -> Timing:
    """Replay a program on a topology.

    Parameters
    ----------
    program : Program
        What runs.
    topology : Topology
        Whose links its traffic uses.
    free : bool
        Replay on an ideal network: no transfer takes any time.
    observer : callable, optional
        Called with ``(time_s, task, bytes_per_s)`` whenever the rate of a transfer changes.
    durations : sequence of float, optional
        What each task takes, if it is a computation, in place of what the program says.
    late : sequence of float, optional
        What each task takes longer than its latency, if it is a transfer.
    begun : Begun, optional
        What is known of the replay up to a moment; of a program that `mpsim.engine.straight.Straight.applies` to.
    releases : bool
        Say which task let each one start (`Timing.released_by`), of a replay from the beginning.

    Returns
    -------
    Timing
        Start and end of every task.

    Raises
    ------
    MpsimError
        The streams cannot finish (a deadlock); the message has their heads. Or the program names a device or a link
        that the topology does not have.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> from mpsim.topology.model import Device
    >>> one = Topology(name="one", devices=(Device(name="d0"),))
    >>> tasks = (Task("a", "compute", (0,), duration_s=0.5), Task("b", "compute", (0,), duration_s=0.25))
    >>> replay(Program(streams=(Stream(device=0, name="compute"),), tasks=tasks), one).end_s
    (0.5, 0.75)
    """
    for stream in program.streams:
        if not 0 <= stream.device < len(topology.devices):
            raise MpsimError(
                f"stream {stream.name!r} is on device {stream.device}, topology {topology.name!r} has"
                f" {len(topology.devices)}: 0 to {len(topology.devices) - 1}"
            )
    with collector_paused():
        run = _Run(program, topology, free, observer, durations, late, begun and begun.followers)
        run.released_by = [-1] * len(program.tasks) if releases else []
        run.play(begun)
    if run.done < len(program.tasks):
        raise MpsimError(_deadlock(program, topology, run))
    timing = Timing(start_s=tuple(run.start_s), end_s=tuple(run.end_s), released_by=tuple(run.released_by))
    # It and its network know one another: apart, nothing of a thousand replays is left for the collector to find.
    run.__dict__.clear()
    return timing


class _Run:
    """The state of one replay: what each task still waits for, and when it ran."""

    def __init__(
        self,
        program: Program,
        topology: Topology,
        free: bool,
        observer: Observer | None,
        durations: Sequence[float] | None,
        late: Sequence[float] | None,
        followers: list[list[int]] | None,
    ) -> None:
        self.tasks = program.tasks
        self.free = free
        self.durations, self.late = durations, late
        self.env = simpy.Environment(0.0)
        capacity = [link.bandwidth_bytes_per_s for link in topology.links]
        self.network = Network(self.env, capacity, self._finish, self._rid, observer)
        self.queues = Queues(program.streams)
        self.beside = Interference(self.env, topology.devices, program.streams, self._finish)
        # Of each transfer, the tasks that go on as soon as its sender is rid of it.
        self.early: dict[int, list[int]] = {}
        self.waiting: list[int] = []
        if followers is not None:
            self.followers = followers
        else:
            self.waiting, self.followers = _order(program.tasks, len(program.streams), self.queues)
            self.early = _early(program.tasks, self.waiting)
        self.start_s = [0.0] * len(self.tasks)
        self.end_s = [0.0] * len(self.tasks)
        # Empty unless asked for.
        self.released_by: list[int] = []
        self.done = 0

    def play(self, begun: Begun | None) -> None:
        """Start what waits for nothing, and run until nothing happens any more."""
        if begun is not None:
            self._go_on(begun)
            return
        for i in [i for i, count in enumerate(self.waiting) if count == 0]:
            if self._ready(i):
                self._finish(i)
        self.env.run()

    def _go_on(self, begun: Begun) -> None:
        """Take over what is under way at a moment, with its events, and run on."""
        self.start_s, self.end_s, self.waiting = list(begun.start_s), list(begun.end_s), list(begun.waiting)
        self.done = len(self.tasks) - begun.left
        for i in begun.under_way:
            traffic = self.tasks[i].traffic
            if traffic is None or begun.moves_s[i] == self.end_s[i]:
                simpy.Timeout(self.env, self.end_s[i], i).callbacks.append(self._on_end)
            elif begun.moves_s[i] < begun.time_s:
                self.network.adopt(i, traffic, begun.moves_s[i], self.end_s[i])
            else:
                simpy.Timeout(self.env, begun.moves_s[i], i).callbacks.append(self._on_latency)
        self.env.run()

    def _ready(self, i: int) -> bool:
        """Start a task that waits for no other, unless its turn has not come; True if it ends at once."""
        return (not self.queues.free or self.queues.arrive(i, self.tasks[i])) and self._start(i)

    def _start(self, i: int) -> bool:
        """Start a task; True if it ends at once."""
        task = self.tasks[i]
        env = self.env
        self.start_s[i] = env.now
        traffic = task.traffic
        if traffic is None:
            delay, after = task.duration_s if self.durations is None else self.durations[i], self._on_end
            if self.beside.slowdown and delay and self.beside.device(task) in self.beside.slowdown:
                self.beside.compute(i, task, delay)
                return False
        elif self.free:
            return True
        else:
            delay, after = traffic.latency_s + (self.late[i] if self.late else 0.0), self._on_latency
            if not delay:
                return self._move(i, traffic)
        if delay == 0.0:
            return True
        simpy.Timeout(env, delay, i).callbacks.append(after)
        return False

    def _on_end(self, event: simpy.Event) -> None:
        self._finish(event._value)

    def _on_latency(self, event: simpy.Event) -> None:
        i: int = event._value
        traffic = self.tasks[i].traffic
        assert traffic is not None
        if self._move(i, traffic):
            self._finish(i)

    def _move(self, i: int, traffic: Traffic) -> bool:
        """Let the bytes of a transfer move; True if they are there at once."""
        if self.network.start(i, traffic):
            return True
        if self.beside.slowdown:
            self.beside.begin(i, self.tasks[i])
        return False

    def _rid(self, i: int) -> None:
        """Start what waited for nothing but that a transfer's sender be rid of it."""
        for k in self.early.pop(i, ()):
            self.waiting[k] -= 1
            if not self.waiting[k]:
                if self.released_by:
                    self.released_by[k] = i
                if self._ready(k):
                    self._finish(k)

    def _finish(self, i: int) -> None:
        """End a task, start whatever waited for it alone, and so on while those end at once."""
        now = self.env.now
        ended = [i]
        waiting, start, released_by = self.waiting, self._ready if self.queues.free else self._start, self.released_by
        for j in ended:
            self.end_s[j] = now
            if self.beside.slowdown:
                self.beside.end(j)
            if self.queues.free:
                left = self.queues.leave(self.tasks[j])
                for k in left if released_by else ():
                    released_by[k] = j
                ended += [k for k in left if self._start(k)]
            for k in (*self.followers[j], *self.early.pop(j)) if j in self.early else self.followers[j]:
                waiting[k] -= 1
                if not waiting[k]:
                    if released_by:
                        released_by[k] = j
                    if start(k):
                        ended.append(k)
        self.done += len(ended)


def _order(tasks: Sequence[Task], n_streams: int, queues: Queues) -> tuple[list[int], list[list[int]]]:
    """Return how many tasks each one waits for, and which wait for it, streams and `after` alike."""
    waiting = [0] * len(tasks)
    followers: list[list[int]] = [[] for _ in tasks]
    last = [-1] * n_streams
    free = queues.free
    for i, task in enumerate(tasks):
        count = len(task.after)
        for j in task.after:
            followers[j].append(i)
        for stream in task.streams:
            if stream in free:
                continue
            j = last[stream]
            if j >= 0:
                followers[j].append(i)
                count += 1
            last[stream] = i
        waiting[i] = count
    return waiting, followers


def order_of(tasks: Sequence[Task], n_streams: int, queues: Queues) -> tuple[list[list[int]], list[int]]:
    """Return what each task waits for, streams and `after` alike, and the tasks in an order in which they can run.

    Where tasks wait for one another in a circle the order ends before them.
    """
    waiting, followers = _order(tasks, n_streams, queues)
    befores: list[list[int]] = [[] for _ in tasks]
    order = [i for i, count in enumerate(waiting) if not count]
    for i in order:
        for k in followers[i]:
            befores[k].append(i)
            waiting[k] -= 1
            if not waiting[k]:
                order.append(k)
    return befores, order


def _early(tasks: Sequence[Task], waiting: list[int]) -> dict[int, list[int]]:
    """Return the tasks that wait for a transfer's sender only, by transfer, counting them as waiting."""
    early: dict[int, list[int]] = {}
    for i, task in enumerate(tasks):
        for j in task.after_buffered:
            early.setdefault(j, []).append(i)
            waiting[i] += 1
    return early


def _deadlock(program: Program, topology: Topology, run: _Run) -> str:
    """Say which task heads each stream that is stuck, and what it waits for."""
    stuck = {i for i, count in enumerate(run.waiting) if count > 0}
    heads: dict[int, int] = {}
    for i in sorted(stuck):
        for stream in program.tasks[i].streams:
            heads.setdefault(stream, i)
    lines = [
        f"{topology.devices[program.streams[s].device].name} {program.streams[s].name}: "
        f"{program.tasks[i].name!r} waits for {_blockers(program, i, stuck, heads)}"
        for s, i in sorted(heads.items())
    ]
    shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more streams" if len(lines) > 6 else "")
    total = len(program.tasks)
    return f"deadlock: {len(stuck)} of {total} tasks never start; change the order of the schedule. Heads: {shown}"


def _blockers(program: Program, i: int, stuck: set[int], heads: dict[int, int]) -> str:
    tasks = program.tasks
    blockers = [tasks[j].name for j in (*tasks[i].after, *tasks[i].after_buffered) if j in stuck]
    blockers += [tasks[heads[s]].name for s in tasks[i].streams if heads[s] != i]
    return ", ".join(repr(name) for name in dict.fromkeys(blockers)) or "itself"
