"""The timeline: what each distinct rank does when, in all and enlarged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from mpsim.errors import MpsimError, unknown
from mpsim.result.gaps import gaps_by_device
from mpsim.result.lanes import is_launch
from mpsim.result.model import Result
from mpsim.result.phases import PHASES, phases
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.gantt import Panel, draw_panel, entries_of, mark_end, write_texts
from mpsim.result.plotting.style import figure_of, legend_right, results_of, seconds_unit, subject, title
from mpsim.result.rows import distinct_rows
from mpsim.result.statistics import interval
from mpsim.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PARTS", "timeline"]

PARTS = ("whole", *PHASES)
_WIDTH, _ROW, _TALLEST, _MARGIN = 13.0, 0.5, 13.0, 1.8  # inches: the figure, a row, all rows, what is around them
_NAME = 0.17  # inches: a line of text
_PASSES = 6.0  # So many micro-batches of the busiest rank make a zoom, whose numbers can then be read.
_LEAST_ZOOM = 4.0  # What is enlarged less is no clearer in a third of the width.
_ENLARGED: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 1.0, "label": "enlarged below"}


def timeline(results: Result | Sequence[Result], *, part: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw what each distinct rank does when: computations and gaps, and below them transfers, in a lane for each axis.

    Ranks that do the same at the same moments share a row. Micro-batch numbers, and what a gap is (a bubble, a wait for
    a transfer or for a launch), are written where there is room. A transfer appears under each rank that takes part.
    Where a step is too long for its numbers, some of its warm-up, steady state and cool-down are enlarged below it.

    Parameters
    ----------
    results : Result or sequence of Result
        With spans. Several stand below each other, on one scale of time.
    part : {"whole", "warm-up", "steady-state", "cool-down"}, optional
        What to draw alone; by default the whole step, and zooms where they help.
    ax : matplotlib.axes.Axes, optional
        Where to draw one result, without zooms; by default in a new figure.

    Raises
    ------
    MpsimError
        No result, one that was saved without its spans, several for one `ax`, no such part, or a step without phases.

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
    found = results_of(results)
    _check(found, part, ax)
    longest_s = max(max(_last_s(one), interval(one).high_s) for one in found)
    panels = [_panel(result, part, longest_s) for result in found]
    zooms = _zooms(panels[0]) if len(found) == 1 and part is None and ax is None else []
    axes = [ax] if ax is not None else _axes(panels, bool(zooms))
    for one, panel in zip(axes, panels, strict=False):
        draw_panel(one, panel, most=_most_names(panels, bool(zooms)))
        mark_end(one, panel, timed=len(found) == 1)
        title(one, _title(panel, part, beside=None if panel is panels[0] else found[0]), _WIDTH - 2)
        one.set_ylabel("device")
    for one, (phase, panel) in zip(axes[len(found) :], zooms, strict=True):
        draw_panel(one, panel, named=phase == PHASES[0], most=_most_names(panels, True))
        title(one, [phase], 4.0)
        axes[0].axvspan(panel.start_s / panel.scale, panel.end_s / panel.scale, 0.0, 1.0, **_ENLARGED)
    for one in axes if zooms else axes[-1:]:
        one.set_xlabel(f"time ({seconds_unit(longest_s)[1]})")
    legend_right(axes[0], entries=entries_of(axes[: len(found)]))
    figure_of(axes[0]).draw_without_rendering()  # Settles the layout: only then is a box's width on paper known.
    for one, panel in zip(axes, [*panels, *(panel for _, panel in zooms)], strict=True):
        write_texts(one, panel)
    return figure_of(axes[0])


def _check(found: Sequence[Result], part: str | None, ax: Axes | None) -> None:
    if not found:
        raise MpsimError("a timeline of no results: give at least one")
    for result in found:
        if not len(result.spans):
            raise MpsimError(
                f"result of {result.plan!r} holds no spans, a timeline needs them: simulate again and keep them"
            )
    if ax is not None and len(found) > 1:
        raise MpsimError(f"{len(found)} results for one ax: give an ax to each, or none to have all in a new figure")
    if part is not None and part not in PARTS:
        raise unknown("part of a timeline", part, PARTS)


def _last_s(result: Result) -> float:
    return max(result.step_s, max(result.spans.end_s))


def _panel(result: Result, part: str | None, longest_s: float) -> Panel:
    """Return what is drawn of a result: a part of it, or all, as wide as the longest of those beside it."""
    rows, scale = distinct_rows(result), seconds_unit(longest_s)[0]
    held = gaps_by_device(result, [row.device for row in rows])
    panel = Panel(result=result, rows=rows, start_s=0.0, end_s=longest_s * 1.01, scale=scale, gaps=held)
    if part in (None, "whole"):
        return panel
    found = dict(_zooms(panel, largest=True))
    if part not in found:
        raise MpsimError(f"{result.plan!r} has no {part}, as a pipeline has that runs full for a time: draw the whole")
    return found[part]


def _zooms(panel: Panel, *, largest: bool = False) -> list[tuple[str, Panel]]:
    """Return a panel of each phase, of equal length; or of a part alone, which has three times the width.

    They show a few micro-batches of the busiest device; none where that is most of the step, or it has no phases.
    """
    found, result, busiest_s = phases(panel.result), panel.result, 0.0
    counts = _microbatches(result)
    for row in panel.rows:
        if row.device in counts:
            busiest_s = max(busiest_s, result.devices[row.device].compute_s / len(counts[row.device]))
    # A pipeline of many stages takes a third of a micro-batch's time for each of them to begin.
    length_s = busiest_s * max(_PASSES, 2.0 + len(panel.rows) / 3)
    if not found or not length_s or (not largest and length_s * _LEAST_ZOOM > result.step_s):
        return []
    zooms = []
    for phase in found:
        length = min(3 * length_s, phase.end_s - phase.start_s) if largest else length_s
        middle_s = (phase.start_s + phase.end_s) / 2
        start_s = {PHASES[0]: 0.0, PHASES[2]: result.step_s - length}.get(phase.name, middle_s - length / 2)
        start_s = min(max(start_s, 0.0), result.step_s - length)
        zooms.append((phase.name, replace(panel, start_s=start_s, end_s=start_s + length)))
    return zooms


def _microbatches(result: Result) -> dict[int, set[int]]:
    """Return the micro-batches that each device computes."""
    spans, found = result.spans, defaultdict(set)
    for i, microbatch in enumerate(spans.microbatch):
        if microbatch >= 0 and len(spans.devices[i]) == 1 and not is_launch(spans, i):
            found[spans.devices[i][0]].add(microbatch)
    return found


def _axes(panels: Sequence[Panel], zoomed: bool) -> list[Axes]:
    """Return axes in a new figure: a row for each panel, and below the only one three for its zooms."""
    counts, row = [len(panel.rows) for panel in panels] * (1 + zoomed), _row_height(panels, zoomed)
    heights = [row * count + _MARGIN for count in counts]
    figure = plt.figure(figsize=(_WIDTH, sum(heights)), layout="constrained", FigureClass=Described)
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    axes = [figure.add_subplot(grid[i, :]) for i in range(len(panels))]
    if zoomed:
        axes += [figure.add_subplot(grid[1, i]) for i in range(3)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return axes


def _row_height(panels: Sequence[Panel], zoomed: bool) -> float:
    """Return the inches of a row."""
    return min(_ROW, _TALLEST / sum(len(panel.rows) * (1 + zoomed) for panel in panels))


def _most_names(panels: Sequence[Panel], zoomed: bool) -> int:
    """Return how many names of rows stand apart in a panel."""
    return max(1, int(max(len(panel.rows) for panel in panels) * _row_height(panels, zoomed) / _NAME))


def _title(panel: Panel, part: str | None, *, beside: Result | None) -> list[str]:
    """Say what a panel is of; what is said above it, of the one beside it, is not said again."""
    result = panel.result
    about = subject(result, plan=False)
    lines = [*([] if beside is not None and subject(beside, plan=False) == about else about), result.plan]
    step = format_duration(result.step_s)
    lines = [*lines, f"step {step}" if part in (None, "whole") else f"{part} of a step of {step}"]
    if not all(row.alike for row in panel.rows):
        lines.append("of replicas whose times differ, the slowest is drawn")
    return lines
