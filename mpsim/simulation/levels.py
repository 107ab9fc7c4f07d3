"""In what order the operations of rows can run, whatever they take: level by level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.plan.operations import Operation
from mpsim.plan.shape import Shape

__all__ = ["KINDS", "Levels", "levels_of", "which_of"]

KINDS = ("F", "B", "I", "W", "U")
_Numbers = NDArray[np.intp]


class Levels(NamedTuple):
    """Operations, those first that wait for the fewest: those of a level for none of the same one.

    Attributes
    ----------
    edges : list of int
        The first operation of each level, and the number of all.
    rank : array of int, shape (operations,)
        Their pipeline ranks: of a level no two are the same.
    which : array of int, shape (operations,)
        Their stages and kinds, as `which_of` numbers them.
    needs : array of int, shape (operations,)
        The operations whose outcome they wait for; the number of all: none.
    closing : list of array of int
        Of each level those that are a stage's last backward.
    """

    edges: list[int]
    rank: _Numbers
    which: _Numbers
    needs: _Numbers
    closing: list[_Numbers]


def which_of(stage: int, kind: str, again: bool) -> int:
    """Return the number of a stage's operations of a kind, before which some of its forward runs again or not.

    Examples
    --------
    >>> which_of(0, "F", False), which_of(1, "B", True)
    (0, 13)
    """
    return (stage * len(KINDS) + KINDS.index(kind)) * 2 + again


def levels_of(
    rows: Sequence[Sequence[Operation]],
    shape: Shape,
    keeping: frozenset[tuple[int, int]],
    closing: frozenset[tuple[int, str, int]],
) -> Levels:
    """Return the levels of rows.

    Parameters
    ----------
    rows, shape
        What each pipeline rank runs.
    keeping : set of (stage, micro-batch)
        What is not computed again.
    closing : set of (stage, kind, micro-batch)
        The last backwards of stages.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> from mpsim.plan.shape import shape_of
    >>> rows = gpipe(2, 2)
    >>> levels_of(rows, shape_of(rows), frozenset(), frozenset()).rank.tolist()
    [0, 0, 1, 1, 1, 1, 0, 0]
    """
    seen: dict[tuple[int, bool, int], int] = {}
    waiting: dict[tuple[int, bool, int], int] = {}
    found: list[tuple[int, int, int, int, bool]] = []  # level, rank, which, needs, closes
    at, last, ready = [0] * len(rows), [-1] * len(rows), list(range(len(rows)))
    sources = {(s, kind): shape.source(s, kind) for s in range(len(shape.home)) for kind in KINDS}
    numbers = {
        (s, kind, again): which_of(s, kind, again)
        for s in range(len(shape.home))
        for kind in KINDS
        for again in (False, True)
    }
    while ready:
        rank = ready.pop()
        row, i, level = rows[rank], at[rank], last[rank]
        while i < len(row):
            stage, kind, microbatch, *_ = row[i]
            source, need, level_before = sources[stage, kind], -1, level
            if source is not None:
                key = (source, kind == "F", microbatch)
                if key not in seen:
                    waiting[key] = rank
                    break
                need = seen[key]
                level_before = max(level, found[need][0])
            level = level_before + 1
            again = kind in "BI" and (stage, microbatch) not in keeping
            found.append((level, rank, numbers[stage, kind, again], need, (stage, kind, microbatch) in closing))
            i += 1
            if kind in "FBI":
                key = (stage, kind == "F", microbatch)
                seen[key] = len(found) - 1
                if key in waiting:
                    ready.append(waiting.pop(key))
        at[rank], last[rank] = i, level
    return _sorted(found)


def _sorted(found: list[tuple[int, int, int, int, bool]]) -> Levels:
    """Return operations level by level, with the numbers that they then have."""
    table = np.array(found, dtype=np.intp).reshape(-1, 5)
    order = np.argsort(table[:, 0], kind="stable")
    place = np.empty(len(order) + 1, dtype=np.intp)
    place[order], place[-1] = np.arange(len(order)), len(order)  # -1: none
    level, rank, which, needs, closes = table[order].T
    edges = [*np.searchsorted(level, np.arange(level[-1] + 1 if len(level) else 0)).tolist(), len(level)]
    own = np.flatnonzero(closes)
    upto = np.searchsorted(own, edges)
    closing = [own[first:last] for first, last in pairwise(upto)]
    return Levels(edges, rank, which, place[needs], closing)
