"""Read what the command line names: workloads, topologies, and workloads by type of device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpsim.errors import MpsimError
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Workload
from mpsim.workload.reading import read_workload

if TYPE_CHECKING:
    from mpsim.sweeps import SweepResult

__all__ = ["costs_by_type", "read_pair", "read_sweeps"]


def read_pair(workload: str, topology: str) -> tuple[Workload, Topology]:
    """Return a workload and a topology.

    Raises
    ------
    MpsimError
        Either cannot be read; of two that are swapped, that they are.
    """
    if not Path(workload).exists() and ":" in workload and (":" not in topology or Path(topology).exists()):
        raise MpsimError(
            f"{workload!r} is a topology where a workload is due: give the workload first, {topology!r} next"
        )
    return read_workload(workload), parse_topology(topology)


def costs_by_type(texts: Iterable[str], topology: Topology) -> dict[str, Workload]:
    """Return the workloads of ``TYPE=FILE`` words.

    Raises
    ------
    MpsimError
        Not such a word, a type given twice, or one that no device of the topology has.
    """
    from mpsim.errors import did_you_mean

    found: dict[str, Workload] = {}
    types = {device.type for device in topology.devices if device.type}
    for text in texts:
        kind, equals, path = (part.strip() for part in text.partition("="))
        if not (kind and equals and path):
            raise MpsimError(f"--costs {text!r}: write TYPE=FILE, as in A100-SXM4-40GB=gpt2.a100.json")
        if kind in found:
            raise MpsimError(f"--costs gives type {kind!r} twice: leave one out")
        if kind not in types:
            hint = did_you_mean(kind, types) if types else ": none has a type; write device=… or type=… in the topology"
            raise MpsimError(f"--costs: topology {topology.name!r} has no device of type {kind!r}{hint}")
        found[kind] = read_workload(path)
    return found


def read_sweeps(paths: Sequence[str]) -> list[SweepResult]:
    """Return the sweeps of tables.

    Raises
    ------
    MpsimError
        As `mpsim.sweeps.load_sweep`, or one is given twice.
    """
    from mpsim.sweeps import load_sweep

    files = [Path(path).resolve() for path in paths]
    if twice := next((path for path, file in zip(paths, files, strict=True) if files.count(file) > 1), None):
        raise MpsimError(f"{twice} is given twice: leave one out")
    return [load_sweep(path) for path in paths]
