"""Predicted against measured, one marker for each kind of plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpsim.errors import MpsimError
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
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["predicted_and_measured"]

_MARKS = {
    "naive": (SKY, "v"),
    "gpipe": (ORANGE, "s"),
    "1f1b": (VERMILION, "P"),
    "data": (BLUE, "o"),
    "tensor": (GREEN, "^"),
    "hybrid": (PURPLE, "D"),
}
_COLUMNS = ("kind", "predicted_s", "measured_s", "measured_p5_s", "measured_p95_s")
BAND = 0.1


def predicted_and_measured(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw each predicted step against the measured one, with the line on which they are equal and a band of 10 %.

    Parameters
    ----------
    table : DataFrame
        As of `mpsim.validate.Validation.to_frame`; the columns ``kind``, ``predicted_s``, ``measured_s``,
        ``measured_p5_s`` and ``measured_p95_s`` are read.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        A column is missing, or there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"kind": "gpipe", "predicted_s": 1.0, "measured_s": 1.1, "measured_p5_s": 1.0, "measured_p95_s": 1.2}
    >>> predicted_and_measured(pd.DataFrame([row])).axes[0].get_xlabel()
    'measured step (s)'
    """
    missing = [column for column in _COLUMNS if column not in table]
    if missing or not len(table):
        what = f"column {missing[0]!r}" if missing else "rows"
        raise MpsimError(f"the table has no {what}: give what mpsim validate emulated -o wrote")
    ax = axes_for(ax, 7.6, 5.6)
    low = 0.8 * float(table[["predicted_s", "measured_p5_s"]].min().min())
    high = 1.25 * float(table[["predicted_s", "measured_p95_s"]].max().max())
    _guide(ax, [low, high])
    for kind in _kinds(table):
        _scatter(ax, table[table["kind"] == kind], kind)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel="measured step (s)", ylabel="predicted step (s)")
    ax.grid(alpha=0.3)
    title(ax, [f"{len(table)} real runs: predicted and measured steps"], 6.0)
    legend_right(ax, fontsize="small")
    return figure_of(ax)


def _guide(ax: Axes, ends: Sequence[float]) -> None:
    ax.plot(ends, ends, color="black", linewidth=1.0, label="equal", zorder=1)
    ax.fill_between(
        ends, [(1 - BAND) * end for end in ends], [(1 + BAND) * end for end in ends],
        color="#DDDDDD", label=f"within {BAND:.0%}".replace("%", " %"), zorder=0,
    )  # fmt: skip


def _kinds(table: pd.DataFrame) -> list[str]:
    found = set(table["kind"])
    return [*(kind for kind in _MARKS if kind in found), *sorted(found - _MARKS.keys())]


def _scatter(ax: Axes, rows: pd.DataFrame, kind: str) -> None:
    colour, marker = _MARKS.get(kind, (GREY, "X"))
    measured = rows["measured_s"]
    spread = [measured - rows["measured_p5_s"], rows["measured_p95_s"] - measured]
    ax.errorbar(
        measured, rows["predicted_s"], xerr=spread, fmt=marker, color=colour, markersize=6, markeredgecolor="white",
        markeredgewidth=0.5, elinewidth=1.0, label=kind, zorder=3,
    )  # fmt: skip
