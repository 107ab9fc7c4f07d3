"""Many replays of a program at once, where no two transfers meet on a link: then each task begins when the last of
those that it waits for ends, which arrays work out for all replays together.

What the network would do otherwise is not guessed: a replay in which two transfers meet says so, and is to be replayed
by events (`mpsim.engine.replay`). The others have the same bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mpsim.engine.network import Demand
from mpsim.engine.queues import Queues
from mpsim.engine.replay import order_of
from mpsim.program.model import Program
from mpsim.topology.model import Topology

__all__ = ["Straight"]

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
    >>> Straight(program, one).step_s(np.array([[0.5, 1.0], [0.25, 2.0]]), None).tolist()
    [0.75, 3.0]
    """

    def __init__(self, program: Program, topology: Topology) -> None:
        self._tasks = program.tasks
        self._befores, self._order = order_of(program.tasks, len(program.streams), Queues(()))
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
            or len(order_of(program.tasks, len(program.streams), Queues(()))[1]) < len(program.tasks)
        )

    def step_s(self, durations: _Seconds, late: _Seconds | None) -> _Seconds:
        """Return how long the step takes in each replay; NaN where transfers meet.

        Parameters
        ----------
        durations : array of float, tasks × replays
            What computations take.
        late : array of float, tasks × replays, optional
            What transfers take before their first byte, beyond their latency.
        """
        replays = durations.shape[1]
        end, begin = np.zeros((len(self._tasks), replays)), {}
        for i in self._order:
            before, traffic = self._befores[i], self._tasks[i].traffic
            start = end[before].max(axis=0) if len(before) > 1 else end[before[0]] if before else 0.0
            if traffic is None:
                end[i] = start + durations[i]
                continue
            latency = traffic.latency_s if late is None else traffic.latency_s + late[i]
            moving = start + latency
            if i in self._moves_s:
                begin[i] = np.broadcast_to(moving, (replays,))
                end[i] = moving + self._moves_s[i]
            else:
                end[i] = moving
        steps: _Seconds = end.max(axis=0, initial=0.0)
        for own in self._beside:
            starts, ends = np.array([begin[i] for i in own]), end[list(own)]
            order = starts.argsort(axis=0, kind="stable")
            starts, ends = (np.take_along_axis(each, order, axis=0) for each in (starts, ends))
            steps[(ends[:-1] > starts[1:]).any(axis=0)] = math.nan
        return steps
