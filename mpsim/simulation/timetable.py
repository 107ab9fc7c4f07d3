"""When each pass of a plan runs at the earliest: its rows with every exchange as on an idle network.

The step has the same waits, and passes and exchanges that take no less, so that nothing in it begins sooner. Bounds of
a search come from it, whatever the cut: it needs no program.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from mpsim.collectives.traffic import idle_s, message_traffic
from mpsim.lowering.balancing import Clock, lines_of
from mpsim.lowering.crossings import crossings
from mpsim.lowering.launch import NO_LAUNCH, Launch
from mpsim.lowering.model import Lowering
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.lowering.stages import microbatch_size
from mpsim.lowering.times import RankTimes, medians
from mpsim.plan.operations import Operation
from mpsim.plan.recompute import parse_recompute

__all__ = ["Ended", "Timetable"]

_Sums = tuple[float, ...]
_Key = tuple[int, bool, int]
_Step = tuple[tuple[int, str], _Key | None, _Key | None, bool, bool]


class Ended(NamedTuple):
    """When each pipeline rank is done with its row at the earliest, and when its first last backward begins."""

    row_s: list[float]
    closing_s: list[float]


class Timetable:
    """Runs the rows of a plan on the first of its replicas, cut anywhere.

    Parameters
    ----------
    lowering : Lowering
        The plan; its rows must not hang on its cut.
    clock : Clock, optional
        Of its costs, with what other plans have found out of it.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> plan = Plan(pp=2, microbatches=2)
    >>> table = Timetable(lower(Workload.chain("four", layers), chain(2, link="1GB/s@0"), plan))
    >>> table.ended((2,)).row_s, table.ended((1,)).row_s
    ([18.0, 14.0], [21.0, 19.0])
    """

    def __init__(self, lowering: Lowering, clock: Clock | None = None) -> None:
        plan, shape = lowering.plan, lowering.shape
        self._lowering, self._shape = lowering, shape
        what = parse_recompute(plan.sharding.recompute)
        clock = clock or Clock(lowering.costs, lowering.routes, plan.algorithm, what.what == "selective")
        lines = lines_of(lowering.place, plan)
        overlaps = any(one.overlaps for row in lowering.rows for one in row)
        workload = lowering.workload
        again = recomputed_layers(workload, lowering.costs.of(""), what) if what.what else frozenset()
        made: dict[int, tuple[_Sums, ...]] = {}
        self._sums = []
        for line in lines:
            passes = clock.passes(line, waiting=not overlaps)
            if id(passes) not in made:
                made[id(passes)] = _sums(passes, again)
            self._sums.append(made[id(passes)])
        nodes = [lowering.topology.devices[line.devices[0]] for line in lines]
        known = {(node.type, node.speed): node for node in nodes} if lowering.launches else {}
        hosts = {
            pace: medians(lowering.costs.of(node.type), node.speed, lowering.host_speed) for pace, node in known.items()
        }
        self._hosts = [hosts.get((node.type, node.speed)) for node in nodes]
        self._launches: dict[tuple[RankTimes, str, int, int], Launch] = {}
        cuts = crossings(workload, microbatch_size(workload, plan), plan.split)
        self._sent = [[0, *(getattr(cut, f"{way}_bytes") for cut in cuts), 0] for way in ("forward", "backward")]
        self._hops = [
            (lines[here].devices[0], lines[there].devices[0]) if (number + 1) % shape.stages else (0, 0)
            for number, (here, there) in enumerate(zip(shape.home, [*shape.home[1:], 0], strict=True))
        ]
        self._message: dict[tuple[int, int, int], float] = {}
        self._steps = [[self._step(one) for one in row] for row in lowering.rows]

    def ended(self, boundaries: Sequence[int]) -> Ended:
        """Return when ranks are done, of stages with these first layers but the first."""
        edges = (0, *boundaries, len(self._lowering.workload.layers))
        stages, kinds = range(len(self._shape.home)), ("F", "B", "I", "W", "U")
        passes = [self._stage(number, edges) for number in stages]
        messages = self._messages(edges)
        # By stage and kind: a second forward before it, itself, the message that it waits for, and its launch.
        seconds = {
            (number, kind): (
                passes[number]["R"] if kind in "BI" else 0.0,
                passes[number][kind],
                self._waits_s(number, kind, messages),
                *self._launch(number, kind, edges),
            )
            for number in stages
            for kind in kinds
        }
        done: dict[_Key, float] = {}
        waiting: dict[_Key, int] = {}
        ranks = range(len(self._steps))
        at, now, closing = [0 for _ in ranks], [0.0 for _ in ranks], [float("inf") for _ in ranks]
        issued = [0.0 for _ in ranks]
        ready = list(ranks)
        while ready:
            rank = ready.pop()
            row, i, time_s, issued_s = self._steps[rank], at[rank], now[rank], issued[rank]
            while i < len(row):
                which, needs, gives, again, closes = row[i]
                again_s, own_s, message_s, lead_s, rest_s = seconds[which]
                begin = time_s + again_s if again else time_s
                if needs is not None:
                    there = done.get(needs)
                    if there is None:
                        waiting[needs] = rank
                        break
                    if there + message_s > begin:
                        begin = there + message_s
                if issued_s + lead_s > begin:
                    begin = issued_s + lead_s
                issued_s += lead_s + rest_s
                if closes and begin < closing[rank]:
                    closing[rank] = begin
                time_s = begin + own_s
                i += 1
                if gives is not None:
                    done[gives] = time_s
                    woken = waiting.pop(gives, None)
                    if woken is not None:
                        ready.append(woken)
            at[rank], now[rank], issued[rank] = i, time_s, issued_s
        return Ended(now, closing)

    def _step(self, one: Operation) -> _Step:
        """Return an operation: what it needs and gives, whether some runs again before it, whether it closes."""
        lowering, (stage, kind, microbatch, *_) = self._lowering, one
        source = self._shape.source(stage, kind)
        return (
            (stage, kind),
            None if source is None else (source, kind == "F", microbatch),
            (stage, kind == "F", microbatch) if kind in "FBI" else None,
            kind in "BI" and (stage, microbatch) not in lowering.keeping,
            (stage, kind, microbatch) in lowering.closing,
        )

    def _waits_s(self, number: int, kind: str, messages: tuple[list[float], list[float]]) -> float:
        """Return the seconds of the message that a pass of a stage waits for."""
        sent, returned = messages
        if kind == "F":
            return sent[number - 1] if number % self._shape.stages else 0.0
        return returned[number] if kind in "BI" else 0.0

    def _stage(self, number: int, edges: Sequence[int]) -> dict[str, float]:
        """Return the seconds of a stage's passes, by kind."""
        first, last = edges[number % self._shape.stages], edges[number % self._shape.stages + 1]
        forward, backward, again, weights = (
            total[last] - total[first] for total in self._sums[self._shape.home[number]]
        )
        return {"F": forward, "B": backward, "I": backward - weights, "W": weights, "R": again, "U": 0.0}

    def _launch(self, number: int, kind: str, edges: Sequence[int]) -> Launch:
        """Return what a host takes to launch a pass of a stage."""
        times = self._hosts[self._shape.home[number]]
        if times is None or kind == "U":
            return NO_LAUNCH
        first, last = edges[number % self._shape.stages], edges[number % self._shape.stages + 1]
        key = (times, kind, first, last)
        if key not in self._launches:
            self._launches[key] = times.launch(kind, 0, first, last)
        return self._launches[key]

    def _messages(self, edges: Sequence[int]) -> tuple[list[float], list[float]]:
        """Return the seconds of what each stage sends on, and of what it returns the gradient of."""
        sent, returned = [0.0] * len(self._hops), [0.0] * len(self._hops)
        for number, (here, there) in enumerate(self._hops):
            if here != there:
                at = edges[number % self._shape.stages + 1]
                sent[number] = self._message_s(here, there, self._sent[0][at])
                returned[number] = self._message_s(there, here, self._sent[1][at])
        return sent, returned

    def _message_s(self, here: int, there: int, count: int) -> float:
        key = (here, there, count)
        if key not in self._message:
            routes = self._lowering.routes
            self._message[key] = idle_s(routes, message_traffic(routes, here, there, count))
        return self._message[key]


def _sums(passes: Sequence[tuple[float, float, float, float]], again: frozenset[int]) -> tuple[_Sums, ...]:
    """Return the seconds of the layers before each one, and of all, of each kind of pass."""
    forward, backward, repeated, weights = zip(*passes, strict=True)
    repeated = tuple(seconds if i in again else 0.0 for i, seconds in enumerate(repeated))
    return tuple(tuple(accumulate(column, initial=0.0)) for column in (forward, backward, repeated, weights))
