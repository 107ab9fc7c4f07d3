"""Schedules: for each pipeline rank the ordered operations, as plain data.

A schedule is a function ``(ranks, microbatches[, chunks]) -> rows``, where `chunks` are the stages a rank; ``rows[r]``
is what rank `r` runs, in order. An operation is written ``0F3`` (stage 0, forward, micro-batch 3), ``0B3``, or ``0I3``
and ``0W3`` where backward is split into the part for inputs and the part for weights, ``0U3`` for an update amid the
step; ``0F3+7B1`` are two in one cell. Where a stage lives follows from the rows.
"""

from __future__ import annotations

from mpsim.errors import unknown
from mpsim.plan.bidirectional import chimera, dualpipe
from mpsim.plan.checks import check_rows
from mpsim.plan.flat import eager_1f1b, gpipe, gpipe_accumulated, naive, one_f_one_b, pipedream, zb_h1, zb_h2
from mpsim.plan.looped import interleaved_1f1b, interleaved_zb, looped_bfs
from mpsim.plan.operations import Operation, Rows, Schedule, format_rows, parse_rows
from mpsim.plan.vshaped import dualpipe_v, v_half, v_min, zb_v

__all__ = [
    "SCHEDULES",
    "Operation",
    "Rows",
    "Schedule",
    "check_rows",
    "chimera",
    "dualpipe",
    "format_rows",
    "gpipe",
    "looped_bfs",
    "naive",
    "one_f_one_b",
    "parse_rows",
    "resolve_schedule",
]

SCHEDULES: dict[str, Schedule] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "gpipe-accumulated": gpipe_accumulated,
    "eager-1f1b": eager_1f1b,
    "zb-h1": zb_h1,
    "zb-h2": zb_h2,
    "pipedream": pipedream,
    "looped-bfs": looped_bfs,
    "interleaved-1f1b": interleaved_1f1b,
    "interleaved-zb": interleaved_zb,
    "zb-v": zb_v,
    "v-half": v_half,
    "v-min": v_min,
    "dualpipe-v": dualpipe_v,
    "dualpipe": dualpipe,
    "chimera": chimera,
}


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """Return the function of a registered name; a function is returned as it is.

    Raises
    ------
    MpsimError
        No schedule has that name.

    Examples
    --------
    >>> resolve_schedule("gpipe") is gpipe
    True
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]
