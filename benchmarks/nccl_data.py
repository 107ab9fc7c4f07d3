"""Published measurements of collectives, and the machines that they are of."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mpsim.calibration import Measurement
from mpsim.topology.builders import nodes
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology

DATA = Path(__file__).parent / "data"
LEAST, MOST = 2**10, 2**30

ONE_NODE = {
    "a100_sxm": "dgx_a100:costs=none",
    "h100_sxm": "dgx_h100:costs=none",
    "l40s": "pcie_box:costs=none",
}
# The tables of several nodes, and the machine that each is of; none with costs that were published.
SEVERAL: dict[str, Callable[[int], Topology]] = {
    "aws_2xp5": lambda n: parse_topology(f"aws_p5:{n},costs=none"),
    "gcp_2xa3mega": lambda n: reducing(nodes(n, per_node=8, nics=8, inside="nvlink4", between="roce_200")),
    "i309_4n": lambda n: parse_topology(f"dgx_h100:{n},costs=none"),
    "i309b_2n": lambda n: parse_topology(f"dgx_h100:{n},costs=none"),
    "i309b_8n_tuned": lambda n: parse_topology(f"dgx_h100:{n},costs=none"),
    "cw_h100x64": lambda n: sharp(parse_topology(f"dgx_h100:{n},costs=none")),
    "cscs_gh200_2n": lambda n: nodes(
        n, per_node=4, nics=4, inside="nvlink4", between="slingshot_200", fabric="fully_connected"
    ),
    "aws_2xp3dn": lambda n: nodes(n, per_node=8, inside="nvlink2", between="ib_edr", nics=1),
}


def reducing(topology: Topology) -> Topology:
    return replace(topology, reducing=tuple(name for name in topology.switches if name.endswith("switch")))


def sharp(topology: Topology) -> Topology:
    return replace(topology, reducing=(*topology.reducing, "network"))


def read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def one_node(system: str, version: str = "2.27.3") -> list[Measurement]:
    kinds = {"alltoall": "all_to_all"}
    return [
        Measurement(
            kind=kinds.get(row["op_name"], row["op_name"]),
            ranks=int(row["num_gpus"]),
            bytes=int(row["size_bytes"]),
            seconds=float(row["time_us"]) * 1e-6,
            source=f"{system} {version}:0",
        )
        for row in read("nccl_one_node.csv")
        if (row["system"], row["lib_version"]) == (system, version) and LEAST <= int(row["size_bytes"]) <= MOST
    ]


def several_nodes(table: str) -> list[Measurement]:
    return [
        Measurement(
            kind=row["op"],
            ranks=int(row["n_nodes"]) * int(row["gpus_per_node"]),
            bytes=int(row["size_bytes"]),
            seconds=float(row["time_us"]) * 1e-6,
            source=f"{table}:0",
        )
        for row in read("nccl_several_nodes.csv")
        if row["table_id"] == table and LEAST <= int(row["size_bytes"]) <= MOST
    ]


def profiled(machine: str, ranks: int) -> list[Measurement]:
    """All-reduces inside one node as a profiler saw their kernels, waiting for other ranks included."""
    return [
        Measurement(
            kind="all_reduce",
            ranks=ranks,
            bytes=int(row["size_bytes"]),
            seconds=float(row["median_us"]) * 1e-6,
            source=f"vidur {machine}:0",
        )
        for row in read("nccl_profiled.csv")
        if (row["machine"], int(row["n_gpus"])) == (machine, ranks)
    ]


def node_count(table: str) -> int:
    return next(int(row["n_nodes"]) for row in read("nccl_several_nodes.csv") if row["table_id"] == table)
