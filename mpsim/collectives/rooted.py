"""Rings and direct messages of the collectives with a root (rank 0), of send/receive, and barriers."""

from __future__ import annotations

from collections.abc import Callable

from mpsim.collectives.rounds import Round, Rounds, neighbours, turned

__all__ = [
    "barrier_of",
    "direct_broadcast",
    "direct_gather",
    "direct_reduce",
    "direct_scatter",
    "ring_broadcast",
    "ring_gather",
    "ring_reduce",
    "ring_scatter",
    "send_receive",
]


def _chain(n: int) -> Round:
    """Stream the tensor from rank 0 through all others."""
    return Round(neighbours(n)[:-1], 1, hops=n - 1)


def _star(n: int, pieces: int = 1) -> Round:
    return Round(tuple((0, rank) for rank in range(1, n)), pieces)


def ring_broadcast(n: int) -> Rounds:
    """Stream the tensor from rank 0 through all others in a chain: n-1 latencies, then S on each of its links.

    The pieces are taken to be so small that filling the chain costs latency only.

    Examples
    --------
    >>> ring_broadcast(3).rounds[0].messages
    ((0, 1), (1, 2))
    """
    return Rounds(1, (_chain(n),))


def ring_reduce(n: int) -> Rounds:
    """Stream the tensor along a chain to rank 0, each rank adding its own: n-1 latencies, S on each link.

    Examples
    --------
    >>> ring_reduce(3).rounds[0].messages
    ((2, 1), (1, 0))
    """
    return Rounds(1, (turned(_chain(n), reduced=1),))


def ring_scatter(n: int) -> Rounds:
    """Pass on along a chain what is for those behind: (n-1)/n of S on its first link, S/n on its last.

    Examples
    --------
    >>> ring_scatter(4).rounds[0].counts
    (3, 2, 1)
    """
    return Rounds(n, (_chain(n)._replace(pieces=n - 1, unlike=tuple(range(n - 1, 0, -1))),))


def ring_gather(n: int) -> Rounds:
    """Pass on along a chain to rank 0 what comes from behind, and the own piece.

    Examples
    --------
    >>> ring_gather(4).rounds[0].counts
    (1, 2, 3)
    """
    pieces, (one,) = ring_scatter(n)
    return Rounds(pieces, (turned(one),))


def direct_broadcast(n: int) -> Rounds:
    """Send the whole tensor from rank 0 to each other rank, all at once.

    Examples
    --------
    >>> direct_broadcast(3).rounds[0].messages
    ((0, 1), (0, 2))
    """
    return Rounds(1, (_star(n),))


def direct_reduce(n: int) -> Rounds:
    """Send the whole tensor from every other rank to rank 0, all at once.

    Examples
    --------
    >>> direct_reduce(3).rounds[0].reduced
    2
    """
    return Rounds(1, (turned(_star(n), reduced=n - 1),))


def direct_scatter(n: int) -> Rounds:
    """Send each other rank its piece from rank 0, all at once, as NCCL does with grouped sends.

    Examples
    --------
    >>> direct_scatter(3).pieces
    3
    """
    return Rounds(n, (_star(n),))


def direct_gather(n: int) -> Rounds:
    """Send the piece of each other rank to rank 0, all at once.

    Examples
    --------
    >>> direct_gather(3).rounds[0].messages
    ((2, 0), (1, 0))
    """
    return Rounds(n, (turned(_star(n)),))


def send_receive(n: int) -> Rounds:
    """Send the whole tensor to the next rank, all ranks at once, as nccl-tests' sendrecv_perf does.

    Examples
    --------
    >>> send_receive(2).rounds[0].messages
    ((0, 1), (1, 0))
    """
    return Rounds(1, (Round(neighbours(n), 1),))


def barrier_of(all_reduce: Callable[[int], Rounds]) -> Callable[[int], Rounds]:
    """Return a barrier that takes the way of an all-reduce, adding nothing up.

    Examples
    --------
    >>> from mpsim.collectives.trees import double_binary_tree_all_reduce
    >>> barrier_of(double_binary_tree_all_reduce)(3).rounds[0].reduced
    0
    """

    def barrier(n: int) -> Rounds:
        pieces, rounds = all_reduce(n)
        return Rounds(pieces, tuple(one._replace(reduced=0) for one in rounds))

    return barrier
