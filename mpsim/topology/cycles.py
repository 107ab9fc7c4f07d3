"""Rings that lie on a graph's own links: cycles through all devices, no two of them on one lane of a link.

Where devices are joined to one another, as by the NVLinks of a DGX-1, a ring in the order of ranks may have neighbours
without a link. A library searches for better ones, and for several at once, that all links are used (NCCL:
https://github.com/NVIDIA/nccl, src/graph/search.cc).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from mpsim.topology.routes import Routes

__all__ = ["link_cycles"]

_MOST_DEVICES = 16
_MOST_STEPS = 200_000  # Of the search: beyond, the best that was found.
_Lanes = Counter[tuple[int, int]]
_Cycles = tuple[tuple[int, ...], ...]
_KNOWN: WeakKeyDictionary[Routes, dict[tuple[int, ...], _Cycles]] = WeakKeyDictionary()


def link_cycles(routes: Routes, devices: Sequence[int]) -> _Cycles:
    """Return cycles through these devices over direct links, as many as fit; none where there is none.

    A link has as many lanes as it is wider than the narrowest between these devices, and each cycle takes one lane
    both ways. Links that are not alike both ways are not used.

    Parameters
    ----------
    devices : sequence of int
        At least 3 and at most 16: the search tries orders.

    Returns
    -------
    tuple of tuple of int
        Devices in the order of each cycle.

    Examples
    --------
    >>> from mpsim.topology.builders import fully_connected, ring
    >>> link_cycles(Routes(ring(4, link="50GB/s@2us")), (0, 2, 1, 3))
    ((0, 1, 2, 3),)
    >>> len(link_cycles(Routes(fully_connected(5, link="50GB/s@2us")), range(5)))
    2
    """
    if not 3 <= len(devices) <= _MOST_DEVICES:
        return ()
    known = _KNOWN.setdefault(routes, {})
    key = tuple(devices)
    if key not in known:
        known[key] = _search(routes, key)
    return known[key]


def _search(routes: Routes, devices: tuple[int, ...]) -> _Cycles:
    lanes = _lanes(routes, devices)
    of_device = Counter(a for (a, b), count in lanes.items() for _ in range(count))
    fit = min((of_device[device] for device in devices), default=0) // 2
    best: list[tuple[int, ...]] = []
    if fit:
        steps = iter(range(_MOST_STEPS))
        for found in _packings(lanes, list(devices), [], steps):
            if len(found) > len(best):
                best = list(found)
            if len(best) == fit:
                break
    return tuple(best)


def _lanes(routes: Routes, devices: Sequence[int]) -> _Lanes:
    """Return how many lanes lead from each device to each other, the same number both ways; none if one has no two."""
    links = routes.topology.links
    wide: dict[tuple[int, int], float] = {}
    for a in devices:
        paths = ((a, b, routes.path(a, b)) for b in devices if b != a)
        direct = {(a, b): links[path[0]].bandwidth_bytes_per_s for a, b, path in paths if len(path) == 1}
        if not direct:
            return Counter()
        wide |= direct
    alike = {(a, b): width for (a, b), width in wide.items() if wide.get((b, a)) == width}
    least, most = min(alike.values(), default=1.0), len(devices)  # More lanes than that no cycles could use.
    return Counter(
        {ends: int(min(width / least + 1e-6, most)) if width > least else 1 for ends, width in alike.items()}
    )


def _packings(
    lanes: _Lanes, devices: list[int], found: list[tuple[int, ...]], steps: Iterator[int]
) -> Iterator[list[tuple[int, ...]]]:
    """Yield sets of cycles that fit together, each one larger than what it grew from."""
    for cycle in _cycles(lanes, devices, [devices[0]], steps):
        used = [pair for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True) for pair in ((a, b), (b, a))]
        lanes.subtract(used)
        found.append(cycle)
        yield found
        yield from _packings(lanes, devices, found, steps)
        found.pop()
        lanes.update(used)


def _cycles(lanes: _Lanes, devices: list[int], way: list[int], steps: Iterator[int]) -> Iterator[tuple[int, ...]]:
    """Yield the cycles that begin with a way, over the widest lanes left first."""
    if len(way) == len(devices):
        if lanes[way[-1], way[0]] > 0:
            yield tuple(way)
        return
    onward = [device for device in devices if device not in way and lanes[way[-1], device] > 0]
    for device in sorted(onward, key=lambda device: -lanes[way[-1], device]):
        if next(steps, None) is None:
            return
        yield from _cycles(lanes, devices, [*way, device], steps)
