"""The grid of ranks: which one stands where on the axes of a plan, and who shares an axis with whom."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

__all__ = ["Grid", "View"]


class View(NamedTuple):
    """Some axes taken as one and cut again: an axis within which ranks follow one another, or across those.

    Attributes
    ----------
    name : str
        Of the axis that it makes.
    of : tuple of str
        The axes taken as one.
    size : int
        How many ranks follow one another.
    across : bool
        Whether the axis is that of the ranks at one place in each run, and not that of a run.
    """

    name: str
    of: tuple[str, ...]
    size: int
    across: bool = False


class Grid(NamedTuple):
    """Ranks numbered along axes, the outermost first: one reshape, of which groups are slices.

    Attributes
    ----------
    axes : tuple of (str, int)
        The name and the size of each.
    views : tuple of View
        Other ways to cut some of them.

    Examples
    --------
    >>> grid = Grid((("dp", 2), ("pp", 4), ("tp", 2)))
    >>> grid.rank(dp=1, pp=2), grid.at(12)
    (12, {'dp': 1, 'pp': 2, 'tp': 0})
    >>> grid.group(12, "dp"), grid.group(12, "dp", "tp")
    ((4, 12), (4, 5, 12, 13))
    >>> grid = Grid((("dp", 4), ("tp", 2)), (View("ep", ("dp",), 2), View("edp", ("dp",), 2, across=True)))
    >>> grid.group(4, "ep"), grid.group(4, "edp")
    ((4, 6), (0, 4))
    """

    axes: tuple[tuple[str, int], ...]
    views: tuple[View, ...] = ()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return prod(size for _, size in self.axes)

    def rank(self, **at: int) -> int:
        """Return the rank at a place; an axis that goes unsaid is at 0."""
        found = 0
        for name, size in self.axes:
            found = found * size + at.get(name, 0)
        return found

    def at(self, rank: int) -> dict[str, int]:
        """Return the place of a rank."""
        found = {}
        for name, size in reversed(self.axes):
            rank, found[name] = divmod(rank, size)
        return {name: found[name] for name, _ in self.axes}

    def group(self, rank: int, *axes: str) -> tuple[int, ...]:
        """Return the ranks that differ from one on these axes, or on that of a view, alone, in ascending order."""
        view = next((view for view in self.views if axes == (view.name,)), None)
        if view is not None:
            if view.size == 1 and not view.across:
                return (rank,)
            ranks = self.group(rank, *view.of)
            at = ranks.index(rank)
            first = at - at % view.size
            return ranks[at % view.size :: view.size] if view.across else ranks[first : first + view.size]
        here, found, stride = self.at(rank), [rank], self.size
        for name, size in self.axes:
            stride //= size
            if name in axes:
                found = [one + (i - here[name]) * stride for one in found for i in range(size)]
        return tuple(found)
