"""Routes: which links a message takes from one device to another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, pairwise

from mpsim.errors import MpsimError, unknown
from mpsim.topology.model import Topology

__all__ = ["Routes"]

_Cost = tuple[int, float]  # latency, and less the bandwidth: the less of either the better

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
        # By the switch that a device hangs on, less the bandwidth of its link there, and the target.
        self._between: dict[tuple[int, float, int], tuple[int, ...]] = {}

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

    def beside(self, node: int) -> Iterator[int]:
        """Yield the nodes that a link joins to one, either way; nodes are the devices, then the switches.

        Examples
        --------
        >>> from mpsim.topology.builders import switch
        >>> set(Routes(switch(2, link="50GB/s@2us")).beside(2))
        {0, 1}
        """
        return chain(self._out[node], self._in[node])

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

    @cached_property
    def byte_s(self) -> list[float]:
        """What a byte takes on each link, in seconds; not to be changed."""
        return [1 / link.bandwidth_bytes_per_s for link in self.topology.links]

    def _search(self, a: int, b: int) -> tuple[int, ...]:
        """Return the route between two nodes that no link joins; of end devices, by way of their only switches.

        All devices that hang on one switch by links as wide reach a device by the same way from that switch on, so
        that way is found once for all of them, and with it those to all devices that hang where the target does.
        """
        root, first = self._only(self._out, a)
        leaf, last = self._only(self._in, b)
        if root < 0 or leaf < 0:
            return self._ways(a, b, -math.inf, (b,))[0]
        if root == leaf:
            return first, last
        width = self._cost[first][1]
        middle = self._between.get((root, width, b))
        if middle is None:
            hanging = [node for node in self._out[leaf] if self._only(self._in, node)[0] == leaf]
            for target, way in zip(hanging, self._ways(root, leaf, width, hanging), strict=True):
                self._between[root, width, target] = way
            middle = self._between[root, width, b]
        return first, *middle, last

    def _only(self, neighbours: list[dict[int, int]], node: int) -> tuple[int, int]:
        """Return the one node that a device's messages go to or come from first, and the link; -1 if there are more."""
        near = neighbours[node]
        return next(iter(near.items())) if node < self._devices and len(near) == 1 else (-1, -1)

    def _ways(self, a: int, b: int, width: float, targets: Iterable[int]) -> list[tuple[int, ...]]:
        """Return the links from `a` to `b`, chosen from `b` backwards, for each of the devices that they lead to.

        Parameters
        ----------
        width : float
            Less the bandwidth of what comes before `a`.
        """
        shortest = self._levels(a, b)
        if max(map(len, shortest)) == 1:
            only = tuple([self._out[one][two] for (one,), (two,) in pairwise(shortest)])
            return [only for _ in targets]
        levels: list[dict[int, _Cost]] = [{a: (0, width)}]
        for nodes in shortest[1:]:
            levels.append(self._reach(levels[-1], nodes))
        even = [len(set(level.values())) == 1 for level in levels]
        backwards = list(zip(levels, even, levels[1:], strict=False))[::-1]
        found: dict[int, list[tuple[int, int]]] = {}
        ways = []
        for spread in targets:
            node, path = b, []
            for before, alike, here in backwards:
                if node not in found:
                    found[node] = self._arrivals(node, before, alike, here[node])
                spread, choice = divmod(spread, len(found[node]))
                link, node = found[node][choice]
                path.append(link)
            ways.append(tuple(reversed(path)))
        return ways

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
        return _thread(self._out, self._in, ahead, met)[::-1] + _thread(self._in, self._out, behind, met)[1:]

    def _reach(self, before: dict[int, _Cost], here: set[int]) -> dict[int, _Cost]:
        """Return the cost of the best way to each node of a level, by those of the level before."""
        starts, costs = set(before.values()), {self._even[node] for node in here}
        if len(starts) == len(costs) == 1 and (cost := costs.pop()):
            # All alike, as in a tree of like switches: no link need be looked at.
            return dict.fromkeys(here, _add(starts.pop(), cost))
        return {node: self._least(node, before) for node in here}

    def _least(self, node: int, before: dict[int, _Cost]) -> _Cost:
        into = self._in[node]
        return min(_add(before[source], self._cost[into[source]]) for source in before.keys() & into.keys())

    @cached_property
    def _cost(self) -> list[_Cost]:
        """The cost of each link."""
        links = self.topology.links
        return [(round(link.latency_s * _ATTOSECONDS), -link.bandwidth_bytes_per_s) for link in links]

    @cached_property
    def _even(self) -> list[_Cost | None]:
        """The cost of every link to a node, for the nodes to which they are all alike."""
        found: list[_Cost | None] = []
        for into in self._in:
            costs = {self._cost[link] for link in into.values()}
            found.append(costs.pop() if len(costs) == 1 else None)
        return found

    def _arrivals(self, node: int, before: dict[int, _Cost], alike: bool, best: _Cost) -> list[tuple[int, int]]:
        """Return the (link, node) by which a node is best reached, in the order of the links.

        Where messages are not spread over several, as they only are over switches, the first one.
        """
        into = self._in[node]
        ways = sorted([(into[source], source) for source in before.keys() & into.keys()])
        if len(ways) == 1:
            return ways
        if not (alike and self._even[node]):
            ways = [(link, source) for link, source in ways if _add(before[source], self._cost[link]) == best]
        return ways if all(source >= self._devices for _, source in ways) else ways[:1]


def _add(cost: _Cost, link: _Cost) -> _Cost:
    """Return the cost of a way that goes on over a link: its latency, and less the width of its bottleneck."""
    return cost[0] + link[0], max(cost[1], link[1])


def _degree(neighbours: list[dict[int, int]], nodes: set[int]) -> int:
    return sum(map(len, map(neighbours.__getitem__, nodes)))


def _advance(neighbours: list[dict[int, int]], levels: list[set[int]], seen: set[int]) -> None:
    """Add the level of nodes that are one link further."""
    further = {new for node in levels[-1] for new in neighbours[node]} - seen
    seen |= further
    levels.append(further)


def _thread(
    onward: list[dict[int, int]], back: list[dict[int, int]], levels: list[set[int]], met: set[int]
) -> list[set[int]]:
    """Return the levels from where the searches met back to the start, without the nodes that lead elsewhere."""
    kept = [met]
    for level in reversed(levels[:-1]):
        here = kept[-1]
        if len(level) < len(here):
            kept.append({near for near in level if not here.isdisjoint(onward[near])})
        else:
            kept.append({near for node in here for near in level & back[node].keys()})
    return kept
