"""Sweeps in files: CSV or Parquet, by the file's suffix; each number as it is, to the last digit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpsim.calls import checked
from mpsim.documents import in_order
from mpsim.errors import MpsimError
from mpsim.files import in_cell, of_cell, read_bytes, read_text, write_text, writing
from mpsim.sweeps.model import COLUMNS, COUNTS, FIRST, FLAGS, TEXTS, Row, SweepResult, finish, frame_of

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


@checked
def save_sweep(path: str | Path | SweepResult, result: SweepResult | str | Path) -> None:
    """Write the rows as CSV or Parquet, by the suffix, whole or not at all; the sweep may come first.

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
    where, held = in_order(path, result, SweepResult)
    check_suffix(where)
    if Path(where).suffix.lower() == ".csv":
        write_text(where, _to_csv(held))
    else:
        with writing(where) as file:
            file.write(_to_parquet(held))


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
    cells = [in_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _to_parquet(result: SweepResult) -> bytes:
    data = io.BytesIO()
    frame_of(result.rows).to_parquet(data, index=False)
    return data.getvalue()


@checked
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
        text = read_text(path, most=_MOST_BYTES)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        check_columns(path, reader.fieldnames or ())
        if not text.endswith("\n"):
            raise MpsimError(f"{path} ends within a line: it was cut; the same sweep again with -o goes on with it")
        return [row_of(path, number, row) for number, row in enumerate(reader, 2)]
    except csv.Error as error:
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
    lost = [name for name in COLUMNS if name not in names]
    other = [name for name in names if name not in COLUMNS]
    if lost and other:
        raise MpsimError(f"{path} has a column {other[0]!r} and none {lost[0]!r}: was it renamed? sweep again")
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise MpsimError(f"{path} has the column {twice!r} twice: keep one of them")


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
        return of_cell(text)
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


_MOST_ROWS, _MOST_BYTES = 10_000_000, 2**28


def _frame(path: str | Path, data: bytes) -> Any:
    """Return the columns of a sweep's; a few bytes of Parquet may say that a row stands there any number of times."""
    from pyarrow import parquet

    file = parquet.ParquetFile(io.BytesIO(data))
    check_columns(path, file.schema_arrow.names)
    if file.metadata.num_rows > _MOST_ROWS:
        raise MpsimError(f"{path} has {file.metadata.num_rows:,} rows, {_MOST_ROWS:,} at most are read")
    return file.read(columns=[name for name in COLUMNS if name in file.schema_arrow.names]).to_pandas()


def _read_parquet(path: str | Path) -> list[Row]:
    _need_pyarrow()
    data = read_bytes(path)
    try:
        frame = _frame(path, data)
    except MpsimError:
        raise
    except Exception as error:  # Whatever pyarrow makes of a damaged file.
        raise MpsimError(f"cannot read {str(path)!r} as Parquet: {error}") from None
    frame = frame.reindex(columns=list(COLUMNS)).astype("object")
    rows = frame.where(frame.notna(), None).values.tolist()
    return [
        {name: _value(f"{path}, row {i}, {name}", name, value) for name, value in zip(COLUMNS, row, strict=True)}
        for i, row in enumerate(rows, 1)
    ]


def _value(where: str, name: str, value: Any) -> Any:
    """Return a value of Parquet, which has types, but not always ours."""
    if value is None or (name in TEXTS and isinstance(value, str)) or (name in FLAGS and isinstance(value, bool)):
        return value
    try:
        if name in TEXTS or name in FLAGS or isinstance(value, str | bool):
            raise ValueError
        return _number(name, int(value) if name in COUNTS else float(value))
    except (TypeError, ValueError, OverflowError):
        raise MpsimError(f"{where}: {str(value)[:40]!r} is not what this column holds: the file was edited") from None
