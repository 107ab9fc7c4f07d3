"""Calibrate the catalog's links on published measurements: mpsim/topology/published_costs.json, which presets have.

    python benchmarks/published_costs.py

What is measured of several nodes is fitted with the inside of nodes held at what one node of the kind showed. Tables
that calibrate here judge nothing on the pages that hold presets against measurements.
"""

from __future__ import annotations

from dataclasses import replace

from nccl_data import ONE_NODE, SEVERAL, node_count, one_node, several_nodes

from mpsim.calibration import Measurement, calibrate
from mpsim.topology.costs import CollectiveCost
from mpsim.topology.model import Topology
from mpsim.topology.published import FILE, Provenance, Published, Reached, save_published
from mpsim.topology.spec import parse_topology

# Tables of several nodes that reach from small sizes to large ones, with the machine whose nodes they are made of.
BETWEEN_NODES = {"i309_4n": "h100_sxm", "aws_2xp5": "h100_sxm"}

CITED = {
    "i309_4n": "nccl-tests, 4 nodes of 8 H100 with NDR, NVIDIA/nccl-tests issue 309",
    "aws_2xp5": "nccl-tests, 2 p5.48xlarge, aws-samples/awsome-distributed-training @ 7217859f67",
}


def published() -> Published:
    """Return the costs of all links that were measured, those of one node first."""
    topologies = [_calibrated(parse_topology(preset), one_node(system)) for system, preset in ONE_NODE.items()]
    for table, system in BETWEEN_NODES.items():
        inside = [one for one in one_node(system) if one.kind == "all_reduce"]
        topologies.append(_calibrated(SEVERAL[table](node_count(table)), [*inside, *several_nodes(table)]))
    bandwidths: dict[str, float] = {}
    costs: list[CollectiveCost] = []
    for topology in topologies:
        new = dict.fromkeys(cost.link for cost in topology.costs if cost.link not in bandwidths)
        costs += [cost for cost in topology.costs if cost.link in new]
        bandwidths |= {
            link: max(one.bandwidth_bytes_per_s for one in topology.links if one.type == link) for link in new
        }
    reached = tuple(Reached(link=link, bandwidth_bytes_per_s=one) for link, one in bandwidths.items())
    source = "benchmarks/published_costs.py, from benchmarks/data/nccl_one_node.csv and nccl_several_nodes.csv"
    return Published(reached=reached, costs=tuple(costs), provenance=Provenance(source=source))


def _calibrated(topology: Topology, measured: list[Measurement]) -> Topology:
    return calibrate(topology, [replace(one, source=f"{_cited(one.source)}:0") for one in measured]).topology


def _cited(source: str) -> str:
    """Return a source as who reads a topology file can look it up."""
    name = source.rsplit(":", 1)[0]
    if name in BETWEEN_NODES:
        return CITED[name]
    return f"nccl-tests, {name}, ai-dynamo/aiconfigurator @ 095f58a51c"


if __name__ == "__main__":
    save_published(FILE, published())
    print(f"wrote {FILE}")
