"""The speedup of each plan against the number of devices it uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from mpsim.errors import MpsimError
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.result.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    axes_for,
    figure_of,
    legend_right,
    shorten,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["speedup"]

# What splits the plan: colour, marker, and its area, for they are hollow and lie within each other where plans are
# equally fast. All stand exactly above their number of devices: moved aside, a plan would seem to beat the ideal, or to
# fall short of it.
_FAMILIES = {
    "one device": (GREY, "o", 90),
    "data": (BLUE, "o", 90),
    "naive pipeline": (SKY, "v", 78),
    "pipeline": (ORANGE, "s", 42),
    "tensor": (GREEN, "^", 44),
    "context": ("#44AA99", "P", 36),
    "hybrid": (PURPLE, "D", 22),
    "other": (GREY, "o", 90),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    plan: str
    n_devices: int
    speedup: float
    fits: bool | None
    low_s: float
    high_s: float
    family: str


def speedup(
    results: Result | pd.DataFrame | Sequence[Result] | Sequence[Mapping[str, Any]], *, ax: Axes | None = None
) -> Figure:
    """Draw the speedup of each plan against the devices it uses, with the ideal line.

    The fastest plan that is not known to overflow a memory is named for each number of devices; plans whose 5-95 %
    interval overlaps its own are ringed as ties, and plans that do not fit are crossed out.

    Parameters
    ----------
    results : DataFrame, or sequence of Result or of rows
        A sweep's table, its rows (as of `summary_row`), or results. Rows without a speedup (plans that cannot be
        run) are left out and counted in the title.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        A column is missing, no row has a speedup, or some are of unequal batches or of several workloads.

    Examples
    --------
    >>> rows = [{"plan": f"dp={n} pp=1 tp=1", "n_devices": n, "speedup": 0.75 * n} for n in (2, 4, 8)]
    >>> speedup(rows).axes[0].get_ylabel()
    'speedup'
    """
    rows = _rows([results] if isinstance(results, Result) else results)
    points = [point for point in map(_point, rows) if point is not None]
    if not points:
        raise MpsimError(f"none of {len(rows)} rows has a speedup: give a baseline, or plans that can be run")
    _refuse_unlike(rows)
    ax = axes_for(ax, 10.0, 5.6)
    _scales(ax, points)
    _ideal(ax, points)
    best = _best(points)
    _scatter(ax, points)
    _mark(ax, points, best)
    ax.set(xlabel="devices", ylabel="speedup")
    ax.grid(alpha=0.3)
    title(ax, _title(rows, len(rows) - len(points)), 9.5)
    legend_right(ax, fontsize="small")
    return figure_of(ax)


def _rows(results: Any) -> list[Mapping[str, Any]]:
    if hasattr(results, "to_dict"):
        rows: list[Mapping[str, Any]] = results.to_dict("records")
    else:
        rows = [summary_row(item) if isinstance(item, Result) else item for item in results]
    for column in ("plan", "n_devices", "speedup"):
        if rows and column not in rows[0]:
            raise MpsimError(f"a picture of speedups needs the column {column!r}, the table has {', '.join(rows[0])}")
    return rows


def _refuse_unlike(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows whose steps do not compare."""
    held = [row for row in rows if _number(row.get("speedup"))]
    batches = sorted({number for row in held if (number := _number(row.get("global_batch")))})
    for words, found in (
        ("global batches", [f"{batch:g}" for batch in batches]),
        ("workloads", _texts(held, "workload")),
    ):
        if len(found) > 1:
            raise MpsimError(
                f"speedups of {len(found)} {words} ({', '.join(found[:3])}{', …' * (len(found) > 3)}) do not compare:"
                " draw each alone, or their scaling"
            )


def _number(value: Any) -> float | None:
    """Return a table's number; None for its several ways of having none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _point(row: Mapping[str, Any]) -> _Point | None:
    value, devices = _number(row["speedup"]), _number(row["n_devices"])
    if not value or not devices:
        return None
    fits = _number(row.get("fits"))
    step = _number(row.get("step_s")) or 0.0
    return _Point(
        plan=str(row["plan"]),
        n_devices=int(devices),
        speedup=value,
        fits=None if fits is None else bool(fits),
        low_s=_number(row.get("step_p5_s")) or step,
        high_s=_number(row.get("step_p95_s")) or step,
        family=_family(row),
    )


def _family(row: Mapping[str, Any]) -> str:
    sizes = {axis: _number(row.get(axis)) for axis in ("dp", "pp", "tp", "cp")}
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


def _best(points: list[_Point]) -> dict[int, _Point]:
    """Return the fastest plan for each number of devices, of those not known to overflow."""
    best: dict[int, _Point] = {}
    for point in sorted(points, key=lambda point: (point.n_devices, point.speedup)):
        if point.fits is not False:
            best[point.n_devices] = point
    return best


def _scales(ax: Axes, points: list[_Point]) -> None:
    counts = sorted({1, *(point.n_devices for point in points)})
    values = [point.speedup for point in points]
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlim(0.85, max(counts) * 1.18)
    ax.set_ylim(min(0.85, min(values) * 0.85), max(max(counts), max(values)) * 1.18)
    # Far fewer ticks than counts where there are many: labels must not run into each other.
    shown = counts if len(counts) <= 10 else [count for count in counts if count & (count - 1) == 0]
    ax.xaxis.set_major_locator(FixedLocator([float(count) for count in shown]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _ideal(ax: Axes, points: list[_Point]) -> None:
    most = max(point.n_devices for point in points)
    ax.plot([1, most], [1, most], color="black", linestyle="--", linewidth=1.0, label="ideal", zorder=1)


def _scatter(ax: Axes, points: list[_Point]) -> None:
    for family, (colour, marker, area) in _FAMILIES.items():
        chosen = [point for point in points if point.family == family]
        if chosen:
            style: dict[str, Any] = {"edgecolors": colour, "facecolors": "none", "marker": marker, "linewidths": 1.3}
            ax.scatter(*_places(chosen), s=area, label=family, zorder=3, **style)
    over = [point for point in points if point.fits is False]
    if over:
        ax.scatter(*_places(over), s=70, c=VERMILION, marker="x", linewidths=1.6, label="does not fit", zorder=4)


def _places(points: Iterable[_Point]) -> tuple[list[int], list[float]]:
    points = list(points)
    return [point.n_devices for point in points], [point.speedup for point in points]


def _mark(ax: Axes, points: list[_Point], best: dict[int, _Point]) -> None:
    ties = [point for point in points if point.fits is not False and _ties(point, best.get(point.n_devices))]
    if ties:
        style: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": "black", "linewidths": 1.0}
        ax.scatter(*_places(ties), label="ties with the best", zorder=2, **style)
    names = [f"{point.n_devices}: {point.plan} ({point.speedup:.2f}x)" for point in best.values()]
    heading = "best that fits" if all(point.fits for point in best.values()) else "best (it is unknown whether all fit)"
    label = f"{heading}\n" + "\n".join(shorten(name, 52) for name in names[-8:])
    ax.plot(*_places(best.values()), color="black", linewidth=1.0, alpha=0.6, zorder=2, label=label)


def _ties(point: _Point, best: _Point | None) -> bool:
    if best is None or point is best or not best.low_s:
        return False
    return point.low_s <= best.high_s and best.low_s <= point.high_s


def _title(rows: Sequence[Mapping[str, Any]], skipped: int) -> list[str]:
    workloads = _texts(rows, "workload")
    text = f"{', '.join(workloads[:3])}: speedup of each plan" if workloads else "speedup of each plan"
    batches = {_number(row.get("global_batch")) for row in rows} - {None}
    if len(batches) == 1:
        text += f", global batch {batches.pop():g}"
    baselines = _texts(rows, "baseline")
    lines = [text, f"over {baselines[0]}"] if len(baselines) == 1 else [text]
    return [*lines, f"plans that could not be run: {skipped}"] if skipped else lines


def _texts(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    values = dict.fromkeys(row.get(column) for row in rows)
    return [value for value in values if isinstance(value, str) and value]
