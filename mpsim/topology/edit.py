"""Topologies out of topologies: joined, or with one link or device changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mpsim.errors import MpsimError, did_you_mean
from mpsim.topology.catalog import parse_wire
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire

__all__ = ["join", "replace_bandwidth", "replace_device", "replace_link"]


def replace_link(topology: Topology, source: str, target: str, link: Wire | str, *, both_ways: bool = True) -> Topology:
    """Return the topology with another wire between two nodes that are already joined.

    Parameters
    ----------
    source, target : str
        Names of devices or switches.
    link : Wire or str
        A wire, a catalog name or ``"50GB/s@2us"``; a per-message latency is charged by halves at devices (see Wire).
    both_ways : bool
        Whether the link from `target` to `source` changes too.

    Raises
    ------
    MpsimError
        There is no such link.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> slow = replace_link(ring(4, link="50GB/s@2us"), "d0", "d1", "1GB/s@20us")
    >>> sorted({link.bandwidth_bytes_per_s for link in slow.links})
    [1000000000.0, 50000000000.0]
    """
    wire = parse_wire(link)
    wanted = {(source, target), (target, source)} if both_ways else {(source, target)}
    missing = wanted - {(one.source, one.target) for one in topology.links}
    if missing:
        a, b = min(missing)
        have = [one.target for one in topology.links if one.source == a]
        raise MpsimError(f"topology {topology.name!r} has no link {a!r} -> {b!r}{did_you_mean(b, have)}")
    links = (
        wire.laid(one.source, one.target, topology.switches) if (one.source, one.target) in wanted else one
        for one in topology.links
    )
    return replace(topology, links=tuple(links))


def replace_bandwidth(topology: Topology, type: str, bandwidth_bytes_per_s: float) -> Topology:
    """Return the topology with another bandwidth on all links of a type, and on the wires of cards that are as wide.

    Where links of a type are not alike (one NVLink and two between the GPUs of a DGX-1), the narrowest gets it, for it
    is what holds the others up, and the rest keep their proportion to it.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> {link.bandwidth_bytes_per_s for link in replace_bandwidth(switch(2, link="nvlink4"), "nvlink4", 1e9).links}
    {1000000000.0}
    """
    old = {one.bandwidth_bytes_per_s for one in topology.links if one.type == type}
    times = {wide: 1.0 if wide == min(old) else wide / min(old) for wide in old}
    return replace(
        topology,
        links=tuple(
            replace(one, bandwidth_bytes_per_s=bandwidth_bytes_per_s * times[one.bandwidth_bytes_per_s])
            if one.type == type or (one.type == "host" and one.bandwidth_bytes_per_s in old)
            else one
            for one in topology.links
        ),
    )


def replace_device(topology: Topology, name: str, **changes: Any) -> Topology:
    """Return the topology with some fields of one device changed.

    Raises
    ------
    MpsimError
        There is no such device.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> replace_device(ring(2, link="50GB/s@2us"), "d1", speed=0.5).devices[1].speed
    0.5
    """
    names = [device.name for device in topology.devices]
    if name not in names:
        raise MpsimError(f"topology {topology.name!r} has no device {name!r}{did_you_mean(name, names)}")
    devices = (replace(one, **changes) if one.name == name else one for one in topology.devices)
    return replace(topology, devices=tuple(devices))


def join(
    a: Topology,
    b: Topology,
    link: Wire | str,
    *,
    at: Sequence[tuple[str, str]],
    prefixes: tuple[str, str] = ("a.", "b."),
    name: str = "",
) -> Topology:
    """Return one topology of two, with a wire between each pair of nodes in `at`.

    Parameters
    ----------
    a, b : Topology
        The devices of `a` come first.
    link : Wire or str
        Laid both ways; a per-message latency is charged by halves at devices (see Wire).
    at : sequence of (str, str)
        A node of `a` and a node of `b`, by their own names.
    prefixes : (str, str)
        Put before the names of either side.

    Raises
    ------
    MpsimError
        A node that is not there, or names that clash.

    Examples
    --------
    >>> from mpsim.topology.builders import ring, switch
    >>> both = join(ring(4, link="64GB/s@1us"), switch(4, link="50GB/s@2us"), "10GB/s@5us", at=[("d0", "switch")])
    >>> both.devices[0].name, both.devices[4].name, both.links[-1].source
    ('a.d0', 'b.d0', 'b.switch')
    """
    first, second = _prefixed(a, prefixes[0]), _prefixed(b, prefixes[1])
    wire, switches = parse_wire(link), first.switches + second.switches
    ends = [(prefixes[0] + left, prefixes[1] + right) for left, right in at]
    wires = [wire.laid(*pair, switches) for left, right in ends for pair in ((left, right), (right, left))]
    return Topology(
        name=name or f"{a.name}+{b.name}",
        devices=first.devices + second.devices,
        switches=switches,
        links=(*first.links, *second.links, *wires),
    )


def _prefixed(topology: Topology, prefix: str) -> Topology:
    def device(one: Device) -> Device:
        return replace(one, name=prefix + one.name)

    def link(one: Link) -> Link:
        return replace(one, source=prefix + one.source, target=prefix + one.target)

    return replace(
        topology,
        devices=tuple(map(device, topology.devices)),
        switches=tuple(prefix + name for name in topology.switches),
        links=tuple(map(link, topology.links)),
    )
