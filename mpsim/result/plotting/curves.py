"""Curves: the distribution of the step over trials, and memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps

from mpsim.errors import MpsimError
from mpsim.result.model import DeviceUse, Result
from mpsim.result.plotting.style import (
    CYCLE,
    axes_for,
    bytes_unit,
    figure_of,
    legend_right,
    panels_for,
    plan_names,
    reach_up_to,
    results_of,
    seconds_unit,
    shorten,
    subject,
    title,
)
from mpsim.result.rows import Row, distinct_rows
from mpsim.result.statistics import cdf as distribution
from mpsim.result.statistics import interval
from mpsim.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cdf", "memory_over_time"]

_MOST_CURVES = 16
_STYLES = ("-", "--", "-.", ":")


def cdf(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw the fraction of trials whose step is at most so long, a curve for each plan.

    Parameters
    ----------
    results : Result or sequence of Result
        One curve each; where nothing is random it is one step, and says so. How far the medians of the others are from
        the first's stands in the legend.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        No results.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(1.5, 2.0, 2.5),
    ...                 free_step_s=1.5)
    >>> cdf(result).axes[0].get_ylabel()
    'fraction of trials'
    """
    plans = results_of(results)
    if not plans:
        raise MpsimError("a distribution of no results: give at least one")
    width = 9.0
    ax = axes_for(ax, width, 4.8)
    scale, unit = seconds_unit(max(max(result.trial_step_s) for result in plans))
    for i, (result, name) in enumerate(zip(plans, plan_names(plans), strict=True)):
        x, fraction = distribution(result.trial_step_s)
        line: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "linestyle": _STYLES[i // len(CYCLE) % len(_STYLES)]}
        times = [x[0] / scale, *(value / scale for value in x)]
        ax.plot(
            times,
            [0.0, *fraction],
            drawstyle="steps-post",
            linewidth=1.8,
            label=_trials(result, name, plans[0]),
            **line,
        )
    ax.margins(x=0.08)
    ax.set(ylim=(-0.02, 1.02), xlabel=f"step time ({unit})", ylabel="fraction of trials")
    ax.grid(alpha=0.3)
    title(ax, subject(*plans, plan=False)[:3], width - 0.5)
    legend_right(ax)
    return figure_of(ax)


def _trials(result: Result, name: str, first: Result) -> str:
    """Say of how many trials a curve is, its median, and how far that is from the first's: axes need not begin at 0."""
    ran, median_s = len(result.trial_step_s), interval(result).median_s
    how = "one replay, nothing random" if result.deterministic else f"{ran} trial{'s' * (ran > 1)}"
    beside = interval(first).median_s
    apart = f", {100 * (median_s / beside - 1):+.1f} %" if result is not first and beside else ""
    return f"{shorten(name, 42)}\n({how}, median {format_duration(median_s)}{apart})"


def memory_over_time(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw the memory that each device holds over time.

    Devices that hold the same at all times share a curve, and of more than sixteen curves those of ranks that run the
    same passes, whatever their times: the slowest's. Of more than sixteen still, those with the highest and the lowest
    peak are drawn in colour, the others in grey.

    Parameters
    ----------
    results : Result or sequence of Result
        With a memory timeline. Several stand below each other, on one scale of time and of bytes.
    ax : matplotlib.axes.Axes, optional
        Where to draw one result; by default in a new figure.

    Raises
    ------
    MpsimError
        No device of a result has a memory timeline, there is no result, or several for one `ax`.

    Examples
    --------
    >>> from mpsim.result.model import MemoryUse
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0,
    ...                 memory=MemoryUse(activations_bytes=2048, timeline_s=(0.0, 1.0), timeline_bytes=(0, 2048)))
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,))
    >>> memory_over_time(result).axes[0].get_ylabel()
    'memory (KiB)'
    """
    found = results_of(results)
    curves = [_curves(result) for result in found]
    for result, of in zip(found, curves, strict=True):
        if not of:
            raise MpsimError(f"result of {result.plan!r} has no memory over time: simulate a plan of a traced workload")
    width = 10.0
    axes = panels_for(ax, len(found), width, 4.8 if len(found) == 1 else 3.6)
    every = [curve for of in curves for curve in of]
    end_s = max(*(result.step_s for result in found), *(curve.device.memory.timeline_s[-1] for curve in every))
    seconds, unit = seconds_unit(end_s)
    peak = max(curve.peak_bytes for curve in every)
    capacities = {curve.device.capacity_bytes for curve in every} - {0}
    drawn = sorted(capacity for capacity in capacities if capacity <= 4 * peak)
    scale, size = bytes_unit(max([peak, *drawn]))
    for one, result, of in zip(axes, found, curves, strict=True):
        _draw_curves(
            one, of, (seconds, scale), max(result.step_s, *(curve.device.memory.timeline_s[-1] for curve in of))
        )
        for capacity in {curve.device.capacity_bytes for curve in of} & set(drawn):
            one.axhline(capacity / scale, color="black", linewidth=1.6, label="capacity")
        one.set(xlim=(0, end_s / seconds or 1.0), ylabel=f"memory ({size})")
        reach_up_to(one, max([peak, *drawn]) / scale * 1.05)
        one.grid(alpha=0.3)
        notes = [] if all(curve.alike for curve in of) else ["of replicas whose times differ, the slowest is drawn"]
        title(one, [*subject(result), *notes], width - 0.5)
        legend_right(one, fontsize="medium" if len(of) <= len(CYCLE) else "small")
    axes[-1].set_xlabel(f"time ({unit})")
    return figure_of(axes[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Devices that hold the same, as one of them does."""

    device: DeviceUse
    count: int
    alike: bool

    @property
    def peak_bytes(self) -> int:
        return max(self.device.memory.timeline_bytes)

    @property
    def name(self) -> str:
        return self.device.name if self.count == 1 else f"{self.device.name} and {self.count - 1:,} alike"


def _curves(result: Result) -> list[_Curve]:
    curves = _distinct(result, most=None)
    return curves if len(curves) <= _MOST_CURVES else _distinct(result, most=0)


def _distinct(result: Result, *, most: int | None) -> list[_Curve]:
    alike: dict[tuple[tuple[float, ...], tuple[int, ...]], list[Row]] = {}
    for row in distinct_rows(result, most=most):
        memory = result.devices[row.device].memory
        if memory.timeline_s:
            alike.setdefault((memory.timeline_s, memory.timeline_bytes), []).append(row)
    return [
        _Curve(
            device=result.devices[rows[0].device],
            count=sum(row.count for row in rows),
            alike=all(row.alike for row in rows),
        )
        for rows in alike.values()
    ]


def _draw_curves(ax: Axes, curves: Sequence[_Curve], scales: tuple[float, float], end_s: float) -> None:
    named, others = list(curves), []
    if len(curves) > _MOST_CURVES:
        ordered = sorted(curves, key=lambda curve: -curve.peak_bytes)
        named, others = [ordered[0], ordered[-1]], ordered[1:-1]
    colours: Sequence[Any] = CYCLE
    if len(named) > len(CYCLE):
        colours = list(colormaps["viridis"](np.linspace(0.0, 0.9, len(named))))
    for i, curve in enumerate(others):
        _draw(ax, curve, scales, end_s, color="#BBBBBB", lw=0.8, label="" if i else "other devices")
    for i, curve in enumerate(named):
        note = ("\n(highest peak)", "\n(lowest peak)")[i] if others else ""
        _draw(ax, curve, scales, end_s, color=colours[i], lw=1.6, label=curve.name + note)


def _draw(ax: Axes, curve: _Curve, scales: tuple[float, float], end_s: float, **style: Any) -> None:
    """Draw the step function on to the end of the step."""
    memory, (seconds, scale) = curve.device.memory, scales
    x = [time / seconds for time in (*memory.timeline_s, end_s)]
    y = [held / scale for held in (*memory.timeline_bytes, memory.timeline_bytes[-1])]
    ax.plot(x, y, drawstyle="steps-post", **style)
