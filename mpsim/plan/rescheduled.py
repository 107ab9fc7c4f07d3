"""A plan under another schedule than its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.operations import Operation
from mpsim.plan.schedules import SCHEDULES, rows_for, stages_a_rank, takes_chunks

__all__ = ["under"]


def under(plan: Plan, name: str, stages: int, rows: Sequence[Sequence[Operation]]) -> Plan | None:
    """Return a plan under another schedule; None where that has no rows for it, or the same ones.

    Parameters
    ----------
    plan : Plan
    name : str
        Of ``SCHEDULES``.
    stages, rows
        What the plan's own schedule makes of it.

    Examples
    --------
    >>> plan = Plan(pp=2, microbatches=4, schedule="gpipe")
    >>> under(plan, "1f1b", 2, plan.rows()).schedule, under(plan, "gpipe", 2, plan.rows())
    ('1f1b', None)
    """
    chunks = plan.chunks if plan.chunks and takes_chunks(SCHEDULES[name]) else 0
    try:
        same = stages_a_rank(name) * plan.pp == stages
        made = replace(plan, schedule=name, chunks=chunks, boundaries=plan.boundaries if same else None)
        found = rows_for(name, plan.pp, plan.microbatches, chunks or None)
    except MpsimError:
        return None
    return None if tuple(map(tuple, found)) == tuple(map(tuple, rows)) else made
