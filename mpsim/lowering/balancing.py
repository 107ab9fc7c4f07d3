"""Where to cut a workload into a plan's stages: what each stage costs by its layers, communication counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import accumulate, combinations, pairwise
from math import comb, inf
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from mpsim.collectives.mapping import algorithm_of
from mpsim.collectives.traffic import collective, idle_s, message_traffic
from mpsim.lowering.costs import Costs
from mpsim.lowering.crossings import Crossing
from mpsim.lowering.recomputation import again_s, recomputed_layers
from mpsim.plan.grid import Grid
from mpsim.plan.model import Plan
from mpsim.plan.partition import Table, balance, cheapest
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.shape import Shape
from mpsim.program.model import Traffic
from mpsim.topology.routes import Routes
from mpsim.workload.costs import median_s
from mpsim.workload.layers import ShardCollective
from mpsim.workload.split import Split

__all__ = ["Clock", "Line", "Scales", "balanced_boundaries", "boundaries_worth_trying", "lines_by_stage", "lines_of"]

_Seconds = tuple[float, ...]
# Forward, backward, forward again, and the part of backward for weights.
_Passes = tuple[float, float, float, float]
# So many cuts are all tried. Of more, those that are best if communication weighs so much (0: computation hides it;
# above 1: messages share links), or if the costliest stage may take so many times what it must.
_FEW = 300
# Times that add up to infinity are told of where they are replayed.
_MOST_S = 1e300
_WEIGHTS = (0.0, 0.25, 0.5, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0)
_ROOMS = (1.0, 1.125, 1.25, 1.5, 2.0, inf)
_MOST_LINES = 1024  # lists of lines that are kept
# Of pairs of devices those that are unlike.
_Pairs = tuple[tuple[int, int], ...]
_UNLIKE: WeakKeyDictionary[Routes, dict[_Pairs, _Pairs]] = WeakKeyDictionary()
# Seconds of collectives on an idle network, by algorithm: whatever the costs of layers.
_COLLECTED: WeakKeyDictionary[Routes, dict[str, dict[tuple[str, int, tuple[int, ...]], float]]] = WeakKeyDictionary()


def balanced_boundaries(scales: Scales) -> tuple[int, ...]:
    """Return the boundaries that make the costliest stage cheapest, for one micro-batch.

    A stage costs, on its slowest replica, the median compute of its layers on the slowest rank, what those that share
    them exchange (beside a layer, what takes longer than the layer), and the sending of what crosses its cuts to both
    sides, each on an idle network.
    """
    return balance(scales.costs(1.0))


def boundaries_worth_trying(scales: Scales, few: int = _FEW) -> list[tuple[int, ...]]:
    """Return boundaries among which those of the shortest step are, or come near.

    What sending across a cut costs depends on what it hides behind, which only a replay tells. If there are but `few`
    cuts, all are returned. Of more, those that dynamic programming finds the best, for each part that communication
    may play: the costliest stage cheapest, which counts with many micro-batches, or all stages together, which counts
    with few.
    """
    n, stages = scales.layers, scales.stages
    if comb(n - 1, stages - 1) <= few:
        return list(combinations(range(1, n), stages - 1))
    found = [balance(scales.costs(weight)) for weight in _WEIGHTS]
    found += cheapest(scales.costs(1.0), _ROOMS)
    return list(dict.fromkeys(found))


class Scales:
    """Weighs stages: the seconds of one micro-batch on each, by its first layer and its last.

    Parameters
    ----------
    costs, routes, plan, place
        Of a plan that is being lowered.
    cuts : sequence of Crossing
        What crosses each cut.
    shape : Shape
        Of its pipeline: how many stages, and where each lives.
    clock : Clock, optional
        Of its costs, with what other plans have found out of it.
    """

    def __init__(
        self,
        costs: Costs,
        routes: Routes,
        plan: Plan,
        place: tuple[int, ...],
        cuts: Sequence[Crossing],
        shape: Shape,
        clock: Clock | None = None,
    ) -> None:
        self.layers, self.stages = len(costs.workload.layers), shape.stages
        what = parse_recompute(plan.sharding.recompute)
        self._clock = clock or Clock(costs, routes, plan.algorithm, partly=what.what == "selective")
        ranks = lines_by_stage(place, plan, shape)
        again = recomputed_layers(costs.workload, costs.of(""), what) if what.what else frozenset()
        part = (plan.microbatches - 1) / plan.microbatches if what.except_last else 1.0
        unlike = {id(replicas): replicas for replicas in ranks}
        order = [id(replicas) for replicas in ranks]
        work = {
            key: tuple(dict.fromkeys(self._clock.running_total(line, again, part) for line in replicas))
            for key, replicas in unlike.items()
        }
        reduced = {key: self._clock.reducing(_alike(replicas, plan.tp), plan) for key, replicas in unlike.items()}
        flat = {key: [device for line in replicas for device in line.devices] for key, replicas in unlike.items()}
        # By the layer before which the cut is; nobody cuts before the first or behind the last.
        forward, backward = ([0, *(getattr(cut, f"{way}_bytes") for cut in cuts), 0] for way in ("forward", "backward"))
        none = (0.0,) * (self.layers + 1)
        hops = {(a, b) for a, b in pairwise(order) if flat[a] != flat[b]}
        sent = {(a, b): self._clock.sending(zip(flat[a], flat[b], strict=True), forward) for a, b in hops}
        returned = {(a, b): self._clock.sending(zip(flat[b], flat[a], strict=True), backward) for a, b in hops}
        self._work, self._reduced = [work[key] for key in order], [reduced[key] for key in order]
        self._forward = [*(sent.get(hop, none) for hop in pairwise(order)), none]
        self._backward = [none, *(returned.get(hop, none) for hop in pairwise(order))]
        # Stages that are alike are weighed once.
        parts = list(zip(self._work, self._forward, self._backward, self._reduced, strict=True))
        self._unlike = list(dict.fromkeys(parts))
        numbers = {each: number for number, each in enumerate(self._unlike)}
        self._number = [numbers[each] for each in parts]

    def costs(self, weight: float) -> list[Table]:
        """Return each stage's seconds with the layers ``first..last-1`` at ``[first, last]``; sending has a weight.

        Stages that are alike share an array.
        """

        tables = [self._table(*parts, weight) for parts in self._unlike]
        return [tables[number] for number in self._number]

    def _table(
        self, totals: tuple[_Seconds, ...], forward: _Seconds, backward: _Seconds, reduced: _Seconds, weight: float
    ) -> Table:
        edges = [np.minimum(total, _MOST_S) for total in totals]
        work = np.maximum.reduce([total - total[:, None] for total in edges])
        sent = np.array(forward) + np.array(backward)[:, None] + np.array(reduced) - np.array(reduced)[:, None]
        table: Table = work + weight * sent
        return table


class Line(NamedTuple):
    """The devices of one replica that share the layers of a stage, and of the first of them those along each axis."""

    devices: tuple[int, ...]
    tp: tuple[int, ...]
    cp: tuple[int, ...]
    ep: tuple[int, ...]


def _alike(replicas: Sequence[Line], tp: int) -> list[tuple[int, ...]]:
    """Return the devices that hold the same part of a stage, for each part."""
    return [tuple(device for line in replicas for device in line.devices[t::tp]) for t in range(tp)]


def lines_by_stage(place: tuple[int, ...], plan: Plan, shape: Shape) -> list[list[Line]]:
    """Return the devices that share the layers of each stage: of every replica, and of every copy in it.

    Stages that live on the same ranks share a list.
    """
    homes = [tuple(shape.home[stage :: shape.stages]) for stage in range(shape.stages)]
    lines = {
        copies: [
            line
            for lines in zip(*(_lines(place, plan.grid, plan.dp, home) for home in copies), strict=True)
            for line in lines
        ]
        for copies in dict.fromkeys(homes)
    }
    return [lines[copies] for copies in homes]


def lines_of(place: tuple[int, ...], plan: Plan) -> list[Line]:
    """Return the devices of each pipeline rank of the first replica that share its layers."""
    return [_line(place, plan.grid, 0, p) for p in range(plan.pp)]


@lru_cache(_MOST_LINES)
def _lines(place: tuple[int, ...], grid: Grid, dp: int, p: int) -> tuple[Line, ...]:
    """Return the devices that share the layers of a pipeline rank, of each replica."""
    return tuple(_line(place, grid, d, p) for d in range(dp))


def _line(place: tuple[int, ...], grid: Grid, d: int, p: int) -> Line:
    """Return the devices that share the layers of a pipeline rank of a replica."""
    rank = grid.rank(dp=d, pp=p)
    groups = [grid.group(rank, *axes) for axes in (("cp", "tp"), ("tp",), ("cp",), ("ep",))]
    return Line(*(tuple(place[one] for one in group) for group in groups))


def _unlike(routes: Routes, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return of pairs between which messages take as long the first."""
    links = routes.topology.links
    found: dict[object, tuple[int, int]] = {}
    for pair in pairs:
        wires = [links[i] for i in routes.path(*pair)]
        found.setdefault(tuple((wire.latency_s, wire.bandwidth_bytes_per_s, wire.type) for wire in wires), pair)
    return tuple(found.values())


class Clock:
    """Times the layers of ranks that share them, and messages and collectives on an idle network, each kind once."""

    def __init__(self, costs: Costs, routes: Routes, algorithm: str, partly: bool) -> None:
        self._costs = costs
        self._routes = routes
        self._algorithm = algorithm
        self.partly = partly  # whether what runs again is the attention core of a layer alone
        self._compute: dict[str, list[_Passes]] = {}
        self._exchanged: dict[str, list[tuple[str, int, str]]] = {}
        self._totals: dict[object, _Seconds] = {}
        self._passed: dict[object, list[_Passes]] = {}
        self._collected = _COLLECTED.setdefault(routes, {}).setdefault(algorithm, {})
        self._gradients: dict[Split, list[int]] = {}

    def running_total(self, line: Line, again: frozenset[int] = frozenset(), part: float = 1.0) -> _Seconds:
        """Return the seconds of the layers before each one, and of all; `part` of micro-batches compute some again."""
        devices = [self._routes.topology.devices[device] for device in line.devices]
        paces = list(dict.fromkeys((node.type, node.speed) for node in devices))
        # Thousands of lines are alike: what they wait for is told by how long their exchanges take.
        waits = [self.collective(kind, count, getattr(line, axis)) for kind, count, axis in self._calls(paces[0][0])]
        key = (*paces, *waits, again, part)
        if key not in self._totals:
            n = len(self._costs.workload.layers)
            layers = (self._layer_s(i, line, paces, part * (i in again)) for i in range(n))
            self._totals[key] = tuple(accumulate(layers, initial=0.0))
        return self._totals[key]

    def _calls(self, device_type: str) -> list[tuple[str, int, str]]:
        """Return the kind, bytes and axis of all that ranks exchange in passes, each once."""
        if device_type not in self._exchanged:
            calls = (call for cost in self._costs.of(device_type) for call in cost.collectives)
            passes = (call for call in calls if call.bytes and call.phase in ("forward", "backward"))
            self._exchanged[device_type] = list(dict.fromkeys((call.kind, call.bytes, call.axis) for call in passes))
        return self._exchanged[device_type]

    def sending(self, pairs: Iterable[tuple[int, int]], counts: Sequence[int]) -> _Seconds:
        """Return the seconds that the slowest of these pairs takes for each of so many bytes."""
        routes = self._routes
        known, of = _UNLIKE.setdefault(routes, {}), tuple(pairs)
        if of not in known:
            known[of] = _unlike(routes, of)

        @cache
        def slowest(count: int) -> float:
            return max(idle_s(routes, message_traffic(routes, *pair, count)) for pair in known[of])

        return tuple(slowest(count) for count in counts)

    def reducing(self, groups: Iterable[tuple[int, ...]], plan: Plan) -> _Seconds:
        """Return a micro-batch's part of the all-reduce of gradients of the layers before each one, and of all."""
        if plan.split not in self._gradients:
            layers = self._costs.workload.layers
            self._gradients[plan.split] = [sum(g.bytes for g in layer.shard(plan.split).gradients) for layer in layers]
        counts = self._gradients[plan.split]
        whole = sum(counts)
        if plan.replicas == 1 or not whole:
            return (0.0,) * (len(counts) + 1)
        slowest = max(self.collective("all_reduce", whole, group) for group in groups)
        return tuple(slowest * count / whole / plan.microbatches for count in accumulate(counts, initial=0))

    def passes(self, line: Line, *, waiting: bool = True) -> list[_Passes]:
        """Return what each layer takes on the first rank of a line, which waits for the others where they exchange.

        Forward, backward, forward again, and the part of backward for weights; without `waiting` what ranks exchange
        is left out.
        """
        first = self._routes.topology.devices[line.devices[0]]
        pace = (first.type, first.speed)
        waits = [self.collective(kind, count, getattr(line, axis)) for kind, count, axis in self._calls(first.type)]
        key = (waiting, pace, *waits)
        if key not in self._passed:
            n = len(self._costs.workload.layers)
            self._passed[key] = [self._layer_passes(i, line, pace, waiting) for i in range(n)]
        return self._passed[key]

    def _layer_passes(self, i: int, line: Line, pace: tuple[str, float], waiting: bool) -> _Passes:
        """Return the seconds of each pass of a layer on a rank of a type and a speed."""
        kind, speed = pace
        calls: Sequence[Sequence[ShardCollective]] = self._exchanges(kind, i) if waiting else ((), (), ())
        *passes, weights_s = self._seconds(kind)[i]
        forward_s, backward_s, again_s = (
            self._pass_s(seconds / speed, own, line) for seconds, own in zip(passes, calls, strict=True)
        )
        return forward_s, backward_s, again_s, weights_s / speed

    def _exchanges(self, device_type: str, i: int) -> tuple[Sequence[ShardCollective], ...]:
        """Return what the ranks of a layer exchange in its forward, its backward, and where its forward runs again."""
        calls = self._costs.of(device_type)[i].collectives
        forward, backward = ([call for call in calls if call.phase == phase] for phase in ("forward", "backward"))
        return forward, backward, [call for call in forward if call.axis == "cp" or not self.partly]

    def _layer_s(self, i: int, line: Line, paces: Sequence[tuple[str, float]], again: float) -> float:
        """Return the seconds of a layer's passes on the slowest rank, its second forward in a part of micro-batches."""
        each = (self._layer_passes(i, line, pace, waiting=True) for pace in paces)
        return max(
            forward_s + backward_s + (again * again_s if again else 0.0) for forward_s, backward_s, again_s, _ in each
        )

    def _pass_s(self, seconds: float, calls: Iterable[ShardCollective], line: Line) -> float:
        """Return how long a computation takes with what its ranks exchange: before, behind, or going on beside it."""
        awaited_s = beside_s = 0.0
        for call in calls:
            if call.bytes:
                sent_s = self.collective(call.kind, call.bytes, getattr(line, call.axis))
                awaited_s += sent_s if call.when != "beside" else 0.0
                beside_s += sent_s if call.when == "beside" else 0.0
        return max(seconds, beside_s) + awaited_s

    def _seconds(self, device_type: str) -> list[_Passes]:
        """Return what each layer computes on a device of speed 1."""
        if device_type not in self._compute:
            costs = self._costs.of(device_type)
            medians = (median_s(cost.samples) for cost in costs)
            self._compute[device_type] = [
                (forward, inputs + weights, again_s(cost, self.partly), weights)
                for cost, (forward, inputs, weights, *_) in zip(costs, medians, strict=True)
            ]
        return self._compute[device_type]

    def collective(self, kind: str, count: int, group: tuple[int, ...]) -> float:
        """Return the seconds of a collective of some devices on an idle network."""
        key = (kind, count, group)
        if key not in self._collected:
            self._collected[key] = idle_s(self._routes, self.traffic(kind, count, group))
        return self._collected[key]

    def traffic(self, kind: str, count: int, group: tuple[int, ...]) -> Traffic:
        """Return what a collective of some devices puts on the network."""
        return collective(self._routes, kind, group, count, algorithm=algorithm_of(kind, self._algorithm))
