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
_Key = tuple[int, bool, int]


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
    needs, others : array of int, shape (operations,)
        The operations whose outcome they wait for, and, of the first operation of a cell with two, what the second
        waits for; the number of all: none.
    pairs : bool
        Whether there is any such cell.
    closing : list of array of int
        Of each level those that are a stage's last backward.
    """

    edges: list[int]
    rank: _Numbers
    which: _Numbers
    needs: _Numbers
    others: _Numbers
    pairs: bool
    closing: list[_Numbers]


def which_of(stage: int, kind: str, again: bool = False, paired: bool = False) -> int:
    """Return the number of a stage's operations of a kind: some of its forward runs again for it, it shares a cell.

    Examples
    --------
    >>> which_of(0, "F"), which_of(1, "B", True), which_of(1, "B", True, True)
    (0, 26, 27)
    """
    return ((stage * len(KINDS) + KINDS.index(kind)) * 2 + again) * 2 + paired


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
    seen: dict[_Key, int] = {}
    waiting: dict[_Key, int] = {}
    found: list[tuple[int, ...]] = []  # level, rank, which, needs, others, closes
    at, last, ready = [0] * len(rows), [-1] * len(rows), list(range(len(rows)))
    sources = {(s, kind): shape.source(s, kind) for s in range(len(shape.home)) for kind in KINDS}
    numbers = {
        (s, kind, again, paired): which_of(s, kind, again, paired)
        for s in range(len(shape.home))
        for kind in KINDS
        for again in (False, True)
        for paired in (False, True)
    }
    while ready:
        rank = ready.pop()
        row, i, level = rows[rank], at[rank], last[rank]
        while i < len(row):
            cell = row[i : i + 2] if row[i].overlaps else (row[i],)
            keys = [
                None if (source := sources[one.stage, one.kind]) is None else (source, one.kind == "F", one.microbatch)
                for one in cell
            ]
            missing = next((key for key in keys if key is not None and key not in seen), None)
            if missing is not None:
                waiting[missing] = rank
                break
            needs = [-1 if key is None else seen[key] for key in keys]
            level = max([level, *(found[need][0] for need in needs if need >= 0)])
            for one, need in zip(cell, needs, strict=True):
                stage, kind, microbatch, *_ = one
                level += 1
                again = kind in "BI" and (stage, microbatch) not in keeping
                which = numbers[stage, kind, again, len(cell) > 1]
                other = needs[1] if len(cell) > 1 and one is cell[0] else -1
                found.append((level, rank, which, need, other, (stage, kind, microbatch) in closing))
            i += len(cell)
            for stage, kind, microbatch, *_ in cell:  # what a cell sends goes when both are done
                if kind in "FBI":
                    key = (stage, kind == "F", microbatch)
                    seen[key] = len(found) - 1
                    if key in waiting:
                        ready.append(waiting.pop(key))
        at[rank], last[rank] = i, level
    return _sorted(found)


def _sorted(found: list[tuple[int, ...]]) -> Levels:
    """Return operations level by level, with the numbers that they then have."""
    table = np.array(found, dtype=np.intp).reshape(-1, 6)
    order = np.argsort(table[:, 0], kind="stable")
    place = np.empty(len(order) + 1, dtype=np.intp)
    place[order], place[-1] = np.arange(len(order)), len(order)  # -1: none
    level, rank, which, needs, others, closes = table[order].T
    edges = [*np.searchsorted(level, np.arange(level[-1] + 1 if len(level) else 0)).tolist(), len(level)]
    own = np.flatnonzero(closes)
    closing = [own[first:last] for first, last in pairwise(np.searchsorted(own, edges))]
    return Levels(edges, rank, which, place[needs], place[others], bool((others >= 0).any()), closing)
