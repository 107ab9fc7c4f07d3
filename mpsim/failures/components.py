"""What of a topology a plan stands on and can fail: its devices, their nodes, the wires that its bytes take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mpsim.errors import MpsimError, did_you_mean
from mpsim.failures.draws import Floats
from mpsim.failures.model import Event, Failures
from mpsim.topology.levels import Groups, find_levels
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["Component", "Components", "components_of", "known_types", "nodes_of"]


class Component(NamedTuple):
    """Something that stops the run when it fails.

    Attributes
    ----------
    name : str
        Of a device; ``node:3``; ``a->b`` of a wire.
    replicas : frozenset of int
        Of the plan, those with a device that is out with it.
    swapped : bool
        Whether a spare node can take its place; a wire between switches has to be repaired.
    mtbf_s : float
        Mean time between its failures.
    """

    name: str
    replicas: frozenset[int]
    swapped: bool
    mtbf_s: float


class Components(NamedTuple):
    """All that a plan stands on.

    Attributes
    ----------
    each : tuple of Component
        Devices, nodes, wires.
    scales : array, shape (components,)
        Their mean times between failures.
    nodes : int
        How many nodes there are.
    """

    each: tuple[Component, ...]
    scales: Floats
    nodes: int

    @property
    def rate_per_s(self) -> float:
        """Failures in a second, of all together."""
        return float(np.sum(1.0 / self.scales)) if len(self.scales) else 0.0

    def by_name(self) -> dict[str, int]:
        """Return where each stands, by name."""
        return {one.name: i for i, one in enumerate(self.each)}


def nodes_of(routes: Routes, devices: Sequence[int]) -> Groups:
    """Return which devices stand in one node: the innermost of several levels; without levels each by itself.

    Examples
    --------
    >>> from mpsim.topology.spec import parse_topology
    >>> nodes_of(Routes(parse_topology("nodes:2,per_node=2,nics=2,inside=nvlink4,between=ib_ndr")), range(4))
    ((0, 1), (2, 3))
    >>> nodes_of(Routes(parse_topology("switch:2,link=nvlink4")), range(2))
    ((0,), (1,))
    """
    levels = find_levels(routes, devices)
    return levels[0] if len(levels) > 1 else tuple((device,) for device in devices)


def components_of(
    topology: Topology, place: Sequence[int], replica: Sequence[int], links: Collection[int], failures: Failures
) -> Components:
    """Return what a plan stands on.

    Parameters
    ----------
    topology : Topology
        Where it stands.
    place, replica : sequence of int
        The device, and the replica, of each rank.
    links : collection of int
        Indices of the links that carry its bytes; the two directions of a wire are one.
    failures : Failures
        How often each fails.

    Examples
    --------
    >>> from mpsim.topology.spec import parse_topology
    >>> found = components_of(parse_topology("ring:2,link=1GB/s@0"), [0, 1], [0, 1], [0], Failures(mtbf_s=100.0))
    >>> [one.name for one in found.each], found.rate_per_s
    (['d0', 'd1', 'node:0', 'node:1', 'd0->d1'], 0.02)
    """
    of = {device: frozenset([at]) for device, at in zip(place, replica, strict=True)}
    nodes = nodes_of(Routes(topology), place)
    found = []
    for device in place:
        node = topology.devices[device]
        found.append(Component(node.name, frozenset(), True, float(failures.by_type.get(node.type, failures.mtbf_s))))
    around: dict[int, frozenset[int]] = {}
    for group in nodes:
        replicas = frozenset().union(*(of[device] for device in group))
        around |= dict.fromkeys(group, replicas)
    # A device is swapped with its node: the replicas of all the node's devices are out.
    found = [one._replace(replicas=around[device]) for one, device in zip(found, place, strict=True)]
    found += [
        Component(f"node:{i}", around[group[0]], True, float(failures.node_mtbf_s)) for i, group in enumerate(nodes)
    ]
    found += _wires(topology, links, {topology.devices[device].name: around[device] for device in place}, failures)
    return Components(tuple(found), np.array([one.mtbf_s for one in found], dtype=float), len(nodes))


def _wires(
    topology: Topology, links: Iterable[int], around: Mapping[str, frozenset[int]], failures: Failures
) -> list[Component]:
    everyone = frozenset().union(*around.values())
    seen, found = set(), []
    for i in sorted(links):
        link = topology.links[i]
        ends = frozenset((link.source, link.target))
        if ends in seen:
            continue
        seen.add(ends)
        # A wire at a device is swapped with its node, the one of the two that has it.
        own = next((around[end] for end in (link.source, link.target) if end in around), None)
        mtbf_s = float(failures.link_by_type.get(link.type, failures.link_mtbf_s))
        found.append(Component(f"{link.source}->{link.target}", own or everyone, own is not None, mtbf_s))
    return found


def known_types(topology: Topology, failures: Failures) -> None:
    """Refuse a mean time between failures of a type that the topology has not.

    Raises
    ------
    MpsimError
        Which, and what it has.
    """
    for what, asked, have in (
        ("device", failures.by_type, {device.type for device in topology.devices}),
        ("link", failures.link_by_type, {link.type for link in topology.links}),
    ):
        for kind in asked:
            if kind not in have:
                raise MpsimError(
                    f"no {what} of topology {topology.name!r} has type {kind!r}{did_you_mean(kind, filter(None, have))}"
                )


def listed_index(event: Event, components: Components, names: Mapping[str, int], topology: Topology) -> int | None:
    """Return which component a listed event is of; None of one that the plan does not use.

    Raises
    ------
    MpsimError
        The topology has no such device, node or link.
    """
    source, arrow, target = event.what.partition("->")
    for name in (event.what, f"{target}->{source}" if arrow else ""):
        if name in names:
            return names[name]
    ends = {(link.source, link.target) for link in topology.links}
    if any(device.name == event.what for device in topology.devices) or (source, target) in ends:
        return None
    if event.what.startswith("node:"):
        raise MpsimError(f"the plan stands on {components.nodes} nodes, from node:0 on, not on {event.what!r}")
    known = [device.name for device in topology.devices]
    near = did_you_mean(event.what, known) if len(known) < 100 else ""
    raise MpsimError(f"no device, node or link {event.what!r}: write d3, node:0 or a->b{near}")
