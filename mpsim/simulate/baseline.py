"""The step of one device on the same global batch: what a speedup is measured against."""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.errors import MpsimError
from mpsim.program.costs import Costs
from mpsim.program.lower import Lowering
from mpsim.program.stages import microbatch_size
from mpsim.workload.costs import measured_microbatches, median_s
from mpsim.workload.trust import REFUSED, doubts

__all__ = ["one_device"]


def one_device(lowering: Lowering, batch: int, *, unchecked: bool = False) -> tuple[str, float]:
    """Return the name and the step, in seconds, of the fastest way to run the batch on one of the plan's devices.

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
    nodes = {(node.type, node.speed): node for node in (lowering.topology.devices[i] for i in lowering.place)}
    for size in sorted(size for size in sizes if batch % size == 0):
        costs = Costs(workload, lowering.costs.by_type, size, 1)
        for node in nodes.values():
            if not unchecked and doubts(costs.workload_of(node.type), size, beyond=REFUSED):
                continue
            try:
                times = [median_s(cost) for cost in costs.of(node.type)]
            except MpsimError:
                continue
            work = sum(forward + inputs + weights for forward, inputs, weights, _ in times)
            update = sum(optimizer for *_, optimizer in times)
            yield (work * (batch // size) + update) / node.speed, node.type or "device", size
