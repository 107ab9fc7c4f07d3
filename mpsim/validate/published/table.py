"""Tables of published figures: CSV files with a head of lines that begin with ``#``, read cell by cell."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpsim.errors import MpsimError

__all__ = ["Row", "Table", "load_table", "numbers"]

_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes
    ----------
    cells : mapping of str to str
        By column.
    where : str
        Its file and line.

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
        return numbers(self.text(column), f"{self.where}: {column}", 1)[0]

    def real(self, column: str) -> float:
        """Return any finite number.

        Raises
        ------
        MpsimError
            It is none.
        """
        try:
            value = float(self.text(column))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MpsimError(f"{self.where}: {column} is {self.text(column)!r}, expected a number")
        return value

    def count(self, column: str, default: int | None = None) -> int:
        """Return a whole number, from 1 to a million; `default` of an empty cell.

        Raises
        ------
        MpsimError
            It is none.
        """
        text = self.text(column)
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (1 <= value <= _MOST and value == int(value)):
            raise MpsimError(f"{self.where}: {column} is {text!r}, expected a whole number from 1 to {_MOST:,}")
        return int(value)

    def all_numbers(self, column: str, count: int) -> list[float]:
        """Return as many numbers, which stand in one cell with blanks between.

        Raises
        ------
        MpsimError
            They are not as many, or no numbers.
        """
        return numbers(self.text(column), f"{self.where}: {column}", count)


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
    found = []
    for word in text.split():
        try:
            found.append(float(word))
        except ValueError:
            found.append(math.nan)
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
        The file cannot be read as CSV.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = tuple(line[1:].strip() for line in lines if line.startswith("#"))
        kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
        reader = csv.DictReader(io.StringIO("\n".join(line for _, line in kept)), restkey="", restval="")
        columns = tuple(reader.fieldnames or ())
        rows = tuple(
            Row({name: cell for name, cell in cells.items() if name}, f"{path.name}, line {number}")
            for (number, _), cells in zip(kept[1:], reader, strict=False)
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}") from None
    return Table(path.stem, columns, rows, head)
