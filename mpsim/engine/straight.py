"""Many replays of a program at once, where no two transfers meet on a link: then each task begins when the last of
those that it waits for ends, which arrays work out for all replays together.

What the network would do otherwise is not guessed: from the moment on at which two transfers meet, a replay goes on by
events (`mpsim.engine.replay`). All have the bits of those by events alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.engine.network import Demand
from mpsim.engine.queues import Queues
from mpsim.engine.replay import Begun, order_of
from mpsim.program.model import Program
from mpsim.topology.model import Topology

__all__ = ["Played", "Straight"]

_Seconds = NDArray[np.float64]


class Straight:
    """A program whose tasks take what each of many replays says.

    Parameters
    ----------
    program : Program
        Of the tasks; their durations are left aside.
    topology : Topology
        Whose links its transfers use.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> from mpsim.topology.model import Device
    >>> one = Topology(name="one", devices=(Device(name="d0"),))
    >>> tasks = (Task("a", "compute", (0,)), Task("b", "compute", (0,)))
    >>> program = Program(streams=(Stream(device=0, name="compute"),), tasks=tasks)
    >>> Straight(program, one).play(np.array([[0.5, 1.0], [0.25, 2.0]]), None).step_s.tolist()
    [0.75, 3.0]
    """

    def __init__(self, program: Program, topology: Topology) -> None:
        self._tasks = program.tasks
        self._befores, self._order = order_of(program.tasks, len(program.streams), Queues(()))
        pairs = [(before, i) for i, befores in enumerate(self._befores) for before in befores]
        self._followers: list[list[int]] = [[] for _ in program.tasks]
        for before, i in pairs:
            self._followers[before].append(i)
        self._edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        self._counts = np.array([len(befores) for befores in self._befores], dtype=np.int64)
        capacity = [link.bandwidth_bytes_per_s for link in topology.links]
        demands = {task.traffic: Demand(task.traffic, capacity) for task in program.tasks if task.traffic is not None}
        self._moves_s: dict[int, float] = {}
        users: dict[int, list[int]] = {}
        for i, task in enumerate(program.tasks):
            if task.traffic is not None:
                demand = demands[task.traffic]
                if demand.size and demand.rate < math.inf:
                    self._moves_s[i] = demand.size / demand.rate
                    for link, _ in demand.shares:
                        users.setdefault(link, []).append(i)
        # Transfers that one stream runs one after another cannot meet; of links with the same ones one is looked at.
        streams = [set(task.streams) for task in program.tasks]
        self._beside = {
            tuple(own) for own in users.values() if len(own) > 1 and not set.intersection(*(streams[i] for i in own))
        }

    @staticmethod
    def applies(program: Program, topology: Topology) -> bool:
        """Whether a program asks for no more than that tasks wait for others.

        Streams that serve whoever comes first, computations that transfers slow down and sends that let go early hang
        on more than that.
        """
        return not (
            any(stream.slots for stream in program.streams)
            or any(topology.devices[stream.device].overlap_slowdown > 1 for stream in program.streams)
            or any(task.after_buffered for task in program.tasks)
        )

    @property
    def ends(self) -> bool:
        """Whether every task gets its turn: none waits for one that waits for it."""
        return len(self._order) == len(self._tasks)

    def play(self, durations: _Seconds, late: _Seconds | None) -> Played:
        """Return the replays, up to where transfers meet.

        Parameters
        ----------
        durations : array of float, tasks × replays
            What computations take.
        late : array of float, tasks × replays, optional
            What transfers take before their first byte, beyond their latency.
        """
        start, moves, end = (np.zeros(durations.shape) for _ in range(3))
        for i in self._order:
            before, traffic = self._befores[i], self._tasks[i].traffic
            if before:
                start[i] = end[before].max(axis=0) if len(before) > 1 else end[before[0]]
            if traffic is None:
                moves[i] = end[i] = start[i] + durations[i]
                continue
            moves[i] = start[i] + (traffic.latency_s if late is None else traffic.latency_s + late[i])
            end[i] = moves[i] + self._moves_s.get(i, 0.0)
        return Played(start, moves, end, self._met(moves, end), self._edges, self._counts, self._followers)

    def _met(self, moves: _Seconds, end: _Seconds) -> _Seconds:
        """Return when in each replay a transfer begins to move beside another on a link; inf where none does."""
        met = np.full(moves.shape[1], math.inf)
        for own in self._beside:
            starts, ends = moves[list(own)], end[list(own)]
            order = starts.argsort(axis=0, kind="stable")
            starts, ends = (np.take_along_axis(each, order, axis=0) for each in (starts, ends))
            met = np.minimum(met, np.where(ends[:-1] > starts[1:], starts[1:], math.inf).min(axis=0))
        return met


class Played(NamedTuple):
    """Replays by arrays of tasks × replays, right up to the moment at which transfers meet in each.

    Attributes
    ----------
    start, moves, end : array of float
        When tasks begin, transfers' first bytes move, and they end.
    met : array of float
        When the first two meet in each replay; inf: never.
    edges : array of int, 2 × n
        Tasks, and those that wait for them.
    counts : array of int
        For how many each task waits.
    followers : list of list of int
        The tasks that wait for each.
    """

    start: _Seconds
    moves: _Seconds
    end: _Seconds
    met: _Seconds
    edges: NDArray[np.int64]
    counts: NDArray[np.int64]
    followers: list[list[int]]

    @property
    def step_s(self) -> _Seconds:
        """How long the step takes in each replay; NaN where transfers meet."""
        steps: _Seconds = self.end.max(axis=0, initial=0.0)
        return np.where(np.isinf(self.met), steps, math.nan)

    def begun(self, replay: int) -> Begun:
        """Return a replay up to where transfers meet, to be gone on with."""
        time_s, start, end = self.met[replay], self.start[:, replay], self.end[:, replay]
        ended = end < time_s
        waiting = self.counts - np.bincount(self.edges[1][ended[self.edges[0]]], minlength=len(end))
        under_way = np.flatnonzero(~ended & (waiting == 0))
        return Begun(
            time_s=float(time_s),
            start_s=start.tolist(),
            moves_s=self.moves[:, replay].tolist(),
            end_s=end.tolist(),
            waiting=waiting.tolist(),
            under_way=under_way.tolist(),
            left=int((~ended).sum()),
            followers=self.followers,
        )
