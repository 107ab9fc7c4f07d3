"""What the fabric imposes, worked out before anything is made: links, paths, addresses and TCP's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["HEADER_BYTES", "Host", "Route", "Wiring", "wire_up"]

HEADER_BYTES = 52  # IPv4 20, TCP 20, its time stamps 12.
# With all ranks sending. Finer packets interleave better, and cost the switch more of a processor that the ranks need:
# each packet takes it some 0.1 ms with its acknowledgement.
_PACKETS_PER_S = 4_000
_MTU_BYTES = (1_500, 65_000)
_WINDOW_PACKETS = 4  # Beyond bandwidth × round trip: those on their way through the two kernels and the switch.
# And what a sender that has to wait for its turn at the processor may be late.
_WINDOW_S = 8e-3
_WINDOW_BYTES = (64 * 2**10, 32 * 2**20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """From one rank to another: the links of the path, and TCP's settings on it.

    Attributes
    ----------
    links : tuple of int
        Indices into the wiring's links.
    mtu_bytes : int
        A packet with its headers.
    window_packets : int
        The initial congestion window: as much as the send buffer holds, so that there is no slow start.
    """

    links: tuple[int, ...]
    mtu_bytes: int
    window_packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One rank's end.

    Attributes
    ----------
    address : str
    routes : dict of str to Route
        By the address of the other rank.
    send_buffer_bytes : int
        What the kernel takes off a sender's hands before the bytes have gone: half as much again as is under way,
        because a sender is woken only when a third of it is free.
    """

    address: str
    routes: dict[str, Route]
    send_buffer_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The whole fabric.

    Attributes
    ----------
    links : tuple of (float, float)
        Bandwidth in bytes per second and latency in seconds.
    hosts : tuple of Host
        By position of the rank.
    """

    links: tuple[tuple[float, float], ...]
    hosts: tuple[Host, ...]


def address(position: int) -> str:
    """Return the address of the rank at a position.

    Examples
    --------
    >>> address(0), address(254)
    ('10.77.0.1', '10.77.1.1')
    """
    return f"10.77.{position // 254}.{position % 254 + 1}"


def wire_up(topology: Topology, ranks: Sequence[int]) -> Wiring:
    """Return what joins these devices of a topology.

    Parameters
    ----------
    topology : Topology
        Every path takes the links that the simulator's messages take.
    ranks : sequence of int
        Devices, by index.

    Raises
    ------
    MpsimError
        No such device, or one named twice.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> wiring = wire_up(switch(4, link="100Mbit/s@1ms"), [0, 3])
    >>> wiring.hosts[0].routes["10.77.0.2"]
    Route(links=(0, 7), mtu_bytes=6302, window_packets=43)
    """
    if len(set(ranks)) < len(ranks):
        twice = next(rank for rank in ranks if list(ranks).count(rank) > 1)
        raise MpsimError(f"device {twice} is given to two ranks: one process stands for one device")
    routes = Routes(topology)
    links = tuple((link.bandwidth_bytes_per_s, link.latency_s) for link in topology.links)
    hosts: list[Host] = []
    for a in ranks:
        under_way = {b: _under_way_bytes(routes, a, b, len(ranks)) for b in ranks if b != a}
        buffer = max(under_way.values(), default=0) * 3 // 2
        ways = {address(i): _route(routes, (a, b), len(ranks), buffer) for i, b in enumerate(ranks) if b != a}
        hosts.append(Host(address=address(len(hosts)), routes=ways, send_buffer_bytes=max(buffer, _WINDOW_BYTES[0])))
    return Wiring(links=links, hosts=tuple(hosts))


def _mtu_bytes(routes: Routes, a: int, b: int, ranks: int) -> int:
    """Return the size of packet with which a rank's share of packets fills the narrowest link, there or back."""
    narrowest = min(routes.bandwidth_bytes_per_s(routes.path(*pair)) for pair in ((a, b), (b, a)))
    low, high = _MTU_BYTES
    return int(max(low, min(high, HEADER_BYTES + narrowest * ranks / _PACKETS_PER_S)))


def _under_way_bytes(routes: Routes, a: int, b: int, ranks: int) -> int:
    """Return what must be under way for the path to be full: bandwidth × round trip, and some packets."""
    there, back = routes.path(a, b), routes.path(b, a)
    bandwidth = routes.bandwidth_bytes_per_s(there)
    round_trip_s = routes.latency_s(there) + routes.latency_s(back) + _WINDOW_S
    filled = math.inf if math.isinf(bandwidth) else bandwidth * round_trip_s
    return int(min(filled + _WINDOW_PACKETS * _mtu_bytes(routes, a, b, ranks), _WINDOW_BYTES[1]))


def _route(routes: Routes, way: tuple[int, int], ranks: int, buffer_bytes: int) -> Route:
    mtu = _mtu_bytes(routes, *way, ranks)
    packets = max(10, math.ceil(max(buffer_bytes, _WINDOW_BYTES[0]) / (mtu - HEADER_BYTES)))
    return Route(links=routes.path(*way), mtu_bytes=mtu, window_packets=packets)
