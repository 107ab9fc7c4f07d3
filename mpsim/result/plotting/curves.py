"""Curves: the distribution of the step over trials, and memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpsim.errors import MpsimError
from mpsim.result.model import DeviceUse, Result
from mpsim.result.plotting.style import (
    CYCLE,
    axes_for,
    bytes_unit,
    figure_of,
    legend_right,
    seconds_unit,
    shorten,
    subject,
    title,
)
from mpsim.result.statistics import cdf as distribution
from mpsim.result.statistics import interval
from mpsim.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cdf", "memory_over_time"]

_STYLES = ("-", "--", "-.", ":")


def cdf(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw the fraction of trials whose step is at most so long, a curve for each plan.

    Parameters
    ----------
    results : Result or sequence of Result
        One curve each; where nothing is random it is one step, and says so.
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
    plans = [results] if isinstance(results, Result) else list(results)
    if not plans:
        raise MpsimError("a distribution of no results: give at least one")
    width = 9.0
    ax = axes_for(ax, width, 4.8)
    scale, unit = seconds_unit(max(max(result.trial_step_s) for result in plans))
    for i, result in enumerate(plans):
        x, fraction = distribution(result.trial_step_s)
        line: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "linestyle": _STYLES[i // len(CYCLE) % len(_STYLES)]}
        times = [x[0] / scale, *(value / scale for value in x)]
        ax.plot(times, [0.0, *fraction], drawstyle="steps-post", linewidth=1.8, label=_trials(result), **line)
    ax.margins(x=0.08)
    ax.set(ylim=(-0.02, 1.02), xlabel=f"step time ({unit})", ylabel="fraction of trials")
    ax.grid(alpha=0.3)
    about = dict.fromkeys(line for result in plans for line in subject(result, plan=False))
    title(ax, [*about][:3], width - 0.5)
    legend_right(ax)
    return figure_of(ax)


def _trials(result: Result) -> str:
    ran = len(result.trial_step_s)
    how = "one replay, nothing random" if result.deterministic else f"{ran} trial{'s' * (ran > 1)}"
    return f"{shorten(result.plan, 42)}\n({how}, median {format_duration(interval(result).median_s)})"


def memory_over_time(result: Result, *, ax: Axes | None = None) -> Figure:
    """Draw the memory that each device holds over time.

    Devices that hold the same at all times share a curve. Of more than seven curves, those with the highest and the
    lowest peak are drawn in colour, the others in grey.

    Parameters
    ----------
    result : Result
        With a memory timeline.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        No device has a memory timeline.

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
    curves = _curves(result)
    if not curves:
        raise MpsimError(f"result of {result.plan!r} has no memory over time: simulate a plan of a traced workload")
    width = 10.0
    ax = axes_for(ax, width, 4.8)
    end_s = max(result.step_s, max(curve.devices[0].memory.timeline_s[-1] for curve in curves))
    seconds, unit = seconds_unit(end_s)
    peak = max(curve.peak_bytes for curve in curves)
    named, others = _chosen(curves)
    capacities = {device.capacity_bytes for curve in named for device in curve.devices} - {0}
    drawn = sorted(capacity for capacity in capacities if capacity <= 4 * peak)
    scale, size = bytes_unit(max([peak, *drawn]))
    for i, curve in enumerate(others):
        _draw(ax, curve, (seconds, scale), end_s, color="#BBBBBB", lw=0.8, label="" if i else "other devices")
    for i, curve in enumerate(named):
        note = ("", "\n(highest peak)", "\n(lowest peak)")[bool(others) * (i + 1)]
        _draw(ax, curve, (seconds, scale), end_s, color=CYCLE[i], lw=1.6, label=curve.name + note)
    for capacity in drawn:
        ax.axhline(capacity / scale, color="black", linewidth=1.6, label="capacity")
    ax.set(xlim=(0, end_s / seconds or 1.0), xlabel=f"time ({unit})", ylabel=f"memory ({size})")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    title(ax, subject(result), width - 0.5)
    legend_right(ax)
    return figure_of(ax)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """Devices that hold the same at all times."""

    devices: tuple[DeviceUse, ...]

    @property
    def peak_bytes(self) -> int:
        return max(self.devices[0].memory.timeline_bytes)

    @property
    def name(self) -> str:
        count = sum(device.count for device in self.devices)
        return self.devices[0].name if count == 1 else f"{self.devices[0].name} and {count - 1:,} alike"


def _curves(result: Result) -> list[_Curve]:
    alike: dict[tuple[tuple[float, ...], tuple[int, ...]], list[DeviceUse]] = {}
    for device in result.devices:
        if device.memory.timeline_s:
            alike.setdefault((device.memory.timeline_s, device.memory.timeline_bytes), []).append(device)
    return [_Curve(devices=tuple(devices)) for devices in alike.values()]


def _chosen(curves: list[_Curve]) -> tuple[list[_Curve], list[_Curve]]:
    """Return those to name and those to leave grey."""
    if len(curves) <= len(CYCLE):
        return curves, []
    ordered = sorted(curves, key=lambda curve: -curve.peak_bytes)
    return [ordered[0], ordered[-1]], ordered[1:-1]


def _draw(ax: Axes, curve: _Curve, scales: tuple[float, float], end_s: float, **style: Any) -> None:
    """Draw the step function on to the end of the step."""
    memory, (seconds, scale) = curve.devices[0].memory, scales
    x = [time / seconds for time in (*memory.timeline_s, end_s)]
    y = [held / scale for held in (*memory.timeline_bytes, memory.timeline_bytes[-1])]
    ax.plot(x, y, drawstyle="steps-post", **style)
