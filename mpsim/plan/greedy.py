"""A list scheduler: a rank that is free begins what is most urgent of what it can, or waits for something better.

I is more urgent than F, F of a later stage than of an earlier one, and W is what fills the gaps.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from mpsim.plan.placing import Pipeline, Placing

__all__ = ["Rules", "greedy"]


class Rules(NamedTuple):
    """What a greedy rank heeds.

    Attributes
    ----------
    ahead : tuple of float
        Of each rank, the most micro-batches that have passed F and not I on one of its stages; memory limits them too.
    late_for_weights : float
        By what part of a W, at most, that W may delay an operation whose input is known to come.
    late_for_forward : float
        By what part of an F, at most, that F may delay an I whose input is known to come.
    in_turn : bool
        Whether after an I an F is more urgent than another I.
    """

    ahead: tuple[float, ...]
    late_for_weights: float = 1.0
    late_for_forward: float = 1.0
    in_turn: bool = False


def greedy(pipeline: Pipeline, rules: Rules, within_s: tuple[float, float] = (inf, inf)) -> Placing | None:
    """Return what greedy ranks place, or nothing if they come to wait for each other.

    Nothing either, as soon as that is sure, where it would cost more than `within_s`, as `Placing.costs_s` has it.
    """
    return _Greedy(pipeline, rules, within_s).place()


class _Greedy:
    def __init__(self, pipeline: Pipeline, rules: Rules, within_s: tuple[float, float]) -> None:
        self.placing = Placing(pipeline)
        self.pipeline, self.rules = pipeline, rules
        self.own = [pipeline.of_rank(rank) for rank in range(len(pipeline.limits))]
        self.left = [3 * pipeline.microbatches * len(own) for own in self.own]
        self.after_inputs = [False] * len(pipeline.limits)  # whether of F and I a rank has done I last
        self.events = [(0.0, rank) for rank in range(len(pipeline.limits))]
        self.may_idle_s, self.may_wait_s = ([most_s - work_s for work_s in pipeline.works_s()] for most_s in within_s)

    def place(self) -> Placing | None:
        events, left, free_s = self.events, self.left, self.placing.free_s
        while events:
            now_s, rank = heappop(events)
            if left[rank] and free_s[rank] <= now_s and self._begin(rank, now_s):
                if self._costs_more(rank):
                    return None
                left[rank] -= 1
                heappush(events, (free_s[rank], rank))
        return None if any(left) else self.placing

    def _costs_more(self, rank: int) -> bool:
        """Return whether a rank has waited so long that, without another wait, it ends later than it may."""
        idle_s = self.placing.idle_s[rank]
        return idle_s > self.may_idle_s[rank] or self.placing.begin_s[rank] + idle_s > self.may_wait_s[rank]

    def _begin(self, rank: int, now_s: float) -> bool:
        """Begin what a free rank should; whether there is something."""
        placing = self.placing
        inputs, next_s = self._due(rank, "I", now_s)
        forwards, next_forward_s = self._due(rank, "F", now_s)
        fitting = [stage for stage in forwards if self._fits(rank, stage)]
        turn = self.rules.in_turn and bool(forwards) and self.after_inputs[rank]
        if inputs and not (turn and (fitting or placing.pending[rank])):
            self.after_inputs[rank] = True
            self._send(placing.inputs(inputs[-1]), inputs[-1] - 1)
            return True
        if fitting and (turn or self._may(fitting[-1], now_s, next_s)):
            self.after_inputs[rank] = False
            self._send(placing.forward(fitting[-1]), fitting[-1] + 1)
            return True
        if not placing.pending[rank]:
            return False
        weights_s = placing.weights_s(rank)
        late_s = self.rules.late_for_weights * weights_s
        waits_for_room = bool(forwards) and not fitting
        if not waits_for_room and now_s + weights_s > min(next_s, next_forward_s) + late_s:
            return False
        placing.weights(rank)
        return True

    def _due(self, rank: int, kind: str, now_s: float) -> tuple[list[int], float]:
        """Return the stages of a rank that have the input of their next operation, and when another's comes."""
        due, next_s = [], inf
        arrived_s, done = self.placing.arrived_s[kind], self.placing.done[kind]
        for stage in self.own[rank]:
            known_s, k = arrived_s[stage], done[stage]
            if k >= len(known_s) or (kind == "F" and self._ahead(stage) >= self.rules.ahead[rank]):
                continue
            if known_s[k] <= now_s:
                due.append(stage)
            else:
                next_s = min(next_s, known_s[k])
        return due, next_s

    def _ahead(self, stage: int) -> int:
        return self.placing.done["F"][stage] - self.placing.done["I"][stage]

    def _may(self, stage: int, now_s: float, next_s: float) -> bool:
        forward_s = self.pipeline.stages[stage].forward_s
        return now_s + forward_s <= next_s + self.rules.late_for_forward * forward_s

    def _fits(self, rank: int, stage: int) -> bool:
        """Return whether an F fits, and leaves room for that of the rank's last stage, without which none gets back."""
        left = self.placing.room(rank) - self.pipeline.stages[stage].held
        last = self.own[rank][-1]
        if left < 0 or stage == last:
            return left >= 0
        held = self.pipeline.stages[last].held
        comes_back = sum(self.pipeline.stages[one].kept for one in self.placing.pending[rank])
        return left + comes_back + self._ahead(last) * held >= held

    def _send(self, arrival_s: float, stage: int) -> None:
        if 0 <= stage < len(self.pipeline.home):
            heappush(self.events, (arrival_s, self.pipeline.home[stage]))
