"""A study: a workload and a topology, and what all plans of the one on the other share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.balancing import boundaries_worth_trying
from mpsim.lowering.caveats import borrowed, caveats
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import check_devices, for_costs, scaled_by_type
from mpsim.lowering.draws import Trials
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import cut_at, lower
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import scales_of
from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.schedules import resolve_schedule
from mpsim.program.account import account_devices, account_traffic
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.search.bounds import Bounds, Least
from mpsim.simulation.cutting import Played, round_step
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

# Cuts whose timetables are held against one another, and the operations in all of these.
_MOST_CUTS, _MOST_OPERATIONS = 300, 20_000
_MOST_LOWERED = 3  # of them, to find one that fits


class Study:
    """A workload on a topology: its plans are bounded and simulated with what they share found out once.

    Parameters
    ----------
    workload, topology
        What is split, over what.
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

    def __init__(
        self,
        workload: Workload,
        topology: Topology,
        *,
        by_type: Mapping[str, Workload] | None = None,
        rescale: str | None = None,
        speed: float | None = None,
        unchecked: bool = False,
        host_speed: float = 1.0,
    ) -> None:
        self.workload = workload
        self.by_type = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
        costs = Costs(workload, self.by_type, workload.microbatch, 1)
        check_devices(costs, topology.devices)
        self.topology = for_costs(topology, costs)
        self.routes = Routes(self.topology)
        self.unchecked, self.host_speed = unchecked, host_speed
        self.notes = costs.remarks(topology.devices)
        self._places: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}

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

    def cut(self, plan: Plan) -> tuple[Plan, Least]:
        """Return a plan with its stages cut, and the bound of that.

        Of the cuts that `boundaries_worth_trying` finds it is the one whose timetable is the shortest, and where
        memories are known that of those that do not overflow one; of equal ones the balanced cut, then the first.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        lowering = lower(
            self.workload, self.topology, plan, by_type=self.by_type, host_speed=self.host_speed, routes=self.routes
        )
        if lowering.shape.stages == 1 or plan.boundaries is not None:
            return plan, self.bounds.lowered(lowering)
        # What surely overflows is told apart before it is lowered.
        every = self._candidates(lowering)
        fitting = [boundaries for boundaries in every if not self.bounds.overflows(plan, boundaries)]
        found = []
        table = Timetable(lowering, self.bounds.clock(plan))
        for boundaries in _quickest(table, fitting or every)[:_MOST_LOWERED]:
            own = lowering if boundaries == lowering.boundaries else cut_at(lowering, boundaries)
            found.append((replace(plan, boundaries=boundaries), self.bounds.lowered(own, table)))
            if not fitting or not found[-1][1].overflows:
                return found[-1]
        return found[0]

    def as_cut(self, plan: Plan) -> Plan:
        """Return a plan with the stages that `cut` gives it."""
        return plan if plan.boundaries is not None or plan.pp == 1 else self.cut(plan)[0]

    def _candidates(self, lowering: Lowering) -> list[tuple[int, ...]]:
        """Return the cuts that may be a plan's, the balanced one first."""
        # Of a large plan the balanced cut, as its replay would take longer than another cut saves.
        if lowering.asynchronous or isinstance(resolve_schedule(lowering.plan.schedule), Fitted):
            return [lowering.boundaries]  # its rows hang on its cut
        scales = scales_of(lowering.costs, lowering.routes, lowering.plan, lowering.place, lowering.shape)
        most = _MOST_OPERATIONS // sum(map(len, lowering.rows))
        cuts = boundaries_worth_trying(scales, min(_MOST_CUTS, most)) if most > 1 else []
        return [*dict.fromkeys([lowering.boundaries, *cuts])]

    def result(self, plan: Plan, trials: Trials | None = None, **options: Any) -> Result:
        """Predict a plan, its stages cut as `cut` does; `options` are those of `simulate_played`.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        return simulate_played(self._played(plan), trials or Trials(), unchecked=self.unchecked, **options)

    def _played(self, plan: Plan) -> Played:
        return prepare_played(
            self.workload, self.topology, self.as_cut(plan), by_type=self.by_type, unchecked=self.unchecked,
            host_speed=self.host_speed, routes=self.routes,
        )  # fmt: skip

    def quick_row(self, plan: Plan) -> Row:
        """Return the row of a plan with its step, whether it fits and what may make it wrong; or why it cannot run."""
        row = dict.fromkeys(COLUMNS) | self._coordinates(plan, Trials())
        try:
            played = self._played(plan)
            with collector_paused():
                program = played.program or program_of(played.lowering, folded=True)
                timing = played.timing or replay(program, self.topology)
                uses = account_devices(program, self.topology, played.lowering.place, timing, None)
        except MpsimError as error:
            return row | {"reason": str(error)}
        verdicts = {use.fits for use in uses}
        return row | {
            **dict.fromkeys(("step_s", "step_p5_s", "step_p95_s"), timing.step_s),
            "highest_peak_memory_bytes": max(use.memory.peak_bytes for use in uses),
            "fits": False if False in verdicts else None if None in verdicts else True,
            "fidelity": played.lowering.fidelity.value,
            "caveats": "; ".join((*caveats(played.lowering), *borrowed(account_traffic(program)))) or None,
        }

    def row(self, plan: Plan, trials: Trials | None = None) -> Row:
        """Return the row of a plan in a sweep's table, or why it cannot be run."""
        row = dict.fromkeys(COLUMNS) | self._coordinates(plan, trials or Trials())
        try:
            return row | summary_row(self.result(plan, trials, spans=False, fold=True)) | {"plan": _text(plan)}
        except MpsimError as error:
            return row | {"reason": str(error)}

    def _coordinates(self, plan: Plan, trials: Trials) -> Row:
        return coordinates(self.workload, self.topology, plan, plan.batch, trials) | {"plan": _text(plan)}


def _quickest(table: Timetable, cuts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return cuts in the order of their timetables."""
    if len(cuts) == 1:
        return cuts
    return sorted(cuts, key=lambda boundaries: round_step(max(table.ended(boundaries).row_s)))


def _text(plan: Plan) -> str:
    """Return a plan in one line, without its stages."""
    return replace(plan, boundaries=None).text
