"""How long a pass takes at least whose parameters replicas gather, and whose gradients they reduce, on an idle network.

Nothing is gathered before the pass that uses it, and a pass ends once its gradients are reduced: what it takes hangs on
its own layers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mpsim.lowering.balancing import Clock
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import units_within
from mpsim.lowering.units import Unit, is_numbered, path_of
from mpsim.plan.model import Plan
from mpsim.workload.model import Workload

__all__ = ["Gathering", "gathers"]

_Key = tuple[object, ...]
_PROBES = (1 << 20, 1 << 30)
_KINDS = ("all_gather", "reduce_scatter")
_Times = tuple[float, float, float, float]


def gathers(plan: Plan) -> bool:
    """Return whether replicas of a plan share parameters, which each of its passes gathers anew.

    Examples
    --------
    >>> from mpsim.plan.sharding import Sharding
    >>> gathers(Plan(dp=2, sharding=Sharding(zero=3))), gathers(Plan(dp=2, sharding=Sharding(zero=2)))
    (True, False)
    """
    sharding = plan.sharding
    return (
        sharding.zero == 3
        and plan.replicas > 1
        and sharding.reshard_after_forward in ("blocks", "all")
        and not sharding.keep_gathered
    )


class _Exchanged(NamedTuple):
    """A unit of a stage: its layers, and the seconds in which it is gathered, and its gradients are reduced."""

    layers: range
    gathered: tuple[str, int]
    reduced: tuple[str, int]
    gather_s: float
    reduce_s: float


class Gathering:
    """Times the passes of stages whose parameters replicas share.

    Parameters
    ----------
    lowering : Lowering
        A plan that `gathers`; its rows and stages are not looked at.
    clock : Clock
        Of its costs.
    units : dict, optional
        Units by layers, with what others have found out that share a split, and what replicas share and how.

    Examples
    --------
    Layers of 1 s, of which each gathers 64 bytes over links of 64 bytes/s, a half from each of two replicas: the first
    gather is waited for, the others hide.

    >>> from mpsim.lowering.balancing import lines_of
    >>> from mpsim.lowering.lower import uncut
    >>> from mpsim.plan.sharding import Sharding
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "abcd"]
    >>> plan = Plan(dp=2, sharding=Sharding(zero=3))
    >>> whole = uncut(Workload.chain("four", layers), chain(2, link="64B/s@0"), plan)
    >>> clock = Clock(whole.costs, whole.routes, plan.algorithm, False)
    >>> Gathering(whole, clock).pass_s(0, range(4), "F", clock.passes(lines_of(whole.place, plan)[0]), frozenset())
    4.5
    """

    def __init__(self, lowering: Lowering, clock: Clock, units: dict[range, tuple[Unit, ...]] | None = None) -> None:
        self._workload, self._plan, self._clock = lowering.workload, lowering.plan, clock
        self._routes = lowering.routes
        grid = self._plan.grid
        groups = (grid.group(grid.rank(pp=p), "shard") for p in range(self._plan.pp))
        self._groups = [tuple(lowering.place[one] for one in group) for group in groups]
        self._units = {} if units is None else units
        self._exchanged: dict[tuple[int, range], list[_Exchanged]] = {}
        self._roots: dict[tuple[int, range], _Exchanged | None] = {}
        self._parts: dict[tuple[int, ...], list[tuple[float, float]]] = {}
        self._loads: dict[tuple[tuple[int, ...], str, int], dict[int, float]] = {}
        self._passes: dict[_Key, float] = {}
        self._kept: dict[int, object] = {}
        self._content = _content(self._workload, self._plan)
        self._alike_layers: dict[_Key, tuple[list[int], dict[tuple[int, ...], range]]] = {}
        self._kinds: dict[tuple[int, ...], int] = {}
        self._numbers: dict[_Key, int] = {}

    def pass_s(
        self, p: int, layers: range, kind: str, passes: Sequence[_Times], again: frozenset[int] = frozenset()
    ) -> float:
        """Return what a pass of a kind takes through some layers on a pipeline rank, at least.

        `passes` are what `Clock.passes` says of each layer, `again` the layers that run forward again beside it.
        """
        layers = self._first_alike(layers, passes, again)
        key = (self._alike(self._groups[p]), layers, kind, id(passes), again)
        if key not in self._passes:
            self._passes[key] = self._pass_s(p, layers, kind, _seconds(passes, layers, kind, again))
        return self._passes[key]

    def _first_alike(self, layers: range, passes: Sequence[_Times], again: frozenset[int]) -> range:
        """Return layers that take as long as these, gather and reduce as much: the first that were asked for."""
        key = (id(passes), again)
        if key not in self._alike_layers:
            self._kept[id(passes)] = passes
            numbers: dict[object, int] = {}
            each = ((own, passes[i], i in again) for i, own in enumerate(self._content))
            self._alike_layers[key] = [numbers.setdefault(one, len(numbers)) for one in each], {}
        row, seen = self._alike_layers[key]
        return seen.setdefault(tuple(row[layers.start : layers.stop]), layers)

    def _pass_s(self, p: int, layers: range, kind: str, seconds: Mapping[int, float]) -> float:
        ahead, forward = self._plan.sharding.gather_ahead, kind == "F"
        units = self._of(p, layers)
        if not forward:
            units = [*reversed(units)]
        reduces = kind in "BW" and not self._plan.sharding.accumulate
        gathering = [one.gather_s if kind != "W" else 0.0 for one in units]
        time_s = gathered_s = reduced_s = 0.0
        there: list[float] = []  # when each unit is gathered; the first ones from the pass's beginning on
        for gather_s in gathering[:ahead]:
            gathered_s += gather_s
            there.append(gathered_s)
        at = layers.start if forward else layers.stop
        for i, one in enumerate(units):
            between = range(at, one.layers.start) if forward else range(one.layers.stop, at)
            time_s += sum(seconds[layer] for layer in between)
            if ahead == 0:
                gathered_s = max(gathered_s, time_s) + gathering[i]
                there.append(gathered_s)
            time_s = max(time_s, there[i])
            if ahead > 0 and i + ahead < len(units):
                gathered_s = max(gathered_s, time_s) + gathering[i + ahead]
                there.append(gathered_s)
            time_s += sum(seconds[layer] for layer in one.layers)
            if reduces:
                reduced_s = max(reduced_s, time_s) + one.reduce_s
            at = one.layers.stop if forward else one.layers.start
        left = range(at, layers.stop) if forward else range(layers.start, at)
        time_s += sum(seconds[layer] for layer in left)
        root = self._roots[p, layers] if reduces else None
        if root is not None:
            reduced_s = max(reduced_s, time_s) + root.reduce_s
        calls = [one.gathered for one in units if kind != "W"]
        calls += [one.reduced for one in (*units, *([root] if root else ())) if reduces]
        return max(time_s, reduced_s, self._wires_s(self._groups[p], calls))

    def _alike(self, group: tuple[int, ...]) -> object:
        """Return what is the same of groups whose collectives take as long, and load as many links as much."""
        if self._routes.topology.costs or self._plan.algorithm == "auto":  # of other sizes they may not
            return group
        if group not in self._kinds:
            calls = [(kind, count) for kind in _KINDS for count in _PROBES]
            loads = [self._load(group, *call) for call in calls]
            links = dict.fromkeys(link for load in loads for link in load)
            loaded = sorted(tuple(load.get(link, 0.0) for load in loads) for link in links)
            key = (*(self._clock.collective(*call, group) for call in calls), *loaded)
            self._kinds[group] = self._numbers.setdefault(key, len(self._numbers))
        return self._kinds[group]

    def _wires_s(self, group: tuple[int, ...], calls: Sequence[tuple[str, int]]) -> float:
        """Return what the busiest link takes for the bytes of some collectives."""
        if self._plan.algorithm != "auto":  # what each link has of a collective is a part of its bytes
            gathered, reduced = (sum(count for kind, count in calls if kind == own) for own in _KINDS)
            return max((gathered * first + reduced * second for first, second in self._parts_of(group)), default=0.0)
        total: dict[int, float] = {}
        for (kind, count), times in Counter(calls).items():
            for link, seconds in self._load(group, kind, count).items() if count else ():
                total[link] = total.get(link, 0.0) + times * seconds
        return max(total.values(), default=0.0)

    def _parts_of(self, group: tuple[int, ...]) -> list[tuple[float, float]]:
        """Return of links that differ the seconds for each byte that is gathered, and reduced."""
        if group not in self._parts:
            first, second = (self._load(group, kind, _PROBES[1]) for kind in _KINDS)
            each = {(first.get(link, 0.0), second.get(link, 0.0)) for link in (*first, *second)}
            self._parts[group] = sorted((a / _PROBES[1], b / _PROBES[1]) for a, b in each)
        return self._parts[group]

    def _load(self, group: tuple[int, ...], kind: str, count: int) -> dict[int, float]:
        """Return the seconds in which each link carries what a collective puts on it."""
        key = (group, kind, count)
        if key not in self._loads:
            traffic = self._clock.traffic(kind, count, group)
            links = self._routes.topology.links
            used = zip(traffic.links, traffic.bytes, strict=True)
            self._loads[key] = {link: size / links[link].bandwidth_bytes_per_s for link, size in used}
        return self._loads[key]

    def _of(self, p: int, layers: range) -> list[_Exchanged]:
        """Return the units of a stage but the root, in order."""
        key = (p, layers)
        if key not in self._exchanged:
            if layers not in self._units:
                self._units[layers] = units_within(self._workload, layers, self._plan)
            # One that is no run of layers, or of experts alone, is left out: it takes no less than nothing.
            own = [unit for unit in self._units[layers] if unit.axis == "shard"]
            self._roots[key] = next((self._timed(unit, self._groups[p]) for unit in own if unit.root), None)
            self._exchanged[key] = [
                self._timed(unit, self._groups[p])
                for unit in own
                if not unit.root and unit.layers[-1] - unit.layers[0] + 1 == len(unit.layers)
            ]
        return self._exchanged[key]

    def _timed(self, unit: Unit, group: tuple[int, ...]) -> _Exchanged:
        calls = ("all_gather", unit.gathered_bytes), ("reduce_scatter", unit.reduced_bytes)
        times = [self._clock.collective(*call, group) if call[1] else 0.0 for call in calls]
        return _Exchanged(range(unit.layers[0], unit.layers[-1] + 1) if unit.layers else range(0), *calls, *times)


def _seconds(passes: Sequence[_Times], layers: range, kind: str, again: frozenset[int]) -> dict[int, float]:
    """Return what each of some layers takes in a pass of a kind, with what runs forward again for it."""
    found = {}
    for i in layers:
        forward, backward, repeated, weights = passes[i]
        own = {"F": forward, "B": backward, "I": backward - weights, "W": weights}[kind]
        found[i] = own + (repeated if i in again and kind in "BI" else 0.0)
    return found


def _content(workload: Workload, plan: Plan) -> list[object]:
    """Return of each layer what its units have of it, and whether it is in one with a layer before it."""
    names = [layer.name for layer in workload.layers]
    numbered = is_numbered(names)
    shards = [layer.shard(plan.split) for layer in workload.layers]
    times = Counter(one.name for shard in shards for one in shard.parameters)
    last: dict[str, int] = {}
    found: list[object] = []
    for i, (name, shard) in enumerate(zip(names, shards, strict=True)):
        path = path_of(name, plan.sharding.units, numbered)
        own = [one.name for one in shard.parameters]
        made = [one.parameter for one in shard.gradients]
        # Of a parameter that several layers have it hangs on which of them are there.
        tied = any(times[one] != 1 for one in (*own, *made))
        held = tuple((one.shape, one.dtype) for one in shard.parameters)
        sent = tuple((one.bytes, one.expert, -1 if tied else own.index(one.parameter)) for one in shard.gradients)
        found.append((i if tied else -1, bool(path), i - last.get(path, i), held, sent))
        last[path] = i
    return found
