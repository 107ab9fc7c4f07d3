"""Collective algorithms as rounds of messages between ranks; a new one is a function here and a line in `ALGORITHMS`.

Nothing here knows a device, a link or a number of bytes: ranks are 0 to n-1, and a tensor is so many equal pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

from mpsim.errors import MpsimError

__all__ = ["ALGORITHMS", "Round", "Rounds", "tree_parents"]


class Round(NamedTuple):
    """Messages of so many pieces each, which leave together once what the ranks wait for has arrived.

    Attributes
    ----------
    messages : tuple of (int, int)
        Source and target ranks.
    pieces : int
        Of the tensor, in each message.
    repeat : int
        Such rounds in a row. A ring's rounds are all alike: they are described once, not 2(n-1) times.
    hops : int
        More than 1 where pieces stream from rank to rank within the round: messages on the longest way.
    streams : int
        Then `messages` are so many slices of one length, each in the order in which a stream takes them.
    reduced : int
        Pieces that the busiest rank adds to its own, over all repeats.
    """

    messages: tuple[tuple[int, int], ...]
    pieces: int
    repeat: int = 1
    hops: int = 1
    streams: int = 1
    reduced: int = 0


class Rounds(NamedTuple):
    """The rounds of a collective whose tensor is cut into so many equal `pieces`."""

    pieces: int
    rounds: tuple[Round, ...]


def _neighbours(n: int) -> tuple[tuple[int, int], ...]:
    return tuple((rank, (rank + 1) % n) for rank in range(n))


def _pairs(n: int) -> tuple[tuple[int, int], ...]:
    """Return every pair, each rank beginning with its neighbour, so that not all of them send to rank 0 first."""
    return tuple((source, (source + away) % n) for away in range(1, n) for source in range(n))


def ring_all_reduce(n: int) -> Rounds:
    """Reduce-scatter, then all-gather, around the ring: 2(n-1) rounds of S/n.

    https://doi.org/10.1016/j.jpdc.2008.09.002

    Examples
    --------
    >>> ring_all_reduce(4).rounds[0].repeat
    6
    """
    return Rounds(n, (Round(_neighbours(n), 1, repeat=2 * (n - 1), reduced=n - 1),))


def ring_all_gather(n: int) -> Rounds:
    """Pass each rank's piece around the ring: n-1 rounds of S/n.

    Examples
    --------
    >>> ring_all_gather(3).rounds[0].messages
    ((0, 1), (1, 2), (2, 0))
    """
    return Rounds(n, (Round(_neighbours(n), 1, repeat=n - 1),))


def ring_reduce_scatter(n: int) -> Rounds:
    """Add up each piece once around the ring: n-1 rounds of S/n.

    Examples
    --------
    >>> ring_reduce_scatter(4).rounds[0].reduced
    3
    """
    return Rounds(n, (Round(_neighbours(n), 1, repeat=n - 1, reduced=n - 1),))


def ring_all_to_all(n: int) -> Rounds:
    """Pass on what is for others, a piece a message: the k-th neighbour's piece takes k of the n(n-1)/2 rounds.

    Examples
    --------
    >>> ring_all_to_all(4).rounds[0].repeat
    6
    """
    return Rounds(n, (Round(_neighbours(n), 1, repeat=n * (n - 1) // 2),))


def ring_broadcast(n: int) -> Rounds:
    """Stream the tensor from rank 0 through all others in a chain: n-1 latencies, then S on each of its links.

    The pieces are taken to be so small that filling the chain costs latency only.

    Examples
    --------
    >>> ring_broadcast(3).rounds[0].messages
    ((0, 1), (1, 2))
    """
    return Rounds(1, (Round(_neighbours(n)[:-1], 1, hops=n - 1),))


def direct_all_reduce(n: int) -> Rounds:
    """Send each rank the piece that it reduces, then everyone the result: 2 rounds of n(n-1) messages of S/n.

    Examples
    --------
    >>> len(direct_all_reduce(4).rounds), len(direct_all_reduce(4).rounds[0].messages)
    (2, 12)
    """
    pairs = _pairs(n)
    return Rounds(n, (Round(pairs, 1, reduced=n - 1), Round(pairs, 1)))


def direct_all_gather(n: int) -> Rounds:
    """Send every other rank the own piece, all at once.

    Examples
    --------
    >>> direct_all_gather(2).rounds[0].messages
    ((0, 1), (1, 0))
    """
    return Rounds(n, (Round(_pairs(n), 1),))


def direct_reduce_scatter(n: int) -> Rounds:
    """Send each other rank the piece that it reduces, all at once.

    Examples
    --------
    >>> direct_reduce_scatter(4).rounds[0].reduced
    3
    """
    return Rounds(n, (Round(_pairs(n), 1, reduced=n - 1),))


def direct_broadcast(n: int) -> Rounds:
    """Send the whole tensor from rank 0 to each other rank, all at once.

    Examples
    --------
    >>> direct_broadcast(3).rounds[0].messages
    ((0, 1), (0, 2))
    """
    return Rounds(1, (Round(tuple((0, rank) for rank in range(1, n)), 1),))


def _distances(n: int) -> list[int]:
    """Return 1, 2, ..., n/2."""
    if n & (n - 1):
        raise MpsimError(f"halving_doubling needs a power of two of ranks, got {n}: use ring")
    return [1 << bit for bit in range(n.bit_length() - 1)]


def _exchange(n: int, distance: int) -> tuple[tuple[int, int], ...]:
    return tuple((rank, rank ^ distance) for rank in range(n))


def halving_doubling_reduce_scatter(n: int) -> Rounds:
    """Exchange halves with the rank next to oneself, quarters with the one 2 away, and so on: log2(n) rounds.

    The largest messages go the shortest way: https://doi.org/10.1177/1094342005051521

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_reduce_scatter(8).rounds]
    [4, 2, 1]
    """
    return Rounds(n, tuple(_halving(n, away) for away in _distances(n)))


def _halving(n: int, away: int) -> Round:
    pieces = n // (2 * away)
    return Round(_exchange(n, away), pieces, reduced=pieces)


def halving_doubling_all_gather(n: int) -> Rounds:
    """Exchange all that is known with the rank n/2 away, n/4 away, and so on to 1: log2(n) rounds.

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_all_gather(8).rounds]
    [1, 2, 4]
    """
    return Rounds(n, tuple(Round(_exchange(n, away), n // (2 * away)) for away in reversed(_distances(n))))


def halving_doubling_all_reduce(n: int) -> Rounds:
    """Reduce-scatter by halving, all-gather by doubling: 2 log2(n) rounds, 2(n-1)/n of the tensor from each rank.

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_all_reduce(8).rounds]
    [4, 2, 1, 1, 2, 4]
    """
    return Rounds(n, halving_doubling_reduce_scatter(n).rounds + halving_doubling_all_gather(n).rounds)


def halving_doubling_all_to_all(n: int) -> Rounds:
    """Send along each dimension of the hypercube what belongs on its other side: log2(n) rounds of half the tensor.

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_all_to_all(8).rounds]
    [4, 4, 4]
    """
    return Rounds(n, tuple(Round(_exchange(n, away), n // 2) for away in _distances(n)))


def halving_doubling_broadcast(n: int) -> Rounds:
    """Scatter from rank 0 down a binomial tree, then all-gather by doubling.

    https://doi.org/10.1177/1094342005051521

    Examples
    --------
    >>> [one.messages for one in halving_doubling_broadcast(4).rounds[:2]]
    [((0, 1),), ((0, 2), (1, 3))]
    """
    scatter = [Round(tuple((rank, rank + away) for rank in range(away)), n // (2 * away)) for away in _distances(n)]
    return Rounds(n, (*scatter, *halving_doubling_all_gather(n).rounds))


def tree_parents(n: int) -> list[int]:
    """Return the parent of each node of a binary tree numbered in order, -1 for its root; every even node is a leaf.

    ::

        n = 7          3
                     /   \\
                   1       5
                  / \\     / \\
                 0   2   4   6

    Examples
    --------
    >>> tree_parents(7)
    [1, 3, 1, -1, 5, 3, 5]
    """
    parents = []
    for place in range(1, n + 1):
        lowest = place & -place
        up = (place - lowest) | (2 * lowest)
        # Where the tree is cut off on the right, the next ancestor that exists takes over.
        parents.append((up if up <= n else place - lowest) - 1)
    return parents


def _levels(n: int) -> list[list[tuple[int, int]]]:
    """Return the tree's (child, parent) pairs, level by level, those furthest from the root first."""
    parents = tree_parents(n)
    reached = {parents.index(-1)}
    levels: list[list[tuple[int, int]]] = []
    while level := [(child, parent) for child, parent in enumerate(parents) if parent in reached]:
        levels.insert(0, level)
        reached = {child for child, _ in level}
    return levels


def _most_children(edges: Sequence[tuple[int, int]]) -> int:
    """Return how many children the busiest parent hears: so many tensors it adds to its own."""
    return max(Counter(parent for _, parent in edges).values(), default=0)


def binary_tree_all_reduce(n: int) -> Rounds:
    """Send the whole tensor up one tree, a level after the other, and down again: about 2 log2(n) rounds of S.

    Examples
    --------
    >>> [one.messages for one in binary_tree_all_reduce(4).rounds]
    [((0, 1), (2, 1)), ((1, 3),), ((3, 1),), ((1, 0), (1, 2))]
    """
    levels = _levels(n)
    up = [Round(tuple(level), 1, reduced=_most_children(level)) for level in levels]
    down = [Round(tuple((parent, child) for child, parent in level), 1) for level in reversed(levels)]
    return Rounds(1, (*up, *down))


def double_binary_tree_all_reduce(n: int) -> Rounds:
    """Stream each half of the tensor up one of two trees and down again: 2 log2(n) latencies, 2 S through each rank.

    The second tree is the first moved on by one rank, so that inner ranks of one are leaves of the other. Up and
    down overlap, as pieces are taken to be small: https://doi.org/10.1016/j.parco.2009.09.001,
    https://developer.nvidia.com/blog/massively-scale-deep-learning-training-nccl-2-4/

    Examples
    --------
    >>> double_binary_tree_all_reduce(3).rounds[0].messages
    ((0, 1), (2, 1), (1, 2), (1, 0), (1, 2), (0, 2), (2, 0), (2, 1))
    """
    edges = list(chain.from_iterable(_levels(n)))
    tree = edges + [(parent, child) for child, parent in reversed(edges)]
    messages = [((source + by) % n, (target + by) % n) for by in (0, 1) for source, target in tree]
    hops = 2 * (n.bit_length() - 1)
    return Rounds(2, (Round(tuple(messages), 1, hops=hops, streams=2, reduced=_most_children(edges)),))


def double_binary_tree_broadcast(n: int) -> Rounds:
    """Stream each half of the tensor from rank 0 down one of two trees over the other ranks.

    https://doi.org/10.1016/j.parco.2009.09.001

    Examples
    --------
    >>> double_binary_tree_broadcast(3).rounds[0].messages
    ((0, 2), (2, 1), (0, 1), (1, 2))
    """
    others = n - 1
    root = tree_parents(others).index(-1)
    tree = [(parent, child) for child, parent in reversed(list(chain.from_iterable(_levels(others))))]
    messages: list[tuple[int, int]] = []
    for by in (0, 1):
        messages.append((0, (root + by) % others + 1))
        messages += [((source + by) % others + 1, (target + by) % others + 1) for source, target in tree]
    return Rounds(2, (Round(tuple(messages), 1, hops=others.bit_length(), streams=2),))


ALGORITHMS: dict[tuple[str, str], Callable[[int], Rounds]] = {
    ("all_reduce", "ring"): ring_all_reduce,
    ("all_gather", "ring"): ring_all_gather,
    ("reduce_scatter", "ring"): ring_reduce_scatter,
    ("all_to_all", "ring"): ring_all_to_all,
    ("broadcast", "ring"): ring_broadcast,
    ("all_reduce", "direct"): direct_all_reduce,
    ("all_gather", "direct"): direct_all_gather,
    ("reduce_scatter", "direct"): direct_reduce_scatter,
    ("all_to_all", "direct"): direct_all_gather,
    ("broadcast", "direct"): direct_broadcast,
    ("all_reduce", "halving_doubling"): halving_doubling_all_reduce,
    ("all_gather", "halving_doubling"): halving_doubling_all_gather,
    ("reduce_scatter", "halving_doubling"): halving_doubling_reduce_scatter,
    ("all_to_all", "halving_doubling"): halving_doubling_all_to_all,
    ("broadcast", "halving_doubling"): halving_doubling_broadcast,
    ("all_reduce", "binary_tree"): binary_tree_all_reduce,
    ("all_reduce", "double_binary_tree"): double_binary_tree_all_reduce,
    ("broadcast", "double_binary_tree"): double_binary_tree_broadcast,
}
