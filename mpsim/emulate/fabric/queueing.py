"""When each packet leaves each link: the switch's arithmetic, without a clock, a socket or a thread.

A packet passes the links of its path one after another and cuts through: its head goes on to the next link after this
one's latency, while its tail still enters this one, so a path through three links costs the bandwidth once. A link
serves the flows that wait for it in turn, byte for byte (self-clocked fair queueing), as the simulator shares a link
among its transfers; a packet that waits for one link holds up no packet for another. One first-in-first-out queue for
all is what makes all-reduces through a switch a third slower.

    S. J. Golestani, A self-clocked fair queueing scheme for broadband applications, INFOCOM 1994,
    https://doi.org/10.1109/INFCOM.1994.337677
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import count
from typing import Any, Generic, TypeVar

__all__ = ["Queueing"]

Item = TypeVar("Item")


class _Link:
    """One directed link: when it is next free, and what waits for it."""

    __slots__ = ("free_s", "latency_s", "s_per_byte", "served", "tags", "waiting")

    def __init__(self, bandwidth_bytes_per_s: float, latency_s: float) -> None:
        self.s_per_byte = 1.0 / bandwidth_bytes_per_s
        self.latency_s = latency_s
        self.free_s = -math.inf
        self.waiting: list[tuple[float, int, _Packet[Any]]] = []
        self.tags: dict[Hashable, float] = {}  # Of each flow that waits: bytes of service after its last packet.
        self.served = 0.0  # The tag in service: where a flow that comes now begins to count.


class _Packet(Generic[Item]):
    """What is under way: its flow, its path and how far it is."""

    __slots__ = ("flow", "hop", "item", "path", "size_bytes", "tail_s")

    def __init__(self, flow: Hashable, path: Sequence[_Link], size_bytes: int, item: Item) -> None:
        self.flow, self.path, self.size_bytes, self.item = flow, path, size_bytes, item
        self.hop = 0
        self.tail_s = -math.inf  # When its last byte reaches the link that it is at.


class Queueing(Generic[Item]):
    """Links, and the packets on them.

    Parameters
    ----------
    links : sequence of (float, float)
        Of each link its bandwidth in bytes per second (``inf`` is allowed) and its latency in seconds.

    Examples
    --------
    >>> line = Queueing([(1000.0, 0.5)])
    >>> line.send(10.0, flow="a", path=(0,), size_bytes=250, item="hello")
    >>> list(line.due(10.5)), line.next_s()
    ([], 10.75)
    >>> list(line.due(11.0))
    ['hello']
    """

    def __init__(self, links: Sequence[tuple[float, float]]) -> None:
        self._links = [_Link(*link) for link in links]
        self._order = count()
        # (time, order, packet that reaches its next link or its end, or link that may serve the next one)
        self._events: list[tuple[float, int, _Packet[Item] | _Link]] = []

    def send(self, now_s: float, *, flow: Hashable, path: Sequence[int], size_bytes: int, item: Item) -> None:
        """Put a packet on the first link of its path; times must not go back before those already worked off."""
        self._plan(now_s, _Packet(flow, [self._links[i] for i in path], size_bytes, item))

    def next_s(self) -> float:
        """Return when there is next something to do, in seconds; ``inf`` where nothing is under way."""
        return self._events[0][0] if self._events else math.inf

    def due(self, now_s: float) -> Iterator[Item]:
        """Work off what happens until now, and give the packets that have arrived, in order."""
        events = self._events
        while events and events[0][0] <= now_s:
            at_s, _, what = heapq.heappop(events)
            if isinstance(what, _Link):
                self._serve(at_s, what)
            elif what.hop < len(what.path):
                self._reach(at_s, what)
            else:
                yield what.item

    def _plan(self, at_s: float, what: _Packet[Item] | _Link) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), what))

    def _reach(self, at_s: float, packet: _Packet[Item]) -> None:
        """Enter the next link, or wait for it."""
        link = packet.path[packet.hop]
        if not link.waiting and link.free_s <= at_s:
            self._enter(at_s, link, packet)
            return
        if not link.waiting:
            self._plan(link.free_s, link)
        tag = max(link.tags.get(packet.flow, 0.0), link.served) + packet.size_bytes
        link.tags[packet.flow] = tag
        heapq.heappush(link.waiting, (tag, next(self._order), packet))

    def _serve(self, at_s: float, link: _Link) -> None:
        """Let the flow enter whose turn it is."""
        link.served, _, packet = heapq.heappop(link.waiting)
        self._enter(at_s, link, packet)
        if link.waiting:
            self._plan(link.free_s, link)
        else:
            link.tags.clear()
            link.served = 0.0

    def _enter(self, at_s: float, link: _Link, packet: _Packet[Item]) -> None:
        """Occupy the link for the packet's bytes; its tail passes no earlier than it came in."""
        link.free_s = at_s + packet.size_bytes * link.s_per_byte
        packet.tail_s = max(link.free_s, packet.tail_s) + link.latency_s
        packet.hop += 1
        last = packet.hop == len(packet.path)
        self._plan(packet.tail_s if last else at_s + link.latency_s, packet)
