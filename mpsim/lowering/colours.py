"""Colours of a graph's nodes, refined until none falls apart: those of one colour cannot be told from one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["firsts_of_classes"]

_Colours = NDArray[np.uint64]
_Indices = NDArray[np.int64]


def firsts_of_classes(
    lines: _Indices, kinds: _Indices, links: _Indices, members: _Indices, carried: _Indices
) -> tuple[_Indices, _Indices]:
    """Return for each line and each link the first of its class, once no class falls apart any more.

    Colours are numbers of 64 bits, mixed by SplitMix64 (https://doi.org/10.1145/2660193.2660195): two that are unlike
    are equal with a chance of 2^-64.

    Parameters
    ----------
    lines, kinds, links : array of int
        What each line, each exchange and each link is like by itself.
    members : array of int, 2 × n
        Exchanges, and the lines that take part in them.
    carried : array of int, 3 × n
        Exchanges, the links that they use, and how.

    Examples
    --------
    >>> none, each = [0, 0, 0], [0, 1, 2]
    >>> graph = (none, none, [0, 0, 1], [each, each], [each, each, none])
    >>> firsts = firsts_of_classes(*(np.array(of) for of in graph))
    >>> [first.tolist() for first in firsts]
    [[0, 0, 2], [0, 0, 2]]
    """
    exchange, line = members
    by, link, what = carried
    kind = _mixed(what.astype(np.uint64), 3)
    of_line, of_link, base = (_mixed(each.astype(np.uint64), i) for i, each in enumerate((lines, links, kinds)))
    before = (-1, -1)
    while True:
        (n_lines, first_line), (n_links, first_link) = _firsts(of_line), _firsts(of_link)
        if (n_lines, n_links) == before:
            return first_line, first_link
        before = (n_lines, n_links)
        n = len(kinds)
        each = base + _sum(n, exchange, _mixed(of_line[line], 4)) + _sum(n, by, _mixed(of_link[link] + kind, 5))
        each = _mixed(each, 6)
        of_line = _mixed(of_line + _sum(len(lines), line, _mixed(each[exchange], 7)), 8)
        of_link = _mixed(of_link + _sum(len(links), link, _mixed(each[by] + kind, 9)), 10)


def _firsts(colours: _Colours) -> tuple[int, _Indices]:
    """Return how many colours there are, and for each node the first that has its own."""
    found, first, inverse = np.unique(colours, return_index=True, return_inverse=True)
    return len(found), first[inverse]


def _sum(n: int, at: _Indices, values: _Colours) -> _Colours:
    """Return the sum of what is at each place, whatever its order."""
    found = np.zeros(n, dtype=np.uint64)
    np.add.at(found, at, values)
    return found


def _mixed(values: _Colours, salt: int) -> _Colours:
    """Return numbers that look like random ones, of other numbers others (SplitMix64's finalizer)."""
    found = values + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
