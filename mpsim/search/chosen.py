"""Which layers to compute again, or to offload: those of stages that hold too much, at the least cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, islice, product
from math import prod
from typing import Any, NamedTuple

from mpsim.errors import MpsimError
from mpsim.lowering.model import Lowering
from mpsim.lowering.recomputation import again_s, recomputed, recomputed_layers
from mpsim.lowering.stages import Stage, microbatch_size
from mpsim.plan.model import Plan
from mpsim.plan.operations import Operation
from mpsim.plan.recompute import EXCEPT_LAST, NOTHING_AGAIN, Recompute, parse_offload, parse_recompute
from mpsim.search.held import held_at_least
from mpsim.search.weighing import Weighed, Weighing, rooms
from mpsim.workload.model import Cost, Workload

__all__ = ["FEW", "layer_words", "with_layers"]

FEW = 8  # Of so many layers every choice is tried.
_MOST_CHOICES, _MOST_LOWERED, _MOST_REPLAYED = 2_000, 200, 8


def with_layers(weighing: Weighing, plan: Plan, field: str) -> list[Plan]:
    """Return a plan that does not fit with layers that are computed again, or offloaded, beside those that are.

    Its stages stay as they are. Layers are those that keep anything, of ranks that hold too much. Of no more than 8
    each choice is a plan. Of more each rank chooses for itself: of layers that are alike the first ones, and of those
    choices with which it fits that which computes least again, or moves the fewest bytes; of a plan that leaves its
    stages open also with those that it has where all layers are chosen, and cut anew.

    Parameters
    ----------
    weighing : Weighing
    plan : Plan
    field : str
        ``recompute`` or ``offload``.

    Raises
    ------
    MpsimError
        The plan cannot be run.

    Examples
    --------
    >>> from mpsim.search.study import Study
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, saved_bytes=100) for name in "ab"]
    >>> study = Study(Workload.chain("two", layers), parse_topology("chain:1,link=1GB/s@0,memory=150B"))
    >>> [one.sharding.recompute for one in with_layers(Weighing(study), Plan(), "recompute")]
    ['a', 'b', 'a,b']
    """
    plan = _bare(plan, field)
    lowering = weighing.weigh(plan).lowering
    if lowering.shape.stages == 1 or plan.boundaries is not None:
        return _chosen(weighing, plan, field)[0]
    found, few = _chosen(weighing, replace(plan, boundaries=lowering.boundaries), field)
    if few:
        return found
    # Stages that are even where all is computed again may be better ones for some of it.
    every = _with(plan, field, "full" if field == "recompute" else "all")
    other = weighing.weigh(every).lowering.boundaries
    more = [] if other == lowering.boundaries else _chosen(weighing, replace(plan, boundaries=other), field)[0]
    opened = [replace(one, boundaries=None) for one in (*found, *more)]
    return [*found, *more, *opened]


def _chosen(weighing: Weighing, plan: Plan, field: str) -> tuple[list[Plan], bool]:
    """Return the plans with more layers chosen, of one that is cut, and whether they are all there are."""
    weighed = weighing.weigh(plan)
    lowering = weighed.lowering
    costs, there = lowering.costs.of(""), _there(lowering, field)
    able = recomputed_layers(lowering.workload, costs, Recompute("full"))
    by_rank = {rank: [i for i in _layers(lowering, rank) if i in able - there and costs[i].saved_bytes]
               for rank in weighed.excess}  # fmt: skip
    every = sorted({i for layers in by_rank.values() for i in layers})

    # What was asked of the last micro-batch stays so.
    last = [EXCEPT_LAST] if field == "recompute" and parse_recompute(plan.sharding.recompute).except_last else []

    def made(chosen: Sequence[int]) -> Plan:
        words = ",".join([layer_words(lowering.workload, sorted({*there, *chosen})), *last])
        return _with(plan, field, words)

    if len(every) <= FEW:
        return [made(own) for n in range(1, len(every) + 1) for own in combinations(every, n)], True
    return _Choosing(weighing, weighed, field, made).found(by_rank), False


def _with(plan: Plan, field: str, words: str) -> Plan:
    change: dict[str, Any] = {field: words}
    return replace(plan, sharding=replace(plan.sharding, **change))


def _bare(plan: Plan, field: str) -> Plan:
    """Return a plan without what is computed again of layers that are not named, beside which none can be."""
    if field == "recompute" and parse_recompute(plan.sharding.recompute).what == "selective":
        return replace(plan, sharding=replace(plan.sharding, recompute=""))
    return plan


def _there(lowering: Lowering, field: str) -> frozenset[int]:
    """Return the layers that are computed again, or offloaded, already."""
    text = getattr(lowering.plan.sharding, field)
    what = (parse_recompute if field == "recompute" else parse_offload)(text) if text else NOTHING_AGAIN
    return recomputed_layers(lowering.workload, lowering.costs.of(""), what) if what.what else frozenset()


def _layers(lowering: Lowering, rank: int) -> list[int]:
    return sorted({i for stage in lowering.shape.held_by(rank) for i in lowering.stages[stage].layers})


def layer_words(workload: Workload, layers: Sequence[int]) -> str:
    """Return the text by which a plan names layers: numbers, or where a layer's name is a number, names.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> def of(*names):
    ...     return Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in names])
    >>> layer_words(of("h.0", "h.1", "head"), [0, 1]), layer_words(of("0", "2"), [1]), layer_words(of("a", "b"), [1])
    ('0,1', '2', 'b')
    """
    names = [layer.name for layer in workload.layers]
    short = max(map(len, names)) <= 2
    return ",".join(names[i] if (short or str(i) in names) and _is_word(names[i]) else str(i) for i in layers)


def _is_word(name: str) -> bool:
    """Whether a name can stand in a list of them."""
    try:
        return parse_recompute(name) == Recompute("layers", (name,))
    except MpsimError:
        return False


class _Choice(NamedTuple):
    """Layers of a rank, and what they cost."""

    price: float
    number: int
    layers: tuple[int, ...]


class _Choosing:
    """Finds the layers of each rank that holds too much, where there are too many to try all."""

    def __init__(self, weighing: Weighing, weighed: Weighed, field: str, made: Callable[[Sequence[int]], Plan]) -> None:
        self._weighing, self._weighed, self._field, self._made = weighing, weighed, field, made
        self._lowering = weighed.lowering
        self._costs = self._lowering.costs.of("")
        self._again = _there(self._lowering, "recompute")
        self._room = rooms(self._lowering)

    def found(self, by_rank: dict[int, list[int]]) -> list[Plan]:
        """Return the plan with each rank's first choice with which it fits, if each has one."""
        choices = {rank: self._choices(rank, layers) for rank, layers in by_rank.items()}
        at = dict.fromkeys(choices, 0)
        lowered = replayed = 0
        while all(at[rank] < len(own) for rank, own in choices.items()):
            plan = self._made([i for rank, own in choices.items() for i in own[at[rank]].layers])
            lowering = self._weighing.lower(plan)
            # Of stages that update amid the step a replay alone tells.
            known = () if lowering.asynchronous else choices
            short = {rank for rank in known if held_at_least(lowering, rank) > self._room[rank]}
            lowered += 1
            if not short:
                excess = self._weighing.weigh(plan).excess
                if not excess or not excess.keys() <= choices.keys() or replayed == _MOST_REPLAYED:
                    return [] if excess else [plan]
                short, replayed = set(excess), replayed + 1
            if lowered == _MOST_LOWERED:
                return []
            for rank in short:
                at[rank] += 1
        return []

    def _choices(self, rank: int, layers: Sequence[int]) -> list[_Choice]:
        """Return choices of a rank's layers that may free enough, the cheapest first."""
        classes: dict[tuple[object, ...], list[int]] = {}
        for i in layers:
            cost = self._costs[i]
            classes.setdefault((cost.samples, cost.saved_bytes, cost.collectives), []).append(i)
        found = []
        for chosen in self._combined(list(classes.values())):
            if self._frees(rank, chosen) >= self._weighed.excess[rank]:
                price = sum(self._price(self._costs[i]) for i in chosen)
                found.append(_Choice(price, len(chosen), chosen))
        return sorted(found)

    def _combined(self, classes: list[list[int]]) -> Iterator[tuple[int, ...]]:
        """Yield choices: of each class none, its first, its first two, ...; of too many the cheapest a byte."""
        if prod(len(own) + 1 for own in classes) <= _MOST_CHOICES:
            counts = product(*(range(len(own) + 1) for own in classes))
            each = (chain(*(own[:n] for own, n in zip(classes, some, strict=True))) for some in counts)
            yield from islice(map(tuple, each), 1, None)
            return
        by_price = sorted(classes, key=lambda own: self._price(self._costs[own[0]]) / self._costs[own[0]].saved_bytes)
        ordered = [i for own in by_price for i in own]
        yield from (tuple(ordered[:n]) for n in range(1, len(ordered) + 1))

    def _price(self, cost: Cost) -> float:
        """Return what a layer costs: seconds for each micro-batch, or bytes."""
        return again_s(cost, partly=False) if self._field == "recompute" else float(cost.saved_bytes)

    def _frees(self, rank: int, chosen: tuple[int, ...]) -> int:
        """Return the bytes that a rank no longer keeps, of as many micro-batches as it ever has under way."""
        most = _most_held(self._lowering.rows[rank])
        stages = {number: self._lowering.stages[number] for number in self._lowering.shape.held_by(rank)}
        return sum(
            most[number] * (sum(stage.kept(True)) - self._kept(stage, [i for i in chosen if i in stage.layers]))
            for number, stage in stages.items()
        )

    def _kept(self, stage: Stage, own: Sequence[int]) -> int:
        """Return the bytes that a stage keeps of a micro-batch with some more of its layers chosen."""
        gone, kept = stage.offloaded, stage.kept_anywhere(True)
        if self._field == "offload":
            gone = gone.union(own)
        elif own:
            workload, plan = self._lowering.workload, self._lowering.plan
            words = layer_words(workload, sorted({*own, *(self._again & {*stage.layers})}))
            made = recomputed(
                workload, stage.layers, self._costs, microbatch_size(workload, plan), plan.split, parse_recompute(words)
            )
            kept = made.kept if made else kept
        return sum(count for i, count in zip(stage.layers, kept, strict=True) if i not in gone)


def _most_held(row: Sequence[Operation]) -> Counter[int]:
    """Return how many micro-batches of each stage a rank has under way when it has most of that stage."""
    now, most = Counter[int](), Counter[int]()
    for one in row:
        now[one.stage] += {"F": 1, "B": -1, "W": -1}.get(one.kind, 0)
        most[one.stage] = max(most[one.stage], now[one.stage])
    return most
