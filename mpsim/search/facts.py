"""What the rows of a schedule say of every plan that runs them, whatever its stages take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation, Schedule, resolve_schedule, rows_for
from mpsim.plan.shape import Shape, shape_of

__all__ = ["Facts", "facts_of"]

_MOST_CELLS = 4_000


class Facts(NamedTuple):
    """Of a schedule at a number of ranks and micro-batches.

    Attributes
    ----------
    shape : Shape
        Its pipeline.
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
    made : tuple of bool
        The stages that then have them.
    split : bool
        Whether backwards are in two parts, of which the second waits for nobody.
    overlaps : bool
        Whether one operation computes while another exchanges.
    asynchronous : bool
        Whether stages update amid the step.
    """

    shape: Shape
    plain: bool
    before: tuple[int, ...]
    behind: tuple[int, ...]
    held: tuple[int, ...]
    again: tuple[int, ...]
    made: tuple[bool, ...]
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
    ranks, microbatches = plan.pp, plan.microbatches
    # Rounds that are not full are not the same of fewer.
    if ranks * microbatches * max(plan.chunks, 1) > _MOST_CELLS and microbatches % ranks == 0:
        microbatches = min(microbatches, 3 * ranks)
    # A plan has given rows as what makes them.
    schedule = plan.schedule if isinstance(plan.schedule, str) else resolve_schedule(plan.schedule)
    return _facts(schedule, ranks, microbatches, plan.chunks)


@cache
def _facts(schedule: str | Schedule, ranks: int, microbatches: int, chunks: int) -> Facts:
    rows = rows_for(schedule, ranks, microbatches, chunks or None)
    shape = shape_of(rows)
    kinds = {one.kind for row in rows for one in row}
    held, again, made = _most_held(rows, shape)
    if isinstance(resolve_schedule(schedule), Fitted):  # other stages have other rows, which may hold less
        held = again = (0,) * len(held)
    alone = shape.directions == 1
    return Facts(
        shape=shape,
        plain=kinds == {"F", "B"} and shape.stages == ranks and alone,
        before=tuple(row[0].stage if alone else 0 for row in rows),
        behind=tuple(row[-1].stage if alone and "I" not in kinds and row[-1].kind == "B" else 0 for row in rows),
        held=held,
        again=again,
        made=made,
        split="I" in kinds,
        overlaps=any(one.overlaps for row in rows for one in row),
        asynchronous="U" in kinds,
    )


def _most_held(
    rows: Sequence[Sequence[Operation]], shape: Shape
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Return what each stage holds when its rank holds most, and when it does so with a backward behind it, and which.

    Of those with a backward behind them at that moment.
    """
    found = [[0] * len(shape.home), [0] * len(shape.home)]
    made = [False] * len(shape.home)
    for row in rows:
        now = dict.fromkeys((one.stage for one in row), 0)
        total, most = 0, [0, 0]
        over: set[int] = set()
        for one in row:
            change = {"F": 1, "B": -1, "W": -1}.get(one.kind, 0)
            now[one.stage] += change
            total += change
            for which in range(1 + bool(over)):
                if total > most[which]:
                    most[which] = total
                    for stage, count in now.items():
                        found[which][stage] = count
                        made[stage] = bool(which) and stage in over
            if one.kind in "BW":
                over.add(one.stage)
    return tuple(found[0]), tuple(found[1]), tuple(made)
