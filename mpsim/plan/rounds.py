"""The automatic ZB-V: two stages a rank, placed in rounds of one backward and one forward on each rank.

The rules are those of Zero Bubble Pipeline Parallelism (Qi et al., https://arxiv.org/abs/2401.10241, section on ZB-V).
"""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.plan.placing import Pipeline, Placing

__all__ = ["rounds"]


def rounds(pipeline: Pipeline, fill_backward: bool, fill_forward: bool) -> Placing | None:
    """Return the V placed in rounds, or nothing where it does not fit into the limits.

    A rank that must wait less than a W takes does a W all the same if it has waited too often: longer, in all, than
    the rank that waited most. Who may wait how long is known only after a first try, so tries go on while they help.

    Parameters
    ----------
    pipeline : Pipeline
        Whose stages lie on the ranks as a V.
    fill_backward, fill_forward : bool
        Whether that is done before the I of a rank's second stage, and before an F.
    """
    best: Placing | None = None
    while True:
        tried = _Rounds(pipeline, fill_backward, fill_forward, best.idle_s if best else None)
        if not tried.place():
            return best
        if best is not None and max(tried.placing.idle_s) >= max(best.idle_s):
            return best
        best = tried.placing


class _Rounds:
    def __init__(
        self, pipeline: Pipeline, fill_backward: bool, fill_forward: bool, waited_s: list[float] | None
    ) -> None:
        self.placing = Placing(pipeline)
        self.ranks = len(pipeline.limits)
        self.microbatches = pipeline.microbatches
        self.fill = {"F": fill_forward, "I": fill_backward}
        self.spare_s = [max(waited_s) - own_s for own_s in waited_s] if waited_s else [0.0] * self.ranks

    def place(self) -> bool:
        """Place everything; whether it fits."""
        fits = self._descend() and self._level()
        for _ in range(2 * self.microbatches):
            fits = fits and self._backwards() and self._forwards()
        if fits:
            for rank in range(self.ranks):
                while self.placing.pending[rank]:
                    self.placing.weights(rank)
        return fits

    def _first(self, rank: int) -> int:
        """Return the stage of a rank that a micro-batch passes first."""
        return rank

    def _second(self, rank: int) -> int:
        return 2 * self.ranks - 1 - rank

    def _count(self, kind: str, stage: int) -> int:
        return self.placing.done[kind][stage]

    def _descend(self) -> bool:
        """Send the first micro-batch down and up the V, and others behind it where a rank would wait."""
        fits = all(self._forward(self._first(rank)) for rank in range(self.ranks))
        for rank in reversed(range(self.ranks)):
            while fits and self._may_follow(rank):
                fits = all(self._forward(self._first(before)) for before in range(rank + 1))
            fits = fits and self._forward(self._second(rank))
        return fits

    def _may_follow(self, rank: int) -> bool:
        """Return whether a rank can do one more F before the first micro-batch comes back, and hold what comes."""
        stage = self.placing.pipeline.stages[self._first(rank)]
        arrival_s = self.placing.arrival_s("F", self._second(rank))
        if rank == self.ranks - 1 or arrival_s is None or self._count("F", self._first(rank)) == self.microbatches:
            return False
        fits = (2 + 2 * rank) * stage.held <= self.placing.room(rank)
        return fits and self.placing.free_s[rank] + stage.forward_s <= arrival_s

    def _level(self) -> bool:
        """Bring every rank to as many F as the rank before has, first and second stages in turn."""
        stage_of = [self._first, self._second]
        turn, fits = 0, True
        for rank in range(1, self.ranks):
            while fits and self._behind(rank):
                fits = all(self._forward(stage_of[turn](other)) for other in reversed(range(rank, self.ranks)))
                turn = 1 - turn
        return fits

    def _behind(self, rank: int) -> bool:
        own, before = ([self._count("F", of(r)) for of in (self._first, self._second)] for r in (rank, rank - 1))
        if own == [self.microbatches] * 2:
            return False
        return sum(own) < sum(before) or own[1] <= before[1] < self.microbatches

    def _backwards(self) -> bool:
        """Place one I on each rank: those of first stages from the last rank up, then those of second stages down."""
        down = [rank for rank in range(self.ranks) if self._is_second_due(rank)]
        up = [rank for rank in reversed(range(self.ranks)) if rank not in down]
        order = [*((rank, self._first(rank)) for rank in up), *((rank, self._second(rank)) for rank in down)]
        for rank, stage in order:
            self._weights_before(rank, "I", stage, stage < self.ranks or self.fill["I"])
            if self.placing.arrival_s("I", stage) is None:
                return False
            self.placing.inputs(stage)
        return True

    def _is_second_due(self, rank: int) -> bool:
        """Return whether the I of the second stage is what a rank does next."""
        first, second = self._count("I", self._first(rank)), self._count("I", self._second(rank))
        if first >= second:
            return True
        if rank == self.ranks - 1 or second >= self.microbatches:
            return False
        return self.placing.arrival_s("I", self._first(rank)) is None

    def _forwards(self) -> bool:
        """Place one F on each rank that has one: of its second stage where that can be."""
        for rank, stage in self._due():
            self._make_room(rank, stage)
            self._weights_before(rank, "F", stage, self.fill["F"])
            if not self._forward(stage):
                return False
        return True

    def _due(self) -> Iterator[tuple[int, int]]:
        for rank in range(self.ranks):
            first, second = self._first(rank), self._second(rank)
            if self._count("F", second) >= self.microbatches:
                continue
            if self._count("F", second) < self._count("F", first) and self.placing.arrival_s("F", second) is not None:
                yield rank, second
            elif self.placing.arrival_s("F", first) is not None:
                yield rank, first

    def _make_room(self, rank: int, stage: int) -> None:
        while self.placing.pipeline.stages[stage].held > self.placing.room(rank) and self.placing.pending[rank]:
            self.placing.weights(rank)

    def _weights_before(self, rank: int, kind: str, stage: int, may_fill: bool) -> None:
        """Place W before an operation as long as it would wait for one; and one more if the rank may wait no more."""
        arrival_s = self.placing.arrival_s(kind, stage)
        pending, free_s = self.placing.pending[rank], self.placing.free_s
        if arrival_s is None:
            return
        while pending and free_s[rank] + self.placing.weights_s(rank) <= arrival_s:
            self.placing.weights(rank)
        if pending and may_fill:
            most_s = max(*self.placing.idle_s, self.spare_s[rank])
            if arrival_s - free_s[rank] > most_s - self.placing.idle_s[rank]:
                self.placing.weights(rank)

    def _forward(self, stage: int) -> bool:
        """Place the next F of a stage, none if all are placed; whether it fits and has its input."""
        if self._count("F", stage) == self.microbatches:
            return True
        if self.placing.arrival_s("F", stage) is None:
            return False
        if self.placing.pipeline.stages[stage].held > self.placing.room(self.placing.pipeline.home[stage]):
            return False
        self.placing.forward(stage)
        return True
