"""Hosts: where a device may put what it need not hold itself, over links of the topology."""

from __future__ import annotations

from dataclasses import replace

from mpsim.topology.model import Link, Topology
from mpsim.topology.wire import Wire

__all__ = ["with_hosts"]


def with_hosts(topology: Topology, wire: Wire) -> Topology:
    """Return a topology in which each device has a host of its own behind such a wire, which nothing else uses.

    Devices that share a way to a host, or a network card's, say so in a file: each names the switch that stands for it.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> made = with_hosts(ring(2, link="50GB/s@2us"), Wire(25e9, 1e-6))
    >>> made.devices[1].host, len(made.links)
    ('d1.host', 6)
    """
    names = {device.name: f"{device.name}.host" for device in topology.devices}
    links = [
        Link(
            source=source,
            target=target,
            bandwidth_bytes_per_s=wire.bandwidth_bytes_per_s,
            latency_s=wire.latency_s,
            type=wire.type,
        )
        for device, host in names.items()
        for source, target in ((device, host), (host, device))
    ]
    return replace(
        topology,
        devices=tuple(replace(device, host=names[device.name]) for device in topology.devices),
        switches=(*topology.switches, *names.values()),
        links=(*topology.links, *links),
    )
