"""What is drawn of rows: their cells at unit times, and the numbers that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.plan.operations import Operation
from mpsim.plan.shape import Shape, most_held, shape_of
from mpsim.plan.timing import bubble_fraction, unit_times
from mpsim.result.cells import Cell

__all__ = ["Drawing", "drawing_of"]

_Rows = Sequence[Sequence[Operation]]


class Drawing(NamedTuple):
    """A schedule as its picture has it.

    Attributes
    ----------
    cells : tuple of Cell
        What runs when.
    shades : tuple of str
        What each shade of the cells stands for; one: nothing needs to be told apart.
    step : float
        In units of time: F, I and W of one stage take 1, B takes 2.
    bubble_fraction : float
        Of all ranks' time.
    most_held : tuple of float
        Micro-batches that each rank holds at most.
    """

    cells: tuple[Cell, ...]
    shades: tuple[str, ...]
    step: float
    bubble_fraction: float
    most_held: tuple[float, ...]


def drawing_of(rows: _Rows) -> Drawing:
    """Return what is drawn of rows.

    Examples
    --------
    >>> from mpsim.plan.schedules import looped_bfs
    >>> found = drawing_of(looped_bfs(2, 2))
    >>> found.shades, found.step, found.bubble_fraction, found.most_held
    (('stage 1 of a rank', 'stage 2 of a rank'), 15.0, 0.19999999999999996, (2.0, 2.0))
    >>> found.cells[0]
    Cell(rank=0, begin=0.0, end=1.0, kind='F', microbatch=0, shade=0, half=0)
    """
    shape = shape_of(rows)
    place = _shades(shape)
    cells = []
    for rank, (row, times) in enumerate(zip(rows, unit_times(rows), strict=True)):
        second = False
        for (stage, kind, k, overlaps), (begin, end) in zip(row, times, strict=True):
            half = 1 if overlaps else 2 if second else 0
            cells.append(Cell(rank, begin, end, kind, k, place[stage], half))
            second = overlaps
    if shape.directions > 1:
        shades: tuple[str, ...] = ("first direction", "other direction")
    else:
        shades = tuple(f"stage {i + 1} of a rank" for i in range(max(place) + 1))
    return Drawing(
        cells=tuple(cells),
        shades=shades,
        step=max(cell.end for cell in cells),
        bubble_fraction=bubble_fraction(rows),
        most_held=tuple(most_held(rows)),
    )


def _shades(shape: Shape) -> list[int]:
    """Return the shade of each stage: its direction, or how many of its rank's stages come before it."""
    if shape.directions > 1:
        return [stage // shape.stages for stage in range(len(shape.home))]
    return [shape.home[:stage].count(rank) for stage, rank in enumerate(shape.home)]
