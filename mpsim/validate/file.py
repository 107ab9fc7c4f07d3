"""Rows in a CSV file, written anew after each one, so that an interrupted validation goes on where it stopped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from mpsim import documents
from mpsim.errors import MpsimError
from mpsim.validate.compare import Comparison

__all__ = ["load_comparisons", "save_comparisons"]

_KINDS = {field.name: str(field.type) for field in fields(Comparison)}


def save_comparisons(path: str | Path, rows: Sequence[Comparison]) -> None:
    """Write rows as CSV, whole or not at all.

    Raises
    ------
    MpsimError
        The file cannot be written there.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _KINDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    documents.write_text(path, text.getvalue())


def load_comparisons(path: str | Path) -> tuple[Comparison, ...]:
    """Read the rows that `save_comparisons` wrote.

    Raises
    ------
    MpsimError
        No such file, other columns, or a cell that is not what its column holds.

    Examples
    --------
    >>> load_comparisons("none.csv")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'none.csv': a table of comparisons is written by mpsim validate emulated -o
    """
    if not Path(path).is_file():
        raise MpsimError(f"no file {str(path)!r}: a table of comparisons is written by mpsim validate emulated -o")
    try:
        reader = csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8"), newline=""))
        if tuple(reader.fieldnames or ()) != tuple(_KINDS):
            raise MpsimError(f"{path} is not a table that mpsim validate emulated -o wrote: name another file")
        return tuple(_row(f"{path}, line {line}", cells) for line, cells in enumerate(reader, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}") from None


def _row(where: str, cells: dict[str, str]) -> Comparison:
    if None in cells or None in cells.values():
        raise MpsimError(f"{where}: not as many cells as columns: the file was cut or edited")
    return Comparison(**{name: _cell(where, name, cells[name]) for name in _KINDS})  # type: ignore[arg-type]


def _cell(where: str, name: str, text: str) -> str | int | float | None:
    kind = _KINDS[name]
    if kind == "str":
        return text
    if kind == "float | None" and text == "":
        return None
    try:
        if kind == "int":
            return int(text)
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise MpsimError(f"{where}, {name}: {text!r} is not what this column holds: the file was edited")
