"""The rows that a plan runs, and what they say of its pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsim.plan.operations import Operation
from mpsim.plan.schedules import rows_for
from mpsim.plan.shape import Shape, shape_of

if TYPE_CHECKING:
    from mpsim.plan.model import Plan

__all__ = ["Shape", "rows_of", "shape_of"]


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
    return tuple(map(tuple, rows_for(plan.schedule, plan.pp, plan.microbatches, plan.chunks or None)))
