"""The cost of each layer on each type of device that a plan uses, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpsim.errors import MpsimError
from mpsim.topology.model import Device, Topology
from mpsim.workload.costs import cost_at
from mpsim.workload.model import Cost, Fidelity, Workload
from mpsim.workload.split import Split, split_of
from mpsim.workload.trust import doubts, remarks

__all__ = ["Costs", "weakest"]


class Costs:
    """The cost of each layer on each type of device, at one micro-batch size and shard.

    Parameters
    ----------
    workload : Workload
        For devices of every type that has none of its own.
    by_type : mapping of str to Workload
        The same layers, traced on other types of device.
    microbatch : int
    split : Split or int
        The point of the cost tables.
    """

    def __init__(
        self, workload: Workload, by_type: Mapping[str, Workload], microbatch: int, split: Split | int
    ) -> None:
        self.workload = workload
        self.by_type = by_type
        self.point = (microbatch, split_of(split))
        self._tables: dict[str | None, list[Cost]] = {}
        names = [layer.name for layer in workload.layers]
        for kind, other in by_type.items():
            if [layer.name for layer in other.layers] != names:
                raise MpsimError(
                    f"workload {other.name!r} for device type {kind!r} has {len(other.layers)} layers that are not the"
                    f" {len(names)} of {workload.name!r}: trace the same model at the same --depth"
                )

    def workload_of(self, device_type: str) -> Workload:
        """Return the workload whose costs a type of device is given."""
        return self.by_type.get(device_type, self.workload)

    def remarks(self, devices: Iterable[Device]) -> tuple[str, ...]:
        """Return what the traces whose costs these devices are given have to say in words."""
        used = map(self.workload_of, dict.fromkeys(device.type for device in devices))
        return tuple(dict.fromkeys(text for workload in used for text in remarks(workload)))

    def of(self, device_type: str) -> list[Cost]:
        """Return the cost of every layer on a type of device."""
        key = device_type if device_type in self.by_type else None
        if key not in self._tables:
            layers = self.workload_of(device_type).layers
            self._tables[key] = [cost_at(layer, *self.point) for layer in layers]
        return self._tables[key]

    def each(self, types: Iterable[str]) -> list[Cost]:
        """Return the cost of every layer on each of some types of device."""
        return [cost for kind in types for cost in self.of(kind)]


def weakest(costs: Costs, topology: Topology, place: tuple[int, ...]) -> Fidelity:
    """Return the weakest fidelity that a plan uses: of its costs, its devices' speeds, and its traces' own checks."""
    nodes = [topology.devices[device] for device in place]
    types = {node.type for node in nodes}
    used = {cost.fidelity for kind in types for cost in costs.of(kind)}
    if any(node.speed != 1.0 for node in nodes):
        used.add(Fidelity.SCALED)
    if any(doubts(costs.workload_of(kind), *costs.point) for kind in types):
        used.add(Fidelity.DOUBTFUL)
    return Fidelity.weakest(*used)
