"""Lists of failures in files: CSV or JSON, a time and what failed, or what was slow, by how much, for how long."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError, at, did_you_mean
from mpsim.failures.model import Event
from mpsim.files import read_text
from mpsim.units import duration

__all__ = ["load_events"]

_COLUMNS = ("at", "what", "factor", "lasting")
_MOST_BYTES = 100_000_000


def load_events(path: str | Path) -> tuple[Event, ...]:
    """Read failures: a CSV whose heading is ``at,what`` or ``at,what,factor,lasting``, or a JSON list of such objects.

    Times have units (``3h``, ``90 min``); what failed is a device's name, ``node:0`` or a link ``a->b``; with a factor
    the device is slow instead, for as long as `lasting` says.

    Raises
    ------
    MpsimError
        No such file, or a row that says no event; with its number.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("at,what,factor,lasting\\n3h,d1,,\\n1 day,d0,1.5,10min\\n")
    ...     file.flush()
    ...     [(one.at_s, one.what, one.factor) for one in load_events(file.name)]
    [(10800.0, 'd1', 1.0), (86400.0, 'd0', 1.5)]
    """
    text = _read(Path(path))
    try:
        rows = _of_json(text) if text.lstrip()[:1] in ("[", "{") else _of_csv(text)
        if not rows:
            raise MpsimError("it lists no failures")
        return tuple(_event(number, row) for number, row in enumerate(rows, 1))
    except MpsimError as error:
        raise at(str(path), error) from None


def _read(path: Path) -> str:
    return read_text(path, "name a CSV of at,what", most=_MOST_BYTES, missing=lambda: ": write a CSV of at,what")


def _of_json(text: str) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MpsimError(
            f"it is not whole JSON ({type(error).__name__}): write a list of objects with at and what"
        ) from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise MpsimError('it is no list of objects: write [{"at": "3h", "what": "d1"}]')
    return found


def _of_csv(text: str) -> list[Mapping[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise MpsimError(f"it is no CSV: {error}") from None
    return [row for row in rows if any(row.values())]


def _event(number: int, row: Mapping[Any, Any]) -> Event:
    for name in row:
        if name not in _COLUMNS:
            known = did_you_mean(str(name)[:40], _COLUMNS)
            raise MpsimError(f"row {number} has more columns than at, what, factor, lasting: {str(name)[:40]!r}{known}")
    found = {name: value.strip() if isinstance(value, str) else value for name, value in row.items()}
    try:
        what = found.get("what")
        if not isinstance(what, str) or not what:
            raise MpsimError("nothing is said to fail: name a device, node:0 or a link a->b under 'what'")
        return Event(
            at_s=duration(_text(found.get("at"), "at"), "at"),
            what=what,
            factor=_factor(found.get("factor")),
            lasting_s=duration(_text(found.get("lasting") or 0, "lasting"), "lasting"),
        )
    except MpsimError as error:
        raise at(f"row {number}", error) from None


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MpsimError(f"{name!r} is {str(value)[:40]!r}, expected a time such as '3h'")
    return str(value)


def _factor(value: Any) -> float:
    if value in (None, ""):
        return 1.0
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise MpsimError(f"factor is {str(value)[:40]!r}, expected a number such as 1.5") from None
