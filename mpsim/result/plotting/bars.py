"""Stacked bars: where the step goes, and what fills the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from mpsim.errors import MpsimError
from mpsim.result.model import DeviceUse, Result
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.style import (
    HOLDER_COLOURS,
    PART_COLOURS,
    VERMILION,
    axes_for,
    bytes_unit,
    figure_of,
    legend_right,
    panels_for,
    plan_names,
    reach_up_to,
    results_of,
    seconds_unit,
    subject,
    thin_labels,
    title,
)
from mpsim.result.rows import distinct_rows
from mpsim.units import format_bytes, format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["breakdown", "memory"]


def breakdown(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw where the step goes: compute, exposed communication and launch, bubble, idle; parts and times.

    Parameters
    ----------
    results : Result or sequence of Result
        One result: a bar for each device, those that do the same at the same moments together. Several: a bar for each
        plan, the mean over its devices, as parts of its step and, beside that, in seconds.
    ax : matplotlib.axes.Axes, optional
        Where to draw the parts alone; by default in a new figure.

    Raises
    ------
    MpsimError
        No results, or one without devices.

    Examples
    --------
    >>> use = DeviceUse(name="gpu0", compute_s=1.5, exposed_communication_s=0.25, idle_s=0.25)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5,
    ...                 devices=(use,))
    >>> breakdown(result).axes[0].get_xlabel(), [ax.get_xlabel() for ax in breakdown([result, result]).axes]
    ('part of the step', ['part of the step', 'time (s)'])
    """
    plans = results_of(results)
    if not plans or not all(result.devices and result.step_s for result in plans):
        raise MpsimError("a breakdown needs results with devices and a step longer than 0 s, got none: simulate a plan")
    return _of_devices(results, ax) if isinstance(results, Result) else _of_plans(plans, ax)


def _of_devices(result: Result, ax: Axes | None) -> Figure:
    rows = distinct_rows(result, most=None)
    width = 10.0
    ax = axes_for(ax, width, _height(len(rows)))
    shares = np.array([_parts(result.devices[row.device]) for row in rows]) / result.step_s
    _stack(ax, shares, [row.name for row in rows])
    _fractions(ax)
    scale, unit = seconds_unit(result.step_s)
    per = result.step_s / scale
    above = ax.secondary_xaxis("top", functions=(partial(np.multiply, per), partial(np.multiply, 1 / per)))
    above.set_xlabel(f"time ({unit})")
    title(ax, [*subject(result), f"where each device's step of {format_duration(result.step_s)} goes"], width - 1)
    legend_right(ax)
    return figure_of(ax)


def _of_plans(plans: list[Result], ax: Axes | None) -> Figure:
    names = plan_names(plans)
    seconds = np.array([_mean_parts(result) for result in plans])
    width, beside = 14.0, None
    if ax is None:
        ax, beside = _pair(width, _height(len(names)))
    steps = np.array([result.step_s for result in plans])
    _stack(ax, seconds / steps[:, None], names)
    _fractions(ax)
    title(ax, [*subject(*plans, plan=False)[:3], "where the step of the mean device goes"], width / 2)
    times = [format_duration(result.step_s) for result in plans]
    if beside is None:
        _note(ax, np.ones(len(plans)), times)
        legend_right(ax, gap=0.7)
        return figure_of(ax)
    scale, unit = seconds_unit(max(steps))
    _stack(beside, seconds, [""] * len(plans), timed=scale)
    _note(beside, steps / scale, times)
    beside.set(xlim=(0, max(steps) / scale * 1.15), xlabel=f"time ({unit})")
    legend_right(beside)
    return figure_of(ax)


def _pair(width: float, height: float) -> tuple[Axes, Axes]:
    figure, (left, right) = plt.subplots(1, 2, figsize=(width, height), layout="constrained", FigureClass=Described)
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return left, right


def _height(bars: int) -> float:
    return min(1.8 + 0.36 * bars, 14.0)


def _fractions(ax: Axes) -> None:
    ax.set(xlim=(0, 1), xlabel="part of the step")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _parts(device: DeviceUse) -> tuple[float, ...]:
    """Return the seconds of each of ``PART_COLOURS``; of a real run all idle is other."""
    bubble_s = min(device.bubble_s or 0.0, device.idle_s)
    idle = (bubble_s, device.idle_s - bubble_s)
    return device.compute_s, device.exposed_communication_s, device.exposed_launch_s, *idle


def _mean_parts(result: Result) -> np.ndarray:
    """Return the parts of the mean device."""
    parts, counts = [_parts(device) for device in result.devices], [device.count for device in result.devices]
    return np.asarray(np.average(parts, axis=0, weights=counts))


def _stack(ax: Axes, widths: np.ndarray, names: list[str], *, timed: float | None = None) -> None:
    """Draw a bar for each row of fractions, the parts after one another, each said where there is room.

    With `timed` the rows are of seconds, and drawn in this unit.
    """
    left = np.zeros(len(widths))
    totals = widths.sum(axis=1) / (timed or 1.0)
    for (name, colour), width in zip(PART_COLOURS.items(), widths.T / (timed or 1.0), strict=True):
        if name == "exposed launch" and not width.any():
            continue
        bars = ax.barh(range(len(widths)), width, left=left, color=colour, label=name, height=0.8)
        if len(widths) <= 32:
            texts = [
                _named(part, timed) if part >= (0.06 if timed is None else 0.12) * totals.max() else ""
                for part in width
            ]
            ax.bar_label(bars, texts, label_type="center", fontsize=8, color="white" if name == "compute" else "black")
        left += width
    thin_labels(ax.yaxis, names, range(len(names)), 64)
    ax.set(ylim=(len(names) - 0.5, -0.5))


def _named(part: float, timed: float | None) -> str:
    return f"{100 * part:.0f} %" if timed is None else format_duration(part * timed)


def _note(ax: Axes, ends: np.ndarray, notes: list[str]) -> None:
    """Write a note at the end of each bar."""
    for row, (end, note) in enumerate(zip(ends, notes, strict=True)):
        ax.annotate(note, (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def memory(results: Result | Sequence[Result], *, ax: Axes | None = None) -> Figure:
    """Draw what fills each device's memory at its peak, by holder, against what it has.

    Devices that hold the same at their peaks share a bar. A capacity far above every peak is written rather than drawn,
    so that the bars stay readable.

    Parameters
    ----------
    results : Result or sequence of Result
        With devices. Several stand below each other, on one scale of bytes.
    ax : matplotlib.axes.Axes, optional
        Where to draw one result; by default in a new figure.

    Raises
    ------
    MpsimError
        A result has no devices, there is none, or several for one `ax`.

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
    found = results_of(results)
    for result in found:
        if not result.devices:
            raise MpsimError(
                f"result of {result.plan!r} has no devices, a picture of memory needs them: simulate a plan"
            )
    groups = [_holding_the_same(result) for result in found]
    width = min(5.0 + 0.45 * max(map(len, groups), default=0), 14.0)
    axes = panels_for(ax, len(found), width, 4.8)
    peak = max(max(result.peak_memory_bytes) for result in found)
    capacity = max(device.capacity_bytes for result in found for device in result.devices)
    drawn = capacity <= 4 * peak
    scale, unit = bytes_unit(max(peak, capacity if drawn else 0))
    for one, result, devices in zip(axes, found, groups, strict=True):
        _holders(one, devices, scale)
        if drawn:
            _capacities(one, devices, scale)
        one.set(xlim=(-0.6, len(devices) - 0.4), ylabel=f"memory at its peak ({unit})")
        one.margins(y=0.08)
        title(one, [*subject(result), _verdict(result, drawn)], width - 0.5)
        legend_right(one)
    top = max(one.get_ylim()[1] for one in axes)
    for one in axes:
        reach_up_to(one, top)
    axes[-1].set_xlabel("device")
    return figure_of(axes[0])


def _holding_the_same(result: Result) -> list[DeviceUse]:
    """Return a device for all that hold as much at their peaks and can hold as much."""
    found: dict[tuple[int, ...], list[DeviceUse]] = {}
    for device in result.devices:
        held = tuple(getattr(device.memory, f"{holder}_bytes") for holder in HOLDER_COLOURS)
        found.setdefault((device.capacity_bytes, *held), []).append(device)
    return [replace(alike[0], count=sum(device.count for device in alike)) for alike in found.values()]


def _holders(ax: Axes, devices: Sequence[DeviceUse], scale: float) -> None:
    bottom, places = np.zeros(len(devices)), range(len(devices))
    for holder, colour in HOLDER_COLOURS.items():
        held = np.array([getattr(device.memory, f"{holder}_bytes") / scale for device in devices])
        if held.any():
            ax.bar(places, held, bottom=bottom, color=colour, label=holder, width=0.8)
        bottom += held
    thin_labels(ax.xaxis, [device.label for device in devices], places, 24)
    ax.tick_params(axis="x", rotation=45 if len(devices) > 6 else 0)


def _capacities(ax: Axes, devices: Sequence[DeviceUse], scale: float) -> None:
    known = [(i, device) for i, device in enumerate(devices) if device.capacity_bytes]
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
