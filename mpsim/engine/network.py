"""Links shared by the transfers in flight, max-min fairly.

Every transfer moves all its bytes at one pace, that of its slowest link. Rates grow together until a link is
full; the transfers on it stop growing there, the others go on (progressive filling, Bertsekas and Gallager, Data
Networks, 6.5.2; https://en.wikipedia.org/wiki/Max-min_fairness). Rates change only when a transfer starts or ends,
and only for those that share a link with it, directly or through others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import simpy

from mpsim.errors import MpsimError
from mpsim.program.model import Traffic

__all__ = ["Network"]

Observer = Callable[[float, int, float], None]


class _Flow:
    """One transfer in flight: how much of it is left, and how fast that shrinks."""

    __slots__ = ("buffered", "event", "mark", "rate", "remaining", "shares", "since", "task")

    def __init__(self, task: int, shares: tuple[tuple[int, float], ...], size: float, buffered: float) -> None:
        self.task = task
        # What may be left when its sender is rid of it; 0: no more is asked than that it end.
        self.buffered = buffered
        self.mark: simpy.Event | None = None
        self.shares = shares
        self.remaining = size
        self.rate = 0.0
        self.since = 0.0
        self.event: simpy.Event | None = None


class _Demand:
    """A traffic seen by the links: which it uses, in what proportion, and its pace when alone."""

    __slots__ = ("buffered", "rate", "shares", "size")

    def __init__(self, traffic: Traffic, capacity: list[float]) -> None:
        for link in traffic.links:
            if not 0 <= link < len(capacity):
                raise MpsimError(
                    f"traffic names link {link}, the topology has {len(capacity)}: 0 to {len(capacity) - 1}"
                )
        self.size = max(traffic.bytes, default=0.0)
        self.buffered = traffic.buffered_bytes
        used = zip(traffic.links, traffic.bytes, strict=True)
        self.shares = tuple((link, count / self.size) for link, count in used if capacity[link] < math.inf)
        self.rate = min((capacity[link] / share for link, share in self.shares), default=math.inf)


class Network:
    """The links of a topology under the transfers of one replay.

    Parameters
    ----------
    env : simpy.Environment
        Its clock.
    capacity : list of float
        Bytes per second of each link.
    done : callable
        Called with the task's index when its last byte arrives.
    rid : callable
        Called with the task's index when no more is left than its traffic's `buffered_bytes`, where it has any.
    observer : callable, optional
        Called with ``(time_s, task, bytes_per_s)`` whenever the rate of a transfer changes; the rate is that on its
        most loaded link, 0 at its end.
    """

    def __init__(
        self,
        env: simpy.Environment,
        capacity: list[float],
        done: Callable[[int], None],
        rid: Callable[[int], None],
        observer: Observer | None = None,
    ) -> None:
        self._env = env
        self._capacity = capacity
        self._done = done
        self._rid = rid
        self._observer = observer
        self._demands: dict[int, _Demand] = {}
        self._on_link: dict[int, dict[_Flow, float]] = {}

    def start(self, task: int, traffic: Traffic) -> bool:
        """Begin to move the bytes of `traffic`; True if they need no time at all."""
        demand = self._demands.get(id(traffic))
        if demand is None:
            demand = self._demands[id(traffic)] = _Demand(traffic, self._capacity)
        if demand.rate == math.inf or demand.size == 0.0:
            return True
        flow = _Flow(task, demand.shares, demand.size, demand.buffered)
        alone = True
        on_link = self._on_link
        for link, share in flow.shares:
            users = on_link.get(link)
            if users is None:
                on_link[link] = {flow: share}
            else:
                alone = alone and not users
                users[flow] = share
        flow.since = self._env.now
        if alone:
            self._set_rate(flow, demand.rate)
        else:
            self._rebalance([flow])
        return False

    def _finish(self, event: simpy.Event) -> None:
        flow: _Flow = event._value
        if flow.event is not event:
            return
        # The events hold the flow: without this they would stay until the paused collector is back.
        flow.event = flow.mark = None
        if self._observer:
            self._observer(self._env.now, flow.task, 0.0)
        neighbours: dict[_Flow, None] = {}
        for link, _ in flow.shares:
            users = self._on_link[link]
            del users[flow]
            if users:
                neighbours.update(dict.fromkeys(users))
        if neighbours:
            self._rebalance(neighbours)
        self._done(flow.task)

    def _set_rate(self, flow: _Flow, rate: float) -> None:
        """Settle what moved so far at the old rate, and plan the end at the new one."""
        env = self._env
        if flow.rate:
            flow.remaining = max(0.0, flow.remaining - flow.rate * (env.now - flow.since))
            flow.since = env.now
        flow.rate = rate
        flow.event = simpy.Timeout(env, flow.remaining / rate, flow)
        flow.event.callbacks.append(self._finish)
        if flow.buffered:
            flow.mark = simpy.Timeout(env, max(0.0, flow.remaining - flow.buffered) / rate, flow)
            flow.mark.callbacks.append(self._pass_mark)
        if self._observer:
            self._observer(env.now, flow.task, rate)

    def _pass_mark(self, event: simpy.Event) -> None:
        flow: _Flow = event._value
        if flow.mark is event:
            flow.mark, flow.buffered = None, 0.0
            self._rid(flow.task)

    def _rebalance(self, seeds: Iterable[_Flow]) -> None:
        flows = self._component(seeds)
        for flow, rate in _fill(flows, self._capacity).items():
            if rate != flow.rate:
                self._set_rate(flow, rate)

    def _component(self, seeds: Iterable[_Flow]) -> dict[_Flow, None]:
        """Return every flow that shares a link with one of `seeds`, directly or through others."""
        found = dict.fromkeys(seeds)
        frontier = list(found)
        links: set[int] = set()
        while frontier:
            flow = frontier.pop()
            for link, _ in flow.shares:
                if link not in links:
                    links.add(link)
                    new = [other for other in self._on_link[link] if other not in found]
                    found.update(dict.fromkeys(new))
                    frontier += new
        return found


def _fill(flows: dict[_Flow, None], capacity: list[float]) -> dict[_Flow, float]:
    """Return the max-min fair rate of each flow by progressive filling."""
    users: dict[int, list[tuple[_Flow, float]]] = {}
    for flow in flows:
        for link, share in flow.shares:
            users.setdefault(link, []).append((flow, share))
    left = {link: capacity[link] for link in users}
    load = {link: math.fsum(share for _, share in sharing) for link, sharing in users.items()}
    rates: dict[_Flow, float] = {}
    level = 0.0
    while len(rates) < len(flows):
        # What is left may round to nothing; no rate is ever below one given before.
        level = max(level, min(left[link] / load[link] for link in load))
        full = [link for link in load if left[link] / load[link] <= level]
        frozen = {flow: None for link in full for flow, _ in users[link] if flow not in rates}
        rates.update(dict.fromkeys(frozen, level))
        _take(frozen, level, left, load, users, rates)
    return rates


def _take(
    frozen: Iterable[_Flow],
    level: float,
    left: dict[int, float],
    load: dict[int, float],
    users: dict[int, list[tuple[_Flow, float]]],
    rates: dict[_Flow, float],
) -> None:
    """Give the flows just frozen their bandwidth, and drop the links on which nobody grows any more."""
    touched: dict[int, None] = {}
    for flow in frozen:
        for link, share in flow.shares:
            left[link] -= share * level
            touched[link] = None
    for link in touched:
        growing = [share for flow, share in users[link] if flow not in rates]
        if growing:
            load[link] = math.fsum(growing)
        else:
            del load[link]
