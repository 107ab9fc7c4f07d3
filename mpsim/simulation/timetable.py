"""When each pass of a plan runs at the earliest: its rows with every exchange as on an idle network.

The step has the same waits, and passes and exchanges that take no less, so that nothing in it begins sooner. Bounds of
a search come from it, whatever the cut: it needs no program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.collectives.traffic import idle_s, message_traffic
from mpsim.lowering.balancing import Clock, lines_of
from mpsim.lowering.crossings import crossings
from mpsim.lowering.model import Lowering
from mpsim.lowering.recomputation import fraction_again, recomputed_layers
from mpsim.lowering.stages import microbatch_size
from mpsim.lowering.times import RankTimes, medians
from mpsim.plan.recompute import parse_recompute
from mpsim.simulation.gathering import Gathering, gathers
from mpsim.simulation.levels import KINDS, Levels, levels_of, which_of

__all__ = ["Ended", "Timetable"]

_Row = NDArray[np.float64]
_Edges = NDArray[np.intp]
_Sums = dict[str, _Row]


class Ended(NamedTuple):
    """When each pipeline rank is done with its row at the earliest, and when its first last backward begins.

    Both have the shape (cuts, ranks).
    """

    row_s: _Row
    closing_s: _Row


class Timetable:
    """Runs the rows of a plan on the first of its replicas, cut anywhere.

    Parameters
    ----------
    lowering : Lowering
        The plan; its rows must not hang on its cut, and its stages are not looked at.
    clock : Clock, optional
        Of its costs, with what other plans have found out of it.
    levels : Levels, optional
        Of its rows, where they are known.
    gathering : Gathering, optional
        Of a plan that `gathers`, with what other plans have found out of it.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> plan = Plan(pp=2, microbatches=2)
    >>> table = Timetable(lower(Workload.chain("four", layers), chain(2, link="1GB/s@0"), plan))
    >>> table.ended([(2,), (1,)]).row_s.tolist()
    [[18.0, 14.0], [21.0, 19.0]]
    """

    def __init__(
        self,
        lowering: Lowering,
        clock: Clock | None = None,
        levels: Levels | None = None,
        gathering: Gathering | None = None,
    ) -> None:
        plan, shape = lowering.plan, lowering.shape
        self._lowering, self._shape = lowering, shape
        self._levels = levels or levels_of(lowering.rows, shape, lowering.keeping, lowering.closing)
        what = parse_recompute(plan.sharding.recompute)
        clock = clock or Clock(lowering.costs, lowering.routes, plan.algorithm, what.what == "selective")
        lines = lines_of(lowering.place, plan)
        workload = lowering.workload
        self._again = recomputed_layers(workload, lowering.costs.of(""), what) if what.what else frozenset()
        # A whole stage runs again while what its backward begins with is on its way, layers once it is there.
        self.again_before = what.what == "stages"
        made: dict[int, _Sums] = {}
        self._passes = [clock.passes(line) for line in lines]
        # Of two operations in one cell one computes while the other exchanges.
        paired = [clock.passes(line, waiting=False) for line in lines] if self._levels.pairs else self._passes
        for passes in (*self._passes, *paired):
            if id(passes) not in made:
                made[id(passes)] = _sums(passes, self._again)
        self._sums, self._paired = ([made[id(passes)] for passes in of] for of in (self._passes, paired))
        self._gathering = (gathering or Gathering(lowering, clock)) if gathers(plan) else None
        nodes = [lowering.topology.devices[line.devices[0]] for line in lines]
        known = {(node.type, node.speed): node for node in nodes} if lowering.launches else {}
        partly = what.what == "selective"
        hosts = {}
        for pace, node in known.items():
            costs = lowering.costs.of(node.type)
            parts = [fraction_again(cost, partly) if i in self._again else 0.0 for i, cost in enumerate(costs)]
            hosts[pace] = medians(costs, node.speed, lowering.host_speed, again=parts)
        self._hosts = [hosts.get((node.type, node.speed)) for node in nodes]
        self._launches: dict[tuple[RankTimes, str, int, int], tuple[float, float]] = {}
        cuts = crossings(workload, microbatch_size(workload, plan), plan.split)
        self._sent = [[0, *(getattr(cut, f"{way}_bytes") for cut in cuts), 0] for way in ("forward", "backward")]
        self._hops = [
            (lines[here].devices[0], lines[there].devices[0]) if (number + 1) % shape.stages else (0, 0)
            for number, (here, there) in enumerate(zip(shape.home, [*shape.home[1:], 0], strict=True))
        ]
        self._message: dict[tuple[int, int, int], float] = {}

    def ended(self, cuts: Sequence[Sequence[int]]) -> Ended:
        """Return when ranks are done, of stages with these first layers but the first."""
        levels, ranks = self._levels, len(self._lowering.rows)
        n_layers = len(self._lowering.workload.layers)
        passes = _Passes(self, np.array([(0, *own, n_layers) for own in cuts], dtype=np.intp))
        before, own, message, launch = passes.before, passes.own, passes.message, passes.launch
        done = np.full((len(levels.rank) + 1, len(cuts)), -np.inf)
        now, closing, issued = np.zeros((ranks, len(cuts))), np.full((ranks, len(cuts)), np.inf), None
        if launch is not None:
            issued = np.zeros((ranks, len(cuts)))
        for (first, last), closes in zip(pairwise(levels.edges), levels.closing, strict=True):
            rank, which = levels.rank[first:last], levels.which[first:last]
            begin = np.maximum(now[rank] + before[which], done[levels.needs[first:last]] + message[which])
            if levels.pairs:
                np.maximum(begin, done[levels.others[first:last]], out=begin)
            if len(closes):
                own_rank = levels.rank[closes]
                closing[own_rank] = np.minimum(closing[own_rank], begin[closes - first])
            if issued is not None and launch is not None:
                np.maximum(begin, issued[rank] + launch[0][which], out=begin)
                issued[rank] += launch[1][which]
            begin += own[which]
            now[rank] = done[first:last] = begin
        return Ended(now.T, closing.T)

    def stages(self) -> range:
        """Return the numbers of the stages, copies included."""
        return range(len(self._shape.home))

    def spans(self, number: int, edges: _Edges) -> tuple[_Edges, _Edges]:
        """Return the first layers of a stage, and those behind its last, at each cut."""
        at = number % self._shape.stages
        return edges[:, at], edges[:, at + 1]

    @property
    def pairs(self) -> bool:
        """Whether two operations share a cell anywhere."""
        return self._levels.pairs

    def passes(self, number: int, edges: _Edges, paired: bool = False) -> dict[str, _Row]:
        """Return the seconds of a stage's passes at each cut, by kind; R: forward again."""
        first, last = self.spans(number, edges)
        sums = (self._paired if paired else self._sums)[self._shape.home[number]]
        forward, backward, again, weights = (sums[kind][last] - sums[kind][first] for kind in "FBRW")
        return {"F": forward, "B": backward, "I": backward - weights, "W": weights, "R": again}

    def own(self, number: int, kind: str, again: bool, edges: _Edges, seconds: dict[str, _Row]) -> _Row:
        """Return the seconds of a stage's passes of a kind at each cut, with what is gathered, reduced, run again."""
        alone = seconds[kind] + seconds["R"] if again and not self.again_before else seconds[kind]
        if self._gathering is None or (again and self.again_before):
            return alone
        home = self._shape.home[number]
        layers = frozenset(self._again) if again else frozenset()
        spans = zip(*(ends.tolist() for ends in self.spans(number, edges)), strict=True)
        found = [self._gathering.pass_s(home, range(*span), kind, self._passes[home], layers) for span in spans]
        return np.maximum(alone, found)

    def launch(self, number: int, kind: str, edges: _Edges) -> tuple[_Row, _Row]:
        """Return at each cut what a host takes to launch a pass of a stage, until it may run, and in all."""
        times = self._hosts[self._shape.home[number]]
        if times is None or kind == "U":
            return np.zeros(len(edges)), np.zeros(len(edges))
        found = []
        for first, last in zip(*(ends.tolist() for ends in self.spans(number, edges)), strict=True):
            key = (times, kind, first, last)
            if key not in self._launches:
                lead_s, rest_s = times.launch(kind, 0, first, last)
                self._launches[key] = lead_s, lead_s + rest_s
            found.append(self._launches[key])
        leads, totals = np.array(found).T
        return leads, totals

    @property
    def launches(self) -> bool:
        """Whether hosts launch."""
        return any(self._hosts)

    def messages(self, number: int, edges: _Edges) -> tuple[_Row, _Row]:
        """Return at each cut the seconds of what a stage sends on, and of what is returned to it of that."""
        here, there = self._hops[number]
        if here == there:
            return np.zeros(len(edges)), np.zeros(len(edges))
        ends = self.spans(number, edges)[1].tolist()
        sent, returned = self._sent
        return (
            np.array([self._message_s(here, there, sent[at]) for at in ends]),
            np.array([self._message_s(there, here, returned[at]) for at in ends]),
        )

    def _message_s(self, here: int, there: int, count: int) -> float:
        key = (here, there, count)
        if key not in self._message:
            routes = self._lowering.routes
            self._message[key] = idle_s(routes, message_traffic(routes, here, there, count))
        return self._message[key]


class _Passes:
    """What each stage's passes of each kind take at each cut: arrays of the shape (`which_of`, cuts)."""

    def __init__(self, table: Timetable, edges: _Edges) -> None:
        self._table, self._edges, numbers = table, edges, table.stages()
        self._plain = [table.passes(number, edges) for number in numbers]
        self._paired = [table.passes(number, edges, True) for number in numbers] if table.pairs else []
        self._messages = [table.messages(number, edges) for number in numbers]

    @cached_property
    def own(self) -> _Row:
        """Seconds of a pass itself."""
        table = self._table
        found = self._rows(
            lambda number, kind, again: (
                None if kind == "U" else table.own(number, kind, again, self._edges, self._plain[number])
            )
        )
        for number, plain in enumerate(self._paired):
            for kind in "FBI":
                for again in (False, True):
                    alone = plain[kind] + plain["R"] if again and not table.again_before else plain[kind]
                    found[which_of(number, kind, again, True)] = alone
            found[which_of(number, "W", False, True)] = plain["W"]
        return found

    @cached_property
    def before(self) -> _Row:
        """Seconds of the forward that runs again before it, while it waits."""
        before = self._table.again_before
        return self._rows(lambda number, kind, again: self._plain[number]["R"] if again and before else None)

    @cached_property
    def message(self) -> _Row:
        """Seconds of the message that it waits for."""
        stages = self._table._shape.stages

        def waits(number: int, kind: str, again: bool) -> _Row | None:
            if kind == "F":
                return self._messages[number - 1][0] if number % stages else None
            return self._messages[number][1] if kind in "BI" else None

        return self._rows(waits)

    @cached_property
    def launch(self) -> tuple[_Row, _Row] | None:
        """Seconds until a host has launched enough of it, and all of it; None where hosts launch nothing."""
        if not self._table.launches:
            return None
        found = {
            (number, kind): self._table.launch(number, kind, self._edges)
            for number in self._table.stages()
            for kind in KINDS
        }
        repeated = [self._table.launch(number, "R", self._edges)[1] for number in self._table.stages()]
        alone = self._rows(lambda number, kind, again: found[number, kind][0])
        totals = self._rows(
            lambda number, kind, again: found[number, kind][1] + (repeated[number] if again and kind in "BI" else 0.0)
        )
        plain = self._rows(lambda number, kind, again: self._plain[number].get(kind))
        # A pass ends no sooner than if it began behind that and took as long as it computes, which is less than it
        # takes; nor before all of it is launched.
        return np.maximum(alone + plain, totals) - self.own, totals

    def _rows(self, seconds: Callable[[int, str, bool], _Row | None]) -> _Row:
        found = np.zeros((which_of(len(self._plain), KINDS[0]), len(self._edges)))
        for number in range(len(self._plain)):
            for kind in KINDS:
                for again in (False, True):
                    own = seconds(number, kind, again)
                    if own is not None:
                        first = which_of(number, kind, again)
                        found[first : first + 2] = own
        return found


def _sums(passes: Sequence[tuple[float, float, float, float]], again: frozenset[int]) -> _Sums:
    """Return the seconds of the layers before each one, and of all, of each kind of pass."""
    forward, backward, repeated, weights = zip(*passes, strict=True)
    repeated = tuple(seconds if i in again else 0.0 for i, seconds in enumerate(repeated))
    columns = {"F": forward, "B": backward, "R": repeated, "W": weights}
    return {kind: np.array([*accumulate(column, initial=0.0)]) for kind, column in columns.items()}
