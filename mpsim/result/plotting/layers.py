"""What each layer of a model takes, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from mpsim.errors import MpsimError
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.style import (
    HOLDER_COLOURS,
    KIND_COLOURS,
    SKY,
    bytes_unit,
    legend_right,
    seconds_unit,
    thin_labels,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["layers"]

_Row = Mapping[str, Any]
_TIMES = (
    ("forward_s", "forward", KIND_COLOURS["forward"]),
    ("backward_input_s", "backward, inputs", KIND_COLOURS["backward_input"]),
    ("backward_weight_s", "backward, weights", KIND_COLOURS["backward_weight"]),
    ("optimizer_s", "optimizer", KIND_COLOURS["optimizer"]),
)
_BYTES = (
    ("parameter_bytes", "parameters", HOLDER_COLOURS["parameters"]),
    ("saved_bytes", "kept for backward", HOLDER_COLOURS["activations"]),
    ("output_bytes", "output", SKY),
)
_MOST_LABELS = 40


def layers(rows: Sequence[_Row], *, heading: Sequence[str] = ()) -> Figure:
    """Draw what each layer of a model takes, above, and its parameters, what it keeps and its output, below.

    Parameters
    ----------
    rows : sequence of mapping
        A layer each, in execution order: ``name``, its times ``forward_s``, ``backward_input_s``,
        ``backward_weight_s`` and ``optimizer_s``, and its ``parameter_bytes``, ``saved_bytes`` and ``output_bytes``.
    heading : sequence of str
        Lines of the title.

    Raises
    ------
    MpsimError
        No layers, or one without what is drawn.

    Examples
    --------
    >>> row = {"name": "a", "forward_s": 1.0, "backward_input_s": 1.0, "backward_weight_s": 1.0, "optimizer_s": 0.0,
    ...        "parameter_bytes": 2**20, "saved_bytes": 0, "output_bytes": 2**20}
    >>> [axes.get_ylabel() for axes in layers([row]).axes]
    ['time (s)', 'size (MiB)']
    """
    _check(rows)
    width = max(6.5, min(14.0, 3.5 + 0.32 * len(rows)))
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(width, 6.4), layout="constrained", sharex=True, FigureClass=Described
    )
    plt.close(figure)  # No longer pyplot's: see `style.axes_for`.
    scale, unit = seconds_unit(max(sum(row[name] for name, *_ in _TIMES) for row in rows))
    _stack(above, rows, scale)
    above.set_ylabel(f"time ({unit})")
    scale, unit = bytes_unit(max(row[name] for name, *_ in _BYTES for row in rows))
    _beside(below, rows, scale)
    below.set_ylabel(f"size ({unit})")
    thin_labels(below.xaxis, [_short(row["name"]) for row in rows], range(len(rows)), _MOST_LABELS)
    below.tick_params(axis="x", rotation=90 if len(rows) > 6 else 0, labelsize="small" if len(rows) > 20 else "medium")
    below.set_xlim(-0.7, len(rows) - 0.3)
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
        ax.margins(y=0.06)
        legend_right(ax, fontsize="small")
    title(above, heading, width - 1.5)
    return figure


def _check(rows: Sequence[_Row]) -> None:
    if not rows:
        raise MpsimError("there are no layers to draw: give the rows of a workload")
    for name in ("name", *(name for name, *_ in (*_TIMES, *_BYTES))):
        if any(name not in row for row in rows):
            raise MpsimError(f"a picture of layers needs {name!r} of each, they have {', '.join(rows[0])}")


def _stack(ax: Axes, rows: Sequence[_Row], scale: float) -> None:
    bottom = [0.0] * len(rows)
    for name, label, colour in _TIMES:
        heights = [row[name] / scale for row in rows]
        if any(heights):
            ax.bar(range(len(rows)), heights, bottom=bottom, color=colour, label=label, width=0.8)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]


def _beside(ax: Axes, rows: Sequence[_Row], scale: float) -> None:
    width = 0.8 / len(_BYTES)
    for i, (name, label, colour) in enumerate(_BYTES):
        heights = [row[name] / scale for row in rows]
        places = [place + (i - 1) * width for place in range(len(rows))]
        if any(heights):
            ax.bar(places, heights, color=colour, label=label, width=width)


def _short(name: str, most: int = 28) -> str:
    """Return the end of a long name, which tells layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
