"""Stacked bars: where the step goes, and what fills the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from mpsim.errors import MpsimError
from mpsim.result.model import DeviceUse, Result
from mpsim.result.plotting.style import (
    HOLDER_COLOURS,
    PART_COLOURS,
    VERMILION,
    axes_for,
    bytes_unit,
    figure_of,
    legend_right,
    subject,
    thin_labels,
    title,
)
from mpsim.units import format_bytes, format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["breakdown", "memory"]


def breakdown(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw where the step goes: compute, exposed communication and launch, bubble and other idle, as fractions of it.

    Parameters
    ----------
    results : Result or sequence of Result
        One result: a bar for each device. Several: a bar for each plan, the mean over its devices.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        No results, or one without devices.

    Examples
    --------
    >>> use = DeviceUse(name="gpu0", compute_s=1.5, exposed_communication_s=0.25, idle_s=0.25)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5,
    ...                 devices=(use,))
    >>> breakdown(result).axes[0].get_xlabel()
    'part of the step'
    """
    plans = [results] if isinstance(results, Result) else list(results)
    if not plans or not all(result.devices and result.step_s for result in plans):
        raise MpsimError("a breakdown needs results with devices and a step longer than 0 s, got none: simulate a plan")
    if isinstance(results, Result):
        names = [device.label for device in results.devices]
        shares = np.array([_parts(device) for device in results.devices]) / results.step_s
        notes = [""] * len(names)
    else:
        names = [result.plan for result in plans]
        shares = np.array([_mean_parts(r) / r.step_s for r in plans])
        notes = [format_duration(result.step_s) for result in plans]
    width, height = 10.0, min(1.6 + 0.36 * len(names), 14.0)
    ax = axes_for(ax, width, height)
    _stack(ax, shares, notes)
    thin_labels(ax.yaxis, names, range(len(names)), 64)
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="part of the step")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    title(ax, _breakdown_title(results, plans), width - (1 if isinstance(results, Result) else 4))
    legend_right(ax, gap=0.1 if isinstance(results, Result) else 0.7)
    return figure_of(ax)


def _breakdown_title(results: Result | Sequence[Result], plans: list[Result]) -> list[str]:
    if isinstance(results, Result):
        return [*subject(results), f"where each device's step of {format_duration(results.step_s)} goes"]
    about = dict.fromkeys(line for result in plans for line in subject(result, plan=False))
    return [*[*about][:3], "where the step goes, mean device; step time at the right"]


def _parts(device: DeviceUse) -> tuple[float, ...]:
    """Return the seconds of each of ``PART_COLOURS``; of a real run all idle is other."""
    bubble_s = min(device.bubble_s or 0.0, device.idle_s)
    idle = (bubble_s, device.idle_s - bubble_s)
    return device.compute_s, device.exposed_communication_s, device.exposed_launch_s, *idle


def _mean_parts(result: Result) -> np.ndarray:
    """Return the parts of the mean device."""
    parts, counts = [_parts(device) for device in result.devices], [device.count for device in result.devices]
    return np.asarray(np.average(parts, axis=0, weights=counts))


def _stack(ax: Axes, shares: np.ndarray, notes: list[str]) -> None:
    left = np.zeros(len(shares))
    for (part, colour), share in zip(PART_COLOURS.items(), shares.T, strict=True):
        if part == "exposed launch" and not share.any():
            continue
        bars = ax.barh(range(len(shares)), share, left=left, color=colour, label=part, height=0.8)
        if len(shares) <= 32:
            texts = [f"{100 * value:.0f} %" if value >= 0.06 else "" for value in share]
            ax.bar_label(bars, texts, label_type="center", fontsize=8, color="white" if part == "compute" else "black")
        left += share
    for row, note in enumerate(notes):
        ax.annotate(note, (1.0, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def memory(result: Result, *, ax: Axes | None = None) -> Figure:
    """Draw what fills each device's memory at its peak, by holder, against what it has.

    A capacity far above every peak is written rather than drawn, so that the bars stay readable.

    Parameters
    ----------
    result : Result
        With devices.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        The result has no devices.

    Examples
    --------
    >>> from mpsim.result.model import MemoryUse
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0,
    ...                 memory=MemoryUse(parameters_bytes=3 * 2**20))
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,))
    >>> memory(result).axes[0].get_ylabel()
    'memory at its peak (MiB)'
    """
    if not result.devices:
        raise MpsimError(f"result of {result.plan!r} has no devices, a picture of memory needs them: simulate a plan")
    n_devices = len(result.devices)
    width = min(5.0 + 0.45 * n_devices, 14.0)
    ax = axes_for(ax, width, 4.8)
    peak, capacity = max(result.peak_memory_bytes), max(device.capacity_bytes for device in result.devices)
    drawn = capacity <= 4 * peak
    scale, unit = bytes_unit(max(peak, capacity if drawn else 0))
    bottom = np.zeros(n_devices)
    for holder, colour in HOLDER_COLOURS.items():
        held = np.array([getattr(device.memory, f"{holder}_bytes") / scale for device in result.devices])
        if held.any():
            ax.bar(range(n_devices), held, bottom=bottom, color=colour, label=holder, width=0.8)
        bottom += held
    if drawn:
        _capacities(ax, result, scale)
    thin_labels(ax.xaxis, [device.label for device in result.devices], range(n_devices), 24)
    ax.tick_params(axis="x", rotation=45 if n_devices > 6 else 0)
    ax.set(xlim=(-0.6, n_devices - 0.4), ylabel=f"memory at its peak ({unit})", xlabel="device")
    ax.margins(y=0.08)
    title(ax, [*subject(result), _verdict(result, drawn)], width - 0.5)
    legend_right(ax)
    return figure_of(ax)


def _capacities(ax: Axes, result: Result, scale: float) -> None:
    known = [(i, device) for i, device in enumerate(result.devices) if device.capacity_bytes]
    if not known:
        return
    positions = np.array([i for i, _ in known])
    heights = np.array([device.capacity_bytes / scale for _, device in known])
    ax.hlines(heights, positions - 0.5, positions + 0.5, colors="black", linewidth=1.6, label="capacity")
    over = [(i, device) for i, device in known if device.fits is False]
    if over:
        tops = [device.memory.peak_bytes / scale for _, device in over]
        ax.plot([i for i, _ in over], tops, "X", color=VERMILION, markersize=9, mec="white", label="does not fit")


def _verdict(result: Result, drawn: bool) -> str:
    known = [device for device in result.devices if device.capacity_bytes]
    if not known:
        return "capacity unknown"
    fullest = max(known, key=lambda device: device.memory.peak_bytes / device.capacity_bytes)
    share = 100 * fullest.memory.peak_bytes / fullest.capacity_bytes
    fits = {True: "fits", False: "does not fit", None: "some capacities are unknown"}[result.fits]
    text = f"{fits}: {fullest.name} fills {share:.3g} % of {format_bytes(fullest.capacity_bytes)}"
    return text if drawn else text + " (off the scale)"
