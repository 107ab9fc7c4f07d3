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
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from mpsim.errors import unknown
from mpsim.program.algorithms import ALGORITHMS, Round, Rounds

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["Footprint", "footprint", "rounds_of"]


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
    stall_s_per_byte : float
        Per byte of the tensor: what the rounds take longer than their sum on the slowest link.
    rounds : int
        Messages on the longest chain.
    reduced : int
        Pieces that the busiest rank adds to its own.
    """

    pieces: int
    links: tuple[int, ...]
    link_pieces: tuple[int, ...]
    latency_s: float
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
        An unknown kind or algorithm, or a number of ranks that it cannot do.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> footprint(Routes(ring(4, link="50GB/s@2us")), "all_reduce", "ring", (0, 1, 2, 3)).link_pieces
    (6, 6, 6, 6)
    """
    known = _KNOWN.setdefault(routes, {})
    if (kind, algorithm, ranks) not in known:
        known[kind, algorithm, ranks] = _work_out(routes, rounds_of(kind, algorithm, len(ranks)), ranks)
    return known[kind, algorithm, ranks]


def rounds_of(kind: str, algorithm: str, n: int) -> Rounds:
    """Return the rounds of an algorithm over n ranks.

    Raises
    ------
    MpsimError
        An unknown kind or algorithm, or a number of ranks that it cannot do.

    Examples
    --------
    >>> rounds_of("all_reduce", "rign", 4)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown all_reduce algorithm 'rign'; did you mean 'ring'?
    """
    if (kind, algorithm) not in ALGORITHMS:
        kinds = {known for known, _ in ALGORITHMS}
        if kind not in kinds:
            raise unknown("collective", kind, kinds)
        raise unknown(f"{kind} algorithm", algorithm, [name for known, name in ALGORITHMS if known == kind])
    return ALGORITHMS[kind, algorithm](n)


def _work_out(routes: Routes, rounds: Rounds, ranks: tuple[int, ...]) -> Footprint:
    links = routes.topology.links
    total: dict[int, int] = {}
    reached = [0.0] * len(ranks)
    rounds_s = 0.0
    for one in rounds.rounds:
        paths = [routes.path(ranks[source], ranks[target]) for source, target in one.messages]
        load = _load(paths, one.pieces * one.repeat)
        for link, pieces in load.items():
            total[link] = total.get(link, 0) + pieces
        rounds_s += max(pieces / links[link].bandwidth_bytes_per_s for link, pieces in load.items())
        reached = _reach(one, [routes.latency_s(path) for path in paths], reached)
    together_s = max(pieces / links[link].bandwidth_bytes_per_s for link, pieces in total.items())
    # Sums round: what is left of two equal times must not pass for a stall.
    stall_s = 0.0 if math.isclose(rounds_s, together_s) else rounds_s - together_s
    return Footprint(
        pieces=rounds.pieces,
        links=tuple(total),
        link_pieces=tuple(total.values()),
        latency_s=max(reached),
        stall_s_per_byte=stall_s / rounds.pieces,
        rounds=sum(one.repeat * one.hops for one in rounds.rounds),
        reduced=sum(one.reduced for one in rounds.rounds),
    )


def _load(paths: list[tuple[int, ...]], pieces: int) -> dict[int, int]:
    load: dict[int, int] = {}
    for path in paths:
        for link in path:
            load[link] = load.get(link, 0) + pieces
    return load


def _reach(one: Round, latencies: list[float], start: list[float]) -> list[float]:
    """Return when the last message of the round reaches each rank, where its sources were reached at `start`."""
    if one.hops > 1:
        return _stream(one, latencies, start)
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
    """Follow each stream along its messages: a rank passes on what has just reached it."""
    end = list(start)
    length = len(one.messages) // one.streams
    for first in range(0, len(one.messages), length):
        at = list(start)
        for (source, target), latency_s in list(zip(one.messages, latencies, strict=True))[first : first + length]:
            at[target] = max(at[target], at[source] + latency_s)
        end = [max(pair) for pair in zip(end, at, strict=True)]
    return end


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
