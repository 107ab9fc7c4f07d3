"""What a collective algorithm is made of: rounds of messages between ranks, in pieces of a tensor."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Aggregate", "Pipelined", "Round", "Rounds", "Steps", "must_hear", "neighbours", "pairs", "turned"]


class Round(NamedTuple):
    """Messages of so many pieces each, which leave together once what the ranks wait for has arrived.

    Attributes
    ----------
    messages : tuple of (int, int)
        Source and target ranks.
    pieces : int
        Of the tensor, in each message; in the largest, where they are unlike.
    repeat : int
        Such rounds in a row. A ring's rounds are all alike: they are described once, not 2(n-1) times.
    hops : int
        More than 1 where pieces stream from rank to rank within the round: messages on the longest way.
    streams : int
        So many slices of one length make up `messages`, each a ring or, where pieces stream, a way of its own, in the
        order in which they take it.
    reduced : int
        Pieces that the busiest rank adds to its own, over all repeats.
    unlike : tuple of int
        Pieces of each message, where they are not all alike.
    """

    messages: tuple[tuple[int, int], ...]
    pieces: int
    repeat: int = 1
    hops: int = 1
    streams: int = 1
    reduced: int = 0
    unlike: tuple[int, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """Pieces of each message."""
        return self.unlike or (self.pieces,) * len(self.messages)

    @property
    def slices(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The messages of each stream."""
        length = len(self.messages) // self.streams
        return tuple(self.messages[i : i + length] for i in range(0, len(self.messages), length))


class Aggregate(NamedTuple):
    """A reduction inside the network: every rank of a group hands in its pieces, every one gets their sum.

    Attributes
    ----------
    groups : tuple of tuple of int
        Ranks that hand in to one switch, and hear from it.
    sent, received : int
        Pieces that each rank sends up and gets down.
    below : bool
        Whether the reducing switch must be next to every rank (NVLS), or may be the root of a tree of them (SHARP).
    turns : int
        Messages up and down, one after the other, that a piece takes; pieces stream.
    """

    groups: tuple[tuple[int, ...], ...]
    sent: int
    received: int
    below: bool
    turns: int = 1


class Rounds(NamedTuple):
    """The rounds of a collective whose tensor is cut into so many equal `pieces`."""

    pieces: int
    rounds: tuple[Round, ...]


class Pipelined(NamedTuple):
    """Parts of one stream: a piece goes through them one after another, and different pieces are in all at once."""

    parts: tuple[Round | Aggregate, ...]


class Steps(NamedTuple):
    """As `Rounds`, where the network reduces in some of them."""

    pieces: int
    rounds: tuple[Round | Aggregate | Pipelined, ...]


def neighbours(n: int) -> tuple[tuple[int, int], ...]:
    """Return each rank and the next one around a ring.

    Examples
    --------
    >>> neighbours(3)
    ((0, 1), (1, 2), (2, 0))
    """
    return tuple((rank, (rank + 1) % n) for rank in range(n))


def pairs(n: int) -> tuple[tuple[int, int], ...]:
    """Return every pair, each rank beginning with its neighbour, so that not all of them send to rank 0 first.

    Examples
    --------
    >>> pairs(3)
    ((0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1))
    """
    return tuple((source, (source + away) % n) for away in range(1, n) for source in range(n))


def turned(one: Round, reduced: int = 0) -> Round:
    """Return a round with every message going the other way, the last first: what was spread is collected.

    Examples
    --------
    >>> turned(Round(((0, 1), (1, 2)), 1, hops=2)).messages
    ((2, 1), (1, 0))
    """
    length = len(one.messages) // one.streams
    order = [i for first in range(0, len(one.messages), length) for i in reversed(range(first, first + length))]
    messages = tuple((one.messages[i][1], one.messages[i][0]) for i in order)
    return one._replace(messages=messages, reduced=reduced, unlike=tuple(one.unlike[i] for i in order if one.unlike))


def must_hear(kind: str, rank: int, n: int) -> set[int]:
    """Return the ranks whose data a rank must have heard, itself through others, once a collective is over.

    Examples
    --------
    >>> must_hear("reduce", 0, 3), must_hear("reduce", 1, 3)
    ({0, 1, 2}, {1})
    """
    if kind in ("broadcast", "scatter"):
        return {0}
    if kind in ("reduce", "gather"):
        return set(range(n)) if rank == 0 else {rank}
    return {(rank - 1) % n} if kind == "send_receive" else set(range(n))
