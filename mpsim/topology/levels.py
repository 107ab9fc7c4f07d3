"""The levels of a topology: which devices stand together, as in a node, and which of those groups do.

Devices are joined into groups from the fewest links up. Where the graph says nothing (a ring, one switch) there is one
level, all devices; eight devices a switch and a network between the switches make two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from mpsim.errors import MpsimError
from mpsim.topology.model import Link
from mpsim.topology.routes import Routes

__all__ = ["Groups", "find_levels", "level_sizes", "outer_link"]

Groups = tuple[tuple[int, ...], ...]

_KNOWN: WeakKeyDictionary[Routes, dict[tuple[int, ...], tuple[Groups, ...]]] = WeakKeyDictionary()


def find_levels(routes: Routes, devices: Sequence[int]) -> tuple[Groups, ...]:
    """Return the groups of each level, the innermost first; the last is one group of all devices.

    Two devices stand together on a level where a chain of devices leads from one to the other, each no more links
    from the next than the level's count. Within a group the order is that of `devices`.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> from mpsim.topology.routes import Routes
    >>> find_levels(Routes(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr")), range(4))
    (((0, 1), (2, 3)), ((0, 1, 2, 3),))
    """
    known = _KNOWN.setdefault(routes, {})
    key = tuple(devices)
    if key not in known:
        known[key] = _search(routes, key)
    return known[key]


def _search(routes: Routes, devices: tuple[int, ...]) -> tuple[Groups, ...]:
    group = {device: device for device in devices}

    def head(device: int) -> int:
        while group[device] != device:
            group[device] = group[group[device]]
            device = group[device]
        return device

    levels: list[Groups] = []
    for pairs in _neighbours(routes, devices):
        for a, b in pairs:
            group[head(a)] = head(b)
        members: dict[int, list[int]] = {}
        for device in devices:
            members.setdefault(head(device), []).append(device)
        found = tuple(map(tuple, members.values()))
        if not levels or found != levels[-1]:
            levels.append(found)
        if len(found) == 1:
            break
    return tuple(levels)


def level_sizes(levels: Sequence[Groups]) -> tuple[int, ...]:
    """Return how many groups of the level below (devices, at first) each level joins into one.

    Raises
    ------
    MpsimError
        The groups of a level are not of one size.

    Examples
    --------
    >>> level_sizes((((0, 1), (2, 3)), ((0, 1, 2, 3),)))
    (2, 2)
    """
    sizes, below = [], 1
    for groups in levels:
        counts = sorted({len(group) for group in groups})
        if len(counts) > 1:
            raise MpsimError(
                f"the ranks stand in groups of {counts[0]} and of {counts[-1]}, levels need groups of one size:"
                " choose as many ranks of each group, or ring"
            )
        sizes.append(counts[0] // below)
        below = counts[0]
    return tuple(sizes)


def outer_link(routes: Routes, ranks: Sequence[int], levels: Sequence[Groups]) -> Link:
    """Return the narrowest link between two groups of the outermost of these ranks' levels.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr"))
    >>> outer_link(routes, range(4), find_levels(routes, range(4))).type
    'ib_ndr'
    """
    links = routes.topology.links
    group = levels[-2][0] if len(levels) > 1 else ranks[:1]
    other = next(rank for rank in ranks if rank not in group)
    inside = {links[i].type for rank in group[1:] for i in routes.path(group[0], rank)}
    path = [links[i] for i in routes.path(group[0], other)]
    outer = [link for link in path if link.type not in inside] or path
    # A card's own wire to its device is as wide as what it is for: the network's name is the one to keep.
    return min(outer, key=lambda link: (link.bandwidth_bytes_per_s, link.type in ("host", "")))


def _neighbours(routes: Routes, devices: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
    """Yield pairs of devices, those with the fewest links between first, until all that can be joined are.

    Each node belongs to the device nearest to it; a link between what belongs to two devices joins them. Single-linkage
    groups need no other pairs (Mehlhorn, https://doi.org/10.1016/0020-0190(88)90066-X), so this looks at links once and
    not at each pair; and at no more of them than lie nearer than where the last are joined.
    """
    nearest = {device: device for device in devices}
    frontier = list(devices)
    while frontier:
        # So far from their devices are these nodes; one more are the ones further on.
        beside: list[tuple[int, int]] = []
        beyond: list[tuple[int, int]] = []
        further: dict[int, int] = {}
        for node in frontier:
            device = nearest[node]
            for other in routes.beside(node):
                if other not in nearest:
                    if further.setdefault(other, device) != device:
                        beyond.append((device, further[other]))
                elif nearest[other] != device:
                    beside.append((device, nearest[other]))
        yield from filter(None, (beside, beyond))
        nearest |= further
        frontier = list(further)
