"""The collectives of gloo, the CPU backend of torch.distributed, as its source has them.

``gloo::allreduce`` is a ring in segments (https://github.com/pytorch/gloo, ``gloo/allreduce.cc``): the tensor is cut
into at least two segments a rank, of at most 1 MiB; each rank receives from the next rank and sends to the one
before, and has two segments on their way at a time. A segment leaves once the receiver has said that it is ready
(``gloo/transport/tcp/pair.cc``: a notice on the same TCP stream as the receiver's own data to that peer). So a ring
over n ranks takes 4(n-1) latencies however small the tensor is, where a textbook ring takes 2(n-1).

``gloo::allgather`` is a ring the other way round (``gloo/allgather.cc``): each rank's part goes in two halves, of any
size, and two are on their way at a time. A reduce-scatter is an all-reduce of the whole tensor, of which each rank
keeps its part (``ProcessGroupGloo::reduce_scatter_tensor_coalesced``; torch 2.13 puts as many bytes on its wires for
one as for the other).

A program carries the collective as one event: the bytes of all its messages on their links, and as latency whatever
the rank-by-rank recurrence below takes longer on an idle network than those bytes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.collectives.mapping import algorithm_of
from mpsim.collectives.traffic import check_ranks, collective
from mpsim.errors import MpsimError
from mpsim.program.model import Traffic

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["MAX_SEGMENT_BYTES", "OWN_KINDS", "gloo_collective", "phase_lengths", "phases_of", "ring_s", "segments"]

OWN_KINDS = ("all_reduce", "reduce_scatter", "all_gather")

MAX_SEGMENT_BYTES = 2**20  # AllreduceOptionsImpl::kMaxSegmentSize in gloo/allreduce.h
_ELEMENT_BYTES = 4
_Rows = NDArray[np.float64]


class _Ring(NamedTuple):
    """What a ring's neighbours are to each other: rank r sends to r-1 and sends notices to r+1."""

    data_latency_s: _Rows
    notice_latency_s: _Rows
    s_per_byte: _Rows


def segments(bytes: int, n: int) -> tuple[int, int]:
    """Return how many segments each rank's chunk has, and the bytes of one.

    Examples
    --------
    >>> segments(2600, 4), segments(64 * 2**20, 4)
    ((2, 328), (16, 1048576))
    """
    count = max(-(-bytes // MAX_SEGMENT_BYTES), 2 * n)
    count = -(-count // n) * n
    size = -(-bytes // count)
    return count // n, -(-size // _ELEMENT_BYTES) * _ELEMENT_BYTES


def gloo_collective(routes: Routes, kind: str, ranks: Sequence[int], bytes: int, reduce_bytes_per_s: float) -> Traffic:
    """Return the traffic of a collective as gloo runs it.

    Parameters
    ----------
    routes : Routes
        Of the topology.
    kind : str
        One of `OWN_KINDS` by gloo's rings; ``all_to_all`` by direct messages; any other by the textbook's ring.
    ranks : sequence of int
        Indices of devices, in the group's order.
    bytes : int
        The whole tensor.
    reduce_bytes_per_s : float
        Received bytes that a rank adds to its own each second.

    Raises
    ------
    MpsimError
        As :func:`mpsim.collectives.traffic.collective`.

    Examples
    --------
    >>> from mpsim.topology.builders import fully_connected
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(fully_connected(4, link="1GB/s@1ms"))
    >>> round(gloo_collective(routes, "all_reduce", range(4), 64, float("inf")).latency_s, 6)
    0.012
    """
    ranks = tuple(ranks)
    if kind not in OWN_KINDS:
        return collective(routes, kind, ranks, bytes, algorithm=algorithm_of(kind, "ring"))
    check_ranks(kind, routes, ranks, bytes)
    n = len(ranks)
    phases = phases_of(kind, bytes, n)
    if kind == "all_gather":
        ranks = ranks[::-1]  # each sends to the next one, not to the one before
    paths = [routes.path(ranks[r], ranks[r - 1]) for r in range(n)]
    sent = [float(count) for count in sum(lengths.sum(axis=0) for lengths in phases)]
    on_link: dict[int, float] = {}
    for path, count in zip(paths, sent, strict=True):
        for link in path:
            on_link[link] = on_link.get(link, 0.0) + count
    users = {link: sum(link in path for path in paths) for link in on_link}
    bandwidth = [link.bandwidth_bytes_per_s for link in routes.topology.links]
    hop_s = np.array([routes.topology.devices[rank].hop_s for rank in ranks])
    ring = _Ring(
        hop_s + [routes.latency_s(path) for path in paths],
        hop_s + [routes.latency_s(routes.path(ranks[r], ranks[(r + 1) % n])) for r in range(n)],
        np.array([max(users[link] / bandwidth[link] for link in path) for path in paths]),
    )
    total_s = _ring_s(phases, ring, reduce_bytes_per_s)
    moving_s = max(count / bandwidth[link] for link, count in on_link.items())
    used = {link: count for link, count in on_link.items() if count}
    return Traffic(
        latency_s=max(0.0, total_s - moving_s),
        links=tuple(used),
        bytes=tuple(used.values()),
        payload_bytes=bytes,
        rounds=2 * len(phases) * (n - 1),
    )


def phase_lengths(bytes: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bytes that each rank sends in each step (steps, n) of the reduce-scatter and of the all-gather.

    Examples
    --------
    >>> [lengths.tolist() for lengths in phase_lengths(12, 2)]
    [[[4, 4], [0, 4]], [[4, 4], [4, 0]]]
    """
    each, size = segments(bytes, n)
    steps = np.arange(each * (n - 1))[:, None]
    ranks = np.arange(n)[None, :]

    def length(first: NDArray[np.int64]) -> NDArray[np.int64]:
        offset = ((first * each + steps) * size) % (n * each * size)
        clipped: NDArray[np.int64] = np.clip(bytes - offset, 0, size)
        return clipped

    return length(ranks + 1), length(ranks)


def phases_of(kind: str, bytes: int, n: int) -> tuple[NDArray[np.int64], ...]:
    """Return the bytes that each rank sends in each step (steps, n) of each phase of a collective of a whole tensor.

    Examples
    --------
    >>> [lengths.tolist() for lengths in phases_of("all_gather", 10, 2)]
    [[[2, 2], [3, 3]]]
    >>> len(phases_of("reduce_scatter", 12, 2))
    2
    """
    if kind != "all_gather":
        return phase_lengths(bytes, n)
    own = -(-bytes // n)
    halves = np.array([own // 2, own - own // 2] * (n - 1))[:, None]
    return (np.broadcast_to(halves, (2 * (n - 1), n)),)


def ring_s(bytes: int, ring: _Ring, reduce_bytes_per_s: float) -> float:
    """Return how long gloo's all-reduce takes on an idle network, all ranks beginning at once.

    Examples
    --------
    >>> ring = _Ring(np.full(2, 1.0), np.full(2, 1.0), np.zeros(2))
    >>> ring_s(64, ring, float("inf"))
    4.0
    """
    n = len(ring.s_per_byte)
    if n < 2:
        raise MpsimError(f"a ring of {n} ranks: it takes at least 2")
    return _ring_s(phase_lengths(bytes, n), ring, reduce_bytes_per_s)


def _ring_s(phases: Sequence[NDArray[np.int64]], ring: _Ring, reduce_bytes_per_s: float) -> float:
    """Follow phase after phase; in the first of two what is received is added."""
    at = np.zeros(len(ring.s_per_byte))
    for i, lengths in enumerate(phases):
        at = _phase(at, lengths, ring, 1.0 / reduce_bytes_per_s if i + 1 < len(phases) else 0.0)
    return float(at.max())


def _phase(at: _Rows, lengths: NDArray[np.int64], ring: _Ring, reduce_s_per_byte: float) -> _Rows:
    """Follow every rank through the steps of one phase: post a receive and a send, two steps later wait for both.

    Row `i` of each list is step `i`, entry `r` is rank `r`, which sends to rank ``r - 1``.
    """
    n = len(at)
    steps = len(lengths)
    arrived: list[_Rows] = []
    sent: list[_Rows] = []
    asked: list[_Rows] = []
    free = np.zeros(n)
    for i in range(steps + 2):
        if i >= 2:
            count = lengths[i - 2]
            coming = np.roll(count, -1)
            at = np.where(coming > 0, np.maximum(at, arrived[i - 2]) + coming * reduce_s_per_byte, at)
            at = np.where(count > 0, np.maximum(at, sent[i - 2]), at)
        if i < steps:
            notice = at
            if n == 2 and i:
                # One peer for both: the notice stands in the stream behind the data that went into it before (at the
                # same moment, as with no latency at all, the notice goes first).
                notice = np.where(asked[i - 1] < at, np.maximum(at, sent[i - 1]), at)
            ready = np.maximum(at, np.roll(notice + ring.notice_latency_s, 1))
            start = np.maximum(ready, free)
            end = start + lengths[i] * ring.s_per_byte
            free = np.where(lengths[i] > 0, end, free)
            asked.append(ready)
            sent.append(end)
            arrived.append(np.roll(end + ring.data_latency_s, -1))
    return at
