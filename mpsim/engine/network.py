"""Links shared by the transfers in flight, max-min fairly.

Every transfer moves all its bytes at one pace, that of its slowest link. Rates grow together until a link is
full; the transfers on it stop growing there, the others go on (progressive filling, Bertsekas and Gallager, Data
Networks, 6.5.2; https://en.wikipedia.org/wiki/Max-min_fairness). Rates change only when a transfer starts or ends,
and only for those that share a link with it, directly or through others. Of all that start and end at one moment the
rates that come of it are worked out once, when the moment is over: in which order they did so decides nothing, so that
transfers which are alike stay alike to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import simpy

from mpsim.errors import MpsimError
from mpsim.program.model import Traffic
from mpsim.sums import addends

__all__ = ["Demand", "Network"]

Observer = Callable[[float, int, float], None]


_Shares = tuple[tuple[int, tuple[float, ...]], ...]
_LAST = 2  # behind all else that happens at a moment, in SimPy's order of priorities


class _Flow:
    """One transfer in flight: how much of it is left, and how fast that shrinks."""

    __slots__ = ("buffered", "event", "mark", "rate", "remaining", "shares", "since", "task")

    def __init__(self, task: int, shares: _Shares, size: float, buffered: float) -> None:
        self.task = task
        # What may be left when its sender is rid of it; 0: no more is asked than that it end.
        self.buffered = buffered
        self.mark: simpy.Event | None = None
        self.shares = shares
        self.remaining = size
        self.rate = 0.0
        self.since = 0.0
        self.event: simpy.Event | None = None


class Demand:
    """A traffic seen by the links: which it uses, in what proportion, and its pace when alone.

    What it takes of a link is a sum: of powers of two times its share, where it stands for several that are alike.
    """

    __slots__ = ("buffered", "rate", "shares", "size")

    def __init__(self, traffic: Traffic, capacity: list[float]) -> None:
        for link in traffic.links:
            if not 0 <= link < len(capacity):
                raise MpsimError(
                    f"traffic names link {link}, the topology has {len(capacity)}: 0 to {len(capacity) - 1}"
                )
        self.size = max(traffic.bytes, default=0.0)
        self.buffered = traffic.buffered_bytes
        shares: dict[int, tuple[float, ...]] = {}
        alike = traffic.alike or (1,) * len(traffic.links)
        for link, count, times in zip(traffic.links, traffic.bytes, alike, strict=True):
            if capacity[link] < math.inf:
                shares[link] = shares.get(link, ()) + addends(count / self.size, times)
        self.shares = tuple(shares.items())
        self.rate = min((capacity[link] / math.fsum(parts) for link, parts in self.shares), default=math.inf)


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
        self._demands: dict[int, Demand] = {}
        self._on_link: dict[int, dict[_Flow, None]] = {}
        # Transfers that started at this moment beside others, or that others which ended left more to.
        self._changed: dict[_Flow, None] = {}

    def start(self, task: int, traffic: Traffic) -> bool:
        """Begin to move the bytes of `traffic`; True if they need no time at all."""
        demand = self._demands.get(id(traffic))
        if demand is None:
            demand = self._demands[id(traffic)] = Demand(traffic, self._capacity)
        if demand.rate == math.inf or demand.size == 0.0:
            return True
        flow = _Flow(task, demand.shares, demand.size, demand.buffered)
        alone = True
        on_link = self._on_link
        for link, _ in flow.shares:
            users = on_link.get(link)
            if users is None:
                on_link[link] = {flow: None}
            else:
                alone = alone and not users
                users[flow] = None
        flow.since = self._env.now
        if alone:
            self._set_rate(flow, demand.rate)
        else:
            self._change([flow])
        return False

    def adopt(self, task: int, traffic: Traffic, since: float, end: float) -> None:
        """Take over a transfer whose bytes move alone from one moment to another if nothing meets it, at time 0."""
        demand = Demand(traffic, self._capacity)
        flow = _Flow(task, demand.shares, demand.size, 0.0)
        flow.rate, flow.since = demand.rate, since
        for link, _ in flow.shares:
            self._on_link.setdefault(link, {})[flow] = None
        flow.event = simpy.Timeout(self._env, end, flow)
        flow.event.callbacks.append(self._finish)

    def _finish(self, event: simpy.Event) -> None:
        flow: _Flow = event._value
        if flow.event is not event:
            return
        # The events hold the flow: without this they would stay until the paused collector is back.
        flow.event = flow.mark = None
        if self._observer:
            self._observer(self._env.now, flow.task, 0.0)
        self._changed.pop(flow, None)
        for link, _ in flow.shares:
            users = self._on_link[link]
            del users[flow]
            if users:
                self._change(users)
        self._done(flow.task)

    def _change(self, flows: Iterable[_Flow]) -> None:
        """Let these get new rates, with all others that change by them, when the moment is over."""
        if not self._changed:
            over = simpy.Event(self._env)
            over.callbacks.append(self._rebalance)
            over._ok, over._value = True, None
            self._env.schedule(over, priority=_LAST)
        self._changed.update(dict.fromkeys(flows))

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

    def _rebalance(self, _: simpy.Event) -> None:
        flows, self._changed = self._component(self._changed), {}
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
    users: dict[int, list[tuple[_Flow, tuple[float, ...]]]] = {}
    for flow in flows:
        for link, parts in flow.shares:
            users.setdefault(link, []).append((flow, parts))
    left = {link: capacity[link] for link in users}
    load = {link: math.fsum(part for _, parts in sharing for part in parts) for link, sharing in users.items()}
    rates: dict[_Flow, float] = {}
    level = 0.0
    while len(rates) < len(flows):
        # What is left may round to nothing; no rate is ever below one given before.
        level = max(level, min(left[link] / load[link] for link in load))
        full = [link for link in load if left[link] / load[link] <= level]
        frozen = {flow: None for link in full for flow, _ in users[link] if flow not in rates}
        rates.update(dict.fromkeys(frozen, level))
        for link in {link: None for flow in frozen for link, _ in flow.shares}:
            growing = [part for flow, parts in users[link] if flow not in rates for part in parts]
            if growing:
                load[link] = math.fsum(growing)
                given = (part * rates[flow] for flow, parts in users[link] if flow in rates for part in parts)
                left[link] = capacity[link] - math.fsum(given)
            else:
                del load[link]
    return rates
