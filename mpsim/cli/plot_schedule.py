"""``mpsim plot --schedule``: any schedule by unit times, no workload needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.plan.drawing import Drawing, drawing_of
from mpsim.plan.schedule_file import microbatches_of, read_schedule, rows_schedule
from mpsim.plan.schedules import SCHEDULES, Rows, resolve_schedule, rows_for
from mpsim.plan.shape import shape_of

__all__ = ["draw_schedule"]


def draw_schedule(
    plotting: Any, schedule: str, stages: int | None, microbatches: int | None, chunks: int | None
) -> Any:
    """Return the figure of a schedule, registered or in a file.

    Raises
    ------
    MpsimError
        No such schedule or file, numbers left out that a name needs, or that it cannot have.
    """
    rows = _rows(schedule, stages, microbatches, chunks)
    drawing = drawing_of(rows)
    ranks = [f"rank {rank}, holds {held:g}" for rank, held in enumerate(drawing.most_held)]
    return plotting.schedule(
        drawing.cells, heading=_heading(schedule, rows, drawing), ranks=ranks, shades=drawing.shades
    )


def _rows(schedule: str, stages: int | None, microbatches: int | None, chunks: int | None) -> Rows:
    if schedule not in SCHEDULES and (schedule.lower().endswith(".csv") or Path(schedule).is_file()):
        rows = read_schedule(schedule)
        return rows_schedule(rows)(stages or len(rows), microbatches or microbatches_of(rows), chunks)
    resolve_schedule(schedule)
    if stages is None or microbatches is None:
        missing = "--stages" if stages is None else "--microbatches"
        raise MpsimError(f"--schedule {schedule} needs {missing}: such as --stages 4 --microbatches 8")
    return rows_for(schedule, stages, microbatches, chunks)


def _heading(schedule: str, rows: Rows, drawing: Drawing) -> list[str]:
    shape = shape_of(rows)
    each = len(shape.home) // len(rows)
    words = [f"{Path(schedule).name}: {len(rows)} ranks, {len(shape.direction)} micro-batches"]
    if shape.directions > 1:
        words.append("two directions")
    elif each > 1:
        words.append(f"{each} stages a rank")
    most = f"at most {max(drawing.most_held):g} micro-batches held"
    return [
        ", ".join(words),
        f"{drawing.bubble_fraction:.1%} bubble, step {drawing.step:g}, {most}",
    ]
