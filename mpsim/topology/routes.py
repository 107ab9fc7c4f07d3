"""Routes: which links a message takes from one device to another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from mpsim.errors import MpsimError, unknown
from mpsim.topology.model import Topology

__all__ = ["Routes"]

_ATTOSECONDS = 1e18  # Latencies are compared as whole attoseconds, so that a + b + a equals a + a + b.


class Routes:
    """The routes of a topology, each found when it is first asked for.

    A route has the fewest links; of those the least latency; of those the widest bottleneck. What still ties is decided
    by the order of the topology's links, compared from the target backwards, except between switches that serve
    equally well: there the target's index picks one (destination-modulo routing, as in InfiniBand fat trees), so that
    the targets of one leaf come over different spines. A builder that lays dimension 0 first thus gets dimension-order
    routing: the last dimension is travelled first.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> routes = Routes(chain(3, link="50GB/s@2us"))
    >>> routes.path(0, 2), routes.latency_s(routes.path(0, 2))
    ((0, 1), 4e-06)
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        names = [device.name for device in topology.devices] + list(topology.switches)
        self._devices = len(topology.devices)
        self._index = {name: i for i, name in enumerate(names)}
        self._out: list[dict[int, int]] = [{} for _ in names]
        self._in: list[dict[int, int]] = [{} for _ in names]
        for i, link in enumerate(topology.links):
            source, target = self._index[link.source], self._index[link.target]
            self._out[source][target] = i
            self._in[target][source] = i
        self._found: dict[tuple[int, int], tuple[int, ...]] = {}

    def path(self, a: int, b: int) -> tuple[int, ...]:
        """Return the links from device `a` to device `b`, as indices into the topology's links.

        Raises
        ------
        MpsimError
            There is no such device.

        Examples
        --------
        >>> from mpsim.topology.builders import ring
        >>> Routes(ring(4, link="50GB/s@2us")).path(1, 1)
        ()
        """
        for device in (a, b):
            if not 0 <= device < self._devices:
                raise MpsimError(f"no device {device}: topology {self.topology.name!r} has {self._devices}, from 0")
        direct = self._out[a].get(b)
        if direct is not None:
            return (direct,)
        found = self._found.get((a, b))
        if found is None:
            found = self._found[a, b] = self._search(a, b) if a != b else ()
        return found

    def host_path(self, device: int, away: bool) -> tuple[int, ...]:
        """Return the links from a device to its host, or back.

        Raises
        ------
        MpsimError
            It has none, or there is no way.

        Examples
        --------
        >>> from mpsim.topology.builders import ring
        >>> from mpsim.topology.hosts import with_hosts
        >>> from mpsim.topology.wire import Wire
        >>> routes = Routes(with_hosts(ring(2, link="50GB/s@2us"), Wire(25e9, 1e-6)))
        >>> routes.host_path(1, away=True), routes.host_path(1, away=False)
        ((4,), (5,))
        """
        node = self.topology.devices[device]
        if not node.host:
            raise MpsimError(
                f"device {node.name!r} of topology {self.topology.name!r} has no host to offload to: add"
                " offload=25GB/s@1us to a builder, or say a device's host in a file"
            )
        ends = (device, self._index[node.host]) if away else (self._index[node.host], device)
        if ends not in self._found:
            self._found[ends] = self._search(*ends)
        return self._found[ends]

    def link_index(self, source: str, target: str) -> int:
        """Return the index of the link between two nodes, devices or switches, by name.

        Raises
        ------
        MpsimError
            No such node, or no such link.

        Examples
        --------
        >>> from mpsim.topology.builders import ring
        >>> Routes(ring(4, link="50GB/s@2us")).link_index("d3", "d0")
        3
        """
        for name in (source, target):
            if name not in self._index:
                raise unknown("node", name, self._index)
        index = self._out[self._index[source]].get(self._index[target])
        if index is None:
            raise MpsimError(
                f"topology {self.topology.name!r} has no link {source!r} -> {target!r}: add one, or use path"
            )
        return index

    def tree(self, root: str, devices: Sequence[int]) -> dict[int, tuple[int, ...]] | None:
        """Return the links by which each device reaches a switch, those of all together a tree; None if one cannot.

        Each way has the fewest links; what ties goes by the order of the links.

        Examples
        --------
        >>> from mpsim.topology.builders import switch
        >>> Routes(switch(2, link="50GB/s@2us")).tree("switch", (0, 1))
        {0: (0,), 1: (1,)}
        """
        towards = {self._index[root]: -1}
        frontier = list(towards)
        for node in frontier:
            for source, link in self._in[node].items():
                # Other devices do not pass on what is on its way to be reduced.
                if source not in towards and (node >= self._devices):
                    towards[source] = link
                    frontier.append(source)
        if not all(device in towards for device in devices):
            return None
        ways = {}
        for device in devices:
            node, way = device, []
            while (link := towards[node]) >= 0:
                way.append(link)
                node = self._index[self.topology.links[link].target]
            ways[device] = tuple(way)
        return ways

    def latency_s(self, path: Sequence[int]) -> float:
        """Return the latency of a message over these links, in seconds: the sum of theirs."""
        return math.fsum(self.topology.links[i].latency_s for i in path)

    def bandwidth_bytes_per_s(self, path: Sequence[int]) -> float:
        """Return the bandwidth of the narrowest of these links; ``inf`` where there are none."""
        return min((self.topology.links[i].bandwidth_bytes_per_s for i in path), default=math.inf)

    def _search(self, a: int, b: int) -> tuple[int, ...]:
        levels = self._levels(a, b)
        arrivals = self._arrivals(levels)
        node, spread, path = b, b, []
        while node != a:
            options = arrivals[node]
            choice, spread = self._choose(options, spread)
            path.append(options[choice][1])
            node = options[choice][0]
        return tuple(reversed(path))

    def _choose(self, options: list[tuple[int, int]], spread: int) -> tuple[int, int]:
        """Return which of several equal (node, link) to arrive by, and what is left to choose by further on."""
        if len(options) > 1 and all(node >= self._devices for node, _ in options):
            return spread % len(options), spread // len(options)
        return 0, spread

    def _levels(self, a: int, b: int) -> list[set[int]]:
        """Return, for each number of links from `a`, the nodes there that lie on a shortest path to `b`.

        Both ends search towards each other, the one with fewer links to look at first: through a switch of a
        thousand ports this looks at two links.
        """
        ahead, behind = [{a}], [{b}]
        seen_ahead, seen_behind = {a}, {b}
        while not (met := ahead[-1] & behind[-1]):
            if not ahead[-1] or not behind[-1]:
                raise MpsimError(f"no way from device {a} to device {b}: add a link or a switch")
            if _degree(self._out, ahead[-1]) <= _degree(self._in, behind[-1]):
                _advance(self._out, ahead, seen_ahead)
            else:
                _advance(self._in, behind, seen_behind)
        return _thread(self._in, ahead, met)[::-1] + _thread(self._out, behind, met)[1:]

    def _arrivals(self, levels: list[set[int]]) -> dict[int, list[tuple[int, int]]]:
        """Return the (node, link) pairs by which each node is best reached, in the order of the links."""
        links = self.topology.links
        best: dict[int, tuple[int, float]] = dict.fromkeys(levels[0], (0, -math.inf))
        arrivals: dict[int, list[tuple[int, int]]] = {}
        for before, here in itertools.pairwise(levels):
            for node in here:
                ways = []
                for source in before & self._in[node].keys():
                    link = links[index := self._in[node][source]]
                    latency, width = best[source]
                    key = (latency + round(link.latency_s * _ATTOSECONDS), max(width, -link.bandwidth_bytes_per_s))
                    ways.append((key, index, source))
                best[node] = min(ways)[0]
                arrivals[node] = [(source, index) for key, index, source in sorted(ways) if key == best[node]]
        return arrivals


def _degree(neighbours: list[dict[int, int]], nodes: set[int]) -> int:
    return sum(len(neighbours[node]) for node in nodes)


def _advance(neighbours: list[dict[int, int]], levels: list[set[int]], seen: set[int]) -> None:
    """Add the level of nodes that are one link further."""
    further = {new for node in levels[-1] for new in neighbours[node]} - seen
    seen |= further
    levels.append(further)


def _thread(neighbours: list[dict[int, int]], levels: list[set[int]], met: set[int]) -> list[set[int]]:
    """Return the levels from where the searches met back to the start, without the nodes that lead elsewhere."""
    kept = [met]
    for level in reversed(levels[:-1]):
        kept.append({near for node in kept[-1] for near in level & neighbours[node].keys()})
    return kept
