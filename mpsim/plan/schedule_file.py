"""Schedules as files: the CSV of ``torch.distributed.pipelining``, a line a rank, a cell an operation.

torch writes two forms (``_dump_csv``): computations alone, with an empty cell where a rank has a bubble, and
computations with messages, gathers and reductions between them. Both are read, and what is no computation is skipped:
mpsim finds out itself what to send. https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpsim.errors import MpsimError, at
from mpsim.files import read_text, write_text
from mpsim.plan.checks import check_form, check_rows
from mpsim.plan.operations import Operation, Rows, Schedule, format_rows, parse_cell, parse_rows

__all__ = [
    "GivenRows",
    "given_schedule",
    "microbatches_of",
    "read_schedule",
    "rows_schedule",
    "schedule_csv",
    "write_schedule",
]

_OVERLAPPED = re.compile(r"\(([^;()]+);([^;()]+)\)OVERLAP_F_B")
_SKIPPED = re.compile(r"\d+(UNSHARD|RESHARD|REDUCE_GRAD|SEND_F|RECV_F|SEND_B|RECV_B)\d*", re.ASCII)


def read_schedule(path: str | Path) -> Rows:
    """Read the rows of a schedule from CSV.

    Raises
    ------
    MpsimError
        Names the file, and the line and cell that is no operation; or says why the rows are no schedule.

    Examples
    --------
    >>> import tempfile
    >>> from mpsim.plan.schedules import format_rows, gpipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_schedule(Path(folder) / "mine.csv", gpipe(2, 1))
    ...     print(format_rows(read_schedule(Path(folder) / "mine.csv")))
    0F0 0B0
    1F0 1B0
    """
    text = read_text(path)
    rows: Rows = []
    # One by one: cells hold no line ends, and a quote that is not closed would swallow the lines behind it.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            cells = next(csv.reader([line.rstrip("\r")], strict=True), [])
        except csv.Error as error:
            raise MpsimError(f"{path}, line {number}: {error}: give cells such as 0F3, with commas between") from None
        rows.append([one for i, cell in enumerate(cells, start=1) for one in _read(cell.strip(), path, number, i)])
    try:
        check_rows(rows, len(rows), microbatches_of(rows))
    except MpsimError as error:
        raise at(str(path), error) from None
    return rows


def _read(cell: str, path: str | Path, line: int, place: int) -> list[Operation]:
    if not cell or _SKIPPED.fullmatch(cell):
        return []
    shared = _OVERLAPPED.fullmatch(cell)
    try:
        return parse_cell("+".join(part.strip() for part in shared.groups()) if shared else cell)
    except MpsimError as error:
        raise MpsimError(f"{path}, line {line}, cell {place}: {error}") from None


def write_schedule(path: str | Path, rows: Sequence[Sequence[Operation]]) -> None:
    """Write rows as torch's CSV of computations alone; torch knows no U, and reads all else.

    Raises
    ------
    MpsimError
        The place cannot be written.
    """
    write_text(path, schedule_csv(rows))


def schedule_csv(rows: Sequence[Sequence[Operation]]) -> str:
    """Return rows as torch's CSV of computations alone.

    Examples
    --------
    >>> schedule_csv(parse_rows("0F0+0B0 0B1"))
    '(0F0;0B0)OVERLAP_F_B,0B1\\n'
    """
    lines = []
    for row in rows:
        cells, before = [], ""
        for operation in row:
            if operation.overlaps:
                before = str(operation).removesuffix("+")
                continue
            cells.append(f"({before};{operation})OVERLAP_F_B" if before else str(operation))
            before = ""
        lines.append(",".join(cells) + "\n")
    return "".join(lines)


def microbatches_of(rows: Sequence[Sequence[Operation]]) -> int:
    """Return how many micro-batches rows are for: the highest number that they name, and one.

    Examples
    --------
    >>> microbatches_of([[Operation(0, "F", 3)]])
    4
    """
    return max((operation.microbatch for row in rows for operation in row), default=-1) + 1


def rows_schedule(rows: Sequence[Sequence[Operation]], name: str = "rows") -> GivenRows:
    """Return a schedule that gives these rows, for the ranks and micro-batches that they are for.

    Raises
    ------
    MpsimError
        The rows are no schedule.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> mine = rows_schedule(gpipe(2, 3))
    >>> mine(2, 3) == gpipe(2, 3)
    True
    >>> mine(2, 4)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: the schedule's rows are for 2 ranks and 3 micro-batches, not for 2 and 4: change the plan,\
 or give other rows
    """
    check_form(rows)
    check_rows(rows, len(rows), microbatches_of(rows))
    return GivenRows(tuple(map(tuple, rows)), name)


@dataclass(frozen=True, slots=True)
class GivenRows:
    """A schedule that knows one answer: a value, so that it can be compared, hashed and sent to other processes.

    Attributes
    ----------
    rows : tuple of tuple of Operation
        A row for each pipeline rank.
    name : str
        What results call it.
    """

    rows: tuple[tuple[Operation, ...], ...]
    name: str = "rows"

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def ranks(self) -> int:
        """For how many pipeline ranks it is."""
        return len(self.rows)

    @property
    def microbatches(self) -> int:
        """For how many micro-batches it is."""
        return microbatches_of(self.rows)

    def as_document(self) -> str:
        """Return the rows as text, a line a rank: what a plan's file holds."""
        return format_rows(self.rows)

    def __call__(self, ranks: int, microbatches: int, chunks: int | None = None) -> Rows:
        """Return the rows, for what they are for alone."""
        own = (len(self.rows), microbatches_of(self.rows))
        if (ranks, microbatches) != own:
            raise MpsimError(
                f"the schedule's rows are for {own[0]} ranks and {own[1]} micro-batches, not for {ranks} and"
                f" {microbatches}: change the plan, or give other rows"
            )
        stages = len({operation.stage for row in self.rows for operation in row})
        if chunks is not None and ranks * chunks != stages:
            raise MpsimError(
                f"the schedule's rows have {stages} stages on {ranks} ranks, not {chunks} a rank: leave the number out"
            )
        return [list(row) for row in self.rows]


_ROWS = re.compile(r"\s*\d+[FBIWU]\d+")


def given_schedule(schedule: str | Schedule | Sequence[Sequence[Operation]]) -> str | Schedule:
    """Return a schedule as a plan holds it: rows, their text, and a CSV file's name become what gives the rows.

    Raises
    ------
    MpsimError
        The file cannot be read, or the rows are no schedule.

    Examples
    --------
    >>> given_schedule("gpipe"), given_schedule("0F0 0B0").ranks
    ('gpipe', 1)
    """
    if isinstance(schedule, list | tuple):
        return rows_schedule(schedule)
    if isinstance(schedule, str) and schedule.lower().endswith(".csv"):
        return rows_schedule(read_schedule(schedule), Path(schedule).stem)
    if isinstance(schedule, str) and _ROWS.match(schedule):
        return rows_schedule(parse_rows(schedule))
    return schedule  # type: ignore[return-value]
