"""What rows say of a pipeline: how many stages it has, on which rank each lives, and which micro-batches pass it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.plan.operations import Operation

__all__ = ["Shape", "mirrored", "most_held", "shape_of"]


class Shape(NamedTuple):
    """The pipeline that rows run.

    Attributes
    ----------
    stages : int
        That a micro-batch passes. Where there are two directions, stage ``stages + s`` is another copy of stage `s`,
        on the mirrored rank: a micro-batch passes the stages of one direction only.
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

    def held_by(self, rank: int) -> list[int]:
        """Return the stages that live on a pipeline rank, copies included."""
        return [stage for stage, home in enumerate(self.home) if home == rank]

    def source(self, stage: int, kind: str) -> int | None:
        """Return the stage whose outcome an operation of a kind needs: before it for F, behind it for B and I."""
        if kind == "F":
            return stage - 1 if stage % self.stages else None
        return stage + 1 if kind in "BI" and (stage + 1) % self.stages else None

    def target(self, stage: int, kind: str) -> int | None:
        """Return the stage that needs the outcome of an operation of a kind."""
        if kind == "F":
            return stage + 1 if (stage + 1) % self.stages else None
        return stage - 1 if kind in "BI" and stage % self.stages else None


def shape_of(rows: Sequence[Sequence[Operation]]) -> Shape:
    """Return the pipeline that rows run; they are taken to be whole.

    Examples
    --------
    >>> from mpsim.plan.schedules import chimera, one_f_one_b
    >>> shape_of(one_f_one_b(2, 3))
    Shape(stages=2, home=(0, 1), direction=(0, 0, 0))
    >>> shape_of(chimera(2, 3))
    Shape(stages=2, home=(0, 1, 1, 0), direction=(0, 1, 0))
    """
    homes = {operation.stage: rank for rank, row in enumerate(rows) for operation in row}
    first: dict[int, int] = {}
    passed: dict[int, int] = {}
    for row in rows:
        for stage, kind, microbatch, *_ in row:
            if kind == "F":
                first[microbatch] = min(first.get(microbatch, stage), stage)
                passed[microbatch] = passed.get(microbatch, 0) + 1
    stages = passed[0]
    return Shape(
        stages=stages,
        home=tuple(homes[stage] for stage in range(len(homes))),
        direction=tuple(first[microbatch] // stages for microbatch in range(len(first))),
    )


def mirrored(home: Sequence[int]) -> bool:
    """Return whether the second half of the stages may be another direction: each on its first copy's mirror.

    Examples
    --------
    >>> mirrored((0, 1, 1, 0)), mirrored((0, 1, 0, 1)), mirrored((0, 1))
    (True, False, False)
    """
    half = len(home) // 2
    ranks = max(home) + 1
    there = all(there == ranks - 1 - here for here, there in zip(home[:half], home[half:], strict=False))
    return len(home) % 2 == 0 and set(home[:half]) == set(range(ranks)) and there


def most_held(rows: Sequence[Sequence[Operation]]) -> list[float]:
    """Return how many micro-batches each rank holds at most, from forward to the end of backward.

    One that is held by one of a rank's stages counts as their part of its whole: two stages of a direction, a half.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe, looped_bfs, one_f_one_b
    >>> most_held(gpipe(2, 4)), most_held(one_f_one_b(2, 4)), most_held(looped_bfs(2, 4))
    ([4.0, 4.0], [2.0, 1.0], [4.0, 4.0])
    """
    shape = shape_of(rows)
    most = []
    for rank, row in enumerate(rows):
        stages = max(shape.home.count(rank) // shape.directions, 1)
        held = peak = 0
        for operation in row:
            held += {"F": 1, "B": -1, "W": -1}.get(operation.kind, 0)
            peak = max(peak, held)
        most.append(peak / stages)
    return most
