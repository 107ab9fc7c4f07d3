"""Lower a plan: the only room that knows the words pipeline, tensor and data.

Every rank ``(d, p, c, t)`` runs the row of its pipeline rank on its compute stream. Around that:

- what crosses from one pipeline rank to another is one message a micro-batch, beside the computation;
- the collectives of a tensor-parallel layer are awaited by the ranks that share it, as in eager PyTorch;
- the gradients are all-reduced bucket by bucket on one stream a rank, while the last backward goes on;
- the optimizer runs when the rank's gradients are complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mpsim.errors import MpsimError
from mpsim.lowering.costs import Costs, weakest
from mpsim.lowering.devices import check_devices, for_costs
from mpsim.lowering.early import early_receives
from mpsim.lowering.fitting import fitted_rows
from mpsim.lowering.model import Lowering
from mpsim.lowering.recomputation import check_cores, watched_fractions
from mpsim.lowering.shared import shared_gradients
from mpsim.lowering.stages import Stage, cut, microbatch_size, shares_of
from mpsim.lowering.units import check_units
from mpsim.plan.model import Plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.runtimes import posting_of, resolve_runtime
from mpsim.plan.schedules import Operation
from mpsim.plan.shape import shape_of
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.model import Fidelity, Workload

__all__ = ["cut_at", "lower", "run_by", "uncut"]


def lower(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    *,
    by_type: Mapping[str, Workload] | None = None,
    host_speed: float = 1.0,
    routes: Routes | None = None,
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
    routes : Routes, optional
        Of the topology, with what other plans have found out of them.

    Raises
    ------
    MpsimError
        Too few devices, a device that the costs were not measured on, a cost that was never measured, rows that are no
        schedule, more stages than layers, units that are no module's, a trace with one clock where the plan says how
        to launch.
    """
    whole = uncut(workload, topology, plan, by_type=by_type, host_speed=host_speed, routes=routes)
    return cut_at(whole, plan.boundaries)


def uncut(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    *,
    by_type: Mapping[str, Workload] | None = None,
    host_speed: float = 1.0,
    routes: Routes | None = None,
    costs: Costs | None = None,
    like: Lowering | None = None,
) -> Lowering:
    """Return a plan as `lower` does, but for its stages: `cut_at` cuts it.

    `costs` are those of the plan, where they are known; `like` is one with the same rows, runtime, and whether the last
    micro-batch is computed again.
    """
    place = plan.place(len(topology.devices))
    costs = costs or Costs(workload, by_type or {}, microbatch_size(workload, plan), plan.split)
    check_devices(costs, (topology.devices[device] for device in place))
    topology = for_costs(topology, costs)
    if routes is None or routes.topology is not topology:
        routes = Routes(topology)
    rows = plan.rows() if like is None else like.rows
    asynchronous = like.asynchronous if like else any(one.kind == "U" for row in rows for one in row)
    if plan.sharding.zero and asynchronous:
        raise MpsimError(
            f"plan: {plan.sharding.text} gathers what an update has changed, {plan.schedule_name} updates amid the"
            " step: use another schedule, or whole replicas"
        )
    if plan.sharding.zero == 3:
        check_units([layer.name for layer in workload.layers], plan.sharding.units)
    again = parse_recompute(plan.sharding.recompute)
    types = {topology.devices[device].type for device in place}
    for kind in sorted(types):
        check_cores(workload, costs.of(""), kind, costs.of(kind), again)
    shape = shape_of(rows) if like is None else like.shape
    lowering = Lowering(
        workload=workload,
        topology=topology,
        plan=plan,
        place=place,
        rows=rows,
        shape=shape,
        stages=(),
        costs=costs,
        routes=routes,
        fidelity=Fidelity.weakest(
            weakest(costs, topology, place),
            *([Fidelity.SCALED] if plan.sharding.zero or watched_fractions(costs.each(types), again) else []),
        ),
        closing=frozenset(),
        tied=(),
        posting="",
        asynchronous=asynchronous,
        launches=_launches(costs, plan, types, host_speed),
        host_speed=host_speed,
    )
    if like is None:
        return _run(lowering)
    return replace(lowering, closing=like.closing, keeping=like.keeping, posting=like.posting, early=like.early)


def cut_at(lowering: Lowering, boundaries: tuple[int, ...] | None, known: dict[range, Stage] | None = None) -> Lowering:
    """Return the same plan with other stages, and what follows from them; None balances them.

    Stages that are `known`, of the same plan, are not worked out again; those that are not will be.
    """
    made = _cut(lowering, boundaries, known)
    return made if made.rows == lowering.rows else _run(made)


def run_by(lowering: Lowering, runtime: str) -> Lowering:
    """Return the same plan, cut as it is, under another runtime."""
    return _posted(replace(lowering, plan=replace(lowering.plan, runtime=runtime)))


def _cut(lowering: Lowering, boundaries: tuple[int, ...] | None, known: dict[range, Stage] | None = None) -> Lowering:
    """Return a plan with its stages, and the rows that its schedule makes for them."""
    plan = replace(lowering.plan, boundaries=boundaries)
    costs, routes, place, shape = lowering.costs, lowering.routes, lowering.place, lowering.shape
    stages = cut(costs, routes, plan, place, shape, {} if known is None else known)
    rows = fitted_rows(lowering.rows, plan, shape, stages, costs, routes, place)
    tied = shared_gradients(stages, shape, *shares_of(plan))
    return replace(lowering, rows=rows, stages=stages, tied=tied)


def _run(lowering: Lowering) -> Lowering:
    """Return a plan with what follows from its rows."""
    keeping = _last(lowering.rows) if parse_recompute(lowering.plan.sharding.recompute).except_last else frozenset()
    return _posted(replace(lowering, closing=_closing(lowering.rows), keeping=keeping))


def _posted(lowering: Lowering) -> Lowering:
    """Return a plan with what its runtime makes of its rows."""
    rows, posting = lowering.rows, posting_of(resolve_runtime(lowering.plan.runtime), lowering.rows)
    return replace(lowering, posting=posting, early=early_receives(rows, lowering.shape) if posting == "early" else ())


def _closing(rows: Sequence[Sequence[Operation]]) -> frozenset[tuple[int, str, int]]:
    """Return the last backward pass of each stage before each of its updates, or before the step's end."""
    found = set()
    for row in rows:
        last: dict[int, tuple[int, str, int]] = {}
        for stage, kind, microbatch, *_ in row:
            if kind in "BW":
                last[stage] = (stage, kind, microbatch)
            elif kind == "U":
                found.add(last.pop(stage))
        found.update(last.values())
    return frozenset(found)


def _last(rows: Sequence[Sequence[Operation]]) -> frozenset[tuple[int, int]]:
    """Return the micro-batch that goes last forward through each stage, as (stage, micro-batch)."""
    last = {one.stage: one.microbatch for row in rows for one in row if one.kind == "F"}
    return frozenset(last.items())


def _launches(costs: Costs, plan: Plan, types: set[str], host_speed: float) -> bool:
    """Return whether hosts launch: where a trace says what it takes, unless the plan launches by graphs."""
    if not 0 < host_speed < math.inf:
        raise MpsimError(
            f"host speed is {host_speed}, expected more than 0: 1 is the traced machine's, 2 twice as fast"
        )
    hosts = [cost.host for cost in costs.each(types)]
    asked = [f"launch={plan.launch}"] if plan.launch else [f"host speed {host_speed:g}"] if host_speed != 1 else []
    if asked and (None in hosts if plan.launch == "eager" else not any(hosts)):
        raise MpsimError(
            f"{asked[0]} needs to know what launching takes, and the trace of {costs.workload.name!r} on"
            f" {costs.workload.device} has one clock: trace it on a GPU, or leave that out"
        )
    return any(hosts) and plan.launch != "graphs"
