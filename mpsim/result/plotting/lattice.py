"""Where the nodes of a mesh or torus stand: by their coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from mpsim.result.plotting.alike import Link

__all__ = ["lattice"]

_ASIDE, _UP = 0.32, 0.22  # How far the next layer of three stands to the side and above.


def lattice(names: Sequence[str], links: Sequence[Link]) -> tuple[dict[str, tuple[float, float]], set[frozenset[str]]]:
    """Return places of the nodes of a mesh or torus of two or three dimensions, and which links join ends of a row.

    Nodes are in order of their coordinates, the last one fastest, as the builders have them. Of another graph there are
    no places.

    Examples
    --------
    >>> import mpsim
    >>> mesh = mpsim.parse_topology("mesh:2x3,link=nvlink4")
    >>> places, ends = lattice([device.name for device in mesh.devices], mesh.links)
    >>> [*places.values()], ends
    ([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (0.0, -1.0), (1.0, -1.0), (2.0, -1.0)], set())
    """
    number = {name: i for i, name in enumerate(names)}
    pairs = {(number[link.source], number[link.target]) for link in links}
    for sizes in _factors(len(names)):
        ends = _ends(sizes, pairs)
        if ends is not None:
            places = {name: _place(_coordinates(i, sizes)) for name, i in number.items()}
            return places, {frozenset((names[a], names[b])) for a, b in ends}
    return {}, set()


def _factors(count: int) -> Iterator[tuple[int, ...]]:
    """Yield all sizes of two and of three dimensions whose product is a number."""
    divisors = [n for n in range(2, count) if count % n == 0]
    for first in divisors:
        yield first, count // first
    for first in divisors:
        for second in divisors:
            third = count // (first * second)
            if third > 1 and first * second * third == count:
                yield first, second, third


def _coordinates(i: int, sizes: Sequence[int]) -> tuple[int, ...]:
    found = []
    for size in reversed(sizes):
        i, at = divmod(i, size)
        found.append(at)
    return tuple(reversed(found))


def _ends(sizes: Sequence[int], pairs: set[tuple[int, int]]) -> set[tuple[int, int]] | None:
    """Return the pairs that are ends of a row, if all others are neighbours and all neighbours are pairs; else None."""
    ends, steps = set(), [0] * len(sizes)
    for a, b in pairs:
        both = zip(_coordinates(a, sizes), _coordinates(b, sizes), strict=True)
        apart = [(d, abs(p - q)) for d, (p, q) in enumerate(both) if p != q]
        if len(apart) != 1:
            return None
        dimension, distance = apart[0]
        if distance == 1:
            steps[dimension] += 1
        elif distance == sizes[dimension] - 1:
            ends.add((a, b))
        else:
            return None
    whole = [2 * (size - 1) * prod(sizes) // size for size in sizes]
    return ends if steps == whole else None


def _place(at: Sequence[int]) -> tuple[float, float]:
    """Return where a node stands: rows downwards, columns to the right, layers behind one another."""
    layer, row, column = (0, *at) if len(at) == 2 else at
    return column + _ASIDE * layer, _UP * layer - row
