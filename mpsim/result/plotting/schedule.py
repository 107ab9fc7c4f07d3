"""The picture of a schedule: what each rank runs when, by unit times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from mpsim.errors import MpsimError
from mpsim.result.cells import Cell
from mpsim.result.plotting.style import BLUE, ORANGE, PURPLE, YELLOW, axes_for, figure_of, legend_right, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_legend", "schedule"]

_KINDS = {
    "F": (BLUE, "forward"),
    "B": ("#C77400", "backward"),
    "I": (ORANGE, "backward, inputs"),
    "W": (YELLOW, "backward, weights"),
}
_HEIGHT = 0.86  # Of a rank's row.
_MOST_NUMBERS = 2000
_FONT_POINTS = 7.0
_LINE, _ENTRY = 0.22, 0.18  # Inches of a line of the title, and of an entry of the legend.


def schedule(
    cells: Sequence[Cell],
    *,
    heading: Sequence[str] = (),
    ranks: Sequence[str] = (),
    shades: Sequence[str] = (),
    ax: Axes | None = None,
) -> Figure:
    """Draw what each rank runs when: colours are kinds of pass, shades stages or directions, numbers micro-batches.

    Parameters
    ----------
    cells : sequence of Cell
        What is drawn.
    heading, ranks : sequence of str
        Lines of the title, and what stands beside each rank.
    shades : sequence of str
        What each shade of the cells stands for.
    ax : matplotlib.axes.Axes, optional
        Where to draw, without a legend; by default in a new figure.

    Examples
    --------
    >>> schedule([Cell(0, 0.0, 1.0, "F", 0), Cell(0, 1.0, 3.0, "B", 0)]).axes[0].get_xlabel()
    'time (forward of a stage = 1)'
    """
    if not cells:
        raise MpsimError("no cells: a picture of a schedule needs one or more")
    count, end = max(cell.rank for cell in cells) + 1, max(cell.end for cell in cells)
    own = ax is None
    width, height = 12.0, min(1.5 + 0.42 * count, 18.0)
    above = _LINE * (len(heading) + 1)
    entries = _entries(cells)
    if above + _ENTRY * len(entries) > height:
        entries = _ends(entries)
    ax = axes_for(ax, width, max(height, above + _ENTRY * len(entries)))
    levels = max(len(shades), 1 + max(cell.shade for cell in cells))
    for kind in _KINDS:
        for shade in range(levels):
            drawn = [cell for cell in cells if (cell.kind, cell.shade) == (kind, shade)]
            _draw(ax, drawn, _colour(kind, shade, levels), parted=end < 250)
    updates = [cell for cell in cells if cell.kind == "U"]
    if updates:
        ax.vlines(
            [cell.end for cell in updates],
            [cell.rank - 0.5 * _HEIGHT for cell in updates],
            [cell.rank + 0.5 * _HEIGHT for cell in updates],
            color=PURPLE,
            linewidth=2.0,
            label="update",
        )
    ax.set(xlim=(0, end * 1.002), ylim=(count - 0.5, -0.5), xlabel="time (forward of a stage = 1)")
    step = -(-count // 64)
    names = list(ranks) or [f"rank {rank}" for rank in range(count)]
    ax.set_yticks(range(0, count, step), names[::step])
    ax.tick_params(axis="y", length=0)
    title(ax, heading, width)
    if own:
        _list(ax, entries, cells, shades)
        legend_right(ax, fontsize="small")
    _number(ax, cells, count, levels)
    return figure_of(ax)


def _colour(kind: str, shade: int, levels: int) -> tuple[float, float, float]:
    """Return the colour of a kind, mixed with the more white the higher its shade."""
    mixed = 0.62 * shade / max(levels - 1, 1)
    red, green, blue = (part + (1 - part) * mixed for part in to_rgb(_KINDS[kind][0]))
    return red, green, blue


def _edges(cell: Cell) -> tuple[float, float]:
    """Return the upper and the lower edge of a cell."""
    top = cell.rank - _HEIGHT / 2
    upper, lower = {0: (0.0, 1.0), 1: (0.0, 0.5), 2: (0.5, 1.0)}[cell.half]
    return top + upper * _HEIGHT, top + lower * _HEIGHT


def _draw(ax: Axes, cells: Sequence[Cell], colour: tuple[float, float, float], *, parted: bool) -> None:
    """Draw cells of one colour; parted by hairlines, unless those would eat them up."""
    corners = []
    for cell in cells:
        y0, y1 = _edges(cell)
        corners.append([(cell.begin, y0), (cell.end, y0), (cell.end, y1), (cell.begin, y1)])
    if corners:
        ax.add_collection(
            PolyCollection(corners, facecolors=[colour], edgecolors="white", linewidths=0.6 if parted else 0)
        )


def draw_legend(ax: Axes, cells: Sequence[Cell], shades: Sequence[str], *, beside: bool = True) -> None:
    """Say what the colours of cells stand for, beside the axes or in them.

    Examples
    --------
    >>> axes = axes_for(None, 4.0, 3.0)
    >>> draw_legend(axes, [Cell(0, 0.0, 1.0, "F", 0)], [], beside=False)
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['forward']
    """
    _list(ax, _entries(cells), cells, shades)
    if beside:
        legend_right(ax, fontsize="small")
    else:
        ax.legend(frameon=False, fontsize="small", loc="center left")


def _entries(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    """Return the kinds and shades of cells that have a colour, kind by kind."""
    order = [*_KINDS]
    found = {(cell.kind, cell.shade) for cell in cells if cell.kind in _KINDS}
    return sorted(found, key=lambda one: (order.index(one[0]), one[1]))


def _ends(entries: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the darkest and the lightest of each kind: what lies between, lies between in the picture too.

    Examples
    --------
    >>> _ends([("F", 0), ("F", 1), ("F", 2), ("B", 0)])
    [('F', 0), ('F', 2), ('B', 0)]
    """
    shades: dict[str, list[int]] = {}
    for kind, shade in entries:
        shades.setdefault(kind, []).append(shade)
    return [(kind, shade) for kind, found in shades.items() for shade in dict.fromkeys((min(found), max(found)))]


def _list(ax: Axes, entries: Sequence[tuple[str, int]], cells: Sequence[Cell], shades: Sequence[str]) -> None:
    """Give the axes what their legend lists."""
    levels = max(len(shades), 1 + max(cell.shade for cell in cells))
    for kind, shade in entries:
        more = f", {shades[shade]}" if levels > 1 and shades and shades[shade] else ""
        # A bar of no size: it is there for its entry in the legend.
        ax.bar(0, 0, color=[_colour(kind, shade, levels)], label=_KINDS[kind][1] + more)


def _number(ax: Axes, cells: Sequence[Cell], count: int, levels: int) -> None:
    """Write micro-batches into the cells, all or none of them: where a few are missing they seem to mean something."""
    figure = figure_of(ax)
    figure.draw_without_rendering()  # Settles the layout: only then is a cell's size on paper known.
    box = ax.get_window_extent()
    across = box.width / figure.dpi * 72 / (ax.get_xlim()[1] - ax.get_xlim()[0])
    passes = [cell for cell in cells if cell.kind != "U"]
    digits = max(len(str(cell.microbatch)) for cell in passes)
    room = min((cell.end - cell.begin) * across / (0.62 * (digits + 0.4)) for cell in passes)
    size = min(_FONT_POINTS, room, box.height / figure.dpi * 72 / count * _HEIGHT * 0.75)
    if size < 3.5 or len(passes) > _MOST_NUMBERS:
        return
    for cell in passes:
        y0, y1 = _edges(cell)
        dark = sum(_colour(cell.kind, cell.shade, levels)) < 1.4
        ax.text(
            (cell.begin + cell.end) / 2,
            (y0 + y1) / 2,
            str(cell.microbatch),
            fontsize=0.8 * size if cell.half else size,
            ha="center",
            va="center_baseline",
            color="white" if dark else "black",
            clip_on=True,
        )
