"""``auto``: the algorithm that NCCL would choose, that of least time by the topology's costs.

NCCL estimates each of its algorithms for the size and the ranks at hand and takes the least
(https://github.com/NVIDIA/nccl, src/graph/tuning.cc): rings and trees for an all-reduce, and reduction by NVLink
switches or by the network where they can; rings for what has no tree; direct messages for all-to-all. Here the
estimates are the model's own times, so that what is chosen is also what is least in a simulation. Where devices are
joined to one another rings lie on their links, as many at once as find place. Within one node NCCL's tree is a chain,
as long as the ring and moving more: trees are candidates only where messages cross a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsim.collectives.footprint import footprint
from mpsim.collectives.mapping import algorithm_names, check_algorithm
from mpsim.collectives.protocols import costed, costs_for
from mpsim.errors import MpsimError
from mpsim.topology.catalog import is_network
from mpsim.topology.cycles import link_cycles
from mpsim.topology.levels import find_levels, outer_link

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["alone_s", "can_be", "candidates", "choose", "quickest"]

_OF_NCCL = {
    "all_reduce": ("ring", "rings", "trees", "nvls", "nvls_tree", "collnet"),
    # By NVLS only from buffers that were registered for it.
    "all_gather": ("ring", "rings"),
    "reduce_scatter": ("ring", "rings"),
    "broadcast": ("ring",),
    "reduce": ("ring",),
    # PyTorch's barrier is an all-reduce of one element.
    "barrier": ("ring", "double_binary_tree"),
}


def choose(routes: Routes, kind: str, ranks: tuple[int, ...], bytes: float) -> str:
    """Return the algorithm that NCCL would take; of equals, the first.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(nodes(4, per_node=4, nics=4, inside="nvlink4", between="ib_ndr"))
    >>> choose(routes, "all_reduce", tuple(range(16)), 2**10), choose(routes, "all_reduce", tuple(range(16)), 2**32)
    ('trees', 'rings')
    """
    return quickest(routes, kind, ranks, bytes)[0]


def quickest(routes: Routes, kind: str, ranks: tuple[int, ...], bytes: float) -> tuple[str, float]:
    """Return the algorithm that NCCL would take, and how long it takes on an idle network.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> quickest(Routes(switch(2, link="1GB/s@1us")), "all_reduce", (0, 1), 1000)[0]
    'ring'
    """
    check_algorithm(kind, "auto")
    names = candidates(routes, kind, ranks, bytes)
    times = {name: alone_s(routes, kind, name, ranks, bytes) for name in names}
    return min(times.items(), key=lambda item: item[1])


def candidates(routes: Routes, kind: str, ranks: tuple[int, ...], bytes: float) -> list[str]:
    """Return NCCL's algorithms for these ranks.

    Those whose costs over the outermost links were measured for such ranks and sizes; else those with any costs there;
    else all that can be.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> candidates(Routes(switch(8, link="nvlink4")), "all_reduce", tuple(range(8)), 2**20)
    ['ring']
    """
    names = _OF_NCCL.get(kind, ("direct",))
    levels = find_levels(routes, ranks)
    found = [name for name in names if _applies(routes, kind, name, ranks, len(levels))]
    if not routes.topology.costs or len(ranks) < 2:
        return found or algorithm_names(kind)[:1]
    # What was measured of inner levels alone says nothing of which algorithm goes between the outer ones.
    outer, n = outer_link(routes, ranks, levels).type, len(ranks)
    costs = {name: [cost for cost in costs_for(routes, kind, name) if cost.link == outer] for name in found}
    measured = [name for name in found if costs[name]]
    covered = [name for name in measured if any(cost.covers(n, bytes) for cost in costs[name])]
    return covered or measured or found or algorithm_names(kind)[:1]


def _applies(routes: Routes, kind: str, name: str, ranks: tuple[int, ...], levels: int) -> bool:
    if name == "rings" and levels == 1:
        return bool(link_cycles(routes, ranks))
    if name in ("trees", "double_binary_tree", "nvls_tree", "collnet") and not _crosses_network(routes, ranks):
        return False
    if name == "ring":
        # One ring, in the order of ranks, is for where there are no nodes to order them by.
        return levels == 1 or kind not in ("all_reduce", "all_gather", "reduce_scatter") or _uneven(routes, ranks)
    return can_be(routes, kind, name, ranks)


def can_be(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...]) -> bool:
    """Whether these ranks can do a collective by that algorithm here.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> can_be(Routes(switch(8, link="nvlink4")), "all_reduce", "nvls", tuple(range(8)))
    False
    """
    try:
        footprint(routes, kind, algorithm, ranks)
    except MpsimError:
        return False
    return True


def _uneven(routes: Routes, ranks: tuple[int, ...]) -> bool:
    return len({len(group) for group in find_levels(routes, ranks)[0]}) > 1


def _crosses_network(routes: Routes, ranks: tuple[int, ...]) -> bool:
    links = routes.topology.links
    paths = (routes.path(ranks[0], rank) for rank in ranks[1:])
    return any(is_network(links[i].type) for path in paths for i in path)


def alone_s(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...], bytes: float) -> float:
    """Return how long a collective takes on an idle network."""
    found = costed(routes, kind, algorithm, ranks, bytes)
    if found is not None:
        return found.seconds
    foot = footprint(routes, kind, algorithm, ranks)
    return foot.latency_s + bytes * foot.s_per_byte
