"""Goodput: where the wall time of a run through failures went, trial by trial, and with which interval it is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mpsim.errors import MpsimError
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.style import BLUE, CYCLE, VERMILION, title
from mpsim.result.statistics import cdf
from mpsim.units import format_long_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["goodput"]


def goodput(
    parts: Mapping[str, float],
    trials: Sequence[float],
    tried: Sequence[tuple[float, float]] = (),
    *,
    interval_s: float = 0.0,
    subject: str = "",
) -> Figure:
    """Draw the parts of the wall time that are not useful, goodput over trials, and goodput by interval.

    Parameters
    ----------
    parts : mapping of str to float
        Mean part of the wall time by what it went to.
    trials : sequence of float
        Goodput of each trial.
    tried : sequence of (float, float)
        Seconds between checkpoints, and the mean goodput with them; none: that picture is left out.
    interval_s : float
        The interval of the other two pictures.
    subject : str
        What it is about.

    Raises
    ------
    MpsimError
        No trials.

    Examples
    --------
    >>> [ax.get_ylabel() for ax in goodput({"useful": 0.9, "lost": 0.1}, [0.85, 0.95]).axes]
    ['part of the wall time', 'fraction of trials']
    """
    if not trials:
        raise MpsimError("a goodput of no trials: give at least one")
    count = 3 if len(tried) > 1 else 2
    figure, axes = plt.subplots(1, count, figsize=(4.4 * count, 4.2), layout="constrained", FigureClass=Described)
    plt.close(figure)
    _parts(axes[0], parts)
    _distribution(axes[1], trials)
    if count == 3:
        _intervals(axes[2], tried, interval_s)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    title(axes[0], [subject] if subject else [], 4.0)
    return figure


def _parts(ax: Axes, parts: Mapping[str, float]) -> None:
    rest = {name: part for name, part in parts.items() if name != "useful"}  # beside it nothing else would be seen
    bars = ax.bar(list(rest), list(rest.values()), color=CYCLE[1:])
    ax.bar_label(bars, labels=[f"{100 * part:.2f} %" for part in rest.values()], fontsize="small")
    ax.tick_params(axis="x", rotation=30)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    ax.set_ylabel("part of the wall time")


def _distribution(ax: Axes, trials: Sequence[float]) -> None:
    x, fraction = cdf(trials)
    ax.plot([x[0], *x], [0.0, *fraction], drawstyle="steps-post", color=BLUE)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(ylim=(-0.02, 1.02), xlabel="goodput", ylabel="fraction of trials")


def _intervals(ax: Axes, tried: Sequence[tuple[float, float]], interval_s: float) -> None:
    minutes = [seconds / 60.0 for seconds, _ in tried]
    ax.plot(minutes, [part for _, part in tried], marker="o", markersize=3, color=BLUE)
    ax.axvline(interval_s / 60.0, color=VERMILION, label=f"used: {format_long_duration(interval_s)}")
    ax.set(xscale="log", xlabel="steps between checkpoints (min)", ylabel="goodput")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(frameon=False)
