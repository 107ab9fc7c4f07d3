"""Levels that no log measured, between two that some did: their times are taken to be in the middle of the others'.

What crosses such a level crosses what is inside it too, and what crosses a level outside crosses it: it is no faster
than the one, no slower than the other. Of all guesses between two bounds their geometric mean has the least worst
relative error, the square root of their ratio; that is the error such a cost states. Of several such levels in a row
each lies as far on the way, on a log scale, as its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from mpsim.calibration.measurement import Measurement
from mpsim.collectives.choice import quickest
from mpsim.topology.costs import NOT_MEASURED
from mpsim.topology.levels import find_levels, outer_link
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["Gap", "find_gaps", "level_links", "middle_of"]


class Gap(NamedTuple):
    """A type of links that nothing measured, what was measured next to it, and numbers of ranks that cross it.

    Of one gap the `way` from the inner level to the outer is a half, of two in a row one and two thirds.
    """

    link: str
    inner: str
    outer: str
    way: float
    ranks: tuple[int, ...]

    @property
    def source(self) -> str:
        """What to write where a cost cites its logs."""
        where = "the middle" if self.way == 0.5 else f"{self.way:.2f} of the way"
        return f"{NOT_MEASURED}{where} between {self.inner} and {self.outer}"


def level_links(routes: Routes) -> dict[str, tuple[int, ...]]:
    """Return the type of each level's links, the innermost first, and the least and greatest ranks that cross it.

    Examples
    --------
    >>> from mpsim.topology.spec import parse_topology
    >>> level_links(Routes(parse_topology("pcie_box")))
    {'pcie4_x16': (2,), 'pcie_host': (3, 4), 'socket': (5, 8)}
    """
    sizes = [len(groups[0]) for groups in find_levels(routes, range(len(routes.topology.devices)))]
    found: dict[str, tuple[int, ...]] = {}
    for below, size in zip([1, *sizes], sizes, strict=False):
        if size > 1:
            link = outer_link(routes, range(size), find_levels(routes, range(size))).type
            found.setdefault(link, tuple(sorted({below + 1, size})))
    found.pop("", None)  # By no type, no costs could be kept.
    return found


def find_gaps(levels: Mapping[str, tuple[int, ...]], measured: Sequence[str]) -> Iterator[Gap]:
    """Yield the levels that were not measured between two that were.

    Examples
    --------
    >>> [gap[:3] for gap in find_gaps({"a": (2,), "b": (4,), "c": (8,)}, ["a", "c"])]
    [('b', 'a', 'c')]
    >>> [gap.way for gap in find_gaps({"a": (2,), "b": (4,), "c": (8,), "d": (16,), "e": (32,)}, ["a", "e"])]
    [0.25, 0.5, 0.75]
    """
    order = list(levels)
    known = [i for i, link in enumerate(order) if link in measured]
    for inner, outer in pairwise(known):
        for i in range(inner + 1, outer):
            way = (i - inner) / (outer - inner)
            yield Gap(order[i], order[inner], order[outer], way, levels[order[i]])


def middle_of(
    topology: Topology, gap: Gap, points: Mapping[str, Sequence[Measurement]]
) -> tuple[list[Measurement], float]:
    """Return times in the middle of two levels', for what was measured of both, and how far off they may be.

    Parameters
    ----------
    topology : Topology
        Calibrated on what was measured.
    points : mapping
        What was measured, by type of links.

    Returns
    -------
    list of Measurement, float
        And the worst relative error that the two levels allow.
    """
    ends = [Routes(_as_if(topology, gap.link, other)) for other in (gap.inner, gap.outer)]
    sizes: dict[str, set[int]] = {one.kind: set() for one in points[gap.inner]}
    for one in (*points[gap.inner], *points[gap.outer]):
        if one.kind in sizes:
            sizes[one.kind].add(one.bytes)
    made, worst = [], 1.0
    for kind in dict.fromkeys(one.kind for one in points[gap.outer] if one.kind in sizes):
        for n in gap.ranks:
            for size in sorted(sizes[kind]):
                inner_s, outer_s = (quickest(routes, kind, tuple(range(n)), size)[1] for routes in ends)
                apart = abs(math.log(outer_s / inner_s))
                worst = max(worst, math.exp(max(gap.way, 1 - gap.way) * apart))
                seconds = inner_s ** (1 - gap.way) * outer_s**gap.way
                made.append(Measurement(kind=kind, ranks=n, bytes=size, seconds=seconds, source=f"{gap.source}:0"))
    return made, worst - 1


def _as_if(topology: Topology, link: str, other: str) -> Topology:
    """Return the topology with links of one type as those of another are."""
    bandwidth = max(one.bandwidth_bytes_per_s for one in topology.links if one.type == other)
    changed = (
        replace(one, type=other, bandwidth_bytes_per_s=bandwidth) if one.type == link else one for one in topology.links
    )
    return replace(topology, links=tuple(changed))
