"""What each holder holds on a device over time, one upon the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from mpsim.errors import MpsimError
from mpsim.result.model import DeviceUse, MemoryUse, Result
from mpsim.result.plotting.style import (
    HOLDER_COLOURS,
    axes_for,
    bytes_unit,
    figure_of,
    legend_right,
    results_of,
    seconds_unit,
    subject,
    title,
)
from mpsim.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["memory_by_holder"]

_MOST_PANELS, _ROOM = 8, 1.25
_WIDTH, _PANEL, _MARGIN = 10.0, 1.7, 1.4  # inches; the margin holds title and time

# From below: what is held throughout, then what comes and goes.
_ORDER = (
    "parameters", "master", "optimizer", "buffers", "workspace", "gradients", "activations", "recomputation",
    "transients", "gathered",
)  # fmt: skip
_Scales = tuple[float, float]


def memory_by_holder(result: Result, *, ax: Axes | None = None) -> Figure:
    """Draw what each holder holds on each device over time, one upon the other.

    Devices that hold the same at all times share a picture. Of more than eight pictures those of the highest peaks are
    drawn.

    Parameters
    ----------
    result : Result
        With memory by holder over time.
    ax : matplotlib.axes.Axes, optional
        Where to draw the device of the highest peak alone; by default all in a new figure.

    Raises
    ------
    MpsimError
        No device has it: the result is of a program without memory, or from a file of an older version.

    Examples
    --------
    >>> from mpsim.result.model import Timeline
    >>> held = Timeline(holder="activations", time_s=(0.0, 1.0), bytes=(0, 2048))
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0,
    ...                 memory=MemoryUse(timeline_s=(0.0, 1.0), timeline_bytes=(0, 2048), by_holder=(held,)))
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,))
    >>> memory_by_holder(result).axes[0].get_ylabel()
    'memory (KiB)'
    """
    (result,) = results_of([result])
    groups = _alike(result)
    if not groups:
        raise MpsimError(
            f"result of {result.plan!r} has no memory by holder over time: simulate a plan of a traced workload again"
        )
    ordered = sorted(groups, key=lambda devices: -_most(devices))
    shown = [ordered[0]] if ax is not None else [one for one in groups if one in ordered[:_MOST_PANELS]]
    panels = _panels(len(shown)) if ax is None else [ax]
    end_s = max(result.step_s, max(devices[0].memory.timeline_s[-1] for devices in shown))
    (seconds, unit), (size, size_unit) = seconds_unit(end_s), bytes_unit(_most(ordered[0]))
    for panel, devices in zip(panels, shown, strict=True):
        # Above the highest peak there is room for a line of text.
        panel.set(xlim=(0, end_s / seconds or 1.0), ylim=(0, _most(ordered[0]) / size * _ROOM))
        _draw(panel, devices, (seconds, size), end_s)
    panels[-1].set_xlabel(f"time ({unit})")
    label = f"memory ({size_unit})"
    if len(panels) == 1:
        panels[0].set_ylabel(label)
    else:
        figure_of(panels[0]).supylabel(label, fontsize="medium")
    left_out = len(groups) - len(panels)
    notes = [f"the {len(panels)} of the highest peaks; {left_out} lower ones are left out"] if left_out else []
    title(panels[0], [*subject(result), *notes], _WIDTH - 0.5)
    _legend(panels)
    return figure_of(panels[0])


def _alike(result: Result) -> list[list[DeviceUse]]:
    """Return the devices that have timelines by holder, those together whose timelines are the same."""
    groups: dict[MemoryUse, list[DeviceUse]] = {}
    for device in result.devices:
        if device.memory.by_holder:
            groups.setdefault(device.memory, []).append(device)
    return list(groups.values())


def _most(devices: list[DeviceUse]) -> int:
    return devices[0].memory.peak_bytes or max(devices[0].memory.timeline_bytes)


def _panels(count: int) -> list[Axes]:
    """Return axes in a new figure, one below the other, of one scale of time and of bytes."""
    first = axes_for(None, _WIDTH, _MARGIN + max(_PANEL * count, 3.2))
    if count == 1:
        return [first]
    figure = figure_of(first)
    first.remove()
    panels: list[Axes] = list(figure.subplots(count, 1, sharex=True, sharey=True))
    plt.close(figure)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return panels


def _draw(ax: Axes, devices: list[DeviceUse], scales: _Scales, end_s: float) -> None:
    memory, (seconds, size) = devices[0].memory, scales
    times = memory.timeline_s
    x = np.array([*times, end_s]) / seconds
    below = np.zeros(len(x))
    held = {one.holder: one for one in memory.by_holder}
    for holder in _ORDER:
        if holder in held:
            counts = held[holder].held(times)
            above = below + np.array([*counts, counts[-1]]) / size
            ax.fill_between(x, below, above, step="post", color=HOLDER_COLOURS[holder], lw=0, label=holder)
            below = above
    capacity = devices[0].capacity_bytes
    if capacity and capacity <= ax.get_ylim()[1] * size:
        ax.axhline(capacity / size, color="black", linewidth=1.6, label="capacity")
    count = sum(device.count for device in devices)
    names = devices[0].name if count == 1 else f"{devices[0].name} and {count - 1:,} alike"
    ax.text(0.006, 0.97, f"{names}, peak {format_bytes(_most(devices))}", transform=ax.transAxes, va="top", fontsize=8)


def _legend(panels: list[Axes]) -> None:
    """Put one legend of all panels beside the first, in the order in which areas lie upon each other."""
    found = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    order = ["capacity", *reversed(_ORDER)]
    legend_right(panels[0], entries={label: found[label] for label in order if label in found})
