"""A study: a workload and a topology, and what all plans of the one on the other share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mpsim.calls import checked, with_methods
from mpsim.errors import MpsimError
from mpsim.lowering.balancing import balanced_boundaries, boundaries_worth_trying
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import check_devices, for_costs, scaled_by_type
from mpsim.lowering.draws import Trials
from mpsim.lowering.lower import cut_at, uncut
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import scales_of
from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.schedules import resolve_schedule
from mpsim.plan.shape import Shape
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.search.bounds import NOTHING, Bounds, Least, PlanBounds
from mpsim.simulation.cutting import Played, round_step
from mpsim.simulation.levels import Levels, levels_of
from mpsim.simulation.preparing import prepare_played
from mpsim.simulation.run import simulate_played
from mpsim.simulation.timetable import Timetable
from mpsim.sweeps.model import COLUMNS, Row
from mpsim.sweeps.placing import placements
from mpsim.sweeps.row import coordinates
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.model import Workload

__all__ = ["Study"]

# Cuts whose timetables are held against one another, and about how many operations in all of these.
_FEWEST_CUTS, _MOST_CUTS, _MOST_OPERATIONS = 15, 300, 500_000
_MOST_LOWERED = 3  # of them, to find one that fits
_MOST_ROWS = 1_000_000  # operations of the rows that are kept for other plans
_MOST_ORDERS = 10_000
_RowsKey = tuple[str, int, int, int, str, bool]


class _Order(NamedTuple):
    """The cuts of a plan, that of the shortest timetable first, with their bounds; and that of all of them."""

    cuts: tuple[tuple[int, ...], ...]
    steps_s: tuple[float, ...]
    least: Least


@with_methods
class Study:
    """A workload on a topology: its plans are bounded and simulated with what they share found out once.

    Parameters
    ----------
    workload, topology
        What is split, over what, as in `mpsim.simulate`.
    by_type, rescale, speed, unchecked, host_speed
        As in `mpsim.simulate`.

    Raises
    ------
    MpsimError
        A device that the costs were not measured on.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> study = Study(Workload.chain("four", layers), chain(4, link="1GB/s@0"))
    >>> study.row(Plan(pp=4, batch=8, microbatches=8))["step_s"], study.bounds.close(Plan(pp=4, microbatches=8)).step_s
    (33.0, 33.0)
    """

    _made = "mpsim.Study(workload, topology)"

    @checked
    def __init__(
        self,
        workload: Workload | str | Path,
        topology: Topology | str | Path,
        *,
        by_type: Mapping[str, Workload | str | Path] | None = None,
        rescale: str | None = None,
        speed: float | None = None,
        unchecked: bool = False,
        host_speed: float = 1.0,
    ) -> None:
        workload, topology = Workload.of(workload), Topology.of(topology)
        self.workload = workload
        self.by_type = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
        costs = Costs(workload, self.by_type, workload.microbatch, 1)
        check_devices(costs, topology.devices)
        self.topology = for_costs(topology, costs)
        self.routes = Routes(self.topology)
        self.unchecked, self.host_speed = unchecked, host_speed
        self.notes = costs.remarks(topology.devices)
        self._places: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
        self._known_cuts: dict[object, list[tuple[int, ...]]] = {}
        self._orders: dict[Plan, _Order] = {}
        self._rows: dict[_RowsKey, tuple[Lowering, Levels]] = {}

    @cached_property
    def bounds(self) -> Bounds:
        """What plans take at least."""
        return Bounds(self.workload, self.routes, self.by_type, self.host_speed)

    def places(self, plan: Plan) -> list[tuple[int, ...]]:
        """Return the placements of a plan that are tried, as `Plan.devices` has them."""
        shape = (plan.dp, plan.pp, plan.cp * plan.tp)
        if shape not in self._places:
            self._places[shape] = placements(self.topology, *shape)
        return self._places[shape]

    def timed(self, plan: Plan) -> tuple[Plan, Least]:
        """Return a plan, and its bound at those of its cuts that may be the fastest.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        of = self.bounds.of(plan)
        if not self._hangs_on_cut(plan, of):
            held, over = of.memory.at(self._cuts(plan, of.facts.shape))
            if over.all():  # what surely overflows is told apart before it is timed
                return plan, Least(0.0, float(held.min()), True)
        return plan, self._order(plan).least

    def cut(self, plan: Plan) -> tuple[Plan, Least]:
        """Return a plan with its stages cut, and the bound of that.

        Of the cuts that `boundaries_worth_trying` finds it is the one whose timetable is the shortest, and where
        memories are known that of those that do not overflow one; of equal ones the balanced cut, then the first.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        order = self._order(plan)
        found = []
        for boundaries, step_s in zip(order.cuts, order.steps_s, strict=True):
            own = plan if plan.pp == 1 else replace(plan, boundaries=boundaries)
            found.append((own, self._at_cut(plan, boundaries, step_s)))
            if order.least.overflows or not found[-1][1].overflows:
                return found[-1]
        return found[0]

    def _at_cut(self, plan: Plan, boundaries: tuple[int, ...], step_s: float) -> Least:
        """Return the bound of a plan at one of its cuts, given that of its step."""
        (whole, _), of = self._uncut(plan), self.bounds.of(plan)
        if whole.asynchronous:
            return NOTHING
        lowering = cut_at(whole, boundaries)
        held = of.memory.lowered(lowering)
        if not of.memory.overflows(held):
            if of.facts.microbatches != plan.microbatches:
                lowering = cut_at(self._with_fewer(plan, of.facts.microbatches), boundaries)
            held = of.memory.in_order(lowering, held)
        return Least(step_s, float(max(held)), of.memory.overflows(held))

    def _with_fewer(self, plan: Plan, count: int) -> Lowering:
        """Return a plan with fewer micro-batches of the same size that is lowered but for its stages."""
        batch = plan.batch // plan.microbatches * count
        return self._lowered(replace(plan, microbatches=count, batch=batch))

    def _lowered(self, plan: Plan, like: Lowering | None = None) -> Lowering:
        """Return a plan that is lowered but for its stages; `like` is one with the same rows."""
        return uncut(
            self.workload, self.topology, plan, by_type=self.by_type, host_speed=self.host_speed, routes=self.routes,
            costs=self.bounds.family(plan).costs, like=like,
        )  # fmt: skip

    def as_cut(self, plan: Plan) -> Plan:
        """Return a plan with the stages that `cut` gives it."""
        return plan if plan.boundaries is not None or plan.pp == 1 else self.cut(plan)[0]

    def _order(self, plan: Plan) -> _Order:
        """Return the cuts that may be a plan's."""
        if plan not in self._orders:
            if len(self._orders) == _MOST_ORDERS:
                self._orders.clear()
            self._orders[plan] = self._ordered(plan)
        return self._orders[plan]

    def _ordered(self, plan: Plan) -> _Order:
        of, (whole, levels) = self.bounds.of(plan), self._uncut(plan)
        if self._hangs_on_cut(plan, of):
            whole = cut_at(whole, plan.boundaries)
            if whole.asynchronous:
                return _Order((whole.boundaries,), (0.0,), NOTHING)
            return _order_of(of, Timetable(whole, of.clock), [whole.boundaries])
        return _order_of(of, Timetable(whole, of.clock, levels, of.gathering(whole)), self._cuts(plan, of.facts.shape))

    def _hangs_on_cut(self, plan: Plan, of: PlanBounds) -> bool:
        """Return whether a plan's rows are made for its cut, or update amid the step: then no other cut is tried."""
        return of.facts.asynchronous or isinstance(resolve_schedule(plan.schedule), Fitted)

    def _cuts(self, plan: Plan, shape: Shape) -> list[tuple[int, ...]]:
        """Return the cuts that may be the fastest of plans with these stages, the balanced one first."""
        if plan.boundaries is not None:
            return [plan.boundaries]
        if shape.stages == 1:
            return [()]
        axes = (plan.dp, plan.pp, plan.split, plan.batch, plan.microbatches, plan.algorithm, plan.devices)
        key = (axes, plan.sharding.recompute, shape.stages, shape.home)
        if key not in self._known_cuts:
            place = plan.place(len(self.topology.devices))
            family, clock = self.bounds.family(plan), self.bounds.clock(plan)
            scales = scales_of(family.costs, self.routes, plan, place, shape, clock)
            most = _MOST_OPERATIONS // (2 * len(shape.home) * plan.microbatches)
            few = min(max(most, _FEWEST_CUTS), _MOST_CUTS)
            found = [balanced_boundaries(scales), *boundaries_worth_trying(scales, few)]
            self._known_cuts[key] = [*dict.fromkeys(found)]
        return self._known_cuts[key]

    def _uncut(self, plan: Plan) -> tuple[Lowering, Levels]:
        """Return a plan that is lowered but for its stages, and the levels of its rows."""
        key = None
        if isinstance(plan.schedule, str):
            last = parse_recompute(plan.sharding.recompute).except_last
            key = (plan.schedule, plan.pp, plan.microbatches, plan.chunks, plan.runtime, last)
        known = None if key is None else self._rows.pop(key, None)
        whole = self._lowered(plan, known and known[0])
        levels = known[1] if known else levels_of(whole.rows, whole.shape, whole.keeping, whole.closing)
        if key is not None:
            self._keep(key, whole, levels)
        return whole, levels

    def _keep(self, key: _RowsKey, whole: Lowering, levels: Levels) -> None:
        """Keep the rows that were used last for plans that run the same."""
        self._rows[key] = (whole, levels)
        while len(self._rows) > 1 and sum(len(own.rank) for _, own in self._rows.values()) > _MOST_ROWS:
            del self._rows[next(iter(self._rows))]

    def result(self, plan: Plan | str | Path, trials: Trials | None = None, **options: Any) -> Result:
        """Predict a plan, its stages cut as `cut` does; `options` are those of `simulate_played`.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        return simulate_played(self._played(Plan.of(plan)), trials or Trials(), unchecked=self.unchecked, **options)

    def _played(self, plan: Plan) -> Played:
        return prepare_played(
            self.workload, self.topology, self.as_cut(plan), by_type=self.by_type, unchecked=self.unchecked,
            host_speed=self.host_speed, routes=self.routes,
        )  # fmt: skip

    def row(self, plan: Plan | str | Path, trials: Trials | None = None) -> Row:
        """Return the row of a plan in a sweep's table, or why it cannot be run."""
        plan = Plan.of(plan)
        row = dict.fromkeys(COLUMNS) | self._coordinates(plan, trials or Trials())
        try:
            return row | summary_row(self.result(plan, trials, spans=False, fold=True)) | {"plan": _text(plan)}
        except MpsimError as error:
            return row | {"reason": str(error)}

    def _coordinates(self, plan: Plan, trials: Trials) -> Row:
        return coordinates(self.workload, self.topology, plan, plan.batch, trials) | {"plan": _text(plan)}


def _order_of(of: PlanBounds, table: Timetable, cuts: Sequence[tuple[int, ...]]) -> _Order:
    """Return the first of some cuts in the order of their timetables, and the bound of all of these.

    Those that surely overflow a memory are left out, unless all do.
    """
    held, over = of.memory.at(cuts)
    tried = [cut for cut, surely in zip(cuts, over, strict=True) if over.all() or not surely]
    ended = table.ended(tried)
    order = sorted(range(len(tried)), key=lambda i: round_step(float(ended.row_s[i].max())))[:_MOST_LOWERED]
    steps_s = of.steps_at(tried, ended)[order]
    least = Least(float(steps_s.min()), float(held.min()), bool(over.all()))
    return _Order(tuple(tried[i] for i in order), tuple(steps_s.tolist()), least)


def _text(plan: Plan) -> str:
    """Return a plan in one line, without its stages."""
    return replace(plan, boundaries=None).text
