"""Which links are full, when, and with what."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mpsim.explanation.kinds import Kinds, link_kind
from mpsim.explanation.model import FullLink
from mpsim.program.model import Program, Traffic
from mpsim.topology.model import Topology

__all__ = ["Watched"]

# Rates are quotients: what fills a link makes its bandwidth but for rounding.
_FULL = 1 - 1e-9
_Spans = list[tuple[float, float]]


class Watched:
    """The links of a topology while a program is replayed.

    Parameters
    ----------
    program, topology
        What is replayed, where.

    Examples
    --------
    >>> from mpsim.engine.replay import replay
    >>> from mpsim.program.model import Stream, Task
    >>> from mpsim.topology.builders import chain
    >>> send = Task("0F0>1", "send", (0,), traffic=Traffic(links=(0,), bytes=(8.0,)), axis="pp")
    >>> program, pair = Program(streams=(Stream(device=0, name="to 1"),), tasks=(send,)), chain(2, link="4B/s@0")
    >>> watched = Watched(program, pair)
    >>> step_s = replay(program, pair, observer=watched.see).step_s
    >>> watched.full(Kinds(program, pair))[0].when
    ((0.0, 2.0),)
    """

    def __init__(self, program: Program, topology: Topology) -> None:
        self._tasks, self._links = program.tasks, topology.links
        self._shares: dict[int, dict[int, tuple[float, int]]] = {}
        self._use: dict[int, _Use] = {}

    def see(self, time_s: float, task: int, bytes_per_s: float) -> None:
        """Take notice of a transfer's new rate, as `mpsim.engine.replay.replay` tells it."""
        traffic = self._tasks[task].traffic
        assert traffic is not None
        for link, (share, transfers) in self._shares_of(traffic).items():
            capacity = self._links[link].bandwidth_bytes_per_s
            if capacity < math.inf:
                use = self._use.setdefault(link, _Use(capacity))
                use.changes(time_s, task, share * bytes_per_s, transfers)

    def _shares_of(self, traffic: Traffic) -> dict[int, tuple[float, int]]:
        """Return what a transfer takes of each link by its rate, with how many that are alike."""
        if id(traffic) not in self._shares:
            most = max(traffic.bytes)
            found: dict[int, tuple[float, int]] = {}
            for link, count, times in zip(
                traffic.links, traffic.bytes, traffic.alike or (1,) * len(traffic.links), strict=True
            ):
                share, transfers = found.get(link, (0.0, 0))
                found[link] = share + count / most * times, transfers + times
            self._shares[id(traffic)] = found
        return self._shares[id(traffic)]

    def full(self, kinds: Kinds) -> tuple[FullLink, ...]:
        """Return the links that were full, the longest first, those together that were so at the same moments.

        Of these the first is named whose kind is not that of a card's wire to its device.
        """
        alike: dict[tuple[object, ...], list[int]] = {}
        for link in sorted(self._use):
            use = self._use[link]
            if use.when:
                alike.setdefault((*use.when, "", *use.shared), []).append(link)
        found = [self._told(links, kinds) for links in alike.values()]
        return tuple(sorted(found, key=lambda one: -one.full_s))

    def _told(self, links: list[int], kinds: Kinds) -> FullLink:
        shown = min(links, key=lambda link: (self._links[link].type == "host", link))
        link, use = self._links[shown], self._use[shown]
        users: dict[str, float] = {}
        for task, seconds in use.filled_s.items():
            users[kinds.of(task)[0]] = users.get(kinds.of(task)[0], 0.0) + seconds
        return FullLink(
            source=link.source,
            target=link.target,
            kind=link_kind(link),
            count=len(links),
            full_s=_length(use.when),
            shared_s=_length(use.shared),
            when=tuple(use.when),
            users=tuple(sorted(users.items(), key=lambda item: (-item[1], item[0]))),
        )


class _Use:
    """What moves over one link, and when that was all that it carries."""

    __slots__ = ("_capacity", "_moving", "_since", "filled_s", "shared", "when")

    def __init__(self, capacity: float) -> None:
        self._capacity, self._since = capacity, 0.0
        self._moving: dict[int, tuple[float, int]] = {}
        self.when: _Spans = []
        self.shared: _Spans = []
        self.filled_s: dict[int, float] = {}

    def changes(self, time_s: float, task: int, rate: float, transfers: int) -> None:
        """Settle what was until now, and go on with a transfer's new rate; 0 ends it."""
        if time_s > self._since:
            if self._moving and math.fsum(one for one, _ in self._moving.values()) >= self._capacity * _FULL:
                self._fill(time_s)
            self._since = time_s
        if rate:
            self._moving[task] = rate, transfers
        else:
            self._moving.pop(task, None)

    def _fill(self, until: float) -> None:
        _append(self.when, self._since, until)
        if sum(count for _, count in self._moving.values()) > 1:
            _append(self.shared, self._since, until)
        for task in self._moving:
            self.filled_s[task] = self.filled_s.get(task, 0.0) + until - self._since


def _append(spans: _Spans, since: float, until: float) -> None:
    """Add a span behind others, as one with the last where they touch."""
    if spans and spans[-1][1] == since:
        spans[-1] = spans[-1][0], until
    else:
        spans.append((since, until))


def _length(spans: Iterable[tuple[float, float]]) -> float:
    return math.fsum(edge for since, until in spans for edge in (until, -since))
