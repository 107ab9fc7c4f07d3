"""Bounds: what a step of a plan takes at least, before anything is replayed.

A step is no shorter than

- the work of a rank: all micro-batches through its layers, with what it waits for of the ranks that share them, each
  exchange as on an idle network; of `n` pipeline ranks one has at least an `n`-th of it, however layers are cut;
- that, the stages before a rank passed once forward and once back, where each rank has one stage: of all cuts the one
  of which the slowest rank is fastest (dynamic programming);
- the collectives of one kind of a rank's replicas, which are one after another, and of gradients cannot begin before
  the backward that makes them.

That a collective of fewer bytes takes no less for each byte is taken for granted; of links whose collectives were
measured, the least of sixteen sizes counts, each half of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.lowering.balancing import Clock, lines_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import microbatch_size
from mpsim.plan.grid import Grid
from mpsim.plan.model import Plan
from mpsim.plan.partition import least_most
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.sharding import Sharding
from mpsim.search.facts import facts_of
from mpsim.search.family import Family, Held, before, held_of, tables
from mpsim.search.memory import MemoryBounds
from mpsim.simulation.gathering import Gathering, gathers
from mpsim.simulation.timetable import Ended
from mpsim.topology.routes import Routes
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

__all__ = ["NOTHING", "Bounds", "Least", "PlanBounds"]

_Row = NDArray[np.float64]
_Cuts = Sequence[tuple[int, ...]]


class Least(NamedTuple):
    """What a plan takes at least: the step, in seconds, the memory of its fullest device, and if that overflows."""

    step_s: float
    memory_bytes: float
    overflows: bool


NOTHING = Least(0.0, 0.0, False)
_HALVINGS = 16


class _Frame:
    """What plans have in common that share their axes and their devices."""

    def __init__(
        self, family: Family, plan: Plan, place: tuple[int, ...], routes: Routes, partly: bool, *, waiting: bool
    ) -> None:
        self.family, self.clock = family, family.clock(partly)
        lines = lines_of(place, plan)
        each = [self.clock.passes(line, waiting=waiting) for line in lines]
        unlike = {id(passes): passes for passes in each}
        order = list(unlike)
        # Seconds of each layer, by kind of pass, on each kind of rank; and the kind of each rank.
        self.passes = [np.array(passes).T for passes in unlike.values()]
        self.kind = [order.index(id(passes)) for passes in each]
        self.forward = np.min([passes[0] for passes in self.passes], axis=0)
        self.backward = np.min([passes[1] for passes in self.passes], axis=0)
        self.sums_s = (float(self.forward.sum()), float(self.backward.sum()))
        weights = np.max([passes[3] for passes in self.passes], axis=0)
        self.inputs_s = float(np.maximum(self.backward - weights, 0.0).sum())
        # What the layers that take least take together: none, one, two, ...
        self.least_f, self.least_b = (before(np.sort(row)) for row in (self.forward, self.backward))
        devices = routes.topology.devices
        self._pp, self._place = plan.pp, place
        self._groups: dict[tuple[Grid, str], list[tuple[int, ...]]] = {}
        self.capacities = [min(devices[device].memory_bytes for device in line.devices) for line in lines]
        paces = frozenset((devices[device].type, devices[device].speed) for device in place)
        self.fastest = family.fastest(paces)
        self.measured = bool(routes.topology.costs)
        self.rates: dict[tuple[str, int, int | None, int], float] = {}
        self.gatherings: dict[Sharding, Gathering] = {}
        host = family.launching(frozenset(kind for kind, _ in paces))
        self.host = None if host is None else host[0] + host[1] + host[2]

    def groups(self, grid: Grid, axis: str) -> list[tuple[int, ...]]:
        """Return the devices of each pipeline rank's group along an axis of a grid."""
        if (grid, axis) not in self._groups:
            groups = [grid.group(grid.rank(pp=p), axis) for p in range(self._pp)]
            self._groups[grid, axis] = [tuple(self._place[one] for one in group) for group in groups]
        return self._groups[grid, axis]


class Bounds:
    """Bounds of the plans of a workload on a topology.

    Parameters
    ----------
    workload : Workload
    routes : Routes
        Of the topology.
    by_type : mapping of str to Workload
        Costs of other types of device.
    host_speed : float
        How many times as fast hosts launch as those of the traces.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> bounds = Bounds(Workload.chain("four", layers), Routes(chain(4, link="1GB/s@0")), {})
    >>> bounds.close(Plan(pp=4, microbatches=8)).step_s
    33.0
    """

    def __init__(
        self, workload: Workload, routes: Routes, by_type: Mapping[str, Workload], host_speed: float = 1.0
    ) -> None:
        self._workload, self._routes, self._by_type = workload, routes, by_type
        self.host_speed = host_speed
        self._families: dict[tuple[int, Split, str], Family] = {}
        self._sizes: dict[Split, Held] = {}
        self._frames: dict[tuple[object, ...], _Frame] = {}

    def rough(self, plan: Plan) -> Least:
        """Return a bound that is soon there."""
        return self._least(plan, close=False)

    def close(self, plan: Plan) -> Least:
        """Return a bound that looks at every cut, where it can."""
        return self._least(plan, close=True)

    def _least(self, plan: Plan, *, close: bool) -> Least:
        of = PlanBounds(self, plan)
        if plan.boundaries is not None or of.facts.asynchronous:
            return NOTHING
        if not close:
            return Least(of.work_in_mean(), *of.memory.in_mean())
        if of.facts.plain:
            return Least(of.step_by_cuts(), *of.memory.by_cuts())
        return Least(of.step_in_mean(), *of.memory.in_mean())

    def lightest(self, plans: Sequence[Plan]) -> Least:
        """Return the bound of the memory of some plans that differ in their schedules alone, and how they launch."""
        facts = [facts_of(plan) for plan in plans]
        if any(one.asynchronous for one in facts) or plans[0].boundaries is not None:
            return NOTHING
        return Least(0.0, *self.of(plans[0]).memory.of_any(facts))

    def work_s(self, plan: Plan) -> float:
        """Return what any plan with these sizes of axes takes at least, whatever its schedule, ZeRO, recomputation."""
        return plan.microbatches * sum(self.frame(plan, waiting=plan.pp == 1).sums_s) / plan.pp

    def of(self, plan: Plan) -> PlanBounds:
        """Return the bounds of a plan at cuts that are known."""
        return PlanBounds(self, plan)

    def family(self, plan: Plan) -> Family:
        """Return what a plan has in common with others."""
        key = (microbatch_size(self._workload, plan), plan.split, plan.algorithm)
        if key not in self._families:
            self._families[key] = Family(self._workload, self._by_type, self._routes, plan)
        return self._families[key]

    def clock(self, plan: Plan) -> Clock:
        """Return what times the layers of a plan, with what other plans have found out of it."""
        return self.family(plan).clock(_partly(plan))

    def frame(self, plan: Plan, *, waiting: bool) -> _Frame:
        """Return what plans have in common that share their axes and their devices.

        Without `waiting` what ranks that share layers exchange takes no time: of some schedules two operations go on
        at once, one of which exchanges.
        """
        family, place = self.family(plan), plan.place(len(self._routes.topology.devices))
        partly = _partly(plan)
        key = (id(family), plan.dp, plan.pp, place, waiting, partly)
        if key not in self._frames:
            self._frames[key] = _Frame(family, plan, place, self._routes, partly, waiting=waiting)
        return self._frames[key]

    def held(self, split: Split) -> Held:
        """Return what layers hold on a rank of a split."""
        if split not in self._sizes:
            self._sizes[split] = held_of(self._workload, split)
        return self._sizes[split]


class PlanBounds:
    """The bounds of one plan."""

    def __init__(self, bounds: Bounds, plan: Plan) -> None:
        facts = facts_of(plan)
        self._plan, self.facts = plan, facts
        self._what = parse_recompute(plan.sharding.recompute)
        frame = bounds.frame(plan, waiting=not facts.overlaps)
        self._family, self._held, self._frame, self.clock = frame.family, bounds.held(plan.split), frame, frame.clock
        self._shards = plan.sharding.shards or plan.replicas
        self._sharing = frame.groups(plan.grid, "shard")  # which are all replicas where none shard
        self.memory = MemoryBounds(plan, facts, self._family, self._held, frame.capacities)
        self._update_s = frame.fastest[3]
        again = self._family.again(self._what)
        part = (plan.microbatches - 1) / plan.microbatches if self._what.except_last else 1.0
        # Of a rank's micro-batches all but one add to gradients that are there.
        added = frame.fastest[4] * (plan.microbatches - 1) / plan.microbatches if facts.shape.directions == 1 else 0.0
        self._own = [passes[0] + passes[1] + part * again * passes[2] + added for passes in frame.passes]
        self._own_s = float((self._own[0] if len(self._own) == 1 else np.min(self._own, axis=0)).sum())
        # Gradients may be reduced as soon as the last of the layers has run backward, others not even forward again.
        self._behind = [passes[1] + again * passes[2] for passes in frame.passes]
        self._host = None if plan.launch == "graphs" else frame.host
        self._host_speed = bounds.host_speed

    # The step.

    def work_in_mean(self) -> float:
        """Return the bound that is any cut's, but for what replicas exchange: no less than the mean of ranks."""
        pp, count, facts, frame = self._plan.pp, self._plan.microbatches, self.facts, self._frame
        forward_s, backward_s = frame.sums_s
        fill = sum(frame.least_f[n] for n in facts.before) + sum(frame.least_b[n] for n in facts.behind)
        launched = 0.0 if self._host is None else count * float(self._host.sum()) / pp / self._host_speed
        # Of a backward in two parts the second need not be on the way of any micro-batch.
        passed_s = forward_s + (frame.inputs_s if facts.split else backward_s)
        return float(max((count * self._own_s + fill) / pp, passed_s, launched))

    def step_in_mean(self) -> float:
        """Return the same with what replicas exchange."""
        pp, count = self._plan.pp, self._plan.microbatches
        behind = self._behind[0] if len(self._behind) == 1 else np.min(self._behind, axis=0)
        sums = np.array([count * self._own_s / pp, behind.sum() / pp, self._frame.sums_s[0] / pp])
        through = float(self._with_replicas(sums[0], sums[1], sums[2], lambda row: row.sum() / pp))
        return max(self.work_in_mean(), through)

    def step_by_cuts(self) -> float:
        """Return the bound of the best cut, where each rank has one stage."""
        count = self._plan.microbatches
        frame = self._frame
        least_f, least_b = before(frame.forward), before(frame.backward)
        weighed: dict[tuple[int, tuple[int, ...]], _Row] = {}
        found = []
        for p in range(self._plan.pp):
            kind = frame.kind[p]
            key = (kind, self._sharing[p] if self._plan.replicas > 1 else ())
            if key not in weighed:
                passes = frame.passes[kind]
                own, behind, forward = map(tables, (self._own[kind], self._behind[kind], passes[0]))
                begin = least_f[:, None]
                alone = begin + count * own + least_b[:, None]
                reduced = begin + self._with_replicas(count * own, behind, forward, tables, p)
                weighed[key] = np.maximum(alone, reduced)
                if self._host is not None:
                    weighed[key] = np.maximum(weighed[key], count * tables(self._host) / self._host_speed)
            found.append(weighed[key])
        return least_most(found)

    def _with_replicas(
        self, work: _Row, backward: _Row, forward: _Row, sums: Callable[[_Row], _Row], p: int | None = None
    ) -> _Row:
        """Return what a rank takes with the collectives of its replicas, and its update.

        `work` is all that it computes, `backward` and `forward` what one micro-batch takes, in the one case with what
        is computed again; each a number, or a table by first layer and last, as `sums` makes it of a row of layers.
        """
        plan, held, count = self._plan, self._held, self._plan.microbatches
        sharding = plan.sharding
        update = sums(self._update_s) / (self._shards if sharding.zero else 1)
        if plan.replicas == 1:
            return work + update
        if sharding.zero == 3:
            gathered, scattered = self._exchanged()
            gathered_s = self._rate("all_gather", p) * sums(gathered)
            scattered_s = self._rate("reduce_scatter", p) * sums(scattered)
            return np.maximum(np.maximum(work, gathered_s), scattered_s) + update
        if not self.facts.plain:  # gradients of one of a rank's stages may be there long before another's
            backward = work - forward
        if sharding.zero == 0:
            return work - backward + np.maximum(backward, self._rate("all_reduce", p) * sums(held.reduced)) + update
        reduced = self._rate("reduce_scatter", p) * sums(held.reduced)
        spread = update + self._rate("all_gather", p) * sums(held.gathered)
        if sharding.zero == 2 and not sharding.accumulate:
            return np.maximum(np.maximum(work, forward + count * reduced), work - backward + reduced) + spread
        return work - backward + np.maximum(backward, reduced) + spread

    def _rate(self, kind: str, p: int | None) -> float:
        """Return the seconds for each byte that replicas take for what is as large as it can be, at least."""
        held = self._held
        whole = held.gathered if kind == "all_gather" else held.reduced
        most = int(whole.sum())
        if self._plan.sharding.zero < 3:
            most = min(most, int(2 * (self._plan.bucket_bytes + held.gradients.max(initial=0) + held.gathered.max())))
        if not most:
            return 0.0
        key = (kind, most, p, self._shards)
        if key not in self._frame.rates:
            groups = dict.fromkeys(self._sharing if p is None else [self._sharing[p]])
            # Of links whose collectives were measured less may take less for each byte.
            sizes = [most >> i for i in range(_HALVINGS) if most >> i] if self._frame.measured else [most]
            rates = (self.clock.collective(kind, size, group) / size for group in groups for size in sizes)
            self._frame.rates[key] = min(rates)
        return self._frame.rates[key]

    def gathering(self, lowering: Lowering) -> Gathering | None:
        """Return what times the passes of a plan whose replicas share parameters, with what others have found out."""
        plan, known = self._plan, self._frame.gatherings
        if not gathers(plan):
            return None
        sharding = replace(plan.sharding, recompute="", offload="")  # of which nothing hangs on these
        if sharding not in known:
            units = self._family.units.setdefault((plan.replicas, plan.ep, sharding), {})
            known[sharding] = Gathering(lowering, self.clock, units)
        return known[sharding]

    def steps_at(self, cuts: _Cuts, ended: Ended) -> _Row:
        """Return what the step takes at least at each cut, given when ranks are done with their rows."""
        plan, held, work_s = self._plan, self._held, ended.row_s
        zero = plan.sharding.zero
        update_s = self._by_rank(self._update_s, cuts) / (self._shards if zero else 1)
        if plan.replicas > 1 and zero == 3:
            rows = zip(("all_gather", "reduce_scatter"), self._exchanged(), strict=True)
            exchanged_s = [self._rates(kind) * self._by_rank(row, cuts) for kind, row in rows]
            work_s = np.maximum.reduce([work_s, *exchanged_s])
        elif plan.replicas > 1 and self.facts.shape.directions == 1:
            reduced = self._rates("reduce_scatter" if zero else "all_reduce") * self._by_rank(held.reduced, cuts)
            work_s = np.maximum(work_s, ended.closing_s + reduced)
            update_s = update_s + (self._rates("all_gather") * self._by_rank(held.gathered, cuts) if zero else 0.0)
        found: _Row = np.maximum((work_s + update_s).max(axis=1), self.step_in_mean())
        return found

    def _exchanged(self) -> tuple[_Row, _Row]:
        """Return by layer the bytes that replicas which share parameters gather in a step, and those they reduce."""
        held, sharding, count = self._held, self._plan.sharding, self._plan.microbatches
        gathered = held.gathered * (1 if sharding.keep_gathered else count)
        if sharding.reshard_after_forward == "blocks" and not sharding.keep_gathered:
            gathered = gathered + held.blocks * count
        return gathered, held.reduced * (1 if sharding.accumulate else count)

    def _rates(self, kind: str) -> _Row:
        """Return `_rate` of each pipeline rank."""
        return np.array([self._rate(kind, p) for p in range(self._plan.pp)])

    def _by_rank(self, row: _Row, cuts: _Cuts) -> _Row:
        """Return the sums of a row of layers on each rank at each cut."""
        shape = self.facts.shape
        total = before(row)
        n_layers = len(row)
        edges = np.array([(0, *own, n_layers) for own in cuts], dtype=np.intp)
        each = np.tile(total[edges[:, 1:]] - total[edges[:, :-1]], shape.directions)
        found = np.zeros((self._plan.pp, len(cuts)))
        np.add.at(found, np.array(shape.home), each.T)
        return found.T


def _partly(plan: Plan) -> bool:
    """Return whether a plan computes attention cores alone again."""
    return parse_recompute(plan.sharding.recompute).what == "selective"
