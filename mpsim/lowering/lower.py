"""Lower a plan to a program: the only place that knows the words pipeline, tensor and data.

Every rank ``(d, p, t)`` runs the row of its stage on its compute stream. Around that:

- what crosses a cut is one message a micro-batch, sent on a stream of its own for each pair and direction;
- the collectives of a tensor-parallel layer block the compute streams of its group, as they do in eager PyTorch;
- the gradients are all-reduced bucket by bucket on one stream a rank, while the last backward goes on;
- the optimizer runs when the rank's gradients are complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.balancing import Scales
from mpsim.lowering.costs import Costs, weakest
from mpsim.lowering.devices import check_devices, for_costs
from mpsim.lowering.draws import Draw
from mpsim.lowering.emitter import Emitter
from mpsim.lowering.script_emitter import emit_scripts
from mpsim.lowering.scripts import scripts
from mpsim.lowering.segments import Passes, passes_of
from mpsim.lowering.stages import Stage, Tied, cut, microbatch_size, scales_of, tied_parameters
from mpsim.plan.model import Plan
from mpsim.plan.runtimes import resolve_runtime
from mpsim.plan.schedules import Operation, check_rows, resolve_schedule
from mpsim.program.model import Program
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.layers import TIMES
from mpsim.workload.model import Fidelity, Workload

__all__ = ["Lowering", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """A plan as its workload and topology make it: stages, placement and fidelity; `program` makes the tasks.

    Where it `launches`, each rank has a host, which takes what the trace says over `host_speed`.
    """

    workload: Workload
    topology: Topology
    plan: Plan
    place: tuple[int, ...]
    stages: tuple[Stage, ...]
    rows: tuple[tuple[Operation, ...], ...]
    costs: Costs
    routes: Routes
    fidelity: Fidelity
    launches: bool = False
    host_speed: float = 1.0

    def program(self, draw: Draw | None = None) -> Program:
        """Return the program with every time at its median, or as a trial draws it."""
        with collector_paused():
            if resolve_runtime(self.plan.runtime).scripted:
                return emit_scripts(self, scripts(self, draw), draw)
            return Emitter(self, draw).emit()

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first layer of each stage but the first."""
        return tuple(stage.layers.start for stage in self.stages[1:])

    @property
    def scales(self) -> Scales:
        """What weighs the stages that the workload could be cut into."""
        return scales_of(self.costs, self.routes, self.plan, self.place)

    def least_step_s(self, scales: Scales) -> Callable[[tuple[int, ...]], float]:
        """Return what tells of boundaries how long a step takes at least; of split backward passes it knows nothing."""
        if any(operation.kind == "W" for row in self.rows for operation in row):
            return lambda boundaries: 0.0
        # How many micro-batches each stage has at most taken forward and not yet back.
        in_flight = [max(accumulate(1 if operation.kind == "F" else -1 for operation in row)) for row in self.rows]
        return lambda boundaries: scales.least_step_s(boundaries, in_flight)

    def cut_at(self, boundaries: tuple[int, ...]) -> Lowering:
        """Return the same plan with other stages."""
        plan = replace(self.plan, boundaries=boundaries)
        return replace(self, stages=tuple(cut(self.costs, self.routes, plan, self.place)))

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
        costs = [cost for kind in self._types for cost in self.costs.of(kind)]
        samples = [cost.samples for cost in costs] + [cost.host for cost in costs if cost.host and self.launches]
        return any(len(set(getattr(one, name))) > 1 for one in samples for name in TIMES)

    @property
    def _types(self) -> set[str]:
        return {self.topology.devices[device].type for device in self.place}


def lower(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    *,
    by_type: Mapping[str, Workload] | None = None,
    host_speed: float = 1.0,
) -> Lowering:
    """Cut a workload into a plan's stages and check that the plan can be run.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how.
    by_type : mapping of str to Workload, optional
        The same model traced on other types of device.
    host_speed : float
        How many times as fast hosts launch as those of the traces.

    Raises
    ------
    MpsimError
        Too few devices, a device that the costs were not measured on, a cost that was never measured, rows that are no
        schedule, more stages than layers, a trace with one clock where the plan says how to launch.
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
        launches=_launches(costs, plan, {topology.devices[device].type for device in place}, host_speed),
        host_speed=host_speed,
    )


def _launches(costs: Costs, plan: Plan, types: set[str], host_speed: float) -> bool:
    """Return whether hosts launch: where a trace says what it takes, unless the plan launches by graphs."""
    if not 0 < host_speed < math.inf:
        raise MpsimError(
            f"host speed is {host_speed}, expected more than 0: 1 is the traced machine's, 2 twice as fast"
        )
    hosts = [cost.host for kind in sorted(types) for cost in costs.of(kind)]
    asked = [f"launch={plan.launch}"] if plan.launch else [f"host speed {host_speed:g}"] if host_speed != 1 else []
    if asked and (None in hosts if plan.launch == "eager" else not any(hosts)):
        raise MpsimError(
            f"{asked[0]} needs to know what launching takes, and the trace of {costs.workload.name!r} on"
            f" {costs.workload.device} has one clock: trace it on a GPU, or leave that out"
        )
    return any(hosts) and plan.launch != "graphs"
