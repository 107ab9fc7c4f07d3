"""The topology: devices and switches, and the directed links between them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpsim.above import above
from mpsim.calls import checked
from mpsim.documents import Document, Provenance
from mpsim.errors import MpsimError, did_you_mean
from mpsim.reprs import short_repr
from mpsim.topology.costs import CollectiveCost

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Device", "Link", "Topology"]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Something that computes.

    Attributes
    ----------
    name : str
        Unique in the topology.
    type : str
        A name of the catalog, or any other; a simulation can give each type its own workload.
    memory_bytes : int
        What a plan may use of it; 0 if unknown (then nothing can be said about fitting).
    speed : float
        Relative to the device that the workload was measured on: 2.0 halves every time.
    speed_of : str
        ``""``: `speed` holds for all costs; ``roofline``: it is what the device makes of its own roofline costs, as
        measured (`mpsim calibrate --compute`), and costs that were measured do not mind.
    send_buffer_bytes : int
        What its system holds of a message on its way out (a socket's send buffer): a runtime that waits for a send
        goes on once no more than that is left. 0: when the last byte has left.
    post_s : float
        How long handing a message or a collective to the runtime keeps it from its computation.
    hop_s : float
        What each message within a collective takes beyond the latency of its path, as all ranks are at work at once.
    overlap_slowdown : float
        Its computations take this many times as long while bytes move that it sends or receives; 1: they do not mind.
    host : str
        The switch that stands for the memory of its host, where a plan may put what the device need not hold; ``""``:
        none.

    Examples
    --------
    >>> Device(name="d0", memory_bytes=80 * 2**30, speed=0.5).speed
    0.5
    """

    name: str
    type: str = ""
    memory_bytes: int = 0
    speed: float = 1.0
    speed_of: str = ""
    send_buffer_bytes: int = 0
    post_s: float = 0.0
    hop_s: float = 0.0
    overlap_slowdown: float = 1.0
    host: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not (math.isfinite(self.overlap_slowdown) and self.overlap_slowdown >= 1):
            raise MpsimError(
                f"device {self.name!r}: overlap_slowdown is {self.overlap_slowdown}, expected a finite number from 1 on"
            )
        for name in ("post_s", "hop_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise MpsimError(f"device {self.name!r}: {name} is {getattr(self, name)}, expected 0 or more")
        if self.send_buffer_bytes < 0:
            raise MpsimError(f"device {self.name!r}: send_buffer_bytes is {self.send_buffer_bytes}, expected 0 or more")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise MpsimError(f"device {self.name!r}: speed is {self.speed}, expected more than 0")
        if not (1e-9 <= self.speed <= 1e9 and self.overlap_slowdown <= 1e9):
            raise MpsimError(
                f"device {self.name!r}: speed {self.speed:g} and slowdown {self.overlap_slowdown:g}: no two devices are"
                " a billion times apart"
            )
        if self.speed_of not in ("", "roofline"):
            raise MpsimError(f"device {self.name!r}: speed_of is {self.speed_of!r}, expected 'roofline' or nothing")
        if self.memory_bytes < 0:
            raise MpsimError(f"device {self.name!r}: memory_bytes is {self.memory_bytes}, expected 0 or more")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a wire between two nodes.

    Attributes
    ----------
    source, target : str
        Names of devices or switches.
    bandwidth_bytes_per_s : float
        What it reaches, not what its data sheet says; ``inf`` is allowed.
    latency_s : float
        Of one message over this link (the effective latency, unless the builder was told otherwise).
    type : str
        A name of the catalog, or any other.

    Examples
    --------
    >>> Link(source="d0", target="d1", bandwidth_bytes_per_s=50e9, latency_s=2e-6).bandwidth_bytes_per_s
    50000000000.0
    """

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    type: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not self.bandwidth_bytes_per_s > 0:
            raise MpsimError(f"{self}: bandwidth is {self.bandwidth_bytes_per_s} bytes/s, expected more than 0")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise MpsimError(f"{self}: latency is {self.latency_s} s, expected 0 or more")
        if self.source == self.target:
            raise MpsimError(f"{self} joins a node to itself")

    def __str__(self) -> str:
        return f"link {self.source!r} -> {self.target!r}"


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Topology(Document):
    """Devices, switches and directed links: any graph.

    Attributes
    ----------
    reducing : tuple of str
        Switches that add up what passes through them, and copy what goes to several (NVLS, SHARP).
    costs : tuple of CollectiveCost
        What collectives cost over each type of link, as measured, the links of inner levels first; without any, what
        the links' own latencies and bandwidths come to.

    Raises
    ------
    MpsimError
        Two nodes of one name, two links of one direction between the same nodes, a link to no node, a reducing switch
        that is none, or a device that another cannot reach.

    Examples
    --------
    >>> there = Link(source="a", target="b", bandwidth_bytes_per_s=1e9)
    >>> back = Link(source="b", target="a", bandwidth_bytes_per_s=1e9)
    >>> two = Topology(name="two", devices=(Device(name="a"), Device(name="b")), links=(there, back))
    >>> [device.name for device in two.devices]
    ['a', 'b']
    """

    _file = "topology.file:topology"
    _reads = "topology.spec:parse_topology"
    _written = "a Topology, its file or text such as 'switch:8,link=nvlink4'"

    name: str
    devices: tuple[Device, ...]
    switches: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    provenance: Provenance = Provenance()
    reducing: tuple[str, ...] = ()
    costs: tuple[CollectiveCost, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not self.devices:
            raise MpsimError(f"topology {self.name!r} has no devices")
        names = [device.name for device in self.devices] + list(self.switches)
        nodes = set(names)
        if len(nodes) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise MpsimError(f"topology {self.name!r} has two nodes named {twice!r}: give each its own name")
        pairs = set()
        for link in self.links:
            for end in (link.source, link.target):
                if end not in nodes:
                    raise MpsimError(f"{link}: no node {end!r}{_near(end, names)}")
            if (link.source, link.target) in pairs:
                raise MpsimError(f"two of {link}: give one with their bandwidths added")
            pairs.add((link.source, link.target))
        for name in self.reducing:
            if name not in self.switches:
                hint = _near(name, list(self.switches)) if self.switches else ", which has none"
                raise MpsimError(f"reducing names {name!r}, no switch of the topology{hint}")
        for device in self.devices:
            if device.host and device.host not in self.switches:
                hint = _near(device.host, list(self.switches)) if self.switches else ", which has none"
                raise MpsimError(f"host of device {device.name!r} is {device.host!r}, no switch of the topology{hint}")
        types = {link.type for link in self.links}
        for cost in self.costs:
            if cost.link not in types:
                hint = _near(cost.link, sorted(filter(None, types))) if any(types) else ", which have no types"
                raise MpsimError(f"a cost is for links of type {cost.link!r}, not among the topology's{hint}")
        self._check_reachable()

    def plot(self, **options: Any) -> Any:
        """Return a figure of its devices, switches and links; `options` are those of `mpsim.plotting.network`.

        Raises
        ------
        MpsimError
            So many nodes or links that nothing could be told from the picture; matplotlib is not installed.
        """
        return above("cards.pictures").topology_figure(self, **options)

    def to_frame(self, of: str = "devices") -> pd.DataFrame:
        """Return a table with a row for each of its devices, or of its links.

        Parameters
        ----------
        of : str
            ``devices``, with how many links leave each and their bandwidths together; or ``links``.

        Raises
        ------
        MpsimError
            Another table is asked for.

        Examples
        --------
        >>> pair = Topology(name="pair", devices=(Device(name="a"), Device(name="b")), links=(
        ...     Link(source="a", target="b", bandwidth_bytes_per_s=5.0),
        ...     Link(source="b", target="a", bandwidth_bytes_per_s=5.0)))
        >>> pair.to_frame()[["device", "links", "bandwidth_bytes_per_s"]].values.tolist()
        [['a', 1, 5.0], ['b', 1, 5.0]]
        """
        frame: pd.DataFrame = above("cards.tables").topology_frame(self, of)
        return frame

    def _repr_html_(self) -> str:
        return str(above("cards.topology").card(self))

    def _check_reachable(self) -> None:
        """Refuse a device that the first one cannot reach, or that cannot reach the first one."""
        first = self.devices[0].name
        for forwards in (True, False):
            reached = self._reach(first, forwards)
            for device in self.devices:
                if device.name not in reached:
                    pair = (first, device.name) if forwards else (device.name, first)
                    raise MpsimError(
                        f"topology {self.name!r}: no way from device {pair[0]!r} to {pair[1]!r}: add a link or a switch"
                    )

    def _reach(self, start: str, forwards: bool) -> set[str]:
        neighbours: dict[str, list[str]] = {}
        for link in self.links:
            source, target = (link.source, link.target) if forwards else (link.target, link.source)
            neighbours.setdefault(source, []).append(target)
        reached, frontier = {start}, [start]
        while frontier:
            new = [n for node in frontier for n in neighbours.get(node, ()) if n not in reached]
            frontier = list(dict.fromkeys(new))
            reached.update(frontier)
        return reached


def _near(name: str, nodes: list[str]) -> str:
    """Return a did-you-mean that stays one line where there are a thousand nodes."""
    hint = did_you_mean(name, nodes)
    return hint if len(hint) < 200 else f"; the topology has {len(nodes)} nodes, such as {nodes[0]!r}"
