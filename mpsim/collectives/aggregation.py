"""Reduction inside the network: what it puts on the links on the way up to a switch that adds, and down again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mpsim.collectives.rounds import Aggregate
from mpsim.errors import MpsimError

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["aggregate"]

_Ways = dict[int, tuple[int, ...]]


def aggregate(
    routes: Routes,
    one: Aggregate,
    order: Sequence[int],
    message_s: Callable[[Sequence[int]], float],
    start: Sequence[float],
) -> tuple[dict[int, int], list[float]]:
    """Return the pieces on each link, and when each rank has heard the sum.

    Raises
    ------
    MpsimError
        No switch that reduces is reached by all ranks of a group (of NVLS: stands next to them).

    Examples
    --------
    >>> from dataclasses import replace
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(replace(switch(2, link="50GB/s@2us"), reducing=("switch",)))
    >>> aggregate(routes, Aggregate(((0, 1),), 1, 1, True), (0, 1), routes.latency_s, [0.0, 0.0])
    ({0: 1, 1: 1, 2: 1, 3: 1}, [4e-06, 4e-06])
    """
    load: dict[int, int] = {}
    reached = list(start)
    for group in one.groups:
        ups = _ways_up(routes, [order[rank] for rank in group], one.below)
        back = {link: _back(routes, link) for way in ups.values() for link in way}
        for link, pieces in _charged(routes, ups, one.sent):
            load[link] = load.get(link, 0) + pieces
        for link, pieces in _charged(routes, ups, one.received):
            load[back[link]] = load.get(back[link], 0) + pieces
        # Wherever on it bytes are added, a rank's part goes all the way up, and the sum comes down: one message.
        handed_in = max(start[rank] for rank in group)
        slowest = max(message_s((*way, *(back[link] for link in reversed(way)))) for way in ups.values())
        for rank in group:
            reached[rank] = max(reached[rank], handed_in + one.turns * slowest)
    return load, reached


def _ways_up(routes: Routes, devices: Sequence[int], below: bool) -> _Ways:
    """Return each device's links to the reducing switch that all reach over the fewest."""
    found = [ways for name in routes.topology.reducing if (ways := routes.tree(name, devices)) is not None]
    found = [ways for ways in found if not below or max(map(len, ways.values())) == 1]
    if not found:
        where = "stands next to all ranks" if below else "can be reached by all ranks"
        raise MpsimError(
            f"no switch of topology {routes.topology.name!r} that reduces {where}, it has"
            f" {len(routes.topology.reducing)} such: use ring, or name it under 'reducing'"
        )
    return min(found, key=lambda ways: max(map(len, ways.values())))


def _back(routes: Routes, link: int) -> int:
    one = routes.topology.links[link]
    return routes.link_index(one.target, one.source)


def _charged(routes: Routes, ways: _Ways, pieces: int) -> Iterator[tuple[int, int]]:
    """Yield the links and the pieces on them; behind a switch that reduces, those of all ways are one."""
    reducing, links = set(routes.topology.reducing), routes.topology.links
    charged: set[tuple[int, str]] = set()
    for device, way in ways.items():
        bearer = str(device)
        for link in way:
            if links[link].source in reducing:
                bearer = links[link].source
            if (link, bearer) not in charged:
                charged.add((link, bearer))
                yield link, pieces
