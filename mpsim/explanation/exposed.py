"""Which transfer a device is held up by while it does not compute, moment by moment; what it computes again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from mpsim.program.model import Program, Timing

__all__ = ["Busy", "busy_of", "exposed_transfers"]

_Span = tuple[float, float]


class _Move(NamedTuple):
    start: float
    end: float
    task: int


class Busy:
    """What one device does: when it computes, what moves meanwhile, and for how long it computes of each kind.

    Attributes
    ----------
    computing : list of (float, float)
        From and until, as its tasks stand in the program.
    moves : list
        Transfers that it takes part in.
    again_s : list of float
        Times whose sum is that of forwards run again.
    slowed_s : list of float
        Times whose sum is what computations took longer than by themselves.
    """

    __slots__ = ("again_s", "computing", "moves", "slowed_s")

    def __init__(self) -> None:
        self.computing: list[_Span] = []
        self.moves: list[_Move] = []
        self.again_s: list[float] = []
        self.slowed_s: list[float] = []

    def move(self, start: float, end: float, task: int) -> None:
        """Let the device take part in a transfer."""
        self.moves.append(_Move(start, end, task))


def busy_of(program: Program, timing: Timing) -> dict[int, Busy]:
    """Return what each device of a program does, by its index in the topology.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> program = Program(streams=(Stream(device=3, name="compute"),), tasks=(Task("a", "forward", (0,), (), 1.0),))
    >>> busy_of(program, Timing(start_s=(0.0,), end_s=(1.0,)))[3].computing
    [(0.0, 1.0)]
    """
    found: dict[int, Busy] = {}
    for i, (task, start, end) in enumerate(zip(program.tasks, timing.start_s, timing.end_s, strict=True)):
        streams = [program.streams[stream] for stream in task.streams]
        for stream in streams:
            found.setdefault(stream.device, Busy())
        if end <= start or streams[0].host:
            continue
        if task.traffic is not None:
            for device in dict.fromkeys(stream.device for stream in streams):
                found[device].move(start, end, i)
            continue
        own = found[streams[0].device]
        own.computing.append((start, end))
        if task.kind == "recompute":
            own.again_s += (end, -start)
        elif not math.isclose(end - start, task.duration_s, rel_tol=1e-9, abs_tol=1e-9 * end):
            own.slowed_s += (end, -start, -task.duration_s)
    return found


def exposed_transfers(busy: Busy) -> dict[int, float]:
    """Return for how long each transfer holds a device up, by its task, while the device does not compute.

    Of several at once it is the one that ends last of those that are over when the device computes again; where none
    is, the one that began first.

    Examples
    --------
    >>> busy = Busy()
    >>> busy.computing = [(0.0, 1.0), (4.0, 5.0)]
    >>> for task, (start, end) in enumerate([(0.5, 2.0), (1.0, 4.0), (1.0, 9.0)]):
    ...     busy.move(start, end, task)
    >>> exposed_transfers(busy)
    {1: 3.0, 2: 4.0}
    """
    edges: dict[int, list[float]] = {}
    moves, at = sorted(busy.moves), 0
    under_way: list[_Move] = []
    for begin, end in _gaps(busy.computing):
        while at < len(moves) and moves[at].start < end:
            under_way.append(moves[at])
            at += 1
        under_way = [move for move in under_way if move.end > begin]
        for start, until, task in _held_up(under_way, begin, end):
            edges.setdefault(task, []).extend((until, -start))
    return {task: math.fsum(parts) for task, parts in edges.items()}


def _gaps(computing: Sequence[_Span]) -> Iterator[_Span]:
    """Yield from when to when nothing is computed; the last has no end."""
    since = 0.0
    for start, end in sorted(computing):
        if start > since:
            yield since, start
        since = max(since, end)
    yield since, math.inf


def _held_up(moves: Sequence[_Move], begin: float, end: float) -> Iterator[tuple[float, float, int]]:
    """Yield who holds a device up from when to when between two computations."""
    edges = sorted({edge for move in moves for edge in (max(move.start, begin), min(move.end, end))})
    for start, until in pairwise(edges):
        there = [move for move in moves if move.start <= start and move.end >= until]
        if there:
            over = [move for move in there if move.end <= end]
            yield start, until, (max(over, key=lambda m: (m.end, -m.task)) if over else min(there)).task
