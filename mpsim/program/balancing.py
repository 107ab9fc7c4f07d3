"""Balance the stages of a plan on measured time, communication counted."""

from __future__ import annotations

from functools import cache
from itertools import accumulate

from mpsim.plan.model import Plan
from mpsim.plan.partition import balance
from mpsim.program.collectives import collective
from mpsim.program.costs import Costs
from mpsim.program.crossings import Crossing
from mpsim.program.model import Traffic
from mpsim.topology.routes import Routes
from mpsim.workload.costs import median_s
from mpsim.workload.model import Cost

__all__ = ["balanced_boundaries"]


def balanced_boundaries(
    costs: Costs, routes: Routes, plan: Plan, place: tuple[int, ...], cuts: list[Crossing]
) -> tuple[int, ...]:
    """Return the boundaries that make the costliest stage cheapest, for one micro-batch.

    A stage costs, on its slowest replica, the median compute of its layers on the slowest rank, their tensor-parallel
    collectives, and the sending of what crosses its cuts to both sides, each on an idle network.
    """
    tp = plan.tp
    groups = [
        [place[(d * plan.pp + s) * tp : (d * plan.pp + s + 1) * tp] for d in range(plan.dp)] for s in range(plan.pp)
    ]
    clock = _Clock(costs, routes, plan.algorithm)
    totals = [[clock.running_total(group) for group in replicas] for replicas in groups]

    @cache
    def pace(stage: int) -> tuple[float, float]:
        here, there = groups[stage][0][0], groups[stage + 1][0][0]
        forth, back = routes.path(here, there), routes.path(there, here)
        return routes.bandwidth_bytes_per_s(forth), routes.bandwidth_bytes_per_s(back)

    def seconds(stage: int, first: int, last: int) -> float:
        work = max(total[last] - total[first] for total in totals[stage])
        forward = cuts[last - 1].forward_bytes / pace(stage)[0] if stage < plan.pp - 1 else 0.0
        backward = cuts[first - 1].backward_bytes / pace(stage - 1)[1] if stage else 0.0
        return work + forward + backward

    return balance(len(costs.workload.layers), plan.pp, seconds)


class _Clock:
    """Times the layers of a tensor-parallel group, each kind of device and each collective once."""

    def __init__(self, costs: Costs, routes: Routes, algorithm: str) -> None:
        self._costs = costs
        self._routes = routes
        self._algorithm = algorithm
        self._compute: dict[str, list[float]] = {}

    def running_total(self, group: tuple[int, ...]) -> list[float]:
        """Return the seconds of the layers before each one, and of all."""
        devices = [self._routes.topology.devices[device] for device in group]
        paces = [(self._seconds(node.type), node.speed) for node in devices]
        layers = [max(times[i] / speed for times, speed in paces) for i in range(len(paces[0][0]))]
        shared = [self._collectives(cost, group) for cost in self._costs.of(devices[0].type)]
        return list(accumulate((own + sent for own, sent in zip(layers, shared, strict=True)), initial=0.0))

    def _seconds(self, device_type: str) -> list[float]:
        if device_type not in self._compute:
            self._compute[device_type] = [sum(median_s(cost.samples)[:3]) for cost in self._costs.of(device_type)]
        return self._compute[device_type]

    def _collectives(self, cost: Cost, group: tuple[int, ...]) -> float:
        calls = ((call.kind, call.bytes) for call in cost.collectives if call.bytes)
        return sum(
            self._alone(collective(self._routes, kind, group, n, algorithm=self._algorithm)) for kind, n in calls
        )

    def _alone(self, traffic: Traffic) -> float:
        links = self._routes.topology.links
        used = zip(traffic.links, traffic.bytes, strict=True)
        return traffic.latency_s + max((n / links[i].bandwidth_bytes_per_s for i, n in used), default=0.0)
