"""What the rows of a schedule say of every plan that runs them, whatever its stages take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation, Schedule, resolve_schedule, rows_for
from mpsim.plan.shape import Shape, shape_of

__all__ = ["Facts", "Moments", "facts_of"]

_Numbers = NDArray[np.intp]


class Moments(NamedTuple):
    """Moments at which a rank may hold most: of each of its stages' passes of a kind those with most under way.

    Attributes
    ----------
    stages : array of int, shape (stages,)
        Those of the rank.
    at : array of int, shape (moments,)
        Which of them runs.
    kind : array of int, shape (moments,)
        What: 0 a forward, 1 a backward, 2 the first part of one.
    known : array of bool, shape (moments,)
        Whether it is not the first backward of its stage, which makes gradients.
    kept, again : array of int, shape (moments, stages)
        Micro-batches whose activations are kept, and of those the ones that were computed again for a backward whose
        second part is still to come.
    made : array of bool, shape (moments, stages)
        Whether there are gradients.
    """

    stages: _Numbers
    at: _Numbers
    kind: _Numbers
    known: NDArray[np.bool_]
    kept: _Numbers
    again: _Numbers
    made: NDArray[np.bool_]

    @property
    def total(self) -> tuple[int, int]:
        """Micro-batches that are kept, and computed again, at most."""
        return int(self.kept.sum(axis=1).max(initial=0)), int(self.again.sum(axis=1).max(initial=0))


class Facts(NamedTuple):
    """Of a schedule at a number of ranks and micro-batches.

    Attributes
    ----------
    shape : Shape
        Its pipeline.
    microbatches : int
        Those of the rows.
    plain : bool
        Whether each rank has one stage, and no backward is in two parts: then stage `p` cannot begin before one
        micro-batch passed the stages before it, and what it returns last has to pass them too.
    before, behind : tuple of int
        Of each rank how many stages its first micro-batch has passed, and its last has yet to pass; of backwards in two
        parts that is not asked.
    held : tuple of int
        Of each stage the micro-batches that its rank holds when it holds most.
    again : tuple of int
        Likewise, where one backward is over: then there are gradients too.
    moments : tuple of Moments
        Of each rank, what it has under way when it may hold most; none where other stages have other rows.
    split : bool
        Whether backwards are in two parts, of which the second waits for nobody.
    overlaps : bool
        Whether one operation computes while another exchanges.
    asynchronous : bool
        Whether stages update amid the step.
    """

    shape: Shape
    microbatches: int
    plain: bool
    before: tuple[int, ...]
    behind: tuple[int, ...]
    held: tuple[int, ...]
    again: tuple[int, ...]
    moments: tuple[Moments, ...]
    split: bool
    overlaps: bool
    asynchronous: bool


def facts_of(plan: Plan) -> Facts:
    """Return the facts of a plan's schedule; of many micro-batches those of fewer, where these hold no more.

    Raises
    ------
    MpsimError
        There are no such rows.

    Examples
    --------
    >>> facts_of(Plan(pp=4, microbatches=8)).held, facts_of(Plan(pp=4, microbatches=8)).before
    ((4, 3, 2, 1), (0, 1, 2, 3))
    """
    # A plan has given rows as what makes them.
    schedule = plan.schedule if isinstance(plan.schedule, str) else resolve_schedule(plan.schedule)
    return _facts_of(schedule, plan.pp, plan.microbatches, plan.chunks)


@cache
def _facts_of(schedule: str | Schedule, ranks: int, microbatches: int, chunks: int) -> Facts:
    # Rounds that are not full are not the same of fewer, nor need those of a schedule of one's own be, or of one that
    # is fitted to its stages.
    regular = isinstance(schedule, str) and not isinstance(resolve_schedule(schedule), Fitted)
    if regular and microbatches > 3 * ranks and microbatches % ranks == 0:
        fewer, few = (_facts(schedule, ranks, rounds * ranks, chunks) for rounds in (2, 3))
        if [one.total for one in fewer.moments] == [one.total for one in few.moments]:  # else more hold more
            return few
    return _facts(schedule, ranks, microbatches, chunks)


@cache
def _facts(schedule: str | Schedule, ranks: int, microbatches: int, chunks: int) -> Facts:
    rows = rows_for(schedule, ranks, microbatches, chunks or None)
    shape = shape_of(rows)
    kinds = {one.kind for row in rows for one in row}
    held, again = _most_held(rows, shape)
    moments = tuple(_moments(row) for row in rows)
    if isinstance(resolve_schedule(schedule), Fitted):  # other stages have other rows, which may hold less
        held = again = (0,) * len(held)
        moments = ()
    alone = shape.directions == 1
    return Facts(
        shape=shape,
        microbatches=microbatches,
        plain=kinds == {"F", "B"} and shape.stages == ranks and alone,
        before=tuple(row[0].stage if alone else 0 for row in rows),
        behind=tuple(row[-1].stage if alone and "I" not in kinds and row[-1].kind == "B" else 0 for row in rows),
        held=held,
        again=again,
        moments=moments,
        split="I" in kinds,
        overlaps=any(one.overlaps for row in rows for one in row),
        asynchronous="U" in kinds,
    )


def _most_held(rows: Sequence[Sequence[Operation]], shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what each stage holds when its rank holds most, and when it does so with a backward behind it."""
    found = [[0] * len(shape.home), [0] * len(shape.home)]
    for row in rows:
        now = dict.fromkeys((one.stage for one in row), 0)
        total, most = 0, [0, 0]
        over = False
        for one in row:
            change = {"F": 1, "B": -1, "W": -1}.get(one.kind, 0)
            now[one.stage] += change
            total += change
            for which in range(1 + over):
                if total > most[which]:
                    most[which] = total
                    for stage, count in now.items():
                        found[which][stage] = count
            over = over or one.kind in "BW"
    return tuple(found[0]), tuple(found[1])


def _moments(row: Sequence[Operation]) -> Moments:
    stages = sorted({one.stage for one in row})
    kept, again, made = [0] * len(stages), [0] * len(stages), [False] * len(stages)
    total = 0
    most: dict[tuple[int, str, int], int] = {}
    found: dict[tuple[int, str, int], tuple[int, int, bool, list[int], list[int], list[bool]]] = {}
    for one in row:
        at, kind = stages.index(one.stage), one.kind
        kept[at] += kind == "F"
        again[at] += kind == "I"
        total += kind in "FI"
        key = (at, kind, sum(made))
        if kind in "FBI" and total > most.get(key, -1):
            most[key] = total
            found[key] = (at, "FBI".index(kind), kind == "F" or made[at], [*kept], [*again], [*made])
        if kind in "BW":
            made[at] = True
            kept[at] -= 1
            again[at] -= kind == "W"
            total -= 1 + (kind == "W")
    columns = list(zip(*found.values(), strict=True)) or [()] * 6

    def numbers(i: int) -> _Numbers:
        return np.array(columns[i], dtype=np.intp)

    def flags(i: int) -> NDArray[np.bool_]:
        return np.array(columns[i], dtype=bool)

    return Moments(np.array(stages, dtype=np.intp), numbers(0), numbers(1), flags(2), numbers(3), numbers(4), flags(5))
