"""Predicted against measured, one marker for each kind of plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from mpsim.errors import MpsimError
from mpsim.reprs import brief
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
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
_WITHIN = f"within {100 * BAND:.0f} %"


def predicted_and_measured(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw each predicted step against the measured one, and beside that by how much it misses it.

    On the left the line on which they are equal and a band of 10 %: as the axes are logarithmic, errors look small
    there. On the right the relative error of each, with the spread of the measured steps.

    Parameters
    ----------
    table : DataFrame
        As of `mpsim.validate.Validation.to_frame`; the columns ``kind``, ``predicted_s``, ``measured_s``,
        ``measured_p5_s`` and ``measured_p95_s`` are read.
    ax : matplotlib.axes.Axes, optional
        Where to draw the left part alone; by default both in a new figure.

    Raises
    ------
    MpsimError
        A column is missing, or there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"kind": "gpipe", "predicted_s": 1.0, "measured_s": 1.1, "measured_p5_s": 1.0, "measured_p95_s": 1.2}
    >>> [ax.get_ylabel() for ax in predicted_and_measured(pd.DataFrame([row])).axes]
    ['predicted step (s)', 'predicted / measured - 1 (%)']
    """
    if not hasattr(table, "columns"):
        raise MpsimError(f"expected a table, as of mpsim.validate.Validation.to_frame, got {brief(table)}")
    missing = [column for column in _COLUMNS if column not in table]
    if missing or not len(table):
        what = f"column {missing[0]!r}" if missing else "rows"
        raise MpsimError(f"the table has no {what}: give what mpsim validate emulated -o wrote")
    beside = None
    if ax is None:
        ax, beside = _pair()
    low = 0.8 * float(table[["predicted_s", "measured_p5_s"]].min().min())
    high = 1.25 * float(table[["predicted_s", "measured_p95_s"]].max().max())
    _guide(ax, [low, high])
    for kind in _kinds(table):
        _scatter(ax, table[table["kind"] == kind], kind)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel="measured step (s)", ylabel="predicted step (s)")
    ax.grid(alpha=0.3)
    title(ax, [f"{len(table)} real runs: predicted and measured steps"], 6.0)
    if beside is not None:
        _errors(beside, table, (low, high))
    legend_right(beside or ax, fontsize="small")
    return figure_of(ax)


def _pair() -> tuple[Axes, Axes]:
    figure, (left, right) = plt.subplots(1, 2, figsize=(13.0, 5.6), layout="constrained", FigureClass=Described)
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return left, right


def _errors(ax: Axes, table: pd.DataFrame, limits: tuple[float, float]) -> None:
    """Draw the relative error of each prediction; its bar is what it is of the 5-95 % of the measured steps."""
    ax.axhline(0.0, color="black", linewidth=1.0, label="equal", zorder=1)
    ax.axhspan(-100 * BAND, 100 * BAND, color="#DDDDDD", label=_WITHIN, zorder=0)
    for kind in _kinds(table):
        rows = table[table["kind"] == kind]
        colour, marker = _MARKS.get(kind, (GREY, "X"))
        error, least, most = (
            100 * (rows["predicted_s"] / rows[column] - 1)
            for column in ("measured_s", "measured_p95_s", "measured_p5_s")
        )
        spread = [(error - least).clip(lower=0), (most - error).clip(lower=0)]
        ax.errorbar(
            rows["measured_s"], error, yerr=spread, fmt=marker, color=colour, markersize=6, markeredgecolor="white",
            markeredgewidth=0.5, elinewidth=1.0, label=kind, zorder=3,
        )  # fmt: skip
    errors = 100 * (table["predicted_s"] / table["measured_s"] - 1)
    ax.set(xscale="log", xlim=limits, xlabel="measured step (s)", ylabel="predicted / measured - 1 (%)")
    ax.grid(alpha=0.3)
    worst = max(errors, key=abs)
    title(
        ax,
        [f"relative error: mean {errors.abs().mean():.1f} %, bias {errors.mean():+.1f} %, worst {worst:+.1f} %"],
        6.0,
    )


def _guide(ax: Axes, ends: Sequence[float]) -> None:
    ax.plot(ends, ends, color="black", linewidth=1.0, label="equal", zorder=1)
    ax.fill_between(
        ends, [(1 - BAND) * end for end in ends], [(1 + BAND) * end for end in ends],
        color="#DDDDDD", label=_WITHIN, zorder=0,
    )  # fmt: skip


def _kinds(table: pd.DataFrame) -> list[str]:
    found = set(table["kind"])
    return [*(kind for kind in _MARKS if kind in found), *sorted(found - _MARKS.keys())]


def _scatter(ax: Axes, rows: pd.DataFrame, kind: str) -> None:
    colour, marker = _MARKS.get(kind, (GREY, "X"))
    measured = rows["measured_s"]
    spread = [(measured - rows["measured_p5_s"]).clip(lower=0), (rows["measured_p95_s"] - measured).clip(lower=0)]
    ax.errorbar(
        measured, rows["predicted_s"], xerr=spread, fmt=marker, color=colour, markersize=6, markeredgecolor="white",
        markeredgewidth=0.5, elinewidth=1.0, label=kind, zorder=3,
    )  # fmt: skip
