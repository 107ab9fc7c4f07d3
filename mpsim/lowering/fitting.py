"""Rows made for a plan's own stages: what each takes and holds, what messages take, and how much memory is left."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.collectives.traffic import idle_s, message_traffic
from mpsim.lowering.costs import Costs
from mpsim.lowering.memory import residents_of, within
from mpsim.lowering.recomputation import again_s
from mpsim.lowering.stages import Stage, gradient_bytes, share_bytes
from mpsim.plan.automatic import Fitted, StageTimes
from mpsim.plan.model import Plan
from mpsim.plan.operations import Operation
from mpsim.plan.schedules import resolve_schedule
from mpsim.plan.shape import Shape
from mpsim.topology.routes import Routes
from mpsim.workload.costs import median_s

__all__ = ["fitted_rows"]

_Rows = tuple[tuple[Operation, ...], ...]


def fitted_rows(
    rows: _Rows, plan: Plan, shape: Shape, stages: Sequence[Stage], costs: Costs, routes: Routes, place: Sequence[int]
) -> _Rows:
    """Return the rows that a plan's schedule makes for these stages; those it has where it makes none.

    Of replicas and ranks that share a stage the slowest counts. What a rank has left is its device's memory less what
    it holds throughout and its gradients; where memories are not known, room for twice what 1F1B holds.
    """
    schedule = resolve_schedule(plan.schedule)
    if not isinstance(schedule, Fitted) or shape.directions > 1 or plan.pp == 1:
        return rows
    grid = plan.grid
    devices = [[place[rank] for rank in grid.group(grid.rank(pp=home), "dp", "cp", "tp")] for home in shape.home]
    times = [_times(stage, own, costs, routes) for stage, own in zip(stages, devices, strict=True)]
    limits = [_limit(rank, shape, stages, devices, routes) for rank in range(plan.pp)]
    message_s = max(
        (
            idle_s(routes, message_traffic(routes, here[0], there[0], stage.output.forward_bytes))
            for stage, here, there in zip(stages, devices, devices[1:], strict=False)
            if stage.output is not None and here != there
        ),
        default=0.0,
    )
    found = schedule.fit(times, plan.microbatches, message_s, limits, shape.stages // plan.pp)
    return tuple(map(tuple, found))


def _times(stage: Stage, devices: Sequence[int], costs: Costs, routes: Routes) -> StageTimes:
    nodes = [routes.topology.devices[device] for device in devices]
    own = [
        [
            sum(median_s(cost.samples)[clock] for cost in costs.of(node.type)[stage.layers.start : stage.layers.stop])
            / node.speed
            for clock in range(3)
        ]
        for node in nodes
    ]
    again = stage.recomputed
    again_each = [
        sum(again_s(costs.of(node.type)[i], again.partly) for i in again.layers) / node.speed if again else 0.0
        for node in nodes
    ]
    held = float(_held(stage))
    forward_s, inputs_s, weights_s = (max(column) for column in zip(*own, strict=True))
    return StageTimes(forward_s, inputs_s + max(again_each), weights_s, held=held, kept=held)


def _held(stage: Stage) -> int:
    """Return what one micro-batch holds at most of a stage, 1 or more: to the second part of its backward all."""
    until_end = stage.recomputed.again if stage.recomputed and not stage.recomputed.partly else ()
    return max(stage.kept_bytes(True) + sum(until_end), 1)


def _limit(rank: int, shape: Shape, stages: Sequence[Stage], devices: Sequence[Sequence[int]], routes: Routes) -> float:
    held = [stages[s] for s in shape.held_by(rank)]
    once = sum(map(_held, held))
    memories = [routes.topology.devices[device].memory_bytes for s in shape.held_by(rank) for device in devices[s]]
    if not all(memories):
        return 2.0 * (max(shape.home) + 1) * once
    throughout = sum(one.bytes for one in residents_of(held, 0))
    gradients = gradient_bytes(held)
    experts = frozenset().union(*(stage.experts for stage in held))
    made = share_bytes(gradients, experts, (held[0].shares, held[0].expert_shares))
    passing = max(within(stage, kind, gradients, again=True).most for stage in held for kind in ("forward", "backward"))
    gathered = 2 * max((unit.gathered_bytes for stage in held for unit in stage.units), default=0)
    return float(max(min(memories) - throughout - made - max(passing, 0) - gathered, once))
