"""What rows say of a pipeline: how many stages it has, on which rank each lives, and which micro-batches pass it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.plan.schedules import Operation

__all__ = ["Shape", "shape_of"]


class Shape(NamedTuple):
    """The pipeline that rows run.

    Attributes
    ----------
    stages : int
        That a micro-batch passes. Where there are two directions, stage ``stages + s`` is another copy of stage `s`.
    home : tuple of int
        The pipeline rank of each stage, copies included.
    direction : tuple of int
        Of each micro-batch: it passes the stages ``direction * stages`` to ``(direction + 1) * stages - 1``.
    """

    stages: int
    home: tuple[int, ...]
    direction: tuple[int, ...]

    @property
    def directions(self) -> int:
        """Copies of the pipeline."""
        return len(self.home) // self.stages

    def before(self, stage: int) -> int | None:
        """Return the stage before in the same direction, if there is one."""
        return stage - 1 if stage % self.stages else None

    def behind(self, stage: int) -> int | None:
        """Return the stage behind in the same direction, if there is one."""
        return stage + 1 if (stage + 1) % self.stages else None


def shape_of(rows: Sequence[Sequence[Operation]]) -> Shape:
    """Return the pipeline that rows run; they are taken to be whole.

    Examples
    --------
    >>> from mpsim.plan.schedules import one_f_one_b
    >>> shape_of(one_f_one_b(2, 3))
    Shape(stages=2, home=(0, 1), direction=(0, 0, 0))
    """
    homes = {operation.stage: rank for rank, row in enumerate(rows) for operation in row}
    first: dict[int, int] = {}
    passed: dict[int, int] = {}
    for row in rows:
        for stage, kind, microbatch in row:
            if kind == "F":
                first[microbatch] = min(first.get(microbatch, stage), stage)
                passed[microbatch] = passed.get(microbatch, 0) + 1
    stages = passed[0]
    return Shape(
        stages=stages,
        home=tuple(homes[stage] for stage in range(len(homes))),
        direction=tuple(first[microbatch] // stages for microbatch in range(len(first))),
    )
