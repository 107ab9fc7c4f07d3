"""Collectives that follow the levels of a topology: inside nodes, then between them.

Ranks stand at places 0 to n-1 of a grid, those of one node side by side; `sizes` are the grid's, the innermost first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

from mpsim.collectives.rounds import Aggregate, Pipelined, Round, Rounds, Steps, neighbours, pairs
from mpsim.collectives.trees import tree_levels

__all__ = ["LEVELLED", "Sizes", "rings_along"]

Sizes = tuple[int, ...]


def _lines(sizes: Sizes, level: int) -> Iterator[range]:
    """Yield the places of each line of the grid along one level."""
    stride, n = prod(sizes[:level]), prod(sizes)
    block = stride * sizes[level]
    for start in range(0, n, block):
        for first in range(start, start + stride):
            yield range(first, first + block, stride)


def _rings(sizes: Sizes, level: int, repeat: int, *, reduced: int = 0) -> Round:
    """Go around a ring on each line of one level, with what the levels below have left of the tensor."""
    pieces = prod(sizes[level + 1 :])
    messages = tuple((line[a], line[b]) for line in _lines(sizes, level) for a, b in neighbours(sizes[level]))
    return Round(messages, pieces, repeat=repeat, reduced=reduced * pieces)


def hierarchical_reduce_scatter(sizes: Sizes) -> Rounds:
    """Reduce-scatter around a ring inside each node, then between nodes what is left, level by level.

    Examples
    --------
    >>> [(one.pieces, one.repeat) for one in hierarchical_reduce_scatter((4, 2)).rounds]
    [(2, 3), (1, 1)]
    """
    rounds = (_rings(sizes, level, size - 1, reduced=size - 1) for level, size in enumerate(sizes) if size > 1)
    return Rounds(prod(sizes), tuple(rounds))


def hierarchical_all_gather(sizes: Sizes) -> Rounds:
    """All-gather between nodes, then inside each: the reduce-scatter, turned.

    Examples
    --------
    >>> [(one.pieces, one.repeat) for one in hierarchical_all_gather((4, 2)).rounds]
    [(1, 1), (2, 3)]
    """
    rounds = hierarchical_reduce_scatter(sizes).rounds
    return Rounds(prod(sizes), tuple(one._replace(reduced=0) for one in reversed(rounds)))


def hierarchical_all_reduce(sizes: Sizes) -> Rounds:
    """Reduce-scatter inside each node, all-reduce between nodes, all-gather inside.

    Examples
    --------
    >>> [(one.pieces, one.repeat) for one in hierarchical_all_reduce((4, 2)).rounds]
    [(2, 3), (1, 2), (2, 3)]
    """
    *inside, top = hierarchical_reduce_scatter(sizes).rounds
    _, *back = hierarchical_all_gather(sizes).rounds
    return Rounds(prod(sizes), (*inside, top._replace(repeat=2 * top.repeat), *back))


def hierarchical_all_to_all(sizes: Sizes) -> Rounds:
    """Bring what is for each place to that place inside the own node, then to its node: S on each level.

    Examples
    --------
    >>> [one.pieces for one in hierarchical_all_to_all((4, 2)).rounds]
    [2, 4]
    """
    n = prod(sizes)
    rounds = [
        Round(tuple((line[a], line[b]) for line in _lines(sizes, level) for a, b in pairs(size)), n // size)
        for level, size in enumerate(sizes)
        if size > 1
    ]
    return Rounds(n, tuple(rounds))


def _ways(sizes: Sizes) -> list[list[int]]:
    """Return as many rings through all places as a node has, each leaving a node by another place.

    A node is gone through upwards, the next one downwards, so that a ring enters at the place across from which it
    left, and every place of a node sends as much to other nodes as any other. With an odd number of nodes the last
    one meets the first a place aside.
    """
    inside = sizes[0]
    ways = []
    for channel in range(inside):
        up = [(channel + i) % inside for i in range(inside)]
        ways.append([node * inside + i for node in range(prod(sizes[1:])) for i in (up if node % 2 == 0 else up[::-1])])
    return ways


def rings_along(kind: str, ways: Sequence[Sequence[int]]) -> Rounds:
    """Return an all-reduce, all-gather or reduce-scatter of equal shares of the tensor around some rings at once.

    Examples
    --------
    >>> rings_along("all_gather", [(0, 1, 2), (2, 1, 0)]).rounds[0].slices
    (((0, 1), (1, 2), (2, 0)), ((2, 1), (1, 0), (0, 2)))
    """
    n = len(ways[0])
    rounds_of_all = 2 * (n - 1) if kind == "all_reduce" else n - 1
    messages = tuple((way[a], way[b]) for way in ways for a, b in neighbours(n))
    reduced = 0 if kind == "all_gather" else (n - 1) * len(ways)
    return Rounds(n * len(ways), (Round(messages, 1, repeat=rounds_of_all, streams=len(ways), reduced=reduced),))


def _channels(kind: str, sizes: Sizes) -> Rounds:
    return rings_along(kind, _ways(sizes) if len(sizes) > 1 and sizes[0] > 1 else [range(prod(sizes))])


def rings_all_reduce(sizes: Sizes) -> Rounds:
    """All-reduce around as many rings as a node has ranks, each leaving nodes by another: NCCL's channels.

    One ring would leave every node by one rank and its network card alone
    (https://developer.nvidia.com/blog/massively-scale-deep-learning-training-nccl-2-4/).

    Examples
    --------
    >>> one = rings_all_reduce((2, 2)).rounds[0]
    >>> one.slices
    (((0, 1), (1, 3), (3, 2), (2, 0)), ((1, 0), (0, 2), (2, 3), (3, 1)))
    """
    return _channels("all_reduce", sizes)


def rings_all_gather(sizes: Sizes) -> Rounds:
    """All-gather around as many rings as a node has ranks.

    Examples
    --------
    >>> rings_all_gather((2, 2)).rounds[0].repeat
    3
    """
    return _channels("all_gather", sizes)


def rings_reduce_scatter(sizes: Sizes) -> Rounds:
    """Reduce-scatter around as many rings as a node has ranks.

    Examples
    --------
    >>> rings_reduce_scatter((2, 2)).pieces
    8
    """
    return _channels("reduce_scatter", sizes)


def trees_all_reduce(sizes: Sizes) -> Rounds:
    """Stream along a chain inside each node to one rank, up two trees of nodes and back: NCCL's trees.

    As many such pairs of trees as a node has ranks, each leaving nodes by another: 2(m-1) + 2 log2(N) latencies over N
    nodes of m ranks (https://developer.nvidia.com/blog/massively-scale-deep-learning-training-nccl-2-4/).

    Examples
    --------
    >>> one = trees_all_reduce((2, 3)).rounds[0]
    >>> one.streams, one.hops, one.slices[0]
    (4, 4, ((1, 0), (3, 2), (5, 4), (0, 2), (4, 2), (2, 4), (2, 0), (4, 5), (2, 3), (0, 1)))
    """
    inside, nodes = sizes[0], prod(sizes[1:])
    messages: list[tuple[int, int]] = []
    for channel in range(inside):
        for by in (0, 1):
            up = [
                (node * inside + (channel + i) % inside, node * inside + (channel + i - 1) % inside)
                for i in range(inside - 1, 0, -1)
                for node in range(nodes)
            ]
            edges = [edge for level in tree_levels(nodes) for edge in level] if nodes > 1 else []
            up += [((a + by) % nodes * inside + channel, (b + by) % nodes * inside + channel) for a, b in edges]
            messages += up + [(b, a) for a, b in reversed(up)]
    hops = 2 * (inside - 1) + 2 * (nodes.bit_length() - 1)
    # A rank adds what its neighbour sends in all channels but the one where its chain begins, and what two nodes send.
    reduced = 2 * (inside - 1) + min(2, nodes - 1)
    return Rounds(2 * inside, (Round(tuple(messages), 1, hops=hops, streams=2 * inside, reduced=reduced),))


def nvls_all_reduce(sizes: Sizes) -> Steps:
    """Let the switch add: each rank reads the sum of its n-th through the switch and multicasts it.

    A rank hands in S and the sum of its part, S/n, and gets as much: (n+1)/n·S each way, where a ring has 2(n-1)/n
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide/ multimem.ld_reduce, multimem.st; NCCL's NVLS).

    Examples
    --------
    >>> [(one.sent, one.received) for one in nvls_all_reduce((8,)).rounds]
    [(9, 9)]
    """
    n = prod(sizes)
    whole = tuple(range(n))
    return Steps(n, (Aggregate((whole,), n + 1, n + 1, True, turns=2),))


def nvls_reduce_scatter(sizes: Sizes) -> Steps:
    """Let each rank read the sum of its n-th through the switch.

    Examples
    --------
    >>> nvls_reduce_scatter((8,)).rounds[0].received
    1
    """
    n = prod(sizes)
    return Steps(n, (Aggregate((tuple(range(n)),), n, 1, True),))


def nvls_all_gather(sizes: Sizes) -> Steps:
    """Let each rank multicast its n-th through the switch.

    Examples
    --------
    >>> nvls_all_gather((8,)).rounds[0].received
    8
    """
    n = prod(sizes)
    return Steps(n, (Aggregate((tuple(range(n)),), 1, n, True),))


def collnet_all_reduce(sizes: Sizes) -> Steps:
    """Reduce-scatter inside each node, let the network's switches add between nodes (SHARP), all-gather inside.

    https://docs.nvidia.com/networking/display/sharpv300

    Examples
    --------
    >>> [one.pieces for one in collnet_all_reduce((4, 2)).rounds if isinstance(one, Round)]
    [1, 1]
    """
    inside, nodes = sizes[0] if len(sizes) > 1 else 1, prod(sizes[1:]) if len(sizes) > 1 else sizes[0]
    between = Aggregate(tuple(tuple(line) for line in _lines((inside, nodes), 1)), 1, 1, False)
    if inside == 1:
        return Steps(1, (between,))
    down = _rings((inside, nodes), 0, inside - 1)._replace(pieces=1, reduced=inside - 1)
    return Steps(inside, (down, between, down._replace(reduced=0)))


def nvls_tree_all_reduce(sizes: Sizes) -> Steps:
    """Let each node's switch add, pass the sums up two trees of nodes and back, and let the switches copy the result.

    All of it streams, so it takes what the slower takes: the switches, or the network, through every card at once
    (NCCL's NVLSTree: https://github.com/NVIDIA/nccl, src/graph/connect.cc).

    Examples
    --------
    >>> inside, between = nvls_tree_all_reduce((8, 2)).rounds[0].parts
    >>> inside.sent, len(between.messages), between.hops
    (18, 32, 2)
    """
    inside, nodes = sizes[0] if len(sizes) > 1 else 1, prod(sizes[1:]) if len(sizes) > 1 else sizes[0]
    groups = tuple(tuple(range(node * inside, (node + 1) * inside)) for node in range(nodes))
    added = Aggregate(groups, 2 * (inside + 1), 2 * (inside + 1), True, turns=2)
    edges = [edge for level in tree_levels(nodes) for edge in level]
    ups = [
        [((a + by) % nodes * inside + rank, (b + by) % nodes * inside + rank) for a, b in edges]
        for rank in range(inside)
        for by in (0, 1)
    ]
    messages = tuple(edge for up in ups for edge in (*up, *((b, a) for a, b in reversed(up))))
    tree = Round(messages, 1, hops=2 * (nodes.bit_length() - 1), streams=2 * inside, reduced=min(2, nodes - 1))
    return Steps(2 * inside, (Pipelined((added, tree)),))


LEVELLED: dict[tuple[str, str], Callable[[Sizes], Rounds | Steps]] = {
    ("all_reduce", "hierarchical"): hierarchical_all_reduce,
    ("all_gather", "hierarchical"): hierarchical_all_gather,
    ("reduce_scatter", "hierarchical"): hierarchical_reduce_scatter,
    ("all_to_all", "hierarchical"): hierarchical_all_to_all,
    ("all_reduce", "rings"): rings_all_reduce,
    ("all_gather", "rings"): rings_all_gather,
    ("reduce_scatter", "rings"): rings_reduce_scatter,
    ("all_reduce", "trees"): trees_all_reduce,
    ("all_reduce", "nvls"): nvls_all_reduce,
    ("all_gather", "nvls"): nvls_all_gather,
    ("reduce_scatter", "nvls"): nvls_reduce_scatter,
    ("all_reduce", "nvls_tree"): nvls_tree_all_reduce,
    ("all_reduce", "collnet"): collnet_all_reduce,
}
