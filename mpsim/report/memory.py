"""Memory over time: what each holder holds on the fullest device, one upon the other, and the capacity."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mpsim.report.looks import look_of_holder, swatch, ticks, time_unit
from mpsim.report.markup import element, picture
from mpsim.result.model import DeviceUse, Result
from mpsim.units import format_bytes

__all__ = ["Memory", "fullest", "memory"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 960.0, 320.0, 70.0, 16.0, 28.0
_POINTS = 600  # across the picture; between two of them the fullest moment is drawn
_FAR = 4  # A capacity so many times the peak would leave nothing to be seen of what is held.
# From below: what is held throughout, then what comes and goes.
_ORDER = (
    "parameters", "master", "optimizer", "buffers", "workspace", "gradients", "activations", "recomputation",
    "transients", "gathered",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A picture, its legend, and what it shows in words."""

    picture: Markup
    legend: tuple[tuple[Markup, str], ...]
    text: str


def fullest(result: Result) -> DeviceUse | None:
    """Return the device that is nearest to its capacity, or where none is known the one that holds most."""
    return max(
        result.devices,
        key=lambda one: (
            one.memory.peak_bytes / one.capacity_bytes if one.capacity_bytes else 0.0,
            one.memory.peak_bytes,
        ),
        default=None,
    )


def memory(result: Result) -> Memory | None:
    """Return the picture of the fullest device; None where memory over time is not known."""
    device = fullest(result)
    if device is None or not device.memory.by_holder or not device.memory.peak_bytes:
        return None
    times = device.memory.timeline_s
    end_s = max(result.step_s, times[-1]) or 1.0
    held = {one.holder: one for one in device.memory.by_holder}
    order = [*(name for name in _ORDER if name in held), *sorted(held.keys() - set(_ORDER))]
    moments = _moments(device, end_s)
    peak, capacity = max(device.memory.peak_bytes, *device.memory.timeline_bytes), device.capacity_bytes
    top = max(peak, capacity if capacity <= _FAR * peak else 0) * 1.1
    below = [0] * len(moments)
    parts = []
    for name in order:
        above = [low + count for low, count in zip(below, held[name].held(moments), strict=True)]
        parts.append(_area(moments, below, above, end_s, top, look_of_holder(name)))
        below = above
    parts = [*_axes(end_s, top), *parts, *_line(capacity, top)]
    text = f"{device.label}: peak {format_bytes(peak)}"
    text += f" of {format_bytes(capacity)}" if capacity else ", capacity unknown"
    if capacity > top:
        text += "; the capacity lies above the top of the picture"
    return Memory(
        picture=picture(_WIDTH, _HEIGHT, f"Memory over the step of {text}", parts),
        legend=tuple((swatch(look_of_holder(name)), name) for name in reversed(order)),
        text=text,
    )


def _moments(device: DeviceUse, end_s: float) -> list[float]:
    """Return the times that are drawn: all changes, or of many the fullest moment in each part of the step."""
    times, totals = device.memory.timeline_s, device.memory.timeline_bytes
    if len(times) <= _POINTS:
        return [*times]
    found = [times[0]]
    for part in range(_POINTS):
        first, last = (bisect_right(times, end_s * edge / _POINTS) for edge in (part, part + 1))
        if first < last:
            found.append(times[max(range(first, last), key=totals.__getitem__)])
    return sorted(dict.fromkeys(found))


def _x(seconds: float, end_s: float) -> float:
    return _LEFT + seconds / end_s * (_WIDTH - _LEFT - 8)


def _y(count: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - count / top * (_HEIGHT - _BOTTOM - _TOP)


def _area(
    moments: Sequence[float], below: Sequence[int], above: Sequence[int], end_s: float, top: float, look: str
) -> Markup:
    """Return steps from moment to moment, above and back below."""
    edges = [*moments[1:], end_s]
    upper = [(time, until, count) for time, until, count in zip(moments, edges, above, strict=True)]
    lower = [(until, time, count) for time, until, count in zip(moments, edges, below, strict=True)][::-1]
    points = [
        f"{_x(time, end_s):.2f} {_y(count, top):.2f}"
        for first, last, count in (*upper, *lower)
        for time in (first, last)
    ]
    return element("path", d=f"M{'L'.join(points)}z", class_=look)


def _axes(end_s: float, top: float) -> list[Markup]:
    found = []
    scale, unit = time_unit(end_s)
    for value in ticks(end_s / scale):
        found.append(element("text", f"{value:g} {unit}", x=_x(value * scale, end_s), y=_HEIGHT - 8, class_="tick"))
    size = 1.0
    while top / size >= 1024:
        size *= 1024
    for value in ticks(top / size, 4):
        y = _y(value * size, top)
        found.append(element("line", x1=_LEFT, x2=_WIDTH, y1=y, y2=y, class_="grid"))
        found.append(element("text", format_bytes(value * size), x=_LEFT - 6, y=y + 4, class_="row"))
    return found


def _line(capacity: int, top: float) -> list[Markup]:
    if not capacity or capacity > top:
        return []
    y = _y(capacity, top)
    return [
        element("line", x1=_LEFT, x2=_WIDTH, y1=y, y2=y, class_="capacity"),
        element("text", f"capacity {format_bytes(capacity)}", x=_WIDTH - 6, y=y - 5, class_="end"),
    ]
