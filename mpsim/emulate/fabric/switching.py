"""The switch in user space: takes packets from the ranks' tunnel devices and hands them over when they are due."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from mpsim.emulate.fabric.namespaces import VNET_HEADER_BYTES
from mpsim.emulate.fabric.queueing import Queueing
from mpsim.emulate.fabric.wiring import Wiring

__all__ = ["Switch"]

_READS = 4  # Packets taken from one rank before the others have their turn.
_PACKET_BYTES = 65_536 + VNET_HEADER_BYTES
_IP = VNET_HEADER_BYTES
_TCP = _IP + 20  # The kernels inside send no IP options.
_IS_TCP = 6


class Switch:
    """One end for each rank, and the links between them.

    Parameters
    ----------
    wiring : Wiring
    ends : sequence of int
        Descriptors of the tunnel devices, in the order of the wiring's hosts; not blocking.
    control : int
        A descriptor that wakes the switch when there is something to be read from it.
    """

    def __init__(self, wiring: Wiring, ends: Sequence[int], control: int) -> None:
        self._network: Queueing[tuple[int, bytes]] = Queueing(wiring.links)
        by_address = {_packed(host.address): end for host, end in zip(wiring.hosts, ends, strict=True)}
        # Of each end, by the other's packed address: the other's descriptor and the links of the way there.
        self._ways = {
            end: {_packed(a): (by_address[_packed(a)], route.links) for a, route in host.routes.items()}
            for host, end in zip(wiring.hosts, ends, strict=True)
        }
        self._control = control
        self._watched = [control, *ends]

    def run(self, until_s: float) -> bool:
        """Carry packets until a time of the monotonic clock; return whether the control descriptor was readable."""
        network, clock = self._network, time.monotonic
        while (now_s := clock()) < until_s:
            for end, packet in network.due(now_s):
                os.write(end, packet)
            wait_s = min(network.next_s(), until_s) - clock()
            readable, _, _ = select.select(self._watched, (), (), max(0.0, wait_s))
            for end in readable:
                if end == self._control:
                    return True
                self._take(end)
        return False

    def _take(self, end: int) -> None:
        """Put what a rank has sent onto its first link."""
        ways = self._ways[end]
        for _ in range(_READS):
            try:
                packet = os.read(end, _PACKET_BYTES)
            except BlockingIOError:
                return
            way = ways.get(packet[_IP + 16 : _IP + 20])
            if way is None:  # To nobody: a multicast, say.
                continue
            target, links = way
            # Source, destination and both ports: one TCP connection, one way. Bare acknowledgements have a turn of
            # their own: a host keeps few bytes before its card (TCP small queues), a tunnel device lets go of all at
            # once, and acknowledgements behind them all would take a fifth off what goes both ways.
            size = _payload_bytes(packet)
            flow = (packet[_IP + 12 : _IP + 24], size > 0)
            self._network.send(time.monotonic(), flow=flow, path=links, size_bytes=size, item=(target, packet))


def _payload_bytes(packet: bytes) -> int:
    """Return the bytes of a message in a packet: a topology's bandwidth is what messages reach, headers aside."""
    size = len(packet) - _TCP
    if packet[_IP + 9] == _IS_TCP:
        size -= (packet[_TCP + 12] >> 4) * 4
    return size


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))
