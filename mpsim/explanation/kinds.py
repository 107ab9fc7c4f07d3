"""Kinds of links and of transfers, in the words of an explanation."""

from __future__ import annotations

import math

from mpsim.program.model import Program, Task, Traffic
from mpsim.topology.model import Link, Topology
from mpsim.units import format_bandwidth

__all__ = ["Kinds", "link_kind"]

# The wire of a card to its device is as wide as what it is for: of links as narrow as one another another is named.
_UNNAMED = ("host", "")


def link_kind(link: Link) -> str:
    """Return the type of a link; of one without a type its bandwidth.

    Examples
    --------
    >>> link_kind(Link(source="a", target="b", bandwidth_bytes_per_s=1e9))
    '1 GB/s links'
    """
    wide = link.bandwidth_bytes_per_s
    return link.type or (f"{format_bandwidth(wide)} links" if wide < math.inf else "links of infinite bandwidth")


class Kinds:
    """What the transfers of a program are, and which kind of link holds each of them up.

    Examples
    --------
    >>> from mpsim.program.model import Stream
    >>> from mpsim.topology.builders import chain
    >>> send = Task("0F0>1", "send", (0,), traffic=Traffic(links=(0,), bytes=(8.0,)), axis="pp")
    >>> program = Program(streams=(Stream(device=0, name="to 1"),), tasks=(send,))
    >>> Kinds(program, chain(2, link="nvlink4")).of(0)
    ('pp send', 'nvlink4')
    """

    def __init__(self, program: Program, topology: Topology) -> None:
        self._tasks, self._links = program.tasks, topology.links
        self._narrowest: dict[int, str] = {}

    def of(self, i: int) -> tuple[str, str]:
        """Return the axis and kind of a transfer, and the kind of its narrowest link."""
        task = self._tasks[i]
        return f"{task.axis} {task.kind}".strip(), self._link(self._moving(task))

    def _moving(self, task: Task) -> Traffic | None:
        """Return what moves the bytes of a transfer, where the task itself is no more than a latency behind them."""
        before = self._tasks[task.after[0]] if task.after else task
        if task.traffic is not None and not task.traffic.links and before.name == task.name:
            return before.traffic
        return task.traffic

    def _link(self, traffic: Traffic | None) -> str:
        if traffic is None or not traffic.links:
            return ""
        if id(traffic) not in self._narrowest:
            self._narrowest[id(traffic)] = link_kind(self._links[self._slowest(traffic)])
        return self._narrowest[id(traffic)]

    def _slowest(self, traffic: Traffic) -> int:
        alike = traffic.alike or (1,) * len(traffic.links)
        load: dict[int, float] = {}
        for link, count, times in zip(traffic.links, traffic.bytes, alike, strict=True):
            load[link] = load.get(link, 0.0) + count * times
        seconds = {link: count / self._links[link].bandwidth_bytes_per_s for link, count in load.items()}
        longest = max(seconds.values())
        near = [link for link, takes in seconds.items() if math.isclose(takes, longest)]
        return min(near, key=lambda link: (self._links[link].type in _UNNAMED, link))
