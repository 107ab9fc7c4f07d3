"""Whose costs a device is given: a trace of one device stands for another only by a factor that somebody stated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpsim.errors import MpsimError, unknown
from mpsim.lowering.rescaling import check_speed, rescaled, sped
from mpsim.topology.model import Device, Topology
from mpsim.topology.reported import catalog_name, same_device
from mpsim.workload.model import Fidelity, Workload

if TYPE_CHECKING:
    from mpsim.lowering.costs import Costs

__all__ = ["check_devices", "for_costs", "has_costs", "is_analytical", "scaled_by_type"]


def scaled_by_type(
    workload: Workload,
    topology: Topology,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    *,
    rescale: str | None = None,
    speed: float | None = None,
) -> dict[str, Workload]:
    """Return the workloads by type of device, with those that a rescaling or a speed makes for types that have none.

    Parameters
    ----------
    rescale : str, optional
        ``roofline``: by the rooflines of both devices, layer by layer.
    speed : float, optional
        How many times as fast as the traced device those compute that it does not stand for.

    Raises
    ------
    MpsimError
        Both are given, neither changes anything, or one of them is impossible; layers of one type are of other sizes.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("w", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> scaled_by_type(work, ring(2, link="1GB/s@0", device="T4"), speed=2.0)["T4"].layers[0].costs[0].samples.forward_s
    (0.5,)
    """
    found = {kind: Workload.of(one) for kind, one in (by_type or {}).items()}
    for kind, other in found.items():
        if other.scaling is None and [one.name for one in other.layers] == [one.name for one in workload.layers]:
            _check_sizes(workload, other, kind)
    if rescale is None and speed is None:
        return found
    if rescale is not None and speed is not None:
        raise MpsimError(f"a rescaling by {rescale} and a speed of {speed} are both given: leave one out")
    if rescale not in (None, "roofline"):
        raise unknown("rescaling", str(rescale), ("roofline",))
    if speed is not None:
        check_speed(speed)
    types = dict.fromkeys(device.type for device in topology.devices)
    if speed is not None:
        others = [kind for kind in types if _needs(found, workload, kind) or not kind or _given(workload)]
        found |= {kind: sped(found.get(kind, workload), speed, kind) for kind in others}
    else:
        others = [kind for kind in types if _rescalable(found, workload, topology, kind)]
        found |= {kind: _rescaled(found.get(kind, workload), kind) for kind in others}
    if speed is not None and not others:
        raise MpsimError(
            f"speed is {speed}, but every device of topology {topology.name!r} is a {workload.device}, as traced:"
            " write speed=… in the topology"
        )
    return found


def _check_sizes(workload: Workload, other: Workload, kind: str) -> None:
    """Refuse costs of a model whose layers have the same names and other sizes, such as sequences of other length."""
    here, there = _sizes(workload), _sizes(other)
    for (layer, said), size in here.items():
        if there.get((layer, said), size) != size:
            raise MpsimError(
                f"workload {other.name!r} for device type {kind!r} is of another size: layer {layer!r} {said}"
                f" {there[layer, said]:,} numbers, in {workload.name!r} {size:,}: trace the same model at the same"
                " sizes"
            )


def _sizes(workload: Workload) -> dict[tuple[str, str], int]:
    """Return how many numbers each layer holds, and gives to others for each sample, whatever types they are of."""
    found: dict[tuple[str, str], int] = {}
    for layer in workload.layers:
        held = sum(math.prod(one.shape) for one in layer.shards[0].parameters) if layer.shards else 0
        if held:
            found[layer.name, "holds"] = held
    for tensor in workload.tensors:
        if tensor.producer and tensor.role == "activation" and tensor.batch_dim is not None:
            key = (tensor.producer, "gives for each sample")
            found[key] = max(found.get(key, 0), math.prod(tensor.shape) // tensor.shape[tensor.batch_dim])
    return found


def _needs(by_type: Mapping[str, Workload], workload: Workload, kind: str) -> bool:
    return not _stands(by_type.get(kind, workload), kind, explicit=kind in by_type)


def _rescalable(by_type: Mapping[str, Workload], workload: Workload, topology: Topology, kind: str) -> bool:
    if not kind:
        raise MpsimError(
            f"topology {topology.name!r} has devices without a type, which have no roofline to rescale to: write"
            " device=… with a name that mpsim show catalog lists"
        )
    one = by_type.get(kind, workload)
    return (kind not in by_type and _given(one)) or _needs(by_type, workload, kind)


def _rescaled(workload: Workload, kind: str) -> Workload:
    return rescaled(workload, workload.device, kind)


def check_devices(costs: Costs, devices: Iterable[Device]) -> None:
    """Refuse a device that the costs it would be given were not measured on.

    Costs given by hand stand for any device, and any costs for a device without a type. A `speed` other than 1 in the
    topology is a factor that was stated.

    Raises
    ------
    MpsimError
        It names both devices, and the ways on.
    """
    first: dict[str, Device] = {}
    for node in devices:
        if node.speed == 1.0 or node.speed_of:
            first.setdefault(node.type, node)
    for node in first.values():
        if not has_costs(costs, node):
            raise MpsimError(_refusal(costs.workload_of(node.type), node))


def has_costs(costs: Costs, node: Device) -> bool:
    """Whether a device's costs were measured on its like, were given for it, or are scaled by a stated factor."""
    stated = node.speed != 1.0 and not node.speed_of
    return stated or _stands(costs.workload_of(node.type), node.type, explicit=node.type in costs.by_type)


def _refusal(workload: Workload, node: Device) -> str:
    traced, kind = workload.device, node.type
    roofline = "--rescale roofline"
    unlisted = [name for name in (traced, kind) if catalog_name(name) is None]
    if unlisted:
        roofline += f" (where the catalog has both: not {unlisted[0]})"
    return (
        f"workload {workload.name!r} has times of {traced}, device {node.name!r} is of type {kind}: give {roofline},"
        f" --speed F (how many times as fast it computes), or a trace made on it (--costs {kind}=FILE)"
    )


def _given(workload: Workload) -> bool:
    if workload.device == "given":
        return True
    return all(cost.fidelity is Fidelity.GIVEN for layer in workload.layers for cost in layer.costs)


def _stands(workload: Workload, kind: str, *, explicit: bool) -> bool:
    """Whether a workload's times may be taken for a type of device; of one no catalog has, the user's word counts."""
    if not kind or (workload.scaling is None and _given(workload)):
        return True
    if workload.scaling is not None:
        return workload.scaling.target in ("", kind)
    return same_device(workload.device, kind) or (explicit and catalog_name(kind) is None)


def for_costs(topology: Topology, costs: Costs) -> Topology:
    """Return the topology with the speeds that count for these costs: those of rooflines only for roofline costs."""
    if not any(node.speed_of for node in topology.devices):
        return topology

    def node(one: Device) -> Device:
        return replace(one, speed=1.0) if one.speed_of and one.type not in roofline else one

    roofline = {one.type for one in topology.devices if is_analytical(costs.workload_of(one.type))}
    return replace(topology, devices=tuple(map(node, topology.devices)))


def is_analytical(workload: Workload) -> bool:
    """Whether any of a workload's costs is a roofline's."""
    return any(cost.fidelity is Fidelity.ANALYTICAL for layer in workload.layers for cost in layer.costs)
