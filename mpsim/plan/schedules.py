"""Schedules: for each pipeline rank the ordered operations, as plain data.

A schedule is a function ``(ranks, microbatches[, chunks]) -> rows``, where `chunks` are the stages a rank; ``rows[r]``
is what rank `r` runs, in order. An operation is written ``0F3`` (stage 0, forward, micro-batch 3), ``0B3``, or ``0I3``
and ``0W3`` where backward is split into the part for inputs and the part for weights, ``0U3`` for an update amid the
step; ``0F3+7B1`` are two in one cell. Where a stage lives follows from the rows.
"""

from __future__ import annotations

import inspect
import math
from typing import TypeVar

from mpsim.errors import MpsimError, known_name, unknown
from mpsim.plan.automatic import ZeroBubble
from mpsim.plan.bidirectional import chimera, dualpipe
from mpsim.plan.checks import check_rows
from mpsim.plan.flat import eager_1f1b, gpipe, gpipe_accumulated, naive, one_f_one_b, pipedream, zb_h1, zb_h2
from mpsim.plan.looped import interleaved_1f1b, interleaved_zb, looped_bfs
from mpsim.plan.operations import Operation, Rows, Schedule, format_rows, parse_rows
from mpsim.plan.shape import shape_of
from mpsim.plan.vshaped import dualpipe_v, v_half, v_min, zb_v

__all__ = [
    "SCHEDULES",
    "Operation",
    "Rows",
    "Schedule",
    "as_registered",
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
    "rows_for",
    "stages_a_rank",
    "takes_chunks",
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
    "zb-auto": ZeroBubble(),
}
_Schedule = TypeVar("_Schedule")
# Each is two operations or more, 200 bytes each.
MOST_CELLS = 4_000_000
# Held to their contract by tests, at every number of ranks and micro-batches: they are not checked again.
_OURS = frozenset(SCHEDULES.values())


def resolve_schedule(schedule: str | Schedule | Rows) -> Schedule:
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
    if not isinstance(schedule, str):
        raise MpsimError(f"schedule is a {type(schedule).__name__}: give a name, a function, a CSV file or rows")
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]


def as_registered(schedule: _Schedule) -> _Schedule:
    """Return a schedule with its name as it is registered, however its letters are written.

    Examples
    --------
    >>> as_registered("1F1B"), as_registered("ZB_V"), as_registered("mine")
    ('1f1b', 'zb-v', 'mine')
    """
    return known_name(schedule, SCHEDULES) if isinstance(schedule, str) else schedule  # type: ignore[return-value]


def takes_chunks(schedule: Schedule) -> bool:
    """Return whether a schedule takes a number of stages a rank.

    Examples
    --------
    >>> takes_chunks(looped_bfs), takes_chunks(gpipe)
    (True, False)
    """
    parameters = inspect.signature(schedule).parameters.values()
    return sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters) > 2


def stages_a_rank(schedule: str | Schedule | Rows) -> int:
    """Return how many stages a schedule puts on each rank unasked.

    Examples
    --------
    >>> stages_a_rank("zb-v"), stages_a_rank("1f1b")
    (2, 1)
    """
    return shape_of(resolve_schedule(schedule)(2, 2)).stages // 2


def rows_for(schedule: str | Schedule | Rows, ranks: int, microbatches: int, chunks: int | None = None) -> Rows:
    """Return the rows of a schedule, checked; without `chunks` with as many stages a rank as it has unasked.

    Raises
    ------
    MpsimError
        No such schedule, numbers that it cannot have, or rows that are none.

    Examples
    --------
    >>> print(format_rows(rows_for("looped-bfs", 1, 1, chunks=3)))
    0F0 1F0 2F0 2B0 1B0 0B0
    >>> rows_for("gpipe", 2, 4, chunks=2)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: schedule 'gpipe' has one stage a rank: leave the 2 chunks out, or use one that has several
    """
    function = resolve_schedule(schedule)
    said = {"ranks": ranks, "micro-batches": microbatches} | ({} if chunks is None else {"chunks": chunks})
    for name, value in said.items():
        if value < 1:
            raise MpsimError(f"schedule: {value} {name}, expected 1 or more")
    if math.prod(said.values()) > MOST_CELLS:
        shown = " × ".join(f"{value:,} {name}" for name, value in said.items())
        raise MpsimError(f"schedule: {shown} are more than {MOST_CELLS:,} cells, which no machine holds: use fewer")
    if chunks is not None and not _answers(function, len(said)):
        name = schedule if isinstance(schedule, str) else getattr(schedule, "__name__", "custom")
        raise MpsimError(
            f"schedule {name!r} has one stage a rank: leave the {chunks} chunks out, or use one that has several"
        )
    rows = function(*said.values())
    if function not in _OURS:
        check_rows(rows, ranks, microbatches)
    return rows


def _answers(schedule: Schedule, count: int) -> bool:
    """Return whether a schedule can be called with so many numbers."""
    try:
        inspect.signature(schedule).bind(*range(count))
    except TypeError:
        return False
    return True
