"""Plans as marks above the devices they use, the best of each named."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from mpsim.result.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, figure_of
from mpsim.result.plotting.swarm import largest_swarm
from mpsim.result.text import short_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Point", "begin_plans", "number", "place_plans", "point_of"]

# What splits the plan: colour and marker.
_FAMILIES = {
    "one device": (GREY, "o"),
    "data": (BLUE, "o"),
    "naive pipeline": (SKY, "v"),
    "pipeline": (ORANGE, "s"),
    "tensor": (GREEN, "^"),
    "context": ("#44AA99", "P"),
    "hybrid": (PURPLE, "D"),
    "other": (GREY, "X"),
}
_MOST_TICKS = 24
_FONT, _LINE, _LETTER = 7.0, 9.0, 4.7  # points: of names, a line of them, a letter
_UPRIGHT = 56.0  # points: narrower strips have names that stand on end
_AIR = 1.12  # Of a mark's size, that marks stand apart.


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One plan of a sweep."""

    plan: str
    n_devices: int
    speedup: float
    fits: bool | None
    low_s: float
    high_s: float
    family: str


def number(value: Any) -> float | None:
    """Return a table's number; None for its several ways of having none.

    Examples
    --------
    >>> number("2"), number(float("nan")), number(None)
    (2.0, None, None)
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None


def point_of(row: Mapping[str, Any]) -> Point | None:
    """Return the point of a row; None of one without a speedup.

    Examples
    --------
    >>> point_of({"plan": "dp=2 pp=1 tp=1", "n_devices": 2, "speedup": 1.5}).family
    'data'
    """
    value, devices = number(row["speedup"]), number(row["n_devices"])
    if not value or not devices:
        return None
    fits = number(row.get("fits"))
    step = number(row.get("step_s")) or 0.0
    return Point(
        plan=str(row["plan"]),
        n_devices=int(devices),
        speedup=value,
        fits=None if fits is None else bool(fits),
        low_s=number(row.get("step_p5_s")) or step,
        high_s=number(row.get("step_p95_s")) or step,
        family=_family(row),
    )


def _family(row: Mapping[str, Any]) -> str:
    sizes = {axis: number(row.get(axis)) for axis in ("dp", "pp", "tp", "cp")}
    for axis, size in re.findall(r"\b(dp|pp|tp|cp)=(\d+)", str(row["plan"])):
        sizes[axis] = sizes[axis] or int(size)
    if not any(sizes.values()):
        return "other"
    split = [axis for axis, size in sizes.items() if size and size > 1]
    if not split:
        return "one device"
    if len(split) > 1:
        return "hybrid"
    naive = str(row["plan"]).endswith("naive")
    return {"dp": "data", "pp": "naive pipeline" if naive else "pipeline", "tp": "tensor", "cp": "context"}[split[0]]


def begin_plans(ax: Axes, points: Sequence[Point]) -> None:
    """Draw all that needs no settled layout: axes, the ideal, entries of the legend.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> begin_plans(axes, [point_of({"plan": "dp=2", "n_devices": 2, "speedup": 1.5})])
    >>> [text.get_text() for text in axes.get_xticklabels()]
    ['2']
    """
    counts = _counts(points)
    ax.set_yscale("log", base=2)
    ax.set_xlim(-0.5, len(counts) - 0.5)
    step = -(-len(counts) // _MOST_TICKS)
    ax.set_xticks(range(0, len(counts), step), [f"{count:,}" for count in counts[::step]])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set(xlabel="devices", ylabel="speedup (×)")
    ax.grid(axis="y", alpha=0.3)
    ends = ([i - 0.45 for i in range(len(counts))], [i + 0.45 for i in range(len(counts))])
    ax.hlines(counts, *ends, colors="black", linestyles="--", linewidth=1.0, label="ideal", zorder=1)
    for family, (colour, marker) in _FAMILIES.items():
        if any(point.family == family for point in points):
            ax.scatter([], [], s=42, c=colour, marker=marker, label=family)
    if any(point.fits is False for point in points):
        ax.scatter([], [], s=42, c="black", marker="x", linewidths=1.0, label="does not fit")
    best = _best(points)
    if _ties(points, best):
        ax.scatter([], [], s=42, c="white", edgecolors="black", label="ties with the best")
    known = all(point.fits for point in best.values())
    label = "best that fits" if known else "best (it is unknown whether all fit)"
    where = [counts.index(count) for count in best]
    ax.plot(where, [one.speedup for one in best.values()], color="black", lw=1.0, alpha=0.4, zorder=2, label=label)
    values = [point.speedup for point in points] + [*counts]
    ax.set_ylim(min(values) / 1.2, max(values) * 1.2)


def place_plans(ax: Axes, points: Sequence[Point]) -> int:
    """Draw the marks so that none hides another, and name the best; return how many plans have no place.

    The figure's layout must be settled.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> points = [point_of({"plan": "dp=2", "n_devices": 2, "speedup": 1.5})]
    >>> begin_plans(axes, points)
    >>> place_plans(axes, points), [text.get_text() for text in axes.texts]
    (0, ['1.5×\\ndp=2'])
    """
    box, counts, best = ax.get_window_extent(), _counts(points), _best(points)
    inch = 72 / figure_of(ax).dpi
    slot, tall = box.width * inch / len(counts), box.height * inch
    names = {count: _name(one, slot) for count, one in best.items()}
    per_octave = _headroom(ax, points, tall, max([_height(name, slot) for name in names.values()], default=0.0))
    strips = [
        sorted(
            (point for point in points if point.n_devices == count),
            key=lambda point: (point is not best.get(count), -point.speedup),
        )
        for count in counts
    ]
    heights = [[log2(point.speedup) * per_octave for point in strip] for strip in strips]
    size, places = largest_swarm(heights, 0.95 * slot, air=_AIR)
    shown = [
        (point, i + aside / slot)
        for i, (strip, asides) in enumerate(zip(strips, places, strict=True))
        for point, aside in zip(strip, asides, strict=True)
        if aside is not None
    ]
    _scatter(ax, shown, size, _ties(points, best))
    for i in _named(counts, best, slot):
        top = max(log2(point.speedup) for point, x in shown if round(x) == i)
        _label(ax, i, best[counts[i]], names[counts[i]], (top * per_octave, size, slot, per_octave))
    return len(points) - len(shown)


def _counts(points: Sequence[Point]) -> list[int]:
    return sorted({point.n_devices for point in points})


def _best(points: Sequence[Point]) -> dict[int, Point]:
    """Return the fastest plan for each number of devices, of those not known to overflow."""
    best: dict[int, Point] = {}
    for point in sorted(points, key=lambda point: (point.n_devices, point.speedup)):
        if point.fits is not False:
            best[point.n_devices] = point
    return best


def _ties(points: Sequence[Point], best: Mapping[int, Point]) -> list[Point]:
    """Return the plans whose 5-95 % interval overlaps that of the best."""

    def ties(point: Point) -> bool:
        other = best.get(point.n_devices)
        if other is None or point is other or not other.low_s or point.fits is False:
            return False
        return point.low_s <= other.high_s and other.low_s <= point.high_s

    return [point for point in points if ties(point)]


def _scatter(ax: Axes, shown: Sequence[tuple[Point, float]], size: float, ties: Sequence[Point]) -> None:
    tied = {id(point) for point in ties}
    for family, (colour, marker) in _FAMILIES.items():
        chosen = [(point, x) for point, x in shown if point.family == family]
        if chosen:
            edges = ["black" if id(point) in tied else colour for point, _ in chosen]
            # A diamond is a square on its corner, and would reach further than its size.
            across = size / 2**0.5 if marker == "D" else size
            xs, ys = [x for _, x in chosen], [point.speedup for point, _ in chosen]
            ax.scatter(xs, ys, s=across**2, c=colour, marker=marker, edgecolors=edges, linewidths=0.8, zorder=3)
    over = [(point, x) for point, x in shown if point.fits is False]
    xs, ys = [x for _, x in over], [point.speedup for point, _ in over]
    ax.scatter(xs, ys, s=size**2, c="black", marker="x", linewidths=1.0, zorder=4)


def _name(best: Point, slot: float) -> str:
    """Return what is written at the best plan of a strip: in lines where it is wide, else on end."""
    plan, times = short_plan(best.plan), f"{best.speedup:.3g}×"
    if slot < _UPRIGHT:
        return f"{times}  {plan}".strip()
    return "\n".join([times, *textwrap.wrap(plan, max(int(slot / _LETTER), 8), break_on_hyphens=False)])


def _height(name: str, slot: float) -> float:
    return len(name) * _LETTER if slot < _UPRIGHT else (1 + name.count("\n")) * _LINE


def _headroom(ax: Axes, points: Sequence[Point], tall: float, name: float) -> float:
    """Leave room for names above the fastest plans, and for the ideal; return the points of a doubling."""
    low = log2(min(point.speedup for point in points) / 1.15)
    high, ideal = log2(max(point.speedup for point in points)), log2(max(point.n_devices for point in points) * 1.1)
    room = min(name + 16.0, 0.6 * tall)
    per_octave = min((tall - room) / (high - low), tall / max(ideal - low, 1e-9))
    ax.set_ylim(2**low, 2 ** (low + tall / per_octave))
    exponents = range(int(low) - 1, int(low + tall / per_octave) + 1, max(1, round(24 / per_octave)))
    ax.yaxis.set_major_locator(FixedLocator([2.0**exponent for exponent in exponents]))
    return per_octave


def _named(counts: Sequence[int], best: Mapping[int, Point], slot: float) -> list[int]:
    """Return the strips whose best plan is named: all, or as many as do not run into each other, the fastest first."""
    kept: list[int] = []
    for count in sorted(best, key=lambda count: -best[count].speedup):
        i = counts.index(count)
        if all(abs(i - other) * slot >= 1.3 * _LINE for other in kept):
            kept.append(i)
    return sorted(kept)


def _label(ax: Axes, i: int, best: Point, name: str, room: tuple[float, float, float, float]) -> None:
    """Write a name above all marks of its strip, with a line down to the one that it is of."""
    top, size, slot, per_octave = room
    above = top - log2(best.speedup) * per_octave + size / 2 + 3.0
    line: dict[str, Any] = {"arrowstyle": "-", "lw": 0.6, "color": "black", "shrinkA": 0, "shrinkB": size / 2}
    ax.annotate(
        name, (i, best.speedup), xytext=(0, above), textcoords="offset points", ha="center", va="bottom",
        fontsize=_FONT, rotation=90 if slot < _UPRIGHT else 0, zorder=5,
        arrowprops=line if above > 2 * size else None,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
    )  # fmt: skip
