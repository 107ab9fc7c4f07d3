"""Collective algorithms as rounds of messages between ranks; a new one is a function and a line in `ALGORITHMS`.

Nothing here knows a device, a link or a number of bytes: ranks are 0 to n-1, and a tensor is so many equal pieces.
Algorithms that follow the levels of a topology are in `mpsim.collectives.levelled`.
"""

from __future__ import annotations

from collections.abc import Callable

from mpsim.collectives.halving import (
    halving_doubling_all_gather,
    halving_doubling_all_reduce,
    halving_doubling_all_to_all,
    halving_doubling_barrier,
    halving_doubling_broadcast,
    halving_doubling_gather,
    halving_doubling_reduce,
    halving_doubling_reduce_scatter,
    halving_doubling_scatter,
)
from mpsim.collectives.rooted import (
    barrier_of,
    direct_broadcast,
    direct_gather,
    direct_reduce,
    direct_scatter,
    ring_broadcast,
    ring_gather,
    ring_reduce,
    ring_scatter,
    send_receive,
)
from mpsim.collectives.rounds import Round, Rounds, neighbours, pairs
from mpsim.collectives.trees import (
    binary_tree_all_reduce,
    double_binary_tree_all_reduce,
    double_binary_tree_broadcast,
    double_binary_tree_reduce,
    tree_parents,
)

__all__ = ["ALGORITHMS", "Round", "Rounds", "tree_parents"]


def ring_all_reduce(n: int) -> Rounds:
    """Reduce-scatter, then all-gather, around the ring: 2(n-1) rounds of S/n.

    https://doi.org/10.1016/j.jpdc.2008.09.002

    Examples
    --------
    >>> ring_all_reduce(4).rounds[0].repeat
    6
    """
    return Rounds(n, (Round(neighbours(n), 1, repeat=2 * (n - 1), reduced=n - 1),))


def ring_all_gather(n: int) -> Rounds:
    """Pass each rank's piece around the ring: n-1 rounds of S/n.

    Examples
    --------
    >>> ring_all_gather(3).rounds[0].messages
    ((0, 1), (1, 2), (2, 0))
    """
    return Rounds(n, (Round(neighbours(n), 1, repeat=n - 1),))


def ring_reduce_scatter(n: int) -> Rounds:
    """Add up each piece once around the ring: n-1 rounds of S/n.

    Examples
    --------
    >>> ring_reduce_scatter(4).rounds[0].reduced
    3
    """
    return Rounds(n, (Round(neighbours(n), 1, repeat=n - 1, reduced=n - 1),))


def ring_all_to_all(n: int) -> Rounds:
    """Pass on what is for others, a piece a message: the k-th neighbour's piece takes k of the n(n-1)/2 rounds.

    Examples
    --------
    >>> ring_all_to_all(4).rounds[0].repeat
    6
    """
    return Rounds(n, (Round(neighbours(n), 1, repeat=n * (n - 1) // 2),))


def direct_all_reduce(n: int) -> Rounds:
    """Send each rank the piece that it reduces, then everyone the result: 2 rounds of n(n-1) messages of S/n.

    Examples
    --------
    >>> len(direct_all_reduce(4).rounds), len(direct_all_reduce(4).rounds[0].messages)
    (2, 12)
    """
    every = pairs(n)
    return Rounds(n, (Round(every, 1, reduced=n - 1), Round(every, 1)))


def direct_all_gather(n: int) -> Rounds:
    """Send every other rank the own piece, all at once.

    Examples
    --------
    >>> direct_all_gather(2).rounds[0].messages
    ((0, 1), (1, 0))
    """
    return Rounds(n, (Round(pairs(n), 1),))


def direct_reduce_scatter(n: int) -> Rounds:
    """Send each other rank the piece that it reduces, all at once.

    Examples
    --------
    >>> direct_reduce_scatter(4).rounds[0].reduced
    3
    """
    return Rounds(n, (Round(pairs(n), 1, reduced=n - 1),))


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
    ("all_reduce", "binary_tree"): binary_tree_all_reduce,
    ("all_reduce", "double_binary_tree"): double_binary_tree_all_reduce,
    ("broadcast", "double_binary_tree"): double_binary_tree_broadcast,
    ("broadcast", "halving_doubling"): halving_doubling_broadcast,
    ("reduce", "ring"): ring_reduce,
    ("reduce", "direct"): direct_reduce,
    ("reduce", "halving_doubling"): halving_doubling_reduce,
    ("reduce", "double_binary_tree"): double_binary_tree_reduce,
    ("gather", "ring"): ring_gather,
    ("gather", "direct"): direct_gather,
    ("gather", "halving_doubling"): halving_doubling_gather,
    ("scatter", "ring"): ring_scatter,
    ("scatter", "direct"): direct_scatter,
    ("scatter", "halving_doubling"): halving_doubling_scatter,
    # Around the ring and direct are one and the same here.
    ("send_receive", "ring"): send_receive,
    ("send_receive", "direct"): send_receive,
    ("barrier", "ring"): barrier_of(ring_all_reduce),
    ("barrier", "direct"): barrier_of(direct_all_reduce),
    ("barrier", "halving_doubling"): halving_doubling_barrier,
    ("barrier", "double_binary_tree"): barrier_of(double_binary_tree_all_reduce),
}
