"""Binary trees of ranks: all-reduce, broadcast and reduce in about 2 log2(n) latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from mpsim.collectives.rounds import Round, Rounds, turned

__all__ = [
    "binary_tree_all_reduce",
    "double_binary_tree_all_reduce",
    "double_binary_tree_broadcast",
    "double_binary_tree_reduce",
    "tree_levels",
    "tree_parents",
]


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


def tree_levels(n: int) -> list[list[tuple[int, int]]]:
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
    levels = tree_levels(n)
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
    edges = list(chain.from_iterable(tree_levels(n)))
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
    tree = [(parent, child) for child, parent in reversed(list(chain.from_iterable(tree_levels(others))))]
    messages: list[tuple[int, int]] = []
    for by in (0, 1):
        messages.append((0, (root + by) % others + 1))
        messages += [((source + by) % others + 1, (target + by) % others + 1) for source, target in tree]
    return Rounds(2, (Round(tuple(messages), 1, hops=others.bit_length(), streams=2),))


def double_binary_tree_reduce(n: int) -> Rounds:
    """Stream each half of the tensor up one of two trees to rank 0: the broadcast, turned.

    Examples
    --------
    >>> double_binary_tree_reduce(3).rounds[0].messages
    ((1, 2), (2, 0), (2, 1), (1, 0))
    """
    pieces, (one,) = double_binary_tree_broadcast(n)
    up = turned(one)
    return Rounds(pieces, (up._replace(reduced=_most_children(up.messages)),))
