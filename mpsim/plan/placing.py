"""Operations placed one after another on ranks: what schedulers that look at times build their rows in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from mpsim.plan.operations import Operation, Rows

__all__ = ["Pipeline", "Placing", "StageTimes", "in_order"]

_TOO_MUCH = 1e-9  # of a limit: sums of floats that should meet it may be above by their rounding


class StageTimes(NamedTuple):
    """What a micro-batch takes and holds on one stage.

    Attributes
    ----------
    forward_s, inputs_s, weights_s : float
        Seconds of F, I and W.
    held : float
        What F begins to hold, in any unit (micro-batches, bytes) that limits have too.
    kept : float
        What of it is still held from the end of I until W is done.
    """

    forward_s: float
    inputs_s: float
    weights_s: float
    held: float = 1.0
    kept: float = 1.0


class Pipeline(NamedTuple):
    """What there is to schedule: stages on ranks, micro-batches, messages, limits.

    Attributes
    ----------
    stages : tuple of StageTimes
        In the order in which a micro-batch passes them.
    home : tuple of int
        The rank of each stage.
    microbatches : int
        Of a step.
    message_s : float
        From one rank to another; within a rank nothing takes time.
    limits : tuple of float
        What each rank can hold.
    """

    stages: tuple[StageTimes, ...]
    home: tuple[int, ...]
    microbatches: int
    message_s: float
    limits: tuple[float, ...]

    @property
    def is_flat(self) -> bool:
        """Whether each rank has one stage."""
        return len(self.stages) == len(self.limits)

    def of_rank(self, rank: int) -> list[int]:
        """Return the stages of a rank, in order."""
        return [stage for stage, home in enumerate(self.home) if home == rank]

    def works_s(self) -> list[float]:
        """Return what each rank works in a step."""
        works_s = [0.0] * len(self.limits)
        for rank, stage in zip(self.home, self.stages, strict=True):
            works_s[rank] += self.microbatches * (stage.forward_s + stage.inputs_s + stage.weights_s)
        return works_s

    def work_s(self) -> float:
        """Return what the busiest rank works in a step: no step is shorter."""
        return max(self.works_s())


class Placing:
    """What has been placed so far, when it ends and what is held; micro-batches pass a stage in order.

    Attributes
    ----------
    rows : list of list of Operation
        Of each rank; written out when they are asked for, as most of what is placed is not the best.
    free_s : list of float
        When each rank has done what was placed on it.
    begin_s : list of float
        When the first operation of each rank begins.
    idle_s : list of float
        How long each rank has waited since.
    held : list of float
        Of each rank.
    pending : list of deque of int
        Stages of each rank whose W is due, the oldest first.
    arrived_s : dict
        By kind and stage, when the input of each micro-batch is there, so far as it is known.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        ranks = len(pipeline.limits)
        stages = range(len(pipeline.stages))
        self.pipeline = pipeline
        self._placed: list[list[tuple[int, str, int]]] = [[] for _ in range(ranks)]
        self.free_s = [0.0] * ranks
        self.begin_s = [0.0] * ranks
        self.idle_s = [0.0] * ranks
        self.held = [0.0] * ranks
        self.pending: list[deque[int]] = [deque() for _ in range(ranks)]
        self.arrived_s: dict[str, list[list[float]]] = {kind: [[] for _ in stages] for kind in "FI"}
        self.arrived_s["F"][0] = [0.0] * pipeline.microbatches
        self.done = {kind: [0 for _ in stages] for kind in "FIW"}

    @property
    def rows(self) -> Rows:
        """What has been placed on each rank."""
        return [[Operation(*one) for one in row] for row in self._placed]

    def costs_s(self) -> tuple[float, float]:
        """Return the longest time from a rank's first operation to its own last, and when all is done.

        The first is what lies between steps that follow one another without a barrier.
        """
        return max(end_s - begin_s for end_s, begin_s in zip(self.free_s, self.begin_s, strict=True)), max(self.free_s)

    def arrival_s(self, kind: str, stage: int) -> float | None:
        """Return when the next F or I of a stage has its input, if that is known and there is a next."""
        arrived_s, k = self.arrived_s[kind][stage], self.done[kind][stage]
        return arrived_s[k] if k < len(arrived_s) else None

    def room(self, rank: int) -> float:
        """Return what a rank may still hold."""
        limit = self.pipeline.limits[rank]
        return limit * (1 + _TOO_MUCH) - self.held[rank]

    def forward(self, stage: int) -> float:
        """Place the next F of a stage; return when what it sends arrives."""
        end_s = self._place("F", stage, self.pipeline.stages[stage].forward_s)
        self.held[self.pipeline.home[stage]] += self.pipeline.stages[stage].held
        if stage + 1 == len(self.pipeline.stages):
            self.arrived_s["I"][stage].append(end_s)
            return end_s
        return self._send("F", stage, stage + 1, end_s)

    def inputs(self, stage: int) -> float:
        """Place the next I of a stage; return when what it sends arrives."""
        end_s = self._place("I", stage, self.pipeline.stages[stage].inputs_s)
        rank, times = self.pipeline.home[stage], self.pipeline.stages[stage]
        self.held[rank] -= times.held - times.kept
        self.pending[rank].append(stage)
        return self._send("I", stage, stage - 1, end_s) if stage else end_s

    def weights(self, rank: int) -> None:
        """Place the oldest W that is due on a rank."""
        stage = self.pending[rank].popleft()
        self._place("W", stage, self.pipeline.stages[stage].weights_s)
        self.held[rank] -= self.pipeline.stages[stage].kept

    def weights_s(self, rank: int) -> float:
        """Return what the oldest W that is due takes."""
        return self.pipeline.stages[self.pending[rank][0]].weights_s

    def _place(self, kind: str, stage: int, seconds: float) -> float:
        rank, k = self.pipeline.home[stage], self.done[kind][stage]
        free_s, row = self.free_s[rank], self._placed[rank]
        start_s = free_s if kind == "W" else max(free_s, self.arrived_s[kind][stage][k])
        if row:
            self.idle_s[rank] += start_s - free_s
        else:
            self.begin_s[rank] = start_s
        row.append((stage, kind, k))
        self.done[kind][stage] = k + 1
        self.free_s[rank] = end_s = start_s + seconds
        return end_s

    def _send(self, kind: str, source: int, target: int, end_s: float) -> float:
        home = self.pipeline.home
        arrival_s = end_s + (self.pipeline.message_s if home[source] != home[target] else 0.0)
        self.arrived_s[kind][target].append(arrival_s)
        return arrival_s


def in_order(pipeline: Pipeline, rows: Sequence[Sequence[Operation]]) -> Placing | None:
    """Return rows placed as they are, or nothing where they do not fit into the limits."""
    placing = Placing(pipeline)
    left = [deque(row) for row in rows]
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(left):
            while row and _place_next(placing, rank, row[0]):
                row.popleft()
                moved = True
    return None if any(left) else placing


def _place_next(placing: Placing, rank: int, operation: Operation) -> bool:
    """Place an operation if its input is known to come and it fits."""
    stage = operation.stage
    if operation.kind == "W":
        placing.weights(rank)
        return True
    if placing.arrival_s(operation.kind, stage) is None:
        return False
    if operation.kind == "I":
        placing.inputs(stage)
        return True
    fits = placing.pipeline.stages[stage].held <= placing.room(rank)
    if fits:
        placing.forward(stage)
    return fits
