"""Traces in the Chrome trace-event format: what stands in them, before it is known who wrote them.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.files import parse_json, read_bytes

__all__ = ["Around", "Slice", "read_json", "read_trace", "slices"]


_MOST_US = 1e18  # Thirty thousand years: no number of microseconds since any clock began.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """One complete event: something that ran on one thread of one process, in microseconds; no two are equal."""

    name: str
    category: str = ""
    thread: tuple[str, str] = ("", "")
    start_us: float
    duration_us: float
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end_us(self) -> float:
        """When it ended."""
        return self.start_us + self.duration_us


def read_trace(path: str | Path) -> dict[str, Any]:
    """Return a trace's whole object; it may be compressed by gzip.

    Raises
    ------
    MpsimError
        No such file, cut, or no trace.

    Examples
    --------
    >>> read_trace("nowhere.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot read 'nowhere.json': No such file or directory
    """
    found = read_json(path)
    if isinstance(found, list):  # the format's other form: events alone
        found = {"traceEvents": found}
    if not isinstance(found, dict) or not isinstance(found.get("traceEvents"), list):
        raise MpsimError(f"{path} is no trace: it has no list of traceEvents")
    return found


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds; it may be compressed by gzip.

    Raises
    ------
    MpsimError
        No such file, cut, or no JSON.
    """
    data = read_bytes(path)
    try:
        return parse_json(data)
    except json.JSONDecodeError as error:
        raise MpsimError(f"{path} is not whole JSON (line {error.lineno}: {error.msg}): it was cut or edited") from None
    except ValueError as error:
        raise MpsimError(f"{path} cannot be read: {error}") from None


def slices(trace: Mapping[str, Any], path: str | Path) -> list[Slice]:
    """Return a trace's complete events, by start, the longer first.

    Raises
    ------
    MpsimError
        An event without a name or a time.
    """
    found = []
    for i, event in enumerate(trace["traceEvents"]):
        if not isinstance(event, dict):
            raise MpsimError(f"{path}: traceEvents[{i}] is no object: the file was edited")
        if event.get("ph") == "X":
            found.append(_slice(event, f"{path}: traceEvents[{i}] ({event.get('name')!r})"))
    return sorted(found, key=lambda one: (one.start_us, -one.duration_us))


def _slice(event: Mapping[str, Any], where: str) -> Slice:
    start, duration, args = event.get("ts"), event.get("dur", 0), event.get("args", {})
    for what, value in (("ts", start), ("dur", duration)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST_US:
            raise MpsimError(f"{where} has {repr(value)[:40]} as {what}, expected microseconds")
    if duration < 0:
        raise MpsimError(f"{where} lasts {duration} us, expected 0 or more")
    return Slice(
        name=str(event.get("name", "")),
        category=str(event.get("cat", "")),
        thread=(str(event.get("pid", "")), str(event.get("tid", ""))),
        start_us=float(start or 0.0),
        duration_us=float(duration),
        args=args if isinstance(args, dict) else {},
    )


class Around:
    """Finds, of some slices, those around or inside others.

    Examples
    --------
    >>> outer = Slice(name="outer", start_us=0.0, duration_us=10.0)
    >>> inner = Slice(name="inner", start_us=4.0, duration_us=1.0)
    >>> Around([outer]).of(inner).name, [one.name for one in Around([outer, inner]).inside(outer)]
    ('outer', ['outer', 'inner'])
    """

    def __init__(self, found: Iterable[Slice]) -> None:
        self._by_thread: dict[tuple[str, str], list[Slice]] = defaultdict(list)
        for one in sorted(found, key=lambda one: one.start_us):
            self._by_thread[one.thread].append(one)

    def of(self, other: Slice) -> Slice | None:
        """Return the slice in which `other` began; where slices lie in each other, the last to begin or none."""
        mine = self._by_thread.get(other.thread, [])
        at = bisect_right(mine, other.start_us, key=lambda one: one.start_us) - 1
        return mine[at] if at >= 0 and other.start_us < mine[at].end_us else None

    def inside(self, outer: Slice) -> list[Slice]:
        """Return the slices that began in `outer`, in order."""
        mine = self._by_thread.get(outer.thread, [])
        first = bisect_left(mine, outer.start_us, key=lambda one: one.start_us)
        return mine[first : bisect_left(mine, outer.end_us, key=lambda one: one.start_us)]
