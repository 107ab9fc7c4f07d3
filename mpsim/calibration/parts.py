"""What a collective has of each part that costs: messages in a row, bytes on the busiest link, its own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.collectives.footprint import Pace, work_out
from mpsim.collectives.mapping import laid_rounds
from mpsim.collectives.protocols import costs_for, nearest_regime
from mpsim.errors import MpsimError
from mpsim.topology.costs import relative_width
from mpsim.topology.levels import find_levels, outer_link
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["Parts", "level_link", "narrowest_bytes_per_s", "parts_of"]


class Parts(NamedTuple):
    """Of one collective over the links of its outermost level.

    Attributes
    ----------
    messages : float
        In a row over that level.
    bytes_per_byte : float
        On its busiest link, per byte of the tensor; on a link twice as wide as the narrowest they count half.
    inner_s : float
        What messages of the levels inside it add to those.
    own_s_per_byte : float
        What the bytes take at the links' own bandwidth.
    """

    messages: float
    bytes_per_byte: float
    inner_s: float
    own_s_per_byte: float


def level_link(routes: Routes, ranks: Sequence[int]) -> str:
    """Return the type of the narrowest links between the groups of the outermost level of these ranks.

    Raises
    ------
    MpsimError
        Those links have no type, by which their costs could be kept.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> routes = Routes(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr"))
    >>> level_link(routes, (0, 1)), level_link(routes, (0, 1, 2, 3))
    ('nvlink4', 'ib_ndr')
    """
    narrowest = outer_link(routes, ranks, find_levels(routes, ranks))
    if not narrowest.type:
        raise MpsimError(f"{narrowest} has no type, by which its costs could be kept: give it one in the topology")
    return narrowest.type


def narrowest_bytes_per_s(topology: Topology, link: str) -> float:
    """Return the bandwidth of the narrowest links of a type.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.wire import Wire
    >>> narrowest_bytes_per_s(ring(3, link=Wire(5e9, 0.0, "mine")), "mine")
    5000000000.0
    """
    return min(one.bandwidth_bytes_per_s for one in topology.links if one.type == link)


def parts_of(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...], link: str, size: float) -> Parts:
    """Return what a collective has of each part.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> parts_of(Routes(switch(4, link="nvlink4")), "all_reduce", "ring", (0, 1, 2, 3), "nvlink4", 1024)[:3]
    (6.0, 1.5, 0.0)
    """
    links = routes.topology.links
    rounds, order = laid_rounds(routes, kind, algorithm, ranks)
    steps = {cost.link: nearest_regime(cost, size).step_s for cost in costs_for(routes, kind, algorithm)}

    def crosses(path: Sequence[int]) -> bool:
        return any(links[i].type == link for i in path)

    def inside_s(path: Sequence[int]) -> float:
        known = [steps[links[i].type] for i in path if links[i].type in steps]
        return 0.0 if crosses(path) else known[-1] if known else routes.latency_s(path)

    none = [0.0] * len(links)
    narrowest = narrowest_bytes_per_s(routes.topology, link)
    on_level = [
        0.0 if one.type != link else 1.0 / relative_width(one.bandwidth_bytes_per_s, narrowest) for one in links
    ]
    outer = work_out(routes, rounds, order, Pace(lambda path: float(crosses(path)), on_level, one_by_one=True))
    inner = work_out(routes, rounds, order, Pace(inside_s, none, one_by_one=True))
    own = work_out(routes, rounds, order, Pace.of_links(routes))
    return Parts(outer.latency_s, outer.s_per_byte, inner.latency_s, own.s_per_byte)
