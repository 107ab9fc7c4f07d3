"""Measured collectives beside what a calibration on other measurements predicts: docs/nccl-validation.md.

    python benchmarks/nccl_validation.py

Each section says which rows calibrated and which were predicted; none is in both.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mpsim.calibrate import Measurement, calibrate
from mpsim.calibrate.run import geometric_mean_error
from mpsim.documents import write_text
from mpsim.program.choice import alone_s, choose
from mpsim.topology.builders import nodes
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.units import format_bytes

DATA = Path(__file__).parent / "data"
PAGE = Path(__file__).parents[1] / "docs" / "nccl-validation.md"
LEAST, MOST, LARGE = 2**10, 2**30, 2**20

ONE_NODE = {"a100_sxm": "dgx_a100", "h100_sxm": "dgx_h100", "l40s": "pcie_box"}
# The tables of several nodes, and the machine that each is of.
SEVERAL: dict[str, Callable[[int], Topology]] = {
    "aws_2xp5": lambda n: parse_topology(f"aws_p5:{n}"),
    "gcp_2xa3mega": lambda n: reducing(nodes(n, per_node=8, inside="nvlink4", between="roce_200")),
    "i309_4n": lambda n: parse_topology(f"dgx_h100:{n}"),
    "i309b_2n": lambda n: parse_topology(f"dgx_h100:{n}"),
    "i309b_8n_tuned": lambda n: parse_topology(f"dgx_h100:{n}"),
    "cw_h100x64": lambda n: sharp(parse_topology(f"dgx_h100:{n}")),
    "cscs_gh200_2n": lambda n: nodes(
        n, per_node=4, inside="nvlink4", between="slingshot_200", fabric="fully_connected"
    ),
    "aws_2xp3dn": lambda n: nodes(n, per_node=8, inside="nvlink2", between="ib_edr", nics=1),
}


class Row(NamedTuple):
    """How well some rows are predicted."""

    machine: str
    kind: str
    errors: tuple[tuple[int, float], ...]

    def cells(self) -> str:
        every = [error for _, error in self.errors]
        large = [error for size, error in self.errors if size >= LARGE]
        worst = max(self.errors, key=lambda one: abs(one[1]))
        big = f"{100 * geometric_mean_error(large):.1f}" if large else ""
        return (
            f"| {self.machine} | {self.kind} | {len(every)} | {100 * geometric_mean_error(every):.1f} | {big} |"
            f" {100 * worst[1]:+.0f} at {format_bytes(worst[0])} |"
        )


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


def predict(topology: Topology, points: Iterable[Measurement], machine: str) -> list[Row]:
    """Return one row for each kind of collective."""
    routes = Routes(topology)
    found: dict[str, list[tuple[int, float]]] = {}
    for one in points:
        ranks = tuple(range(one.ranks))
        name = choose(routes, one.kind, ranks, one.bytes)
        error = alone_s(routes, one.kind, name, ranks, one.bytes) / one.seconds - 1
        found.setdefault(one.kind, []).append((one.bytes, error))
    return [Row(machine, kind, tuple(errors)) for kind, errors in sorted(found.items())]


def halves(points: Sequence[Measurement]) -> tuple[list[Measurement], list[Measurement]]:
    """Return every other size, and the rest."""
    kept = set(sorted({one.bytes for one in points})[::2])
    return [one for one in points if one.bytes in kept], [one for one in points if one.bytes not in kept]


def half_the_sizes() -> list[Row]:
    rows = []
    for system, preset in ONE_NODE.items():
        known, asked = halves(one_node(system))
        rows += predict(calibrate(parse_topology(preset), known).topology, asked, system)
    return rows


def four_of_two_and_eight() -> list[Row]:
    rows = []
    for system, preset in ONE_NODE.items():
        points = one_node(system)
        known = [one for one in points if one.ranks != 4]
        asked = [one for one in points if one.ranks == 4]
        rows += predict(calibrate(parse_topology(preset), known).topology, asked, system)
    return rows


def another_release() -> list[Row]:
    known = one_node("h100_sxm")
    return predict(calibrate(parse_topology("dgx_h100"), known).topology, one_node("h100_sxm", "2.29.2"), "h100_sxm")


def several_half_the_sizes() -> list[Row]:
    rows = []
    for table, machine in SEVERAL.items():
        known, asked = halves(several_nodes(table))
        if len({one.bytes for one in known}) >= 4:
            topology = machine(_count(table))
            rows += predict(calibrate(topology, known).topology, asked, table)
    return rows


def _count(table: str) -> int:
    return next(int(row["n_nodes"]) for row in read("nccl_several_nodes.csv") if row["table_id"] == table)


def one_node_to_several() -> list[Row]:
    """Calibrate inside a node; what is between nodes is the catalog's, and nothing of it was measured here."""
    known = [one for one in one_node("h100_sxm") if one.kind == "all_reduce"]
    rows = []
    for table in ("aws_2xp5", "gcp_2xa3mega", "i309_4n", "i309b_2n", "i309b_8n_tuned", "cw_h100x64"):
        topology = calibrate(SEVERAL[table](_count(table)), known).topology
        rows += predict(topology, several_nodes(table), table)
    return rows


def two_nodes_to_eight() -> list[Row]:
    known = [one for one in one_node("h100_sxm") if one.kind == "all_reduce"] + several_nodes("i309b_2n")
    topology = calibrate(parse_topology("dgx_h100:8"), known).topology
    return predict(topology, several_nodes("i309b_8n_tuned"), "i309b_8n_tuned") + predict(
        topology, several_nodes("i309_4n"), "i309_4n (another cluster)"
    )


SECTIONS: tuple[tuple[str, str, Callable[[], list[Row]]], ...] = (
    (
        "Half of the sizes, the other half predicted",
        "One node, 2, 4 and 8 GPUs. Every other size from 1 KiB on calibrates.",
        half_the_sizes,
    ),
    (
        "2 and 8 GPUs, 4 predicted",
        "All sizes over 2 and 8 GPUs calibrate. On the PCIe box 4 GPUs are the first to cross a socket's host bridge,"
        " which neither 2 nor all 8 are limited by: nothing measured tells its bandwidth, and the catalog's is of one"
        " port. That row is a failure of the data to tell, and stands as it is.",
        four_of_two_and_eight,
    ),
    (
        "Another release of NCCL",
        "All H100 rows of NCCL 2.27.3 calibrate, those of 2.29.2 are predicted: how far a calibration carries.",
        another_release,
    ),
    (
        "Several nodes: half of the sizes, the other half predicted",
        "Each table of several nodes on its own; the inside of nodes is the catalog's.",
        several_half_the_sizes,
    ),
    (
        "One node, several predicted",
        "H100 rows of 2, 4 and 8 GPUs calibrate the inside of a node. Between nodes nothing was measured: bandwidth and"
        " latency are the catalog's, and the tables are of other clusters than the calibration.",
        one_node_to_several,
    ),
    (
        "Two nodes, more predicted",
        "H100 rows of one node and the 2-node table of one cluster calibrate; 8 nodes of it (tuned otherwise, as its"
        " owner writes) and 4 of another are predicted.",
        two_nodes_to_eight,
    ),
)

INTRODUCTION = """# Predicted and measured collectives

Made by `python benchmarks/nccl_validation.py`, checked by `tests/calibrate/test_nccl_validation.py`. The measurements
are others', by nccl-tests; `benchmarks/data/` has them with their sources. They are calibrated on as `mpsim calibrate`
does, and the algorithm is what `auto` chooses. Sizes are 1 KiB to 1 GiB. In each section the rows that calibrate and
those that are predicted are apart. Errors are in percent: the geometric mean over all sizes, and over those of 1 MiB
and more; the worst is signed, above 0 if more time is predicted than was measured.

What was chosen by looking at these figures: that a curve has up to four regimes and is interpolated between them on log
scales, that a rank's own part costs something, and that NVLS is taken from some size on (on the A100 and H100 rows of
the first two sections). That a regime needs three points was decided with all sections in view. Nothing else was, and
no constant is fitted to rows that are judged.
"""


RANGES = (("1 KiB to 512 KiB", 2**10, 2**19), ("1 to 8 MiB", 2**20, 2**23), ("16 MiB to 1 GiB", 2**24, 2**30))


def by_size(rows: Sequence[Row]) -> str:
    """Return where the errors of the NVSwitch machines stand."""
    errors = [one for row in rows if row.machine != "l40s" for one in row.errors]
    cells = []
    for name, least, most in RANGES:
        found = [error for size, error in errors if least <= size <= most]
        cells.append(f"{name}: {100 * geometric_mean_error(found):.1f} % ({len(found)} points)")
    return (
        "## By size\n\nA100 and H100, the first two sections together. "
        + "; ".join(cells)
        + ". Between 1 and 8 MiB NCCL"
        " changes to its protocol for large messages before that pays, by up to a factor of two from one size to the"
        " next: at which size it does so for a number of ranks that was not measured, no curve can know.\n"
    )


def page() -> str:
    head = "| machine | collective | points | error % | from 1 MiB on % | worst % |\n|---|---|---|---|---|---|\n"
    parts = [INTRODUCTION]
    first: list[Row] = []
    for title, about, make in SECTIONS:
        rows = make()
        first += rows if make in (half_the_sizes, four_of_two_and_eight) else []
        total = Row("all", "", tuple(error for row in rows for error in row.errors))
        parts.append(f"## {title}\n\n{about}\n\n{head}" + "\n".join(row.cells() for row in (*rows, total)) + "\n")
    return "\n".join([*parts, by_size(first)])


if __name__ == "__main__":
    write_text(PAGE, page())
    print(f"wrote {PAGE}")
