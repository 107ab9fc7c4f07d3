"""Rows in a CSV file, written anew after each one, so that an interrupted validation goes on where it stopped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from mpsim.errors import MpsimError
from mpsim.files import in_cell, of_cell, read_text, write_text

__all__ = ["load_rows", "save_rows"]

_MOST_BYTES = 2**28
Row = TypeVar("Row")  # A dataclass of text, numbers, and numbers that may be missing.


def save_rows(path: str | Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write rows of one kind, such as `Comparison`, as CSV, whole or not at all.

    Raises
    ------
    MpsimError
        The file cannot be written there.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(kind), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row)  # type: ignore[call-overload]
        writer.writerow({name: in_cell(value) if isinstance(value, str) else value for name, value in cells.items()})
    write_text(path, text.getvalue())


def load_rows(path: str | Path, kind: type[Row]) -> tuple[Row, ...]:
    """Read the rows that `save_rows` wrote.

    Raises
    ------
    MpsimError
        No such file, other columns, or a cell that is not what its column holds.

    Examples
    --------
    >>> from mpsim.validate.compare import Comparison
    >>> load_rows("none.csv", Comparison)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'none.csv': a table of comparisons is written by mpsim validate -o
    """
    if not Path(path).is_file():
        raise MpsimError(f"no file {str(path)!r}: a table of comparisons is written by mpsim validate -o")
    columns = _columns(kind)
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, most=_MOST_BYTES), newline=""))
        if tuple(reader.fieldnames or ()) != tuple(columns):
            lost = next((name for name in columns if name not in (reader.fieldnames or ())), None)
            why = f"it has no column {lost!r}" if lost else "its columns are others, or in another order"
            raise MpsimError(f"{path} is not a table that this mpsim validate -o writes: {why}; name another file")
        return tuple(kind(**_row(f"{path}, line {line}", columns, cells)) for line, cells in enumerate(reader, 2))
    except csv.Error as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}") from None


def _columns(kind: type) -> dict[str, str]:
    """Return the fields of a kind of row, and what each holds."""
    return {field.name: str(field.type) for field in fields(kind)}


def _row(where: str, columns: Mapping[str, str], cells: dict[str, str]) -> dict[str, Any]:
    if None in cells or None in cells.values():
        raise MpsimError(f"{where}: not as many cells as columns: the file was cut or edited")
    return {name: _cell(f"{where}, {name}", what, cells[name]) for name, what in columns.items()}


def _cell(where: str, what: str, text: str) -> str | int | float | None:
    if what == "str":
        return of_cell(text)
    if what == "float | None" and text == "":
        return None
    try:
        if what == "int":
            return int(text)
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise MpsimError(f"{where}: {text!r} is not what this column holds: the file was edited")
