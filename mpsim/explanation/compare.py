"""Why one plan is faster than another: their accounts side by side, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.explanation.model import PARTS, Part
from mpsim.result.text import format_percent
from mpsim.units import format_duration

__all__ = ["Beside", "side_by_side", "why"]

# A cause is told while those before it explain less than this of the difference and of what speaks against it; what
# does, if it is as much as that of the difference.
_ENOUGH, _AGAINST, _MOST = 0.8, 0.1, 3
_SAME = 1e-3


class Beside(NamedTuple):
    """One part of both steps, in seconds; 0 where a step has no such part."""

    label: str
    a_s: float
    b_s: float


def side_by_side(a: Sequence[Part], b: Sequence[Part]) -> tuple[Beside, ...]:
    """Return the parts of two steps, each part of either once, in the order of `PARTS`.

    Examples
    --------
    >>> side_by_side([Part(name="compute", seconds=2.0)], [Part(name="bubble", seconds=1.0)])
    (Beside(label='computing', a_s=2.0, b_s=0.0), Beside(label='pipeline bubble', a_s=0.0, b_s=1.0))
    """
    order = list(PARTS)
    keys = dict.fromkeys((part.name, part.label) for part in (*a, *b))
    sides = [{(part.name, part.label): part.seconds for part in parts} for parts in (a, b)]
    found = [Beside(label, sides[0].get((name, label), 0.0), sides[1].get((name, label), 0.0)) for name, label in keys]
    places = [order.index(name) for name, _ in keys]
    return tuple(one for _, one in sorted(zip(places, found, strict=True), key=lambda pair: pair[0]))


def why(rows: Sequence[Beside], a_s: float, b_s: float, names: tuple[str, str] = ("A", "B")) -> str:
    """Say in one sentence why the faster of two steps is faster.

    Examples
    --------
    >>> why([Beside("computing", 2.0, 2.0), Beside("exposed tp all_reduce", 1.0, 2.0)], 3.0, 4.0)
    'A takes 1 s less than B (25.0 %): 1 s less exposed tp all_reduce.'
    """
    faster, slower = (0, 1) if a_s <= b_s else (1, 0)
    saved = sorted((((row.b_s - row.a_s) * (1 if faster == 0 else -1), row.label) for row in rows), reverse=True)
    gained = abs(b_s - a_s)
    if gained <= _SAME * max(a_s, b_s):
        return f"{names[0]} and {names[1]} take equally long{_but(rows, max(a_s, b_s))}."
    against = [one for one in reversed(saved) if -one[0] >= _AGAINST * gained][: _MOST - 1]
    due = _ENOUGH * (gained - sum(seconds for seconds, _ in against))
    causes: list[tuple[float, str]] = []
    while saved and saved[0][0] > 0 and len(causes) < _MOST and sum(one for one, _ in causes) < due:
        causes.append(saved.pop(0))
    text = _listed("less", causes)
    text += f", though {_listed('more', against)}" if against else ""
    fraction = format_percent(gained / max(a_s, b_s))
    return f"{names[faster]} takes {format_duration(gained)} less than {names[slower]} ({fraction}): {text}."


def _listed(word: str, causes: Sequence[tuple[float, str]]) -> str:
    each = [f"{format_duration(abs(seconds))} {word} {label}" for seconds, label in causes]
    return " and ".join(filter(None, (", ".join(each[:-1]), *each[-1:])))


def _but(rows: Sequence[Beside], whole_s: float) -> str:
    """Say by what they differ though they take equally long, where that is worth saying."""
    less = max(rows, key=lambda row: row.b_s - row.a_s, default=None)
    more = max(rows, key=lambda row: row.a_s - row.b_s, default=None)
    if less is None or more is None or less.b_s - less.a_s <= 0.01 * whole_s:
        return ""
    return (
        f": A has {format_duration(less.b_s - less.a_s)} less {less.label}"
        f" and {format_duration(more.a_s - more.b_s)} more {more.label}"
    )
