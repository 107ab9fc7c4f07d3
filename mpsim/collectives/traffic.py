"""The traffic of messages and collectives: what each puts on every link, and its rounds of latency.

A collective is rounds of messages (`mpsim.collectives.algorithms`); its traffic is one event
(`mpsim.collectives.footprint`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mpsim.collectives.choice import choose
from mpsim.collectives.footprint import Footprint, footprint
from mpsim.collectives.mapping import AUTO, laid_rounds, rounds_of
from mpsim.collectives.protocols import costed
from mpsim.collectives.rounds import Round, Rounds, Steps
from mpsim.errors import MpsimError
from mpsim.program.model import Traffic

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = [
    "Endpoint",
    "Laid",
    "check_ranks",
    "collective",
    "host_traffic",
    "idle_s",
    "lay",
    "message_traffic",
    "messages",
    "point_to_point",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What the two ends of a message cost, beyond the links between them.

    Attributes
    ----------
    delay_s : float
        Added to each message, hence to each round.
    reduce_bytes_per_s : float
        Received bytes that a device adds to its own each second, after they arrived.

    Examples
    --------
    >>> Endpoint()
    Endpoint(delay_s=0.0, reduce_bytes_per_s=inf)
    """

    delay_s: float = 0.0
    reduce_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delay_s) and self.delay_s >= 0):
            raise MpsimError(f"endpoint delay is {self.delay_s} s, expected 0 or more")
        if not self.reduce_bytes_per_s > 0:
            raise MpsimError(f"endpoint reduces {self.reduce_bytes_per_s} bytes/s, expected more than 0")


_NO_ENDPOINT = Endpoint()


def point_to_point(routes: Routes, source: int, target: int, bytes: int, endpoint: Endpoint = _NO_ENDPOINT) -> Traffic:
    """Return the traffic of one message: the latency of its path, then all its bytes on each link of it at once.

    Parameters
    ----------
    routes : Routes
        Of the topology.
    source, target : int
        Indices of devices.
    bytes : int
        Of the message.
    endpoint : Endpoint
        Its delay is added to the latency.

    Returns
    -------
    Traffic
        Its latency is the links', or what costs of ``send_receive`` that the topology has leave to it.

    Raises
    ------
    MpsimError
        No bytes, a device that the topology does not have, or a message from a device to itself.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.topology.routes import Routes
    >>> traffic = point_to_point(Routes(chain(3, link="50GB/s@2us")), 0, 2, 64)
    >>> traffic.latency_s, traffic.links, traffic.bytes
    (4e-06, (0, 1), (64.0, 64.0))
    """
    check_ranks("message", routes, (source, target), bytes)
    path = routes.path(source, target)
    latency_s = routes.latency_s(path)
    measured = costed(routes, "send_receive", "direct", (source, target), bytes) if routes.topology.costs else None
    if measured is not None:
        # What the links' own bandwidth takes for the bytes is to come, in the network.
        latency_s = max(0.0, measured.seconds - bytes / routes.bandwidth_bytes_per_s(path))
    return Traffic(
        latency_s=latency_s + endpoint.delay_s,
        links=tuple(path),
        bytes=(float(bytes),) * len(path),
        payload_bytes=bytes,
        beyond=measured is not None and measured.beyond,
        unmeasured="" if measured is None else measured.unmeasured,
    )


def message_traffic(routes: Routes, source: int, target: int, bytes: int) -> Traffic:
    """Return the traffic of one message, which may be empty: then it has the latency of its path alone.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.topology.routes import Routes
    >>> message_traffic(Routes(chain(3, link="50GB/s@2us")), 0, 2, 0).latency_s
    4e-06
    """
    if bytes:
        return point_to_point(routes, source, target, bytes)
    return Traffic(latency_s=routes.latency_s(routes.path(source, target)))


def host_traffic(routes: Routes, device: int, bytes: int, away: bool) -> Traffic:
    """Return the traffic of a copy from a device to its host, or back.

    Examples
    --------
    >>> from mpsim.topology.routes import Routes
    >>> from mpsim.topology.spec import parse_topology
    >>> host_traffic(Routes(parse_topology("ring:2,link=50GB/s@2us,offload=25GB/s@1us")), 0, 64, away=True).links
    (2,)
    """
    path = routes.host_path(device, away)
    return Traffic(latency_s=routes.latency_s(path), links=path, bytes=(float(bytes),) * len(path), payload_bytes=bytes)


def idle_s(routes: Routes, traffic: Traffic) -> float:
    """Return what a traffic takes in seconds where it is alone on the network.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(chain(3, link="1GB/s@0s"))
    >>> idle_s(routes, message_traffic(routes, 0, 2, 500_000_000))
    0.5
    """
    links = routes.topology.links
    used = zip(traffic.links, traffic.bytes, strict=True)
    return traffic.latency_s + max((count / links[i].bandwidth_bytes_per_s for i, count in used), default=0.0)


def collective(
    routes: Routes,
    kind: str,
    ranks: Sequence[int],
    bytes: int,
    algorithm: str = "ring",
    endpoint: Endpoint = _NO_ENDPOINT,
) -> Traffic:
    """Return the traffic of a collective as one event.

    Parameters
    ----------
    routes : Routes
        Of the topology.
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``broadcast``, ``reduce``, ``gather`` or
        ``scatter`` (to or from the first of `ranks`), ``send_receive`` (each to the next), ``barrier``.
    ranks : sequence of int
        Indices of devices; a ring goes around them in this order.
    bytes : int
        The whole tensor: what an all-reduce reduces, an all-gather or a gather has in the end, a reduce-scatter or a
        scatter begins with, one rank of an all-to-all sends, the part that it keeps included. A barrier has none: 0.
    algorithm : str
        ``ring``, ``direct``, ``halving_doubling``, ``binary_tree`` or ``double_binary_tree`` (see `ALGORITHMS`), or
        one that follows the topology's levels: ``hierarchical`` (or with levels that are named, ``hierarchical:8``),
        ``rings``, ``trees``, ``nvls``, ``nvls_tree`` or ``collnet``
        (see `LEVELLED`); ``auto`` takes the one that NCCL would, and
        the traffic says which.
    endpoint : Endpoint
        What each round and each reduction costs at the devices.

    Returns
    -------
    Traffic
        See `mpsim.collectives.footprint` for what its latency has in it.

    Raises
    ------
    MpsimError
        Fewer than two ranks, one twice or not in the topology, no bytes, an unknown kind or algorithm, or a number
        of ranks that the algorithm cannot do.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(ring(4, link="50GB/s@2us"))
    >>> traffic = collective(routes, "all_reduce", range(4), 1000)
    >>> traffic.latency_s, traffic.bytes
    (1.2e-05, (1500.0, 1500.0, 1500.0, 1500.0))
    """
    laid = lay(routes, kind, ranks, bytes, algorithm, endpoint)
    foot = laid.foot
    return Traffic(
        latency_s=laid.latency_s,
        links=foot.links if bytes else (),
        bytes=tuple([bytes * pieces / foot.pieces for pieces in foot.link_pieces]) if bytes else (),
        payload_bytes=bytes,
        rounds=foot.rounds,
        algorithm=laid.algorithm,
        beyond=laid.beyond,
        unmeasured=laid.unmeasured,
    )


class Laid(NamedTuple):
    """A collective laid on a topology: its footprint, and of its `Traffic` what no link says."""

    foot: Footprint
    latency_s: float
    algorithm: str
    beyond: bool
    unmeasured: str


def lay(
    routes: Routes,
    kind: str,
    ranks: Sequence[int],
    bytes: int,
    algorithm: str = "ring",
    endpoint: Endpoint = _NO_ENDPOINT,
) -> Laid:
    """Return a collective as it lies on a topology; the arguments are those of `collective`.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> laid = lay(Routes(ring(4, link="50GB/s@2us")), "all_reduce", range(4), 1000)
    >>> laid.latency_s, laid.foot.link_pieces
    (1.2e-05, (6, 6, 6, 6))
    """
    ranks = tuple(ranks)
    check_ranks(kind, routes, ranks, 1 if kind == "barrier" and bytes == 0 else bytes)
    chosen = choose(routes, kind, ranks, bytes) if algorithm == AUTO else algorithm
    foot = footprint(routes, kind, chosen, ranks)
    measured = costed(routes, kind, chosen, ranks, bytes) if routes.topology.costs and bytes else None
    latency_s = foot.latency_s + foot.rounds * endpoint.delay_s + bytes * foot.stall_s_per_byte
    if measured is not None:
        # What the links' own bandwidth takes for the bytes is to come, in the network.
        latency_s = max(0.0, measured.seconds - bytes * (foot.s_per_byte - foot.stall_s_per_byte))
    return Laid(
        foot=foot,
        latency_s=latency_s + bytes * foot.reduced / foot.pieces / endpoint.reduce_bytes_per_s,
        algorithm=chosen if algorithm == AUTO else "",
        beyond=measured is not None and measured.beyond,
        unmeasured="" if measured is None else measured.unmeasured,
    )


def messages(
    kind: str, ranks: Sequence[int], bytes: int, algorithm: str = "ring", routes: Routes | None = None
) -> Iterator[list[tuple[int, int, float]]]:
    """Yield each round of a collective as its messages (source, target, bytes): the check on the one-event form.

    Parameters
    ----------
    routes : Routes, optional
        For algorithms that follow the levels of a topology.

    Raises
    ------
    MpsimError
        An unknown kind or algorithm, ranks that it cannot do, or reduction inside the network, which has no messages
        from rank to rank.

    Examples
    --------
    >>> next(messages("all_reduce", [4, 5], 64))
    [(4, 5, 32.0), (5, 4, 32.0)]
    """
    order = tuple(ranks)
    if routes is None:
        found: Rounds | Steps = rounds_of(kind, algorithm, len(order))
    else:
        found, order = laid_rounds(routes, kind, algorithm, order)
    for one in found.rounds:
        if not isinstance(one, Round):
            raise MpsimError(f"{algorithm} reduces inside the network: it has no messages from rank to rank")
        sized = [(a, b, bytes * count / found.pieces) for (a, b), count in zip(one.messages, one.counts, strict=True)]
        for _ in range(one.repeat):
            yield [(order[source], order[target], size) for source, target, size in sized]


def check_ranks(what: str, routes: Routes, ranks: tuple[int, ...], bytes: int) -> None:
    """Refuse fewer than two ranks, one twice or not in the topology, and no bytes.

    Raises
    ------
    MpsimError
        Naming `what` was asked for.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> check_ranks("all_reduce", Routes(ring(4, link="50GB/s@2us")), (0,), 8)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: all_reduce over 1 rank: it takes at least 2, leave it out
    """
    devices = len(routes.topology.devices)
    if len(ranks) < 2:
        raise MpsimError(f"{what} over {len(ranks)} rank: it takes at least 2, leave it out")
    if len(set(ranks)) < len(ranks):
        twice = next(rank for rank in ranks if ranks.count(rank) > 1)
        raise MpsimError(f"{what} names device {twice} twice: give each rank its own device")
    if min(ranks) < 0 or max(ranks) >= devices:
        wrong = next(rank for rank in ranks if not 0 <= rank < devices)
        raise MpsimError(
            f"{what} names device {wrong}, topology {routes.topology.name!r} has {devices}: 0 to {devices - 1}"
        )
    if not (math.isfinite(bytes) and bytes > 0):
        raise MpsimError(f"{what} of {bytes} bytes: expected more than 0, leave it out")
