"""What rows say of a pipeline: how many stages it has, on which rank each lives, and which micro-batches pass it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpsim.errors import MpsimError
from mpsim.plan.schedules import Operation, check_rows, resolve_schedule

if TYPE_CHECKING:
    from mpsim.plan.model import Plan

__all__ = ["Shape", "rows_of", "shape_of"]


class Shape(NamedTuple):
    """The pipeline that rows run.

    Attributes
    ----------
    stages : int
        That a micro-batch passes. Where there are two directions, stage ``stages + s`` is another copy of stage `s`.
    home : tuple of int
        The pipeline rank of each stage, copies included.
    direction : tuple of int
        Of each micro-batch: it passes the stages ``direction * stages`` to ``(direction + 1) * stages - 1``.
    """

    stages: int
    home: tuple[int, ...]
    direction: tuple[int, ...]

    @property
    def directions(self) -> int:
        """Copies of the pipeline."""
        return len(self.home) // self.stages

    def before(self, stage: int) -> int | None:
        """Return the stage before in the same direction, if there is one."""
        return stage - 1 if stage % self.stages else None

    def behind(self, stage: int) -> int | None:
        """Return the stage behind in the same direction, if there is one."""
        return stage + 1 if (stage + 1) % self.stages else None


def shape_of(rows: Sequence[Sequence[Operation]]) -> Shape:
    """Return the pipeline that rows run; they are taken to be whole.

    Examples
    --------
    >>> from mpsim.plan.schedules import one_f_one_b
    >>> shape_of(one_f_one_b(2, 3))
    Shape(stages=2, home=(0, 1), direction=(0, 0, 0))
    """
    homes = {operation.stage: rank for rank, row in enumerate(rows) for operation in row}
    first: dict[int, int] = {}
    passed: dict[int, int] = {}
    for row in rows:
        for stage, kind, microbatch, *_ in row:
            if kind == "F":
                first[microbatch] = min(first.get(microbatch, stage), stage)
                passed[microbatch] = passed.get(microbatch, 0) + 1
    stages = passed[0]
    return Shape(
        stages=stages,
        home=tuple(homes[stage] for stage in range(len(homes))),
        direction=tuple(first[microbatch] // stages for microbatch in range(len(first))),
    )


def rows_of(plan: Plan) -> tuple[tuple[Operation, ...], ...]:
    """Return the rows of a plan's schedule, checked.

    Raises
    ------
    MpsimError
        The schedule does not take so many chunks, or its rows are no schedule.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> [len(row) for row in rows_of(Plan(pp=2, microbatches=3))]
    [6, 6]
    """
    schedule = resolve_schedule(plan.schedule)
    said = (plan.pp, plan.microbatches, plan.chunks) if plan.chunks else (plan.pp, plan.microbatches)
    try:
        inspect.signature(schedule).bind(*said)
    except TypeError:
        raise MpsimError(
            f"schedule {plan.schedule_name!r} has one stage a rank: leave the {plan.chunks} chunks out, or use one that"
            " has several"
        ) from None
    rows = schedule(*said)
    check_rows(rows, plan.pp, plan.microbatches)
    return tuple(map(tuple, rows))
