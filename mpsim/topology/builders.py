"""Builders of the usual topologies; a new one is a function and a line in BUILDERS.

Every builder takes `device` (a template for all) or `devices` (one for each), as catalog names or Device values, and
its links as a Wire, a catalog name or ``"50GB/s@2us"``. A wire's latency is that of each link, so a path through a
switch has it twice; only a per-message latency (the catalog's effective one) is had once, however many switches lie
between (see Wire). The order in which links are laid decides ties between routes (see Routes).
"""

from __future__ import annotations

from collections.abc import Callable

from mpsim.topology.grids import chain, fully_connected, mesh, product, ring, switch, torus
from mpsim.topology.model import Topology
from mpsim.topology.networks import dragonfly, fat_tree, leaf_spine, nodes

__all__ = [
    "BUILDERS",
    "chain",
    "dragonfly",
    "fat_tree",
    "fully_connected",
    "leaf_spine",
    "mesh",
    "nodes",
    "product",
    "ring",
    "switch",
    "torus",
]

BUILDERS: dict[str, Callable[..., Topology]] = {
    "chain": chain,
    "dragonfly": dragonfly,
    "fat_tree": fat_tree,
    "fully_connected": fully_connected,
    "leaf_spine": leaf_spine,
    "mesh": mesh,
    "nodes": nodes,
    "product": product,
    "ring": ring,
    "switch": switch,
    "torus": torus,
}
