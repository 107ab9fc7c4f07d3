"""Schedules: for each stage the ordered operations, as plain data.

A schedule is a function ``(stages, microbatches) -> rows``; ``rows[s]`` is what stage `s` runs, in order. An
operation is written ``0F3`` (stage 0, forward, micro-batch 3), ``0B3``, or ``0I3`` and ``0W3`` where backward is
split into the part for inputs and the part for weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpsim.errors import MpsimError, unknown

__all__ = ["SCHEDULES", "Operation", "Rows", "Schedule", "check_rows", "format_rows", "parse_rows", "resolve_schedule"]


class Operation(NamedTuple):
    """One pass of one micro-batch through one stage; `kind` is F, B, I or W.

    Examples
    --------
    >>> str(Operation(0, "F", 3))
    '0F3'
    """

    stage: int
    kind: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


Rows = list[list[Operation]]
Schedule = Callable[[int, int], Rows]


def naive(stages: int, microbatches: int) -> Rows:
    """One micro-batch at a time through all stages and back; the baseline of teaching and papers.

    ::

        stage 0  F0 .. .. .. .. B0 F1
        stage 1  .. F0 .. .. B0 .. ..
        stage 2  .. .. F0 B0 .. .. ..

    Examples
    --------
    >>> print(format_rows(naive(2, 2)))
    0F0 0B0 0F1 0B1
    1F0 1B0 1F1 1B1
    """
    return [[Operation(s, kind, k) for k in range(microbatches) for kind in "FB"] for s in range(stages)]


def gpipe(stages: int, microbatches: int) -> Rows:
    """All forwards, then all backwards (Huang et al., https://arxiv.org/abs/1811.06965).

    ::

        stage 0  F0 F1 F2 .. .. .. .. B0 B1 B2
        stage 1  .. F0 F1 F2 .. .. B0 B1 B2 ..
        stage 2  .. .. F0 F1 F2 B0 B1 B2 .. ..

    Examples
    --------
    >>> print(format_rows(gpipe(2, 2)))
    0F0 0F1 0B0 0B1
    1F0 1F1 1B0 1B1
    """
    return [[Operation(s, kind, k) for kind in "FB" for k in range(microbatches)] for s in range(stages)]


def one_f_one_b(stages: int, microbatches: int) -> Rows:
    """Warm up, then one forward and one backward in turn (PipeDream-flush, https://arxiv.org/abs/2006.09503).

    A stage holds at most ``stages - stage`` micro-batches, where GPipe holds all of them.

    ::

        stage 0  F0 F1 F2 .. .. B0 .. F3 B1 .. B2 .. B3
        stage 1  .. F0 F1 .. B0 F2 B1 .. F3 B2 .. B3 ..
        stage 2  .. .. F0 B0 F1 B1 F2 B2 F3 B3 .. .. ..

    Examples
    --------
    >>> print(format_rows(one_f_one_b(2, 3)))
    0F0 0F1 0B0 0F2 0B1 0B2
    1F0 1B0 1F1 1B1 1F2 1B2
    """
    return [_one_f_one_b_row(s, min(microbatches, stages - s), microbatches) for s in range(stages)]


def _one_f_one_b_row(stage: int, warm_up: int, microbatches: int) -> list[Operation]:
    row = [Operation(stage, "F", k) for k in range(warm_up)]
    for k in range(microbatches):
        row.append(Operation(stage, "B", k))
        if warm_up + k < microbatches:
            row.append(Operation(stage, "F", warm_up + k))
    return row


SCHEDULES: dict[str, Schedule] = {"naive": naive, "gpipe": gpipe, "1f1b": one_f_one_b}


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """Return the function of a registered name; a function is returned as it is.

    Raises
    ------
    MpsimError
        No schedule has that name.
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]


def format_rows(rows: Sequence[Sequence[Operation]]) -> str:
    """Write rows as text, a line a stage."""
    return "\n".join(" ".join(map(str, row)) for row in rows)


def parse_rows(text: str) -> Rows:
    """Read rows from text, a line a stage; commas and spaces separate, empty cells are skipped.

    Raises
    ------
    MpsimError
        A cell that is no operation.

    Examples
    --------
    >>> parse_rows("0F0 0B0")
    [[Operation(stage=0, kind='F', microbatch=0), Operation(stage=0, kind='B', microbatch=0)]]
    """
    return [[_parse_cell(cell) for cell in re.split(r"[,\s]+", line) if cell] for line in text.strip().splitlines()]


def _parse_cell(cell: str) -> Operation:
    match = re.fullmatch(r"(\d+)([FBIW])(\d+)", cell)
    if match is None:
        raise MpsimError(f"{cell!r} is no operation: write stage, F, B, I or W, micro-batch, as in '0F3'")
    return Operation(int(match[1]), match[2], int(match[3]))


def check_rows(rows: Sequence[Sequence[Operation]], stages: int, microbatches: int) -> None:
    """Refuse rows that are not one forward and one whole backward of every micro-batch on every stage, in order.

    Raises
    ------
    MpsimError
        The message names the stage and the operation.
    """
    if not isinstance(rows, list | tuple) or not all(isinstance(row, list | tuple) for row in rows):
        raise MpsimError(f"schedule returned a {type(rows).__name__}, expected a list with a list for each stage")
    if len(rows) != stages:
        raise MpsimError(f"schedule has {len(rows)} rows, the plan has {stages} stages: give one row a stage")
    for stage, row in enumerate(rows):
        for operation in row:
            _check_operation(operation, stage)
        _check_row(row, stage, microbatches)


def _check_operation(operation: object, stage: int) -> None:
    """Refuse what is no operation: a schedule may be anybody's function."""
    if not isinstance(operation, Operation):
        raise MpsimError(
            f"schedule: the row of stage {stage} holds {operation!r}: give Operation({stage}, 'F', 0), or read it with"
            " parse_rows"
        )
    if operation.kind not in ("F", "B", "I", "W"):
        raise MpsimError(f"schedule: {operation} is of kind {operation.kind!r}, expected F, B, I or W")


def _check_row(row: Sequence[Operation], stage: int, microbatches: int) -> None:
    done: set[tuple[str, int]] = set()
    for operation in row:
        kind, k = operation.kind, operation.microbatch
        if operation.stage != stage:
            raise MpsimError(f"schedule: {operation} stands in the row of stage {stage}")
        if not 0 <= k < microbatches:
            raise MpsimError(f"schedule: {operation} names micro-batch {k}, the plan has {microbatches}")
        if (kind, k) in done:
            raise MpsimError(f"schedule: {operation} stands twice in its row")
        needs = "I" if kind == "W" else "F"
        if kind != "F" and (needs, k) not in done:
            raise MpsimError(f"schedule: {operation} stands before {stage}{needs}{k}, which it needs")
        if (kind == "B" and ("I", k) in done) or (kind == "I" and ("B", k) in done):
            raise MpsimError(f"schedule: stage {stage} runs both 'B' and 'I' of micro-batch {k}: give B, or I and W")
        done.add((kind, k))
    for k in range(microbatches):
        if ("F", k) not in done:
            raise MpsimError(f"schedule: {stage}F{k} is missing")
        if ("B", k) not in done and not {("I", k), ("W", k)} <= done:
            raise MpsimError(f"schedule: the backward of micro-batch {k} on stage {stage} is missing or half done")
