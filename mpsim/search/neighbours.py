"""The plans beside one that does not fit: in each one thing is otherwise, so that its devices hold less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from mpsim.errors import MpsimError
from mpsim.lowering.stages import microbatch_size
from mpsim.plan.model import Plan
from mpsim.plan.rescheduled import under
from mpsim.plan.shape import shape_of
from mpsim.search.space import TRIED
from mpsim.topology.model import Topology
from mpsim.workload.costs import measured_microbatches
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

__all__ = ["KINDS", "OPEN", "Beside", "neighbours", "splits_of"]

# What may be otherwise, in the order in which two such things are done to a plan, and what each is called.
KINDS = {
    "devices": "more devices",
    "axes": "tp, pp, cp or ep in place of others",
    "micro-batches": "smaller micro-batches",
    "schedule": "another schedule",
    "stages": "other stages",
    "sequence": "sequence parallelism",
    "zero": "ZeRO, FSDP",
    "offload": "offload",
    "recompute": "recomputation",
}
# Of these there are more plans beside a plan than can be listed before it is known what it lacks where.
OPEN = ("stages", "offload", "recompute")


class Beside(NamedTuple):
    """What plans are found beside."""

    workload: Workload
    topology: Topology


def splits_of(workload: Workload) -> frozenset[Split]:
    """Return the splits at which every layer has costs."""
    return frozenset.intersection(*(frozenset(cost.split for cost in layer.costs) for layer in workload.layers))


def neighbours(beside: Beside, plan: Plan, kind: str) -> list[Plan]:
    """Return the plans in which one thing of a kind is otherwise: of the same batch, each that could be.

    Of stages, and of layers that are offloaded or computed again one by one, `mpsim.search.cuts` and
    `mpsim.search.chosen` have more.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> [one.text for one in neighbours(Beside(work, chain(2, link="1GB/s@0")), Plan(dp=2, microbatches=4), "axes")]
    ['pp=2 micro-batches=8 1f1b']
    """
    return list(dict.fromkeys(_MADE[kind](beside, plan)))


def _changed(plan: Plan, **changes: Any) -> Iterator[Plan]:
    """Yield a plan with some fields changed, if there can be such a one."""
    try:
        yield replace(plan, **changes)
    except MpsimError:
        return


def _sharded(plan: Plan, **changes: Any) -> Iterator[Plan]:
    try:
        yield replace(plan, sharding=replace(plan.sharding, **changes))
    except MpsimError:
        return


def _resized(beside: Beside, plan: Plan, sizes: dict[str, int], microbatches: int) -> Iterator[Plan]:
    """Yield a plan with other sizes of its axes, and what goes with them."""
    sharding, pp = plan.sharding, sizes.get("pp", plan.pp)
    tp, cp = sizes.get("tp", plan.tp), sizes.get("cp", plan.cp)
    if sharding.sequence and tp == 1:
        sharding = replace(sharding, sequence=False)
    if sharding.zero and sizes.get("dp", plan.dp) * cp == 1:
        sharding = sharding.at(0)
    split = Split(tp, cp, sizes.get("ep", plan.ep), sharding.sequence)
    if split not in splits_of(beside.workload) or pp > len(beside.workload.layers):
        return
    other = {} if pp == plan.pp else {"boundaries": None} | ({"chunks": 0} if pp == 1 else {})
    yield from _changed(plan, **sizes, **other, microbatches=microbatches, sharding=sharding)


def _axes(beside: Beside, plan: Plan) -> Iterator[Plan]:
    """Yield plans over the same devices in which an axis is larger in place of another."""
    for target in ("tp", "pp", "cp"):
        for source in ("dp", "pp", "tp", "cp"):
            size = getattr(plan, source)
            for factor in range(2, size + 1):
                if target != source and size % factor == 0:
                    sizes = {source: size // factor, target: getattr(plan, target) * factor}
                    # A replica has more of the batch then, its micro-batches stay as large.
                    times = factor if source == "dp" else 1
                    yield from _resized(beside, plan, sizes, plan.microbatches * times)
    for factor in range(2, plan.replicas // plan.ep + 1):
        yield from _resized(beside, plan, {"ep": plan.ep * factor}, plan.microbatches)


def _devices(beside: Beside, plan: Plan) -> Iterator[Plan]:
    """Yield plans over more of the topology's devices."""
    for factor in range(2, len(beside.topology.devices) // plan.ranks + 1):
        for axis in () if plan.devices else ("dp", "pp", "tp", "cp"):
            sizes = {axis: getattr(plan, axis) * factor}
            if axis != "dp":
                yield from _resized(beside, plan, sizes, plan.microbatches)
            elif plan.microbatches % factor == 0:
                yield from _resized(beside, plan, sizes, plan.microbatches // factor)


def _microbatches(beside: Beside, plan: Plan) -> Iterator[Plan]:
    now = microbatch_size(beside.workload, plan)
    for size in measured_microbatches(beside.workload, plan.split):
        if size < now and now * plan.microbatches % size == 0:
            yield from _changed(plan, microbatches=now * plan.microbatches // size)


def _schedules(beside: Beside, plan: Plan) -> Iterator[Plan]:
    """Yield plans under the other schedules that a search for the best plan tries: those that PyTorch runs."""
    if plan.pp == 1 or not isinstance(plan.schedule, str) or plan.schedule == "pipedream":
        return
    try:
        rows = plan.rows()
    except MpsimError:
        return
    stages = shape_of(rows).stages
    for name in TRIED:
        found = None if name == plan.schedule else under(plan, name, stages, rows)
        if found is not None:
            yield found


def _stages(beside: Beside, plan: Plan) -> Iterator[Plan]:
    yield from ()


def _sequence(beside: Beside, plan: Plan) -> Iterator[Plan]:
    if plan.tp > 1 and not plan.sharding.sequence and plan.split._replace(sequence=True) in splits_of(beside.workload):
        yield from _sharded(plan, sequence=True)


def _zero(beside: Beside, plan: Plan) -> Iterator[Plan]:
    """Yield plans whose replicas shard more, or hold what they gather for less long."""
    sharding = plan.sharding
    for zero in range(sharding.zero + 1, 4) if plan.replicas > 1 else ():
        yield from _changed(plan, sharding=sharding.at(zero))
    if sharding.shards:
        yield from _sharded(plan, shards=0)
    if sharding.zero == 3:
        if sharding.reshard_after_forward != "all":
            yield from _sharded(plan, reshard_after_forward="all")
        if sharding.gather_ahead:
            yield from _sharded(plan, gather_ahead=0)
        if sharding.units != "layers":
            yield from _sharded(plan, units="layers")


def _offload(beside: Beside, plan: Plan) -> Iterator[Plan]:
    if plan.sharding.offload != "all" and all(device.host for device in beside.topology.devices):
        yield from _sharded(plan, offload="all")


def _recompute(beside: Beside, plan: Plan) -> Iterator[Plan]:
    now = plan.sharding.recompute
    for what in () if now in ("full", "stages") else ("selective", "stages", "full"):
        if what != now and (what != "selective" or _has_cores(beside.workload, plan.split)):
            yield from _sharded(plan, recompute=what)


def _has_cores(workload: Workload, split: Split) -> bool:
    return any(cost.attention is not None for layer in workload.layers for cost in layer.costs if cost.split == split)


_MADE: dict[str, Callable[[Beside, Plan], Iterator[Plan]]] = {
    "devices": _devices,
    "axes": _axes,
    "micro-batches": _microbatches,
    "schedule": _schedules,
    "stages": _stages,
    "sequence": _sequence,
    "zero": _zero,
    "offload": _offload,
    "recompute": _recompute,
}
