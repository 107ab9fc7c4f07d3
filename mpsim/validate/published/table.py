"""Tables of published figures: CSV files with a head of lines that begin with ``#``, read cell by cell."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from mpsim.errors import MpsimError
from mpsim.files import read_text

__all__ = ["Row", "Table", "load_table", "numbers"]

_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; hashable, so that what a row sets can be kept.

    Attributes
    ----------
    cells : mapping of str to str
        By column.
    where : str
        Its file and line.
    extra : int
        Cells beyond the last column. Then a comma stands too much and others may be in the wrong columns: no number is
        read of it.

    Examples
    --------
    >>> row = Row({"tp": "4", "time": "1.5"}, "a.csv, line 3")
    >>> row.count("tp"), row.number("time")
    (4, 1.5)
    >>> row.count("time")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: a.csv, line 3: time is '1.5', expected a whole number from 1 to 1,000,000
    """

    cells: Mapping[str, str]
    where: str
    extra: int = 0

    def __hash__(self) -> int:
        return hash((frozenset(self.cells.items()), self.where, self.extra))

    def same(self, other: Row, columns: Iterable[str]) -> bool:
        """Return whether two rows say the same in these columns, however their numbers are written.

        Examples
        --------
        >>> Row({"tp": "4", "note": "a"}, "").same(Row({"tp": " 4.0"}, ""), ["tp"])
        True
        """
        return all(_value(self.text(column)) == _value(other.text(column)) for column in columns)

    def text(self, column: str) -> str:
        """Return a cell; ``""`` where the table has no such column."""
        return (self.cells.get(column) or "").strip()

    def number(self, column: str) -> float:
        """Return a number, more than 0.

        Raises
        ------
        MpsimError
            It is none.
        """
        return self.all_numbers(column, 1)[0]

    def real(self, column: str, least: float = -math.inf) -> float:
        """Return any finite number from `least`.

        Raises
        ------
        MpsimError
            It is none.
        """
        text = self._figure(column)
        value = _float(text)
        if not (math.isfinite(value) and value >= least):
            wanted = "a number" if least == -math.inf else f"a number from {least:g}"
            raise MpsimError(f"{self.where}: {column} is {text!r}, expected {wanted}")
        return value

    def count(self, column: str, default: int | None = None) -> int:
        """Return a whole number, from 1 to a million; `default` of an empty cell.

        Raises
        ------
        MpsimError
            It is none.
        """
        text = self._figure(column)
        if not text and default is not None:
            return default
        value = _float(text)
        if not (1 <= value <= _MOST and value == int(value)):
            raise MpsimError(f"{self.where}: {column} is {text!r}, expected a whole number from 1 to {_MOST:,}")
        return int(value)

    def check_gpus(self, devices: int) -> None:
        """Refuse a row whose ``n_gpus``, where there is one, is not the product of its degrees: one is misnamed.

        Raises
        ------
        MpsimError
            They differ.
        """
        if self.count("n_gpus", devices) != devices:
            raise MpsimError(f"{self.where}: has {self.text('n_gpus')} GPUs, what is read of it comes to {devices:,}")

    def all_numbers(self, column: str, count: int) -> list[float]:
        """Return as many numbers, which stand in one cell with blanks between.

        Raises
        ------
        MpsimError
            They are not as many, or no numbers.
        """
        return numbers(self._figure(column), f"{self.where}: {column}", count)

    def _figure(self, column: str) -> str:
        if self.extra:
            count = len(self.cells)
            raise MpsimError(
                f"{self.where}: {count + self.extra} cells in {count} columns: quote what has a comma in it"
            )
        return self.text(column)


def _float(text: str) -> float:
    """Return a number; NaN of what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _value(text: str) -> float | str:
    value = _float(text)
    return text if math.isnan(value) else value


def numbers(text: str, what: str, count: int) -> list[float]:
    """Return the numbers of a text, each finite and more than 0.

    Raises
    ------
    MpsimError
        They are not as many, or no such numbers.

    Examples
    --------
    >>> numbers("1 2.5", "times", 2)
    [1.0, 2.5]
    """
    found = [_float(word) for word in text.split()]
    if len(found) != count or not all(0 < one < math.inf for one in found):
        wanted = "a number more than 0" if count == 1 else f"{count} numbers more than 0"
        raise MpsimError(f"{what} is {text!r}, expected {wanted}")
    return found


@dataclass(frozen=True, slots=True)
class Table:
    """A table of published figures.

    Attributes
    ----------
    name : str
        Of its file, without the suffix.
    columns : tuple of str
    rows : tuple of Row
    head : tuple of str
        The lines of its head: where it is from.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    head: tuple[str, ...] = ()


def load_table(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    MpsimError
        The file cannot be read as CSV, or has a column twice.
    """
    try:
        lines = read_text(path).splitlines()
        head = tuple(line[1:].strip() for line in lines if line.startswith("#"))
        kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
        reader = csv.reader(io.StringIO("\n".join(line for _, line in kept)), strict=True)
        columns = tuple(next(reader, ()))
        rows = tuple(_row(columns, cells, f"{path.name}, line {kept[reader.line_num - 1][0]}") for cells in reader)
    except csv.Error as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}") from None
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise MpsimError(f"has the column {twice[0]!r} twice")
    return Table(path.stem, columns, rows, head)


def _row(columns: Sequence[str], cells: Sequence[str], where: str) -> Row:
    """Return a row; one that ends early has nothing in its last columns."""
    named = {name: cell for name, cell in zip_longest(columns, cells[: len(columns)], fillvalue="") if name}
    return Row(named, where, max(0, len(cells) - len(columns)))
