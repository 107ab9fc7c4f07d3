"""Sweeps in files: CSV or Parquet, by the file's suffix; each number as it is, to the last digit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpsim import documents
from mpsim.errors import MpsimError
from mpsim.sweeps.model import COLUMNS, COUNTS, FIRST, FLAGS, TEXTS, Row, SweepResult, finish

__all__ = ["SUFFIXES", "check_columns", "check_suffix", "csv_line", "load_sweep", "row_of", "save_sweep"]

SUFFIXES = (".csv", ".parquet")


def check_suffix(path: str | Path) -> None:
    """Refuse a file that no table can be written to, before anything is computed.

    Raises
    ------
    MpsimError
        A suffix other than ``.csv`` and ``.parquet``, or Parquet where pyarrow is not installed.

    Examples
    --------
    >>> check_suffix("table.xlsx")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot write a table to 'table.xlsx': its suffix is '.xlsx', expected .csv or .parquet
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise MpsimError(f"cannot write a table to {str(path)!r}: its suffix is {suffix!r}, expected .csv or .parquet")
    if suffix == ".parquet":
        _need_pyarrow()


def _need_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise MpsimError("Parquet needs pyarrow, which is not installed: pip install 'mpsim[parquet]', or use .csv")


def save_sweep(path: str | Path, result: SweepResult) -> None:
    """Write the rows as CSV or Parquet, by the suffix, whole or not at all.

    Raises
    ------
    MpsimError
        As `check_suffix`, or the file cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_sweep(folder + "/none.csv", SweepResult(rows=(), planned=0))
    ...     load_sweep(folder + "/none.csv").rows
    ()
    """
    check_suffix(path)
    if Path(path).suffix.lower() == ".csv":
        documents.write_text(path, _to_csv(result))
    else:
        with documents.writing(path) as file:
            file.write(_to_parquet(result))


def _to_csv(result: SweepResult) -> str:
    return csv_line(COLUMNS) + "".join(csv_line([row[name] for name in COLUMNS]) for row in result.rows)


def csv_line(cells: Sequence[Any]) -> str:
    """Return a line of a sweep's table.

    Examples
    --------
    >>> csv_line(["a", 1.0, None, "b,c"])
    'a,1.0,,"b,c"\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _to_parquet(result: SweepResult) -> bytes:
    data = io.BytesIO()
    result.to_frame().to_parquet(data, index=False)
    return data.getvalue()


def load_sweep(path: str | Path) -> SweepResult:
    """Read the rows of a sweep from CSV or Parquet; those of one that was stopped are ranked as far as they go.

    Raises
    ------
    MpsimError
        No such file, not a sweep's table, or a cell that is not what its column holds.

    Examples
    --------
    >>> load_sweep("none.csv")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'none.csv': a sweep's table is written by mpsim sweep -o
    """
    if not Path(path).is_file():
        raise MpsimError(f"no file {str(path)!r}: a sweep's table is written by mpsim sweep -o")
    rows = _read_parquet(path) if Path(path).suffix.lower() == ".parquet" else _read_csv(path)
    if not any(row["rank"] for row in rows):
        return finish(rows, len(rows), 1)
    return SweepResult(rows=tuple(rows), planned=len(rows))


def _read_csv(path: str | Path) -> list[Row]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        check_columns(path, reader.fieldnames or ())
        if not text.endswith("\n"):
            raise MpsimError(f"{path} ends within a line: it was cut; the same sweep again with -o goes on with it")
        return [row_of(path, number, row) for number, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}") from None


def check_columns(path: str | Path, names: Any, hint: str = "") -> None:
    """Refuse what is not a sweep's table; `hint` says what to do.

    Raises
    ------
    MpsimError
        A column is missing.
    """
    missing = [name for name in FIRST if name not in names]
    if missing:
        more = f"; {hint}" if hint else ""
        raise MpsimError(f"{path} has no column {missing[0]!r}: it is not a table that mpsim sweep -o wrote{more}")


def row_of(path: str | Path, line: int, cells: dict[str, Any]) -> Row:
    """Return the row of a line's cells, by their columns.

    Raises
    ------
    MpsimError
        Too few cells or too many, or one that is not what its column holds.
    """
    if None in cells or None in cells.values():
        raise MpsimError(f"{path}, line {line}: not as many cells as columns: the file was cut or edited")
    return {name: _cell(f"{path}, line {line}, {name}", name, cells.get(name, "")) for name in COLUMNS}


def _cell(where: str, name: str, text: str) -> Any:
    if text == "":
        return None
    if name in TEXTS:
        return text
    try:
        if name in FLAGS:
            return {"True": True, "False": False}[text]
        whole = name in COUNTS or text.isdecimal()  # Bytes stay whole numbers: a row is written again as it was.
        return _number(name, int(text) if whole else float(text))
    except (KeyError, OverflowError, ValueError):
        raise MpsimError(f"{where}: {text!r} is not what this column holds: the file was edited") from None


def _number(name: str, value: float) -> float:
    """Return a number that a sweep could have written; an overhead may be a rounding below zero."""
    if not math.isfinite(value) or (value < 0 and not name.startswith("communication_overhead")):
        raise ValueError
    return value


def _read_parquet(path: str | Path) -> list[Row]:
    _need_pyarrow()
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise MpsimError(f"cannot read {str(path)!r} as Parquet: {error}") from None
    check_columns(path, frame.columns)
    frame = frame.reindex(columns=list(COLUMNS)).astype("object")
    return [dict(zip(COLUMNS, row, strict=True)) for row in frame.where(frame.notna(), None).values.tolist()]
