"""What all pictures share: figures, palette, axes with units, saving."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from mpsim.errors import MpsimError
from mpsim.files import writing
from mpsim.reprs import brief
from mpsim.result.model import Result
from mpsim.result.plotting.described import Described, alternative_text
from mpsim.result.text import batch_of, caution

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "AXIS_COLOURS",
    "CYCLE",
    "GAP_COLOURS",
    "HOLDER_COLOURS",
    "KIND_COLOURS",
    "PART_COLOURS",
    "axes_for",
    "bytes_unit",
    "figure_of",
    "legend_right",
    "panels_for",
    "plan_names",
    "reach_up_to",
    "results_of",
    "save_figure",
    "seconds_unit",
    "shorten",
    "subject",
    "thin_labels",
    "title",
]

# Okabe and Ito's palette, told apart under the common colour-blindnesses: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#E69F00", "#009E73", "#F0E442"
SKY, VERMILION, PURPLE, GREY = "#56B4E9", "#D55E00", "#CC79A7", "#999999"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)  # For lines; yellow ones are lost on white.

KIND_COLOURS = {
    "forward": BLUE,
    "recompute": "#44AA99",
    "backward": ORANGE,
    "backward_input": ORANGE,
    "backward_weight": YELLOW,
    "optimizer": PURPLE,
    "compute": GREY,
}
AXIS_COLOURS = {"pp": SKY, "dp": VERMILION, "tp": GREEN, "cp": PURPLE, "ep": YELLOW, "host": "#117733", "": "#555555"}
PART_COLOURS = {
    "compute": BLUE,
    "exposed communication": VERMILION,
    "exposed launch": YELLOW,
    "idle in the bubble": "#BBBBBB",
    "idle behind transfers": "#E6E6E6",
}
GAP_COLOURS = {
    "waits for a transfer": "#F8D9C4",
    "waits for a launch": "#FAF3B4",
    "bubble": "#EBEBEB",
    "idle": "#EBEBEB",
}
HOLDER_COLOURS = {
    "parameters": BLUE,
    "master": "#7FB2D5",
    "gradients": GREEN,
    "optimizer": PURPLE,
    "activations": ORANGE,
    "recomputation": "#F5CE7A",
    "transients": YELLOW,
    "gathered": "#44AA99",
    "buffers": SKY,
    "workspace": GREY,
}
SUFFIXES = ("png", "svg", "pdf")


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained", FigureClass=Described)
    # Closed, it is no longer pyplot's: it can be saved and shown by a notebook, once, and is freed with its last user.
    plt.close(figure)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def results_of(given: Any) -> list[Result]:
    """Return one result or several as a list.

    Raises
    ------
    MpsimError
        It is neither.

    Examples
    --------
    >>> results_of("result.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: expected results, as mpsim.simulate returns and mpsim.load_result reads, got 'result.json'
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    found = list(given) if several else [given]
    if not all(isinstance(result, Result) for result in found):
        raise MpsimError(f"expected results, as mpsim.simulate returns and mpsim.load_result reads, got {brief(given)}")
    return found


def panels_for(ax: Axes | None, count: int, width: float, height: float) -> list[Axes]:
    """Return `ax` alone, or so many axes below each other in a new figure, each of that size in inches.

    Raises
    ------
    MpsimError
        None are asked for, or several with one `ax`.
    """
    if not count:
        raise MpsimError("a picture of no results: give at least one")
    if ax is not None and count > 1:
        raise MpsimError(f"{count} results for one ax: give an ax to each, or none to have all in a new figure")
    if ax is not None:
        return [ax]
    figure, axes = plt.subplots(
        count, 1, figsize=(width, height * count), layout="constrained", FigureClass=Described, squeeze=False
    )
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    for one in axes[:, 0]:
        one.spines[["top", "right"]].set_visible(False)
    return list(axes[:, 0])


def figure_of(ax: Axes) -> Figure:
    """Return the figure that holds `ax`."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def seconds_unit(longest_s: float) -> tuple[float, str]:
    """Return the seconds in, and the name of, the unit in which `longest_s` reads best.

    Examples
    --------
    >>> seconds_unit(0.02), seconds_unit(3.0)
    ((0.001, 'ms'), (1.0, 's'))
    """
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if longest_s >= scale:
            return scale, unit
    return 1e-9, "ns"


def bytes_unit(most_bytes: float) -> tuple[float, str]:
    """Return the bytes in, and the name of, the binary unit in which `most_bytes` reads best.

    Examples
    --------
    >>> bytes_unit(3 * 2**30)
    (1073741824.0, 'GiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if most_bytes >= 2**power:
            return float(2**power), unit
    return 1.0, "B"


def subject(*results: Result, plan: bool = True) -> list[str]:
    """Return the lines of a title that say what a picture is about, before them, once, what may make it wrong."""
    about = dict.fromkeys(f"{result.workload} on {result.topology}" for result in results)
    plans = [result.plan for result in results] if plan else []
    told = caution([phrase for result in results for phrase in result.caveats]).strip()
    return [line for line in (told, *about, *plans) if line]


def plan_names(results: Sequence[Result]) -> list[str]:
    """Return what tells results apart in one picture: their plans, and their batches where these differ."""
    several = len({result.global_batch for result in results}) > 1
    return [f"{result.plan}{batch_of(result).replace(' |', ',') if several else ''}" for result in results]


def reach_up_to(ax: Axes, top: float) -> None:
    """Let an axis begin at 0 and reach up to a value, and to what is drawn in others that share it."""
    others = [one for one in ax.get_shared_y_axes().get_siblings(ax) if one is not ax and one.has_data()]
    ax.set_ylim(0, max([top, *(one.get_ylim()[1] for one in others)]))


def title(ax: Axes, lines: Sequence[str], width: float) -> None:
    """Write a title, wrapped to `width` inches: no layout makes room for a title that is too wide."""
    wrapped = (textwrap.fill(line, max(int(width * 10), 20)) for line in lines)
    ax.set_title("\n".join(wrapped), fontsize="medium", loc="left")


def legend_right(
    ax: Axes, *, gap: float = 0.1, fontsize: str = "medium", entries: dict[str, Artist] | None = None
) -> None:
    """Put the legend `gap` inches beside the axes, where it hides nothing whatever their height.

    It has these entries, or by default those of the axes, each label once.
    """
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True)) if entries is None else entries
    if once:
        # In inches: a gap that grows with the axes would leave the page, for the layout is settled in one pass.
        beside = ax.transAxes + ScaledTranslation(gap, 0, figure_of(ax).dpi_scale_trans)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "bbox_transform": beside}
        ax.legend(list(once.values()), list(once), frameon=False, fontsize=fontsize, borderaxespad=0.0, **place)


def thin_labels(axis: Axis, names: Sequence[str], positions: Sequence[float], most: int) -> None:
    """Label every position, or every k-th so that at most about `most` labels are drawn."""
    step = -(-len(names) // most)
    axis.set_ticks(list(positions[::step]), [shorten(name) for name in names[::step]])


def shorten(name: str, most: int = 48) -> str:
    """Return `name`, broken into lines of at most `most` characters."""
    return textwrap.fill(name, most)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG, SVG or PDF, whole or not at all.

    The same figure gives the same bytes: no date is written. What it shows in words stands in the file.

    Raises
    ------
    MpsimError
        Another suffix, or a place that cannot be written.

    Examples
    --------
    >>> save_figure(Figure(), "timeline.jpg")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot draw 'timeline.jpg': suffix is '.jpg', expected .png, .svg, .pdf
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in SUFFIXES:
        raise MpsimError(f"cannot draw {str(path)!r}: suffix is {path.suffix!r}, expected .{', .'.join(SUFFIXES)}")
    words = alternative_text(figure)
    metadata: dict[str, str | None] = {
        "png": {"Description": words},
        "svg": {"Date": None, "Description": words},
        "pdf": {"CreationDate": None, "Subject": words},
    }[kind]  # type: ignore[assignment]
    with writing(path) as file, mpl.rc_context({"svg.hashsalt": "mpsim"}):
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
