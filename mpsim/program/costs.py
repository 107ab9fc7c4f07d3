"""The cost of each layer on each type of device that a plan uses, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping

from mpsim.errors import MpsimError
from mpsim.topology.model import Topology
from mpsim.workload.costs import cost_at
from mpsim.workload.model import Cost, Fidelity, Workload

__all__ = ["Costs", "weakest"]


class Costs:
    """The cost of each layer on each type of device, at one micro-batch size and shard.

    Parameters
    ----------
    workload : Workload
        For devices of every type that has none of its own.
    by_type : mapping of str to Workload
        The same layers, traced on other types of device.
    microbatch, tensor_parallel : int
        The point of the cost tables.
    """

    def __init__(
        self, workload: Workload, by_type: Mapping[str, Workload], microbatch: int, tensor_parallel: int
    ) -> None:
        self.workload = workload
        self.by_type = by_type
        self._point = (microbatch, tensor_parallel)
        self._tables: dict[str, list[Cost]] = {}
        names = [layer.name for layer in workload.layers]
        for kind, other in by_type.items():
            if [layer.name for layer in other.layers] != names:
                raise MpsimError(
                    f"workload {other.name!r} for device type {kind!r} has {len(other.layers)} layers that are not the"
                    f" {len(names)} of {workload.name!r}: trace the same model at the same --depth"
                )

    def measured_on(self, device_type: str) -> bool:
        """Return whether the costs used for a type of device come from such a device, as far as names tell."""
        workload = self.by_type.get(device_type, self.workload)
        model = device_type.split("-")[0].lower()
        return device_type in self.by_type or model in workload.device.lower()

    def of(self, device_type: str) -> list[Cost]:
        """Return the cost of every layer on a type of device."""
        key = device_type if device_type in self.by_type else ""
        if key not in self._tables:
            workload = self.by_type[key] if key else self.workload
            self._tables[key] = [cost_at(layer, *self._point) for layer in workload.layers]
        return self._tables[key]


def weakest(costs: Costs, topology: Topology, place: tuple[int, ...]) -> Fidelity:
    """Return the weakest fidelity that a plan uses: of its costs, and of scaling them to its devices.

    A cost measured on one type of device that stands for another is scaled, be it by the factor 1.
    """
    nodes = [topology.devices[device] for device in place]
    used = {cost.fidelity for node in nodes for cost in costs.of(node.type)}
    if any(node.speed != 1.0 or not costs.measured_on(node.type) for node in nodes):
        used.add(Fidelity.SCALED)
    return Fidelity.weakest(*used)
