"""Scaling: what the best plan of each number of devices brings, beside what it would if nothing were lost."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from markupsafe import Markup

from mpsim.report.markup import element, picture
from mpsim.sweeps.model import Row
from mpsim.units import format_duration

__all__ = ["scaling"]

_FURTHEST = 2.0**40
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 960.0, 340.0, 60.0, 34.0, 20.0, 60.0


def scaling(rows: Sequence[Row]) -> Markup | None:
    """Return the picture of the best plans by their devices, both axes in powers of two; None for fewer than two."""
    rows = [row for row in rows if row["step_s"] and row["n_devices"]]
    if len({row["n_devices"] for row in rows}) < 2:
        return None
    known = [row["speedup"] for row in rows]
    # Without a baseline it is over the plan of the fewest devices.
    gains = known if all(known) else [rows[0]["step_s"] / row["step_s"] for row in rows]
    first, last = rows[0]["n_devices"], rows[-1]["n_devices"]
    ideal = [gains[0], gains[0] * last / first]
    low, high = min(*gains, *ideal), max(*gains, *ideal)
    if not (1 / _FURTHEST < low < high < _FURTHEST and last / first < _FURTHEST):
        return None  # no cluster's

    def x(devices: float) -> float:
        return _LEFT + log2(devices / first) / log2(last / first) * (_WIDTH - _LEFT - _RIGHT)

    def y(gain: float) -> float:
        return _HEIGHT - _BOTTOM - log2(gain / low) / log2(high / low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for row in _apart(rows, x):
        parts.append(element("text", f"{row['n_devices']:,.0f}", x=x(row["n_devices"]), y=_HEIGHT - 14, class_="tick"))
    parts.append(element("text", "devices", x=_WIDTH - 2, y=_HEIGHT - 2, class_="end"))
    parts += [_gain_mark(gain, y(gain)) for gain in _powers(low, high)]
    parts.append(element("path", d=_path([(x(first), y(ideal[0])), (x(last), y(ideal[1]))]), class_="ideal"))
    parts.append(element("text", "nothing lost", x=x(last) - 4, y=y(ideal[1]) - 6, class_="end"))
    points = [(x(row["n_devices"]), y(gain)) for row, gain in zip(rows, gains, strict=True)]
    parts.append(element("path", d=_path(points), class_="line"))
    for row, gain, (left, top) in zip(rows, gains, points, strict=True):
        told = f"{row['n_devices']:,.0f} devices: {row['plan']}, {format_duration(row['step_s'])}, {gain:.2f}x"
        parts.append(element("circle", element("title", told), cx=left, cy=top, r=5, class_="point"))
    for row in _apart(rows, x):
        gain = gains[rows.index(row)]
        parts.append(element("text", f"{gain:.3g}x", x=x(row["n_devices"]), y=y(gain) - 10, class_="tick"))
    words = (
        f"Speedup by number of devices, from {gains[0]:.3g}x on {first:,.0f} to {gains[-1]:.3g}x on {last:,.0f} devices"
    )
    return picture(_WIDTH, _HEIGHT, words, parts)


def _apart(rows: Sequence[Row], x: object) -> list[Row]:
    """Return the rows whose labels have room, the last one among them."""
    assert callable(x)
    found: list[Row] = []
    for row in reversed(rows):
        if not found or x(found[-1]["n_devices"]) - x(row["n_devices"]) > 44:
            found.append(row)
    return found[::-1]


def _powers(low: float, high: float) -> list[float]:
    found, power = [], 2.0 ** int(log2(low) - 1)
    while power <= high * 1.0001:
        if power >= low * 0.9999:
            found.append(power)
        power *= 2
    return found


def _gain_mark(gain: float, y: float) -> Markup:
    line = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
    return line + element("text", f"{gain:g}x", x=_LEFT - 8, y=y + 4, class_="row")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return f"M{'L'.join(f'{x:.2f} {y:.2f}' for x, y in points)}"
