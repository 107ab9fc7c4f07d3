"""Lower a plan to a program: the only place that knows the words pipeline, tensor and data.

Every rank ``(d, p, t)`` runs the row of its stage on its compute stream. Around that:

- what crosses a cut is one message a micro-batch, sent on a stream of its own for each pair and direction;
- the collectives of a tensor-parallel layer block the compute streams of its group, as they do in eager PyTorch;
- the gradients are all-reduced bucket by bucket on one stream a rank, while the last backward goes on;
- the optimizer runs when the rank's gradients are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpsim.garbage import collector_paused
from mpsim.plan.model import Plan
from mpsim.plan.runtimes import resolve_runtime
from mpsim.plan.schedules import Operation, check_rows, resolve_schedule
from mpsim.program.costs import Costs, weakest
from mpsim.program.devices import check_devices, for_costs
from mpsim.program.draws import Draw
from mpsim.program.emitter import Emitter
from mpsim.program.model import Program
from mpsim.program.script_emitter import emit_scripts
from mpsim.program.scripts import scripts
from mpsim.program.segments import Passes, passes_of
from mpsim.program.stages import Stage, Tied, cut, microbatch_size, tied_parameters
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.model import Fidelity, Workload

__all__ = ["Lowering", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """A plan as its workload and topology make it: stages, placement and fidelity; `program` makes the tasks."""

    workload: Workload
    topology: Topology
    plan: Plan
    place: tuple[int, ...]
    stages: tuple[Stage, ...]
    rows: tuple[tuple[Operation, ...], ...]
    costs: Costs
    routes: Routes
    fidelity: Fidelity

    def program(self, draw: Draw | None = None) -> Program:
        """Return the program with every time at its median, or as a trial draws it."""
        with collector_paused():
            if resolve_runtime(self.plan.runtime).scripted:
                return emit_scripts(self, scripts(self, draw), draw)
            return Emitter(self, draw).emit()

    @property
    def passes(self) -> list[Passes]:
        """How the passes of each stage fall into segments, and its gradient buckets."""
        return [passes_of(stage, row, self.plan) for stage, row in zip(self.stages, self.rows, strict=True)]

    @property
    def tied(self) -> tuple[Tied, ...]:
        """The parameters that layers of several stages share."""
        return tied_parameters(self.stages)

    @property
    def random(self) -> bool:
        """Whether any layer that the plan runs has more than one sample to draw from."""
        types = {self.topology.devices[device].type for device in self.place}
        samples = (cost.samples for kind in types for cost in self.costs.of(kind))
        return any(
            len(set(values)) > 1
            for s in samples
            for values in (s.forward_s, s.backward_input_s, s.backward_weight_s, s.optimizer_s)
        )


def lower(
    workload: Workload, topology: Topology, plan: Plan, *, by_type: Mapping[str, Workload] | None = None
) -> Lowering:
    """Cut a workload into a plan's stages and check that the plan can be run.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how.
    by_type : mapping of str to Workload, optional
        The same model traced on other types of device.

    Raises
    ------
    MpsimError
        Too few devices, a device that the costs were not measured on, a cost that was never measured, rows that are no
        schedule, more stages than layers.
    """
    place = plan.place(len(topology.devices))
    costs = Costs(workload, by_type or {}, microbatch_size(workload, plan), plan.tp)
    check_devices(costs, (topology.devices[device] for device in place))
    topology = for_costs(topology, costs)
    routes = Routes(topology)
    stages = cut(costs, routes, plan, place)
    rows = resolve_schedule(plan.schedule)(plan.pp, plan.microbatches)
    check_rows(rows, plan.pp, plan.microbatches)
    return Lowering(
        workload=workload,
        topology=topology,
        plan=plan,
        place=place,
        stages=tuple(stages),
        rows=tuple(map(tuple, rows)),
        costs=costs,
        routes=routes,
        fidelity=weakest(costs, topology, place),
    )
