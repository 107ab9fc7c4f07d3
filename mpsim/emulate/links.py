"""From what messages were measured to take, a topology for the simulator: the comparison then judges the model."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.topology.model import Link, Topology
from mpsim.topology.routes import Routes

__all__ = ["MeasuredPath", "imposed_topology", "pairs_to_measure", "topology_from", "with_hops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPath:
    """What a message of the runtime costs from one rank to another, software included.

    Attributes
    ----------
    source, target : int
        Positions of the ranks.
    latency_s : float
        Median of a small message: half of what a notice and the message that it calls for take.
    latency_interval_s : (float, float)
        5 and 95 % of the samples.
    bandwidth_bytes_per_s : float
        From the difference between a large and a smaller message, so that no latency is in it: median.
    bandwidth_interval_bytes_per_s : (float, float)
        The least and the most of the repeats.
    send_buffer_bytes : int
        What was still on its way out when the runtime called a large send over.
    post_s : float
        Median of how long handing a message to the runtime kept the source.
    """

    source: int
    target: int
    latency_s: float
    latency_interval_s: tuple[float, float]
    bandwidth_bytes_per_s: float
    bandwidth_interval_bytes_per_s: tuple[float, float]
    send_buffer_bytes: int = 0
    post_s: float = 0.0


def imposed_topology(fabric: str, topology: Topology) -> Topology:
    """Return the topology whose links a fabric has: loopback joins every two devices, whatever was asked for.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> len(imposed_topology("host", chain(3, link="1GB/s@1us")).links)
    6
    """
    if fabric != "host":
        return topology
    names = [device.name for device in topology.devices]
    links = (Link(source=a, target=b, bandwidth_bytes_per_s=math.inf) for a, b in itertools.permutations(names, 2))
    return replace(topology, name=f"loopback:{len(names)}", switches=(), links=tuple(links))


def pairs_to_measure(topology: Topology, ranks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return pairs of positions whose paths, there and back, cross every link that the ranks use.

    Examples
    --------
    >>> from mpsim.topology.builders import chain, switch
    >>> pairs_to_measure(switch(4, link="1GB/s@1us"), [0, 1, 2, 3])
    ((0, 1), (2, 3))
    >>> pairs_to_measure(chain(3, link="1GB/s@1us"), [0, 2])
    ((0, 1),)
    """
    routes = Routes(topology)
    crossed = {
        (i, j): {*routes.path(ranks[i], ranks[j]), *routes.path(ranks[j], ranks[i])}
        for i, j in itertools.combinations(range(len(ranks)), 2)
    }
    missing = set().union(*crossed.values())
    chosen = []
    while missing:
        best = max(crossed, key=lambda pair: len(crossed[pair] & missing))
        chosen.append(best)
        missing -= crossed[best]
    return tuple(chosen)


def with_hops(topology: Topology, ranks: Sequence[int], smallest_s: float) -> Topology:
    """Return the topology in which a collective takes what the smallest all-reduce over all ranks was measured to.

    gloo's ring takes 4(n-1) messages in a row, each of which takes the latency of its path and a `hop_s`.

    Parameters
    ----------
    topology : Topology
        With its links as they were measured.
    ranks : sequence of int
        The device at each position.
    smallest_s : float
        Median of an all-reduce of a few bytes a rank.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> found = with_hops(ring(3, link="1GB/s@1ms"), [0, 1, 2], 0.012)
    >>> round(found.devices[0].hop_s, 6)
    0.0005
    """
    routes, n = Routes(topology), len(ranks)
    latencies = [routes.latency_s(routes.path(ranks[i], ranks[i - 1])) for i in range(n)]
    hop_s = max(0.0, smallest_s / (4 * (n - 1)) - statistics.mean(latencies))
    taking_part = set(ranks)
    devices = (
        replace(device, hop_s=hop_s) if i in taking_part else device for i, device in enumerate(topology.devices)
    )
    return replace(topology, devices=tuple(devices))


def topology_from(measured: Iterable[MeasuredPath], topology: Topology, ranks: Sequence[int]) -> Topology:
    """Return the topology with the latencies and bandwidths that were measured.

    What a path takes beyond its stated latency is spread evenly over its links. Its links' bandwidths are changed in
    the ratio of the measured one to its stated bottleneck. A link of several measured paths gets the median; one
    that none crosses keeps what is stated. A device's send buffer, and what a post takes, are medians over the paths
    measured from it.

    Parameters
    ----------
    measured : iterable of MeasuredPath
    topology : Topology
        What the fabric imposed (see :func:`imposed_topology`).
    ranks : sequence of int
        The device at each position.

    Raises
    ------
    MpsimError
        Nothing was measured.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> path = MeasuredPath(
    ...     source=0, target=1, latency_s=0.0012, latency_interval_s=(0.001, 0.002),
    ...     bandwidth_bytes_per_s=12e6, bandwidth_interval_bytes_per_s=(11e6, 12e6),
    ... )
    >>> link = topology_from([path], switch(2, link="100Mbit/s@0.5ms"), [0, 1]).links[0]
    >>> link.bandwidth_bytes_per_s, round(link.latency_s, 9)
    (12000000.0, 0.0006)
    """
    measured = tuple(measured)
    if not measured:
        raise MpsimError("no path was measured: measure at least one pair of ranks")
    routes = Routes(topology)
    latencies: dict[int, list[float]] = {}
    bandwidths: dict[int, list[float]] = {}
    for one in measured:
        path = routes.path(ranks[one.source], ranks[one.target])
        extra_s = (one.latency_s - routes.latency_s(path)) / len(path)
        bottleneck = routes.bandwidth_bytes_per_s(path)
        for i in path:
            stated = topology.links[i]
            width = stated.bandwidth_bytes_per_s / bottleneck if math.isfinite(bottleneck) else 1.0
            latencies.setdefault(i, []).append(max(0.0, stated.latency_s + extra_s))
            bandwidths.setdefault(i, []).append(one.bandwidth_bytes_per_s * width)
    links = (
        replace(
            link,
            latency_s=statistics.median(latencies.get(i, [link.latency_s])),
            bandwidth_bytes_per_s=statistics.median(bandwidths.get(i, [link.bandwidth_bytes_per_s])),
        )
        for i, link in enumerate(topology.links)
    )
    devices = list(topology.devices)
    for source in {one.source for one in measured}:
        own = [one for one in measured if one.source == source]
        devices[ranks[source]] = replace(
            devices[ranks[source]],
            send_buffer_bytes=round(statistics.median(one.send_buffer_bytes for one in own)),
            post_s=statistics.median(one.post_s for one in own),
        )
    provenance = Provenance(made_by="mpsim emulate", source=f"{topology.name}, measured: {_spread(measured)}")
    return replace(topology, devices=tuple(devices), links=tuple(links), provenance=provenance)


def _spread(measured: Sequence[MeasuredPath]) -> str:
    """Return how far the samples lie apart, in words."""
    low, high = min(one.latency_interval_s[0] for one in measured), max(one.latency_interval_s[1] for one in measured)
    slow = min(one.bandwidth_interval_bytes_per_s[0] for one in measured)
    fast = max(one.bandwidth_interval_bytes_per_s[1] for one in measured)
    return (
        f"{len(measured)} paths, a small message {low * 1e6:.0f} to {high * 1e6:.0f} us (5 to 95 %), "
        f"{slow / 1e6:.4g} to {fast / 1e6:.4g} MB/s"
    )
