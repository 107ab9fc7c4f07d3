"""How fast a device is beside its own roofline: a speed for roofline costs, from one measured step or its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mpsim.calls import checked
from mpsim.documents import made_now
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError, did_you_mean
from mpsim.lowering.devices import is_analytical
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.topology.model import Device, Topology
from mpsim.topology.reported import same_device
from mpsim.units import format_duration
from mpsim.workload.costs import cost_at, median_s
from mpsim.workload.model import Layer, Workload

__all__ = ["ComputeCalibration", "alone", "calibrate_compute", "shared_plan"]

_EXACT = 1e-9
_MOST_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeCalibration:
    """A topology whose devices carry a speed, and what it was taken from.

    Attributes
    ----------
    topology : Topology
    device : str
        The type that got the speed.
    speed : float
        What it makes of its roofline: 0.8 takes a quarter longer.
    measured_s, modelled_s : float
        What was measured, and what the roofline had said.
    source : str
        In words, what was measured.
    """

    topology: Topology
    device: str
    speed: float
    measured_s: float
    modelled_s: float
    source: str


@checked
def calibrate_compute(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    *,
    step_s: float | None = None,
    plan: Plan | str | Path | None = None,
    layers_s: Mapping[str, float] | None = None,
) -> ComputeCalibration:
    """Return the topology with the speed at which a workload's roofline costs come to what was measured.

    The speed counts for roofline costs alone (`Device.speed_of`): costs measured on such a device have it in them.

    Parameters
    ----------
    workload : Workload
        With roofline costs of a device that the topology has.
    topology : Topology
        Its devices of that type get the speed.
    step_s, plan
        A whole step, measured on this topology under this plan, communication and all.
    layers_s : mapping of str to float
        Instead of a step: forward and backward of some layers at the workload's reference micro-batch, whole ones or,
        with `plan`, as its ranks share them, with what they exchange (a published block on 8 GPUs by tp 8).

    Raises
    ------
    MpsimError
        No roofline costs, no such device, neither or both of step and layers, or a step that no speed comes to.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.workload.model import Fidelity, Layer
    >>> layer = Layer.given("a", forward_s=1.0, backward_s=2.0)
    >>> layer = replace(layer, costs=(replace(layer.costs[0], fidelity=Fidelity.ANALYTICAL),))
    >>> work = replace(Workload.chain("w", [layer]), device="T4")
    >>> found = calibrate_compute(work, ring(2, link="1GB/s@0", device="T4"), layers_s={"a": 4.0})
    >>> found.speed, found.topology.devices[0].speed_of
    (0.75, 'roofline')
    """
    workload, topology = Workload.of(workload), Topology.of(topology)
    plan = None if plan is None else Plan.of(plan)
    if not is_analytical(workload):
        raise MpsimError(
            f"workload {workload.name!r} has no roofline costs to calibrate: mpsim trace --analytical DEVICE makes them"
        )
    types = dict.fromkeys(one.type for one in topology.devices if same_device(one.type, workload.device))
    if not types:
        have = ", ".join(sorted({one.type or "none" for one in topology.devices}))
        raise MpsimError(f"topology {topology.name!r} has devices of type {have}, the costs are of {workload.device}")
    if (step_s is None) == (layers_s is None) or (step_s is not None and plan is None):
        raise MpsimError("give either a measured step with its plan, or measured layers")
    if layers_s is not None:
        measured_s, modelled_s = _layers(workload, layers_s, plan or Plan())
        speed, source = modelled_s / measured_s, f"forward and backward of {', '.join(layers_s)}"
        if plan is not None and shared_plan(plan).ranks > 1:
            plan = shared_plan(plan)
            step_at = _steps(alone(workload, layers_s), topology, plan, tuple(types))
            modelled_s, speed, source = step_at(1.0), 1 / _solved(step_at, measured_s), f"{source} under {plan.text}"
    else:
        assert step_s is not None
        assert plan is not None
        _check_seconds("step", step_s)
        measured_s, source = step_s, f"a step under {plan.text}"
        step_at = _steps(workload, topology, plan, tuple(types))
        modelled_s = step_at(1.0)
        speed = 1 / _solved(step_at, step_s)
    text = f"speed {speed:.4g} of the roofline of {workload.device}: {source} of {workload.name} took"
    made = made_now("mpsim.calibrate_compute(workload, topology)")
    known = f"{topology.provenance.source}; " if topology.provenance.source else ""
    provenance = replace(made, source=f"{known}{text} {format_duration(measured_s)}")
    return ComputeCalibration(
        topology=replace(_at(topology, tuple(types), speed), provenance=provenance),
        device=next(iter(types)),
        speed=speed,
        measured_s=measured_s,
        modelled_s=modelled_s,
        source=source,
    )


def _layers(workload: Workload, layers_s: Mapping[str, float], plan: Plan) -> tuple[float, float]:
    """Return what layers took, and what their rooflines say."""
    by_name = {layer.name: layer for layer in workload.layers}
    modelled_s = 0.0
    for name, seconds in layers_s.items():
        _check_seconds(f"layer {name!r}", seconds)
        if name not in by_name:
            raise MpsimError(f"workload {workload.name!r} has no layer {name!r}{did_you_mean(name, by_name)}")
        modelled_s += sum(median_s(cost_at(by_name[name], workload.microbatch, plan.split).samples)[:3])
    if not modelled_s:
        raise MpsimError(
            f"{', '.join(layers_s) or 'no layers'}: no time in the workload to hold against a measured one"
        )
    return math.fsum(layers_s.values()), modelled_s


def shared_plan(plan: Plan) -> Plan:
    """Return of a plan only how ranks share layers: one stage, one micro-batch, no more replicas than share experts.

    Examples
    --------
    >>> shared_plan(Plan(dp=2, pp=4, tp=2, microbatches=8)).text
    'tp=2'
    >>> shared_plan(Plan(dp=8, cp=2, ep=4)).text
    'dp=2 cp=2 ep=4'
    """
    return Plan(
        dp=plan.ep // math.gcd(plan.ep, plan.cp), tp=plan.tp, cp=plan.cp, ep=plan.ep, algorithm=plan.algorithm,
        runtime=plan.runtime, sharding=Sharding(sequence=plan.sharding.sequence),
    )  # fmt: skip


def alone(workload: Workload, names: Container[str]) -> Workload:
    """Return a workload of some of its layers, none of which is updated, so that no gradients are reduced.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, optimizer_s=4.0) for name in "abc"]
    >>> found = alone(Workload.chain("w", layers), {"b"})
    >>> [layer.name for layer in found.layers], found.layers[0].costs[0].samples.optimizer_s
    (['b'], (0.0,))
    """
    layers = tuple(_without_update(layer) for layer in workload.layers if layer.name in names)
    tensors = []
    for tensor in workload.tensors:
        readers = tuple(name for name in tensor.consumers if name in names)
        if tensor.producer in names or readers:
            ends = ("", "input") if tensor.producer not in names else (tensor.producer, tensor.role)
            keeper = tensor.saved_by if tensor.saved_by in names else ""
            tensors.append(replace(tensor, producer=ends[0], role=ends[1], consumers=readers, saved_by=keeper))
    return replace(workload, layers=layers, tensors=tuple(tensors), checks=())


def _without_update(layer: Layer) -> Layer:
    costs = tuple(
        replace(cost, samples=replace(cost.samples, optimizer_s=(0.0,)), host=None, wall=None) for cost in layer.costs
    )
    return replace(layer, costs=costs, shards=tuple(replace(shard, gradients=()) for shard in layer.shards))


def _check_seconds(what: str, seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise MpsimError(f"measured {what} is {seconds} s, expected more than 0")


def _at(topology: Topology, types: tuple[str, ...], speed: float) -> Topology:
    def device(one: Device) -> Device:
        return replace(one, speed=speed, speed_of="roofline") if one.type in types else one

    return replace(topology, devices=tuple(map(device, topology.devices)))


def _steps(workload: Workload, topology: Topology, plan: Plan, types: tuple[str, ...]) -> Callable[[float], float]:
    """Return the step as a function of how many times as long as its roofline a computation takes."""

    def step_at(times: float) -> float:
        placed = _at(topology, types, 1 / times)
        return replay(program_of(lower(workload, placed, plan)), placed).step_s

    return step_at


def _solved(step_at: Callable[[float], float], step_s: float) -> float:
    """Return the argument at which a step that grows with it, almost in proportion, is as measured."""
    low, high = 1e-9, 1.0
    under, over = step_at(low) - step_s, step_at(high) - step_s
    if under >= 0:
        raise MpsimError(
            f"the step was measured at {format_duration(step_s)}, its communication alone takes"
            f" {format_duration(under + step_s)} on this topology: calibrate that first, or name another plan"
        )
    while over < 0:
        low, under, high = high, over, 2 * high
        over = step_at(high) - step_s
    for _ in range(_MOST_ROUNDS):
        if high - low <= _EXACT * high:
            break
        # Where the chord meets zero, kept off the ends: the step bends where other passes become critical.
        part = min(max(-under / (over - under), 1e-3), 1 - 1e-3)
        middle = low + part * (high - low)
        found = step_at(middle) - step_s
        if abs(found) <= _EXACT * step_s:
            return middle
        low, under, high, over = (middle, found, high, over) if found < 0 else (low, under, middle, found)
    return high
