"""The speedup of each plan against the number of devices it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import matplotlib.pyplot as plt

from mpsim.errors import MpsimError
from mpsim.reprs import brief
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.plans import Point, begin_plans, number, place_plans, point_of
from mpsim.result.plotting.style import figure_of, legend_right, title
from mpsim.result.text import caution

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["speedup"]


class _Sweep(Protocol):
    """A `mpsim.SweepResult`."""

    def to_frame(self) -> pd.DataFrame:
        """Return its table."""


_Row = Mapping[str, Any]
_Table: TypeAlias = "pd.DataFrame | _Sweep"
_MOST_PANELS = 6
_HEIGHT, _PANEL_HEIGHT = 6.4, 5.2  # inches: of a picture alone, of one of several
_SLOT, _BESIDE = 1.0, 2.6  # inches: of a number of devices, of all else
_LEAST, _MOST, _MOST_OF_SEVERAL = 5.0, 13.0, 7.0  # inches: of axes


def speedup(
    results: Result | _Table | Sequence[Result] | Sequence[_Row] | Sequence[_Table],
    *,
    names: Sequence[str] = (),
    ax: Axes | None = None,
) -> Figure:
    """Draw the speedup of each plan above the devices it uses, with the ideal.

    The fastest plan that is not known to overflow a memory is named at its mark for each number of devices; plans whose
    5-95 % interval overlaps its own have a black edge as ties, and plans that do not fit are crossed out. Marks stand
    beside each other where they would hide one another. What does not compare (other batches, other workloads, another
    table) has a panel of its own.

    Parameters
    ----------
    results : Result, SweepResult, DataFrame, or sequence of Result, of rows, of SweepResult or of DataFrame
        A sweep or its table, its rows (as of `summary_row`), or results; several sweeps or tables. Rows without a
        speedup (plans that cannot be run) are left out and counted in the title.
    names : sequence of str, optional
        Of several sweeps or tables, for their titles; by default their numbers.
    ax : matplotlib.axes.Axes, optional
        Where to draw what compares; by default in a new figure.

    Raises
    ------
    MpsimError
        A column is missing, no row has a speedup, there are more than six panels, or several for one `ax`.

    Examples
    --------
    >>> rows = [{"plan": f"dp={n}", "n_devices": n, "speedup": 0.75 * n} for n in (2, 4, 8)]
    >>> figure = speedup(rows)
    >>> figure.axes[0].get_ylabel(), [text.get_text() for text in figure.axes[0].texts][-1]
    ('speedup (×)', '6×\\ndp=8')
    """
    tables = _tables(results)
    called = [*names, *(f"sweep {number}" for number in range(len(names) + 1, len(tables) + 1))]
    parts = [(group, name) for table, name in zip(tables, called, strict=False) for group in _alike(_rows(table))]
    groups, heads = [group for group, _ in parts], [name if len(tables) > 1 else "" for _, name in parts]
    if len(groups) > (_MOST_PANELS if ax is None else 1):
        raise MpsimError(
            f"speedups of {len(groups)} batches, workloads or tables have a panel each, and {_MOST_PANELS} at most are"
            " drawn, one in an ax: draw each alone, or their scaling"
        )
    points = [[point for point in map(point_of, rows) if point is not None] for rows in groups]
    for rows, found in zip(groups, points, strict=True):
        if not found:
            raise MpsimError(f"none of {len(rows)} rows has a speedup: give a baseline, or plans that can be run")
    panels = [ax] if ax is not None else _axes(points)
    for panel, rows, found, head in zip(panels, groups, points, heads, strict=True):
        begin_plans(panel, found)
        title(panel, _title(head, rows, len(rows) - len(found), 0), _widths(points) - 1)
        legend_right(panel, fontsize="small")
    figure = figure_of(panels[0])
    figure.draw_without_rendering()  # Settles the layout: only then is it known which marks would touch.
    for panel, rows, found, head in zip(panels, groups, points, heads, strict=True):
        if left_out := place_plans(panel, found):
            title(panel, _title(head, rows, len(rows) - len(found), left_out), _widths(points) - 1)
    return figure


def _tables(results: Any) -> list[Any]:
    """Return each table by itself; a sweep's value is its table."""
    single = isinstance(results, Result | Mapping | str | bytes) or not isinstance(results, Iterable)
    given = [results] if single or hasattr(results, "to_dict") else list(results)
    given = [one.to_frame() if _is_sweep(one) else one for one in given]
    for one in given:
        if not (isinstance(one, Result | Mapping) or hasattr(one, "to_dict")):
            raise MpsimError(f"expected results, or the rows or tables of sweeps, got {brief(one)}")
    return given if given and hasattr(given[0], "to_dict") else [given]


def _is_sweep(one: Any) -> bool:
    return hasattr(one, "to_frame") and hasattr(one, "rows")


def _rows(results: Any) -> list[_Row]:
    if hasattr(results, "to_dict"):
        rows: list[_Row] = results.to_dict("records")
    else:
        rows = [summary_row(item) if isinstance(item, Result) else item for item in results]
    for column in ("plan", "n_devices", "speedup"):
        if rows and column not in rows[0]:
            raise MpsimError(f"a picture of speedups needs the column {column!r}, the table has {', '.join(rows[0])}")
    return rows


def _alike(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Return the rows that compare together: of one batch of one workload; those that say neither are one."""
    groups: dict[tuple[Any, Any], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.get("workload") or None, number(row.get("global_batch"))), []).append(row)
    return list(groups.values()) if len(_compared(rows)) > 1 else [list(rows)]


def _compared(rows: Sequence[_Row]) -> set[tuple[Any, Any]]:
    """Return the workloads and batches of the plans that have a speedup."""
    held = [row for row in rows if number(row.get("speedup"))]
    return {(row.get("workload") or None, number(row.get("global_batch"))) for row in held}


def _widths(points: Sequence[Sequence[Point]]) -> float:
    """Return the width of a panel's axes in inches."""
    counts = max(len({point.n_devices for point in found}) for found in points)
    most = _MOST if len(points) == 1 else _MOST_OF_SEVERAL
    return min(max(_SLOT * counts, _LEAST), most)


def _axes(points: Sequence[Sequence[Point]]) -> list[Axes]:
    columns = min(len(points), 2)
    rows = -(-len(points) // columns)
    size = ((_widths(points) + _BESIDE) * columns, (_HEIGHT if len(points) == 1 else _PANEL_HEIGHT) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", FigureClass=Described, squeeze=False)
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(points) :]:
        ax.remove()
    return list(axes.flat[: len(points)])


def _title(head: str, rows: Sequence[_Row], skipped: int, left_out: int) -> list[str]:
    workloads, topologies = _texts(rows, "workload"), _texts(rows, "topology")
    about = " on ".join(", ".join(found[:3]) for found in (workloads, topologies) if found)
    text = ": ".join(filter(None, (head, about, "speedup of each plan")))
    batches = {number(row.get("global_batch")) for row in rows} - {None}
    if len(batches) == 1:
        text += f", global batch {batches.pop():g}"
    baselines = _texts(rows, "baseline")
    notes = [f"over {baselines[0]}"] if len(baselines) == 1 else []
    lines = [text, "; ".join(notes)] if notes else [text]
    caveats = dict.fromkeys(one for row in rows for one in str(row.get("caveats") or "").split("; "))
    if warning := caution([one for one in caveats if one and one != "nan"]).strip():
        lines.insert(0, warning)
    if left_out:
        lines.append(f"plans not drawn, for the marks of others as fast are there: {left_out:,}")
    return [*lines, f"plans that could not be run: {skipped:,}"] if skipped else lines


def _texts(rows: Sequence[_Row], column: str) -> list[str]:
    values = dict.fromkeys(row.get(column) for row in rows)
    return [value for value in values if isinstance(value, str) and value]
