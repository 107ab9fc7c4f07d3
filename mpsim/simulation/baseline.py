"""The step of one device on the same global batch: what a speedup is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpsim.errors import MpsimError
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import has_costs
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import microbatch_size
from mpsim.lowering.times import RankTimes, medians
from mpsim.workload.costs import measured_microbatches, median_s
from mpsim.workload.model import Cost
from mpsim.workload.trust import refused

__all__ = ["one_device"]


def one_device(lowering: Lowering, batch: int, *, unchecked: bool = False) -> tuple[str, float]:
    """Return the name and the step, in seconds, of the fastest way to run the batch on one of the topology's devices.

    The device works through the batch in equal micro-batches and updates once; of the measured sizes that divide the
    batch, and the plan's own, the fastest counts. Sizes at which the trace misses its own step by too much do not,
    unless `unchecked`. Whether the model fits on it is not asked. ``("", 0.0)`` where no whole layers were measured.
    """
    steps = list(_steps(lowering, batch, unchecked))
    if not steps:
        return "", 0.0
    seconds, device, size = min(steps)
    return f"one {device}, {batch // size} × micro-batch {size}", seconds


def _steps(lowering: Lowering, batch: int, unchecked: bool) -> Iterator[tuple[float, str, int]]:
    """Yield seconds, device and micro-batch size of each way to run the batch on one device."""
    workload = lowering.workload
    sizes = {*measured_microbatches(workload), microbatch_size(workload, lowering.plan)}
    nodes = {(node.type, node.speed): node for node in lowering.topology.devices}
    for size in sorted(size for size in sizes if batch % size == 0):
        costs = Costs(workload, lowering.costs.by_type, size, 1)
        for node in nodes.values():
            if not has_costs(costs, node) or (not unchecked and refused(costs.workload_of(node.type), size)):
                continue
            try:
                layers = costs.of(node.type)
            except MpsimError:
                continue
            seconds = _computing_s(layers, batch // size) / node.speed
            if lowering.launches:
                times = medians(layers, node.speed, lowering.host_speed)
                seconds = _launching_s(times, len(layers), batch // size)
            yield seconds, node.type or "device", size


def _computing_s(layers: Sequence[Cost], count: int) -> float:
    """Return what a device of speed 1 takes for so many micro-batches and the update."""
    times = [median_s(cost.samples) for cost in layers]
    work = sum(forward + inputs + weights for forward, inputs, weights, *_ in times)
    update = sum(optimizer for *_, optimizer, _ in times)
    return work * count + sum(added for *_, added in times) * (count - 1) + update


def _launching_s(times: RankTimes, n_layers: int, count: int) -> float:
    """Return when both a device and its host, that launches all of it, are done with that."""
    passes = [(kind, k) for k in range(min(count, 2)) for kind in "FB"]
    parts = [(times.launch(*one, 0, n_layers), times.seconds(*one, 0, n_layers)) for one in passes]
    host_s = device_s = 0.0
    for launch, seconds in [*parts, *parts[2:] * (count - 2), (times.launch_update, times.optimizer_s)]:
        device_s = max(device_s, host_s + launch.lead_s) + seconds
        host_s += sum(launch)
    return max(device_s, host_s)
