"""The timeline: what each device does when."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PolyCollection

from mpsim.errors import MpsimError
from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import Result
from mpsim.result.plotting.style import (
    AXIS_COLOURS,
    KIND_COLOURS,
    axes_for,
    figure_of,
    legend_right,
    seconds_unit,
    subject,
    thin_labels,
    title,
)
from mpsim.result.statistics import interval
from mpsim.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["timeline"]

_TOP, _COMPUTE, _LANES = 0.06, 0.56, 0.26  # Of a device's row: margin, computations, all transfer lanes together.
_MOST_NUMBERS = 1500  # More micro-batch numbers than this are a grey texture, and slow to draw.
_FONT_POINTS = 7
_GAP_POINTS, _AXES_POINTS = 0.4, 600.0  # Between boxes; about the width of the axes.

# (first, last second), (upper, lower edge) of one rectangle
Box = tuple[float, float, float, float]


def timeline(result: Result, *, ax: Axes | None = None) -> Figure:
    """Draw what each device does when: computations, and below them its transfers in a lane for each axis.

    Micro-batch numbers are written where there is room. A transfer appears under each device that takes part in it.

    Parameters
    ----------
    result : Result
        With spans.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        The result was saved without its spans.

    Examples
    --------
    >>> from mpsim.result.model import DeviceUse, Spans
    >>> spans = Spans(name=("0F0",), kind=("forward",), axis=("",), devices=((0,),), stage=(0,), microbatch=(0,),
    ...               bytes=(0,), start_s=(0.0,), end_s=(2.0,))
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,), spans=spans)
    >>> timeline(result).axes[0].get_xlabel()
    'time (s)'
    """
    if not len(result.spans):
        raise MpsimError(
            f"result of {result.plan!r} holds no spans, a timeline needs them: simulate again and keep them"
        )
    n_devices = len(result.devices)
    width, height = 11.0, min(1.8 + 0.5 * n_devices, 15.0)
    ax = axes_for(ax, width, height)
    end_s = max(result.spans.end_s)
    scale, unit = seconds_unit(end_s)
    _draw(ax, result, scale)
    last_s = _mark_end(ax, result, end_s, scale)
    ax.set(xlim=(0, last_s / scale * 1.01 or 1.0), ylim=(n_devices, 0), xlabel=f"time ({unit})", ylabel="device")
    names = [device.label for device in result.devices]
    thin_labels(ax.yaxis, names, [i + _TOP + _COMPUTE / 2 for i in range(n_devices)], 64)
    ax.tick_params(axis="y", length=0)
    title(ax, [*subject(result), f"step {format_duration(result.step_s)}"], width)
    legend_right(ax)
    _number(ax, result, scale)
    return figure_of(ax)


def _lanes(result: Result) -> dict[str, tuple[float, float]]:
    """Return the upper edge and the height of each axis's lane within a device's row."""
    spans = result.spans
    present = {spans.axis[i] for i in range(len(spans)) if is_transfer(spans, i)}
    axes = [*(axis for axis in AXIS_COLOURS if axis in present), *sorted(present - set(AXIS_COLOURS))]
    height = _LANES / max(len(axes), 1)
    return {axis: (_TOP + _COMPUTE + 0.04 + i * height, height * 0.86) for i, axis in enumerate(axes)}


def _boxes(result: Result) -> dict[str, list[Box]]:
    """Return the rectangles under each legend entry: kinds of computation, axes of transfer."""
    lanes = _lanes(result)
    boxes: dict[str, list[Box]] = defaultdict(list)
    spans = result.spans
    for i, devices in enumerate(spans.devices):
        if is_launch(spans, i):  # a host's, and its device waits or works meanwhile
            continue
        transfer = is_transfer(spans, i)
        upper, height = lanes[spans.axis[i]] if transfer else (_TOP, _COMPUTE)
        label = f"{spans.axis[i]} transfer".strip() if transfer else spans.kind[i]
        for device in devices:
            boxes[label].append((spans.start_s[i], spans.end_s[i], device + upper, device + upper + height))
    return boxes


def _draw(ax: Axes, result: Result, scale: float) -> None:
    boxes, rasterized = _boxes(result), len(result.spans) > 20_000
    for label in sorted(boxes, key=_rank):
        x0, x1, y0, y1 = np.array(boxes[label]).T
        corners = np.stack([x0 / scale, y0, x1 / scale, y0, x1 / scale, y1, x0 / scale, y1], axis=1).reshape(-1, 4, 2)
        transfer = label.endswith("transfer")
        colour = AXIS_COLOURS.get(label.removesuffix("transfer").strip(), "#555555")
        if not transfer:
            colour = KIND_COLOURS.get(label, "#777777")
        # Hairline gaps between neighbours, but none where they would eat up what they part.
        wide = np.median(x1 - x0) > 12 * _GAP_POINTS / _AXES_POINTS * max(result.step_s, x1.max())
        edges = {"edgecolors": "white", "linewidths": _GAP_POINTS} if wide else {"linewidths": 0}
        if transfer and not rasterized:
            edges = {"edgecolors": colour, "linewidths": 0.6}  # So that no transfer is too short to be seen.
        look: dict[str, Any] = {
            "facecolors": colour,
            "rasterized": rasterized,
            "label": label.replace("_", " "),
        } | edges
        ax.add_collection(PolyCollection(list(corners), **look))


def _rank(label: str) -> tuple[bool, int]:
    kinds = list(KIND_COLOURS)
    return label.endswith("transfer"), kinds.index(label) if label in kinds else len(kinds)


def _mark_end(ax: Axes, result: Result, end_s: float, scale: float) -> float:
    """Mark where the step ends, and where it does in 90 % of trials; return the last of both in seconds."""
    ax.axvline(
        end_s / scale, color="black", linewidth=1.2, linestyle="--", label=f"step end ({format_duration(end_s)})"
    )
    over = interval(result)
    if over.width_s:
        ax.axvspan(over.low_s / scale, over.high_s / scale, color="black", alpha=0.1, lw=0, label="5-95 % of trials")
    return max(end_s, over.high_s)


def _number(ax: Axes, result: Result, scale: float) -> None:
    """Write micro-batch numbers into the computations that are wide enough for them."""
    figure = figure_of(ax)
    figure.draw_without_rendering()  # Settles the layout: only then is a box's width on paper known.
    box = ax.get_window_extent()
    points_per_s = box.width / figure.dpi * 72 / (ax.get_xlim()[1] - ax.get_xlim()[0]) / scale
    points_per_row = box.height / figure.dpi * 72 / len(result.devices)
    chosen = _with_room(result, points_per_s) if points_per_row * _COMPUTE > _FONT_POINTS else []
    spans = result.spans
    for i in chosen if len(chosen) <= _MOST_NUMBERS else ():
        x, y = (spans.start_s[i] + spans.end_s[i]) / 2 / scale, spans.devices[i][0] + _TOP + _COMPUTE / 2
        colour = "white" if spans.kind[i] == "forward" else "black"
        text = str(spans.microbatch[i])
        ax.text(x, y, text, fontsize=_FONT_POINTS, ha="center", va="center_baseline", color=colour, clip_on=True)


def _with_room(result: Result, points_per_s: float) -> list[int]:
    """Return the computations to number: every kind of which nearly all are wide enough: gaps puzzle."""
    spans = result.spans
    kinds: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for i in _middles(result):
        wanted = (len(str(spans.microbatch[i])) + 0.5) * 0.62 * _FONT_POINTS
        room = (spans.end_s[i] - spans.start_s[i]) * points_per_s
        kinds[spans.kind[i]].append((i, room > wanted))
    ample = [rows for rows in kinds.values() if sum(fits for _, fits in rows) >= 0.9 * len(rows)]
    return [i for rows in ample for i, fits in rows if fits]


def _middles(result: Result) -> list[int]:
    """Return the middle piece of each pass: buckets and collectives cut a pass in pieces, and it is numbered once."""
    spans = result.spans
    passes: dict[tuple[int, str, int, int], list[int]] = defaultdict(list)
    for i, microbatch in enumerate(spans.microbatch):
        if microbatch >= 0 and not (is_transfer(spans, i) or is_launch(spans, i)):
            passes[spans.devices[i][0], spans.kind[i], spans.stage[i], microbatch].append(i)
    return [pieces[(len(pieces) - 1) // 2] for pieces in passes.values()]
