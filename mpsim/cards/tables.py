"""Values as pandas DataFrames: what one looks for first comes first, units stand in the columns' names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mpsim.above import needed
from mpsim.errors import unknown
from mpsim.plan.model import Plan
from mpsim.result.frames import devices_frame
from mpsim.result.model import Result
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload
from mpsim.workload.show import workload_to_dict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plan_frame", "result_frame", "topology_frame", "workload_frame"]

_DEVICE = (
    "device", "count", "compute_fraction", "exposed_communication_fraction", "exposed_launch_fraction", "idle_fraction",
    "peak_memory_bytes", "capacity_bytes", "fits",
)  # fmt: skip
_TOLD = ("name", "type", "memory_bytes")
_LAYER = ("layer", "kind", "forward_s", "backward_s", "parameter_bytes", "output_bytes", "saved_bytes")


def workload_frame(workload: Workload) -> pd.DataFrame:
    """Return a row for each layer, in execution order, at the reference micro-batch."""
    rows = []
    for layer in workload_to_dict(workload)["layers"]:
        named = {"layer": layer.pop("name"), "backward_s": layer["backward_input_s"] + layer["backward_weight_s"]}
        found = named | layer
        rows.append({name: found[name] for name in (*_LAYER, *(name for name in found if name not in _LAYER))})
    return _frame(rows)


def result_frame(result: Result) -> pd.DataFrame:
    """Return a row for each device, those columns first that one looks for first."""
    needed("pandas")
    frame = devices_frame(result)
    return frame[[*(name for name in _DEVICE if name in frame), *(name for name in frame if name not in _DEVICE)]]


def topology_frame(topology: Topology, of: str = "devices") -> pd.DataFrame:
    """Return a row for each device, or each link.

    Raises
    ------
    MpsimError
        Anything else is asked for.
    """
    if of == "links":
        names = ("source", "target", "bandwidth_bytes_per_s", "latency_s", "type")
        return _frame([{name: getattr(link, name) for name in names} for link in topology.links], names)
    if of != "devices":
        raise unknown("table of a topology", str(of), ("devices", "links"))
    leaving: dict[str, list[float]] = {}
    for link in topology.links:
        leaving.setdefault(link.source, []).append(link.bandwidth_bytes_per_s)
    rows = [
        {
            "device": device.name,
            "type": device.type,
            "memory_bytes": device.memory_bytes or None,
            "links": len(leaving.get(device.name, ())),
            "bandwidth_bytes_per_s": sum(leaving.get(device.name, ())),
            **{one.name: getattr(device, one.name) for one in fields(device) if one.name not in _TOLD},
        }
        for device in topology.devices
    ]
    return _frame(rows).astype({"memory_bytes": "Int64"})


def plan_frame(plan: Plan) -> pd.DataFrame:
    """Return a row for each rank: where it stands on each axis, and on which device of the topology's order."""
    devices = plan.devices or range(plan.ranks)
    rows = [{"rank": rank, "device": device, **plan.grid.at(rank)} for rank, device in enumerate(devices)]
    return _frame(rows)


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...] | None = None) -> pd.DataFrame:
    made: pd.DataFrame = needed("pandas").DataFrame(rows, columns=None if columns is None else list(columns))
    return made
