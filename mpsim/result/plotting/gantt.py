"""One panel of a timeline: rows of computations, transfers and gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from mpsim.result.gaps import Gap
from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import Result
from mpsim.result.plotting.style import AXIS_COLOURS, GAP_COLOURS, KIND_COLOURS, figure_of, thin_labels
from mpsim.result.rows import Row
from mpsim.result.statistics import interval
from mpsim.units import format_duration

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["Panel", "draw_panel", "entries_of", "mark_end", "write_texts"]

_TOP, _COMPUTE, _LANES = 0.06, 0.56, 0.26  # Of a device's row: margin, computations, all transfer lanes together.
_MOST_NUMBERS = 1500  # More micro-batch numbers than this are a grey texture, and slow to draw.
_FONT_POINTS = 7
_GAP_POINTS, _AXES_POINTS = 0.4, 600.0  # Between boxes; about the width of the axes.
_SEEN = 0.003  # Of all gaps, those of a cause that are less have no entry in the legend.
_LINES = ("step end", "5-95 % of trials", "enlarged below", "lighter: later stages of a rank")
_PALEST = 0.5  # So much white the colour of the last of a rank's stages has.
_GAP_NAMES = {"wait": "waits for a transfer", "launch": "waits for a launch", "bubble": "bubble", "idle": "idle"}

# (first, last second), (upper, lower edge) of one rectangle, and which of its rank's stages it is of
Box = tuple[float, float, float, float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What one panel shows: of which result which rows, from when to when, seconds in a unit of its axis, and gaps."""

    result: Result
    rows: Sequence[Row]
    start_s: float
    end_s: float
    scale: float
    gaps: Mapping[int, Sequence[Gap]] = field(default_factory=dict)

    def shows(self, start_s: float, end_s: float) -> bool:
        """Whether something from one second to another is in it."""
        return end_s >= self.start_s and start_s <= self.end_s


def draw_panel(ax: Axes, panel: Panel, *, named: bool = True, most: int = 64) -> None:
    """Draw the rows of a panel, named or at `most` so many of them, and its limits; texts come with a settled layout.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0)
    >>> draw_panel(axes, Panel(result=result, rows=[], start_s=0.0, end_s=2.0, scale=1.0))
    >>> axes.has_data()
    False
    """
    boxes = _boxes(panel)
    for label in sorted(boxes, key=_rank):
        _collect(ax, panel, label, boxes[label])
    if any(len(row.stages) > 1 for row in panel.rows):
        ax.bar(0, 0, color="#D0D0D0", label=_LINES[-1])  # A bar of no size: it is there for its entry in the legend.
    count = len(panel.rows)
    ax.set(xlim=(panel.start_s / panel.scale, panel.end_s / panel.scale or 1.0), ylim=(max(count, 1), 0))
    names = [row.name for row in panel.rows] if named else [""] * count
    if names:
        thin_labels(ax.yaxis, names, [i + _TOP + _COMPUTE / 2 for i in range(count)], most)
    ax.tick_params(axis="y", length=0)


def mark_end(ax: Axes, panel: Panel, *, timed: bool = True) -> None:
    """Mark where the step ends, and say when if asked to; and where it does in 90 % of trials.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0)
    >>> mark_end(axes, Panel(result=result, rows=[], start_s=0.0, end_s=2.0, scale=1.0))
    >>> axes.lines[0].get_label()
    'step end (2 s)'
    """
    end_s, over = max([panel.result.step_s, *panel.result.spans.end_s]), interval(panel.result)
    style: dict[str, Any] = {"color": "black", "linewidth": 1.2, "linestyle": "--"}
    if not panel.shows(end_s, end_s):
        return
    ax.axvline(end_s / panel.scale, label="step end" + f" ({format_duration(end_s)})" * timed, **style)
    if over.width_s:
        ends = (over.low_s / panel.scale, over.high_s / panel.scale)
        ax.axvspan(*ends, color="black", alpha=0.1, lw=0, label="5-95 % of trials")


def entries_of(axes: Sequence[Axes]) -> dict[str, Artist]:
    """Return the entries of one legend of several panels: computations, transfers, gaps, lines.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> for label in ("step end", "backward", "forward"):
    ...     _ = axes.plot([0], [0], label=label)
    >>> [*entries_of([axes])]
    ['forward', 'backward', 'step end']
    """
    pairs = (ax.get_legend_handles_labels() for ax in axes)
    found = {label: handle for pair in pairs for handle, label in zip(*pair, strict=True)}
    return dict(sorted(found.items(), key=lambda entry: _rank(entry[0].partition(" (")[0].replace(" ", "_"))))


def _lanes(result: Result) -> dict[str, tuple[float, float]]:
    """Return the upper edge and the height of each axis's lane within a device's row."""
    spans = result.spans
    present = {spans.axis[i] for i in range(len(spans)) if is_transfer(spans, i)}
    axes = [*(axis for axis in AXIS_COLOURS if axis in present), *sorted(present - set(AXIS_COLOURS))]
    height = _LANES / max(len(axes), 1)
    return {axis: (_TOP + _COMPUTE + 0.04 + i * height, height * 0.86) for i, axis in enumerate(axes)}


def _boxes(panel: Panel) -> dict[str, list[Box]]:
    """Return the rectangles under each legend entry: kinds of computation, axes of transfer, gaps."""
    lanes, spans = _lanes(panel.result), panel.result.spans
    row_of = {row.device: i for i, row in enumerate(panel.rows)}
    places = {row.device: {stage: i for i, stage in enumerate(row.stages)} for row in panel.rows}
    boxes: dict[str, list[Box]] = defaultdict(list)
    for i, devices in enumerate(spans.devices):
        # A launch is a host's, and its device waits or works meanwhile.
        if is_launch(spans, i) or not panel.shows(spans.start_s[i], spans.end_s[i]):
            continue
        transfer = is_transfer(spans, i)
        upper, height = lanes[spans.axis[i]] if transfer else (_TOP, _COMPUTE)
        label = f"{spans.axis[i]} transfer".strip() if transfer else spans.kind[i]
        for device in devices:
            if (row := row_of.get(device)) is not None:
                shade = places[device].get(spans.stage[i], 0) if spans.microbatch[i] >= 0 and not transfer else 0
                boxes[label].append((spans.start_s[i], spans.end_s[i], row + upper, row + upper + height, shade))
    for device, row in row_of.items():
        for start_s, end_s, cause in panel.gaps.get(device, ()):
            if panel.shows(start_s, end_s):
                boxes[_GAP_NAMES[cause]].append((start_s, end_s, row + _TOP, row + _TOP + _COMPUTE, 0))
    return boxes


def _collect(ax: Axes, panel: Panel, label: str, boxes: Sequence[Box]) -> None:
    """Draw the boxes under one entry of the legend."""
    rasterized = len(panel.result.spans) > 20_000
    x0, x1, y0, y1, shade = np.array(sorted(boxes, key=lambda box: box[-1])).T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 4, 2) / [panel.scale, 1.0]
    deepest = max([len(row.stages) for row in panel.rows] + [2]) - 1
    colour, transfer = _colour(label), label.endswith("transfer") and label not in GAP_COLOURS
    # Hairline gaps between neighbours, but none where they would eat up what they part.
    wide = np.median(x1 - x0) > 12 * _GAP_POINTS / _AXES_POINTS * (panel.end_s - panel.start_s)
    edges: dict[str, Any] = {"edgecolors": "white", "linewidths": _GAP_POINTS} if wide else {"linewidths": 0}
    if label in GAP_COLOURS:
        edges = {"linewidths": 0, "zorder": 0.5}
    elif transfer and not rasterized:
        edges = {"edgecolors": colour, "linewidths": 0.6}  # So that no transfer is too short to be seen.
    name = _idle(panel) if label == "bubble" else label.replace("_", " ")
    if label in GAP_COLOURS and (x1 - x0).sum() < _SEEN * panel.result.step_s * len(panel.rows):
        name = ""  # Too little to be seen, it puzzles in a legend.
    paler = _PALEST * shade[:, None] / deepest
    colours = np.array(to_rgb(colour)) * (1 - paler) + paler
    look: dict[str, Any] = {"facecolors": colours, "rasterized": rasterized, "label": name} | edges
    ax.add_collection(PolyCollection(list(corners), **look))


def _idle(panel: Panel) -> str:
    """Say what of the gaps in which nothing is waited for is no bubble, where that is to be seen."""
    uses = [panel.result.devices[row.device] for row in panel.rows]
    idle_s = sum(use.idle_s for use in uses)
    other_s = sum(max(0.0, use.idle_s - use.bubble_s) for use in uses if use.bubble_s is not None)
    return f"bubble ({100 * other_s / idle_s:.0f} % of it behind transfers)" if other_s > 0.02 * idle_s else "bubble"


def _colour(label: str) -> str:
    if label in GAP_COLOURS:
        return GAP_COLOURS[label]
    if label.endswith("transfer"):
        return AXIS_COLOURS.get(label.removesuffix("transfer").strip(), "#555555")
    return KIND_COLOURS.get(label, "#777777")


def _rank(label: str) -> tuple[int, int]:
    """Order the legend: computations, transfers, gaps, lines."""
    kinds, words = list(KIND_COLOURS), label.replace("_", " ")
    if words in GAP_COLOURS:
        return 2, list(GAP_COLOURS).index(words)
    if words.endswith("transfer"):
        axis = words.removesuffix("transfer").strip()
        return 1, list(AXIS_COLOURS).index(axis) if axis in AXIS_COLOURS else len(AXIS_COLOURS)
    return (0, kinds.index(label)) if label in kinds else (3 if words in _LINES else 0, len(kinds))


def write_texts(ax: Axes, panel: Panel) -> None:
    """Write micro-batch numbers into the computations, and what they are into the gaps, where there is room.

    The figure's layout must be settled: only then is a box's width on paper known.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0)
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> write_texts(axes, Panel(result=result, rows=[], start_s=0.0, end_s=2.0, scale=1.0))
    >>> list(axes.texts)
    []
    """
    box, dpi = ax.get_window_extent(), figure_of(ax).dpi
    points_per_s = box.width / dpi * 72 / (panel.end_s - panel.start_s or 1.0)
    points_per_row = box.height / dpi * 72 / max(len(panel.rows), 1)
    passes = _passes(panel)
    if points_per_row * _COMPUTE <= _FONT_POINTS:
        return
    chosen = [one for kind in passes.values() for one in _with_room(kind, points_per_s)]
    row_of = {row.device: i for i, row in enumerate(panel.rows)}
    for one in chosen if len(chosen) <= _MOST_NUMBERS else ():
        row = row_of[one.device]
        first = one.stage == min(panel.rows[row].stages, default=one.stage)
        colour = "white" if one.kind == "forward" and first else "black"
        _write(ax, panel, one[:2], row, (str(one.microbatch), colour), points_per_s)
    for row, drawn in enumerate(panel.rows):
        for start_s, end_s, cause in panel.gaps.get(drawn.device, ()):
            ends_s = max(start_s, panel.start_s), min(end_s, panel.end_s)
            if (ends_s[1] - ends_s[0]) * points_per_s > _wide(cause):
                _write(ax, panel, ends_s, row, (cause, "#555555"), points_per_s)


class _Pass(NamedTuple):
    """A pass of a micro-batch through a stage, or the middle piece of one that something interrupts."""

    start_s: float
    end_s: float
    device: int
    kind: str
    stage: int
    microbatch: int


def _write(
    ax: Axes, panel: Panel, ends_s: tuple[float, float], row: int, said: tuple[str, str], points_per_s: float
) -> None:
    """Write a text in a colour into the middle, unless it would leave the panel."""
    (text, colour), middle_s = said, sum(ends_s) / 2
    half_s = _wide(text) / 2 / points_per_s
    if panel.start_s <= middle_s - half_s and middle_s + half_s <= panel.end_s:
        x, y = middle_s / panel.scale, row + _TOP + _COMPUTE / 2
        ax.text(x, y, text, fontsize=_FONT_POINTS, ha="center", va="center_baseline", color=colour, clip_on=True)


def _wide(text: str) -> float:
    """Return about how many points a text and some air take."""
    return (len(text) + 0.25) * 0.64 * _FONT_POINTS


def _with_room(kind: Sequence[_Pass], points_per_s: float) -> list[_Pass]:
    """Return which passes of one kind and stage to number, if nearly all are wide enough: gaps puzzle."""
    fit = [one for one in kind if (one.end_s - one.start_s) * points_per_s > _wide(str(one.microbatch))]
    return fit if len(fit) >= 0.9 * len(kind) else []


def _passes(panel: Panel) -> dict[tuple[int, str, int], list[_Pass]]:
    """Return the passes that a panel shows by device, kind and stage; one that collectives cut is one."""
    spans = panel.result.spans
    drawn = {row.device for row in panel.rows}
    cut: dict[tuple[int, str, int, int], list[int]] = defaultdict(list)
    for i, microbatch in enumerate(spans.microbatch):
        if microbatch < 0 or spans.devices[i][0] not in drawn or is_transfer(spans, i) or is_launch(spans, i):
            continue
        if panel.shows(spans.start_s[i], spans.end_s[i]):
            cut[spans.devices[i][0], spans.kind[i], spans.stage[i], microbatch].append(i)
    found: dict[tuple[int, str, int], list[_Pass]] = defaultdict(list)
    for (device, kind, stage, microbatch), pieces in cut.items():
        first, last = pieces[0], pieces[-1]
        if spans.end_s[last] - spans.start_s[first] > 1.01 * sum(spans.end_s[i] - spans.start_s[i] for i in pieces):
            first = last = pieces[(len(pieces) - 1) // 2]
        found[device, kind, stage].append(
            _Pass(spans.start_s[first], spans.end_s[last], device, kind, stage, microbatch)
        )
    return found
