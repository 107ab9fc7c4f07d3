"""Operations and rows of them, and both as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpsim.errors import MpsimError

__all__ = ["KINDS", "Operation", "Rows", "Schedule", "format_rows", "parse_cell", "parse_rows"]

KINDS = ("F", "B", "I", "W", "U")


class Operation(NamedTuple):
    """One pass of one micro-batch through one stage.

    Attributes
    ----------
    stage : int
        A virtual stage: a rank may hold several.
    kind : str
        F: forward; B: backward, or its two parts, I: with respect to inputs, and W: with respect to weights; U: the
        stage's parameters are updated with what it has accumulated, in schedules that do not wait for the step's end.
    microbatch : int
        From 0.
    overlaps : bool
        This and the next operation of the row share a cell: one computes while the other's messages are under way.

    Examples
    --------
    >>> str(Operation(0, "F", 3)), str(Operation(0, "F", 3, overlaps=True))
    ('0F3', '0F3+')
    """

    stage: int
    kind: str
    microbatch: int
    overlaps: bool = False

    def __repr__(self) -> str:
        more = ", overlaps=True" if self.overlaps else ""
        return f"Operation(stage={self.stage!r}, kind={self.kind!r}, microbatch={self.microbatch!r}{more})"

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}{'+' if self.overlaps else ''}"


Rows = list[list[Operation]]
# (ranks, microbatches[, chunks]) -> rows
Schedule = Callable[..., Rows]


def format_rows(rows: Sequence[Sequence[Operation]]) -> str:
    """Write rows as text, a line a rank.

    Examples
    --------
    >>> print(format_rows([[Operation(0, "F", 1, overlaps=True), Operation(0, "B", 0), Operation(0, "B", 1)]]))
    0F1+0B0 0B1
    """
    return "\n".join(" ".join(map(str, row)).replace("+ ", "+") for row in rows)


def parse_rows(text: str) -> Rows:
    """Read rows from text, a line a rank; commas and spaces separate, empty cells are skipped.

    Raises
    ------
    MpsimError
        A cell that is no operation.

    Examples
    --------
    >>> parse_rows("0F0 0B0")
    [[Operation(stage=0, kind='F', microbatch=0), Operation(stage=0, kind='B', microbatch=0)]]
    >>> [str(operation) for operation in parse_rows("0F1+0B0")[0]]
    ['0F1+', '0B0']
    """
    return [
        [operation for cell in re.split(r"[,\s]+", line) if cell for operation in parse_cell(cell)]
        for line in text.strip().splitlines()
    ]


def parse_cell(cell: str) -> list[Operation]:
    """Read the operation of a cell, or the two that share it.

    Raises
    ------
    MpsimError
        It is neither.

    Examples
    --------
    >>> parse_cell("0G0")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: '0G0' is no operation: write stage, F, B, I, W or U, micro-batch, as in '0F3'
    """
    parts = [re.fullmatch(r"(\d{1,9})([FBIWU])(\d{1,9})", part, re.ASCII) for part in cell.split("+")]
    if None in parts or len(parts) > 2:
        raise MpsimError(f"{cell!r} is no operation: write stage, F, B, I, W or U, micro-batch, as in '0F3'")
    found = [Operation(int(part[1]), part[2], int(part[3])) for part in parts if part]
    return [found[0]._replace(overlaps=len(found) > 1), *found[1:]]
