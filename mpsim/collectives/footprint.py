"""What a collective of any size puts on the network, as one event: latency, then bytes on each link.

Latency is that of the longest chain of messages that wait for one another. Around a ring of unlike links a piece
meets each of them in turn, so 2(n-1) rounds cost what 2(n-1) links in a row cost, not 2(n-1) times the worst: a rank
sends its next piece while its last is still under way. NCCL's own estimate of a ring counts the links between nodes
2(nodes-1) times and not in every step (https://github.com/NVIDIA/nccl, src/graph/tuning.cc); the longest chain has
them at most twice more.

Bytes are those of all rounds, summed on each link; they move at the pace of the slowest. Where one link is the
slowest in every round (rings, and whatever is alike on all ranks of a switch) that takes as long as the rounds one
after another. Where each round has a slowest link of its own (halving-doubling over links between each pair, or
around a ring), the rounds take longer: nothing moves over the links of round 2 while round 1 lasts. That *stall*, the
sum over rounds of the slowest link's time less the slowest link's time for the sum, is added to the latency. So the
bytes on each link are exactly those of the messages, an idle network gives the time of the rounds, and no bound is
beaten. The stall is counted at the links' full bandwidth: it does not stretch when other transfers share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from mpsim.collectives.aggregation import aggregate
from mpsim.collectives.mapping import laid_rounds
from mpsim.collectives.rounds import Aggregate, Pipelined, Round, Rounds, Steps

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["Footprint", "Pace", "footprint", "work_out"]


class Pace(NamedTuple):
    """What a message takes before its first byte, by its path, and what a byte takes on each link, in seconds.

    Attributes
    ----------
    one_by_one : bool
        Whether the messages that a rank sends in one round leave one behind another, a message's time apart.
    """

    message_s: Callable[[Sequence[int]], float]
    byte_s: Sequence[float]
    one_by_one: bool = False

    @classmethod
    def of_links(cls, routes: Routes) -> Pace:
        """Return the links' own latencies and bandwidths."""
        return cls(routes.latency_s, routes.byte_s)


class Footprint(NamedTuple):
    """A collective's traffic, with bytes counted in pieces of its tensor.

    Attributes
    ----------
    pieces : int
        That the tensor is cut into.
    links, link_pieces : tuple of int
        The links used, and the pieces that each carries in all.
    latency_s : float
        Of the longest chain of messages.
    s_per_byte : float
        Per byte of the tensor: what the rounds take one after another, each on its slowest link.
    stall_s_per_byte : float
        Of it, what the rounds take longer than their sum on the slowest link.
    rounds : int
        Messages on the longest chain.
    reduced : int
        Pieces that the busiest rank adds to its own.
    """

    pieces: int
    links: tuple[int, ...]
    link_pieces: tuple[int, ...]
    latency_s: float
    s_per_byte: float
    stall_s_per_byte: float
    rounds: int
    reduced: int


_Key = tuple[str, str, tuple[int, ...]]

# Lowering asks for the same ranks once for each bucket and micro-batch: only the bytes differ.
_KNOWN: WeakKeyDictionary[Routes, dict[_Key, Footprint]] = WeakKeyDictionary()


def footprint(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...]) -> Footprint:
    """Return the footprint of a collective over these devices, worked out once for each `routes`.

    Raises
    ------
    MpsimError
        An unknown kind or algorithm, or ranks that it cannot do.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> footprint(Routes(ring(4, link="50GB/s@2us")), "all_reduce", "ring", (0, 1, 2, 3)).link_pieces
    (6, 6, 6, 6)
    """
    known = _KNOWN.setdefault(routes, {})
    if (kind, algorithm, ranks) not in known:
        rounds, order = laid_rounds(routes, kind, algorithm, ranks)
        known[kind, algorithm, ranks] = work_out(routes, rounds, order, Pace.of_links(routes))
    return known[kind, algorithm, ranks]


def work_out(routes: Routes, rounds: Rounds | Steps, order: tuple[int, ...], pace: Pace) -> Footprint:
    """Return the footprint of rounds whose ranks stand on the devices of `order`.

    Parameters
    ----------
    pace : Pace
        What a message and a byte take. The bytes on links move at the links' own bandwidth in any case: what `pace`
        takes longer is in the stall.

    Raises
    ------
    MpsimError
        Ranks that hand in to switches which do not reduce, or cannot be reached.

    Examples
    --------
    >>> from mpsim.collectives.algorithms import ring_all_gather
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(ring(4, link="50GB/s@2us"))
    >>> work_out(routes, ring_all_gather(4), (3, 2, 1, 0), Pace.of_links(routes)).rounds
    3
    """
    total: dict[int, int] = {}
    reached = [0.0] * len(order)
    rounds_s = 0.0
    for one in rounds.rounds:
        load: dict[int, int] = {}
        for part in _parts(one):
            reached = _add(routes, part, order, pace, reached, load)
        for link, pieces in load.items():
            total[link] = total.get(link, 0) + pieces
        rounds_s += max(pieces * pace.byte_s[link] for link, pieces in load.items())
    links = routes.topology.links
    together_s = max(pieces / links[link].bandwidth_bytes_per_s for link, pieces in total.items())
    # Sums round: what is left of two equal times must not pass for a stall.
    stall_s = 0.0 if math.isclose(rounds_s, together_s) else rounds_s - together_s
    parts = [part for one in rounds.rounds for part in _parts(one)]
    return Footprint(
        pieces=rounds.pieces,
        links=tuple(total),
        link_pieces=tuple(total.values()),
        latency_s=max(reached),
        s_per_byte=rounds_s / rounds.pieces,
        stall_s_per_byte=stall_s / rounds.pieces,
        rounds=sum(one.turns if isinstance(one, Aggregate) else one.repeat * one.hops for one in parts),
        reduced=sum(0 if isinstance(one, Aggregate) else one.reduced for one in parts),
    )


def _parts(one: Round | Aggregate | Pipelined) -> tuple[Round | Aggregate, ...]:
    return one.parts if isinstance(one, Pipelined) else (one,)


def _add(
    routes: Routes,
    one: Round | Aggregate,
    order: tuple[int, ...],
    pace: Pace,
    reached: list[float],
    load: dict[int, int],
) -> list[float]:
    """Add a round's pieces to the load of the links, and return when it has reached each rank."""
    if isinstance(one, Aggregate):
        more, after = aggregate(routes, one, order, pace.message_s, reached)
    else:
        paths = [routes.path(order[source], order[target]) for source, target in one.messages]
        latencies = [pace.message_s(path) for path in paths]
        more = _load(paths, one)
        after = _reach(one, _one_by_one(one, latencies) if pace.one_by_one else latencies, reached)
    for link, pieces in more.items():
        load[link] = load.get(link, 0) + pieces
    return after


def _load(paths: list[tuple[int, ...]], one: Round) -> dict[int, int]:
    load: dict[int, int] = {}
    for path, pieces in zip(paths, one.counts, strict=True):
        for link in path:
            load[link] = load.get(link, 0) + pieces * one.repeat
    return load


def _one_by_one(one: Round, latencies: list[float]) -> list[float]:
    """Return when each message is there if a rank sends the next one only once it has sent the last."""
    if one.hops > 1 or one.streams > 1:
        return latencies
    sent: dict[int, float] = {}
    for i, (source, _) in enumerate(one.messages):
        latencies[i] = sent[source] = sent.get(source, 0.0) + latencies[i]
    return latencies


def _reach(one: Round, latencies: list[float], start: list[float]) -> list[float]:
    """Return when the last message of the round reaches each rank, where its sources were reached at `start`."""
    if one.streams > 1 or one.hops > 1:
        length = len(latencies) // one.streams
        follow = _stream if one.hops > 1 else _in_turn
        ends = [
            follow(one._replace(messages=part, streams=1), latencies[i * length : (i + 1) * length], start)
            for i, part in enumerate(one.slices)
        ]
        return [max(each) for each in zip(*ends, strict=True)]
    return _in_turn(one, latencies, start)


def _in_turn(one: Round, latencies: list[float], start: list[float]) -> list[float]:
    """Follow rounds one after another."""
    if one.repeat > 1 and min(latencies) == max(latencies) and min(start) == max(start):
        return [at + one.repeat * latencies[0] for at in start]
    if one.repeat > 1 and sorted(target for _, target in one.messages) == list(range(len(start))):
        return _turn(one, latencies, start)
    for _ in range(one.repeat):
        end = list(start)
        for (source, target), latency_s in zip(one.messages, latencies, strict=True):
            end[target] = max(end[target], start[source] + latency_s)
        start = end
    return start


def _stream(one: Round, latencies: list[float], start: list[float]) -> list[float]:
    """Follow a stream along its messages: a rank passes on what has just reached it."""
    at = list(start)
    for (source, target), latency_s in zip(one.messages, latencies, strict=True):
        at[target] = max(at[target], at[source] + latency_s)
    return at


def _turn(one: Round, latencies: list[float], start: list[float]) -> list[float]:
    """Go `repeat` messages back from each rank, each rank having one that it hears: by squaring, not one by one."""
    came_from, cost = [0] * len(start), [0.0] * len(start)
    for (source, target), latency_s in zip(one.messages, latencies, strict=True):
        came_from[target], cost[target] = source, latency_s
    origin, spent = list(range(len(start))), [0.0] * len(start)
    left = one.repeat
    while left:
        if left & 1:
            spent = [s + cost[o] for o, s in zip(origin, spent, strict=True)]
            origin = [came_from[o] for o in origin]
        cost = [c + cost[o] for o, c in zip(came_from, cost, strict=True)]
        came_from = [came_from[o] for o in came_from]
        left >>= 1
    return [start[o] + s for o, s in zip(origin, spent, strict=True)]
