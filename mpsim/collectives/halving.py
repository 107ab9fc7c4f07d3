"""Recursive halving and doubling: about log2(n) rounds of ever smaller or larger messages.

Over a power of two of ranks, they exchange with the rank whose number differs in one bit. Over any other number there
is no such partner for all, so messages go around a circle instead, by skips of n/2, n/4, ..., 1 rounded up; the bytes
are the same (n-1)/n of the tensor, the rounds log2(n) rounded up (Träff, https://arxiv.org/abs/2410.14234; the
all-gather is Bruck's, https://doi.org/10.1109/71.642949).
"""

from __future__ import annotations

from itertools import pairwise

from mpsim.collectives.rounds import Round, Rounds, turned

__all__ = [
    "halving_doubling_all_gather",
    "halving_doubling_all_reduce",
    "halving_doubling_all_to_all",
    "halving_doubling_barrier",
    "halving_doubling_broadcast",
    "halving_doubling_gather",
    "halving_doubling_reduce",
    "halving_doubling_reduce_scatter",
    "halving_doubling_scatter",
]


def _is_power(n: int) -> bool:
    return not n & (n - 1)


def _distances(n: int) -> list[int]:
    """Return 1, 2, ..., n/2."""
    return [1 << bit for bit in range(n.bit_length() - 1)]


def _skips(n: int) -> list[tuple[int, int]]:
    """Return each skip around the circle of any n ranks and the pieces of a message, the longest first."""
    halves = [n]
    while halves[-1] > 1:
        halves.append(-(-halves[-1] // 2))
    return [(half, whole - half) for whole, half in pairwise(halves)]


def _around(n: int, skip: int, pieces: int, reduced: int = 0) -> Round:
    return Round(tuple((rank, (rank + skip) % n) for rank in range(n)), pieces, reduced=reduced)


def _exchange(n: int, distance: int) -> tuple[tuple[int, int], ...]:
    return tuple((rank, rank ^ distance) for rank in range(n))


def halving_doubling_reduce_scatter(n: int) -> Rounds:
    """Exchange halves with the rank next to oneself, quarters with the one 2 away, and so on: log2(n) rounds.

    The largest messages go the shortest way: https://doi.org/10.1177/1094342005051521

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_reduce_scatter(8).rounds]
    [4, 2, 1]
    >>> [one.pieces for one in halving_doubling_reduce_scatter(7).rounds]
    [3, 2, 1]
    """
    if not _is_power(n):
        return Rounds(n, tuple(_around(n, skip, pieces, pieces) for skip, pieces in _skips(n)))
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
    >>> [one.pieces for one in halving_doubling_all_gather(7).rounds]
    [1, 2, 3]
    """
    if not _is_power(n):
        return Rounds(n, tuple(_around(n, skip, pieces) for skip, pieces in reversed(_skips(n))))
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

    Over no power of two, what has to go k ranks further takes the skips of k's bits (Bruck).

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_all_to_all(8).rounds]
    [4, 4, 4]
    >>> [one.pieces for one in halving_doubling_all_to_all(6).rounds]
    [3, 2, 2]
    """
    if not _is_power(n):
        skips = [1 << bit for bit in range(n.bit_length())]
        return Rounds(n, tuple(_around(n, skip, sum(bool(far & skip) for far in range(n))) for skip in skips))
    return Rounds(n, tuple(Round(_exchange(n, away), n // 2) for away in _distances(n)))


def halving_doubling_barrier(n: int) -> Rounds:
    """Tell the ranks 1, 2, 4, ... further: log2(n) rounds, rounded up (https://doi.org/10.1007/BF01407828).

    Examples
    --------
    >>> len(halving_doubling_barrier(5).rounds)
    3
    """
    return Rounds(1, tuple(_around(n, 1 << bit, 1) for bit in range((n - 1).bit_length())))


def halving_doubling_scatter(n: int) -> Rounds:
    """Send the further half of what one holds to the first rank of that half, down a tree from rank 0.

    Examples
    --------
    >>> [(one.messages, one.counts) for one in halving_doubling_scatter(5).rounds]
    [(((0, 3),), (2,)), (((0, 2), (3, 4)), (1, 1)), (((0, 1),), (1,))]
    """
    rounds, held = [], [(0, n)]
    while any(stop - start > 1 for start, stop in held):
        cuts = [(start, start + (stop - start + 1) // 2, stop) for start, stop in held if stop - start > 1]
        counts = tuple(stop - middle for _, middle, stop in cuts)
        messages = tuple((start, middle) for start, middle, _ in cuts)
        unlike = counts if len(set(counts)) > 1 else ()
        rounds.append(Round(messages, max(counts), unlike=unlike))
        held = [part for start, middle, stop in cuts for part in ((start, middle), (middle, stop))]
    return Rounds(n, tuple(rounds))


def halving_doubling_gather(n: int) -> Rounds:
    """Collect ever more at ever fewer ranks, until rank 0 has all: the scatter, turned.

    Examples
    --------
    >>> [one.messages for one in halving_doubling_gather(4).rounds]
    [((3, 2), (1, 0)), ((2, 0),)]
    """
    pieces, rounds = halving_doubling_scatter(n)
    return Rounds(pieces, tuple(turned(one) for one in reversed(rounds)))


def halving_doubling_broadcast(n: int) -> Rounds:
    """Scatter from rank 0 down a binomial tree, then all-gather by doubling.

    https://doi.org/10.1177/1094342005051521

    Examples
    --------
    >>> [one.messages for one in halving_doubling_broadcast(4).rounds[:2]]
    [((0, 1),), ((0, 2), (1, 3))]
    """
    if not _is_power(n):
        return Rounds(n, halving_doubling_scatter(n).rounds + halving_doubling_all_gather(n).rounds)
    scatter = [Round(tuple((rank, rank + away) for rank in range(away)), n // (2 * away)) for away in _distances(n)]
    return Rounds(n, (*scatter, *halving_doubling_all_gather(n).rounds))


def halving_doubling_reduce(n: int) -> Rounds:
    """Reduce-scatter by halving, then gather at rank 0: 2 log2(n) rounds.

    https://doi.org/10.1177/1094342005051521

    Examples
    --------
    >>> [one.pieces for one in halving_doubling_reduce(4).rounds]
    [2, 1, 1, 2]
    """
    return Rounds(n, halving_doubling_reduce_scatter(n).rounds + halving_doubling_gather(n).rounds)
