"""Marks beside each other where they would hide one another, each still above what it is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["largest_swarm", "swarm"]

SIZES = (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)  # points across


def swarm(heights: Sequence[float], size: float, width: float) -> list[float | None]:
    """Return how far to the side each mark stands so that none touches another, the first in the middle.

    Parameters
    ----------
    heights : sequence of float
        Of the marks, in points; those before get the better places.
    size, width : float
        Of a mark, and of the strip in which all stand, in points.

    Returns
    -------
    list of float or None
        Points to the right; None where a mark has no place left.

    Examples
    --------
    >>> swarm([0.0, 0.0, 3.0, 20.0], 5.0, 15.0)
    [0.0, 5.0, -5.0, 0.0]
    >>> swarm([0.0, 0.0], 5.0, 5.0)
    [0.0, None]
    """
    placed: list[tuple[float, float]] = []
    found: list[float | None] = []
    for height in heights:
        near = [aside for aside, other in placed if abs(other - height) < size]
        place = next((x for x in _places(size, width) if all(abs(x - aside) >= size for aside in near)), None)
        if place is not None:
            placed.append((place, height))
        found.append(place)
    return found


def _places(size: float, width: float) -> Iterator[float]:
    yield 0.0
    for step in range(1, int((width - size) / 2 / size) + 1):
        yield step * size
        yield -step * size


def largest_swarm(
    strips: Sequence[Sequence[float]], width: float, *, air: float = 1.0
) -> tuple[float, list[list[float | None]]]:
    """Return the largest size of marks for which all have a place, and the places; else the smallest.

    Marks keep `air` times their size from each other.

    Examples
    --------
    >>> largest_swarm([[0.0, 0.0], [0.0]], 20.0)
    (6.0, [[0.0, 6.0], [0.0]])
    """
    for size in SIZES:
        found = [swarm(heights, air * size, width) for heights in strips]
        if all(None not in places for places in found):
            break
    return size, found
