"""Measure what messages between two ranks cost, over the runtime that will run the plan, as a training step has them.

In a step a message comes after some computation: processes have slept, caches and wires are cold. A ping-pong without
a pause answers from warm ones, and says half of what such a message takes. So every probe here begins with a pause:

- *post*: how long the call that hands a message over keeps its rank;
- *latency*: a receive is posted whose message has long been waiting. The notice goes there, the message comes back:
  beyond the post those are two messages of the runtime, one each way;
- *bandwidth* and *send buffer*: a large message against one of a quarter its size, and when the large one's send was
  over.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from mpsim.emulate.links import MeasuredPath

__all__ = ["measure_links", "measure_smallest"]

_SMALL_BYTES = 8
_PIECE_ELEMENTS = 8  # Of a rank's piece of the smallest all-reduce, which gloo cuts once more.
_PROBE_BYTES = 256 * 2**10
_LARGE_S = 0.25  # A large message is one that takes about this long, more than a send buffer holds,
_LARGE_BYTES = (2**20, 64 * 2**20)  # within these bounds.
_PAUSE_S = 0.005


def measure_links(
    pairs: Sequence[tuple[int, int]], *, messages: int = 40, repeats: int = 3
) -> tuple[MeasuredPath, ...]:
    """Return what a message costs between each two ranks, both ways, one pair at a time while the others wait.

    Every rank of the default process group calls this with the same arguments; every rank gets all that was measured.

    Parameters
    ----------
    pairs : sequence of (int, int)
        Ranks of the group (see :func:`mpsim.emulate.links.pairs_to_measure`).
    messages : int
        Small messages each way.
    repeats : int
        Large messages each way.
    """
    found: list[_Sample] = []
    collected: list[list[_Sample]] = [[] for _ in range(dist.get_world_size())]
    gc_was_on = gc.isenabled()
    gc.disable()
    for a, b in pairs:
        dist.barrier()
        if dist.get_rank() in (a, b):
            for source, target in ((a, b), (b, a)):
                found += _small(source, target, messages)
                found += _large(source, target, repeats)
    if gc_was_on:
        gc.enable()
    dist.all_gather_object(collected, found)
    return tuple(_paths(pairs, [one for of_rank in collected for one in of_rank]))


def measure_smallest(times: int = 20) -> float:
    """Return the median time of a small all-reduce over all ranks of the default group, in seconds.

    All ranks are at work at once, as in a collective of a step: what each of its messages takes beyond what it takes
    when only two ranks talk is what `with_hops` makes of it. It is as small as it may be with no piece empty, for gloo
    sends none of those. Every rank calls this; each gets its own median.
    """
    tensor = torch.zeros(_PIECE_ELEMENTS * dist.get_world_size())
    found = []
    for _ in range(times):
        dist.barrier()
        time.sleep(_PAUSE_S)
        start_s = time.perf_counter()
        dist.all_reduce(tensor)
        found.append(time.perf_counter() - start_s)
    return statistics.median(found)


class _Posted(NamedTuple):
    """Seconds that handing a small message over took its source."""

    source: int
    seconds: float


class _Fetched(NamedTuple):
    """Seconds from where a receive was called until the small message was there that had been waiting for it."""

    source: int
    target: int
    seconds: float


class _Large(NamedTuple):
    """A large message: its bandwidth, and the seconds until its send was over and until it was answered."""

    source: int
    target: int
    bytes_per_s: float
    rid_s: float
    answered_s: float


_Sample = _Posted | _Fetched | _Large


def _paths(pairs: Sequence[tuple[int, int]], found: Iterable[_Sample]) -> Iterator[MeasuredPath]:
    """Take the samples of each path together."""
    found = list(found)
    for a, b in pairs:
        ends = {(a, b), (b, a)}
        posts = {
            end: statistics.median(s.seconds for s in found if isinstance(s, _Posted) and s.source == end)
            for end in (a, b)
        }
        # There and back: both directions have the mean of the two.
        latencies = sorted(
            max(0.0, s.seconds - posts[s.target]) / 2
            for s in found
            if isinstance(s, _Fetched) and (s.source, s.target) in ends
        )
        latency_s = statistics.median(latencies)
        for source, target in ((a, b), (b, a)):
            large = [s for s in found if isinstance(s, _Large) and (s.source, s.target) == (source, target)]
            bandwidths = [s.bytes_per_s for s in large]
            # Between a send's end and its answer lie what was still in the buffer, and a latency each way.
            held = [s.bytes_per_s * (s.answered_s - s.rid_s - 2 * latency_s) for s in large]
            yield MeasuredPath(
                source=source,
                target=target,
                latency_s=latency_s,
                latency_interval_s=(latencies[len(latencies) // 20], latencies[-1 - len(latencies) // 20]),
                bandwidth_bytes_per_s=statistics.median(bandwidths),
                bandwidth_interval_bytes_per_s=(min(bandwidths), max(bandwidths)),
                send_buffer_bytes=max(0, round(statistics.median(held))),
                post_s=posts[source],
            )


def _small(source: int, target: int, times: int) -> list[_Sample]:
    """Let messages wait for their receives; return what each end saw."""
    message = torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    found: list[_Sample] = []
    for _ in range(times):
        time.sleep(_PAUSE_S)
        if dist.get_rank() == source:
            start_s = time.perf_counter()
            going = _sending(message, target)
            found.append(_Posted(source, time.perf_counter() - start_s))
            going.wait()
            continue
        time.sleep(_PAUSE_S)
        start_s = time.perf_counter()
        _receiving(message, source).wait()
        found.append(_Fetched(source, target, time.perf_counter() - start_s))
    return found


def _large(source: int, target: int, repeats: int) -> list[_Large]:
    """Return the bandwidth one way, from pairs of a large and a small transfer; at the source only."""
    probe = _exchange(source, target, _PROBE_BYTES, 3)
    large = torch.tensor([_large_bytes(min(trip.answered_s for trip in probe)) if probe else 0])
    if dist.get_rank() == source:
        dist.send(large, target)
    else:
        dist.recv(large, source)
    size = int(large)
    found = []
    for _ in range(repeats):
        slow, fast = _exchange(source, target, size, 1), _exchange(source, target, size // 4, 1)
        if slow:
            bytes_per_s = _slope(size, slow[0].answered_s, fast[0].answered_s)
            found.append(_Large(source, target, bytes_per_s, *slow[0]))
    return found


def _slope(size: int, large_s: float, small_s: float) -> float:
    """Return the bandwidth from a transfer and one of a quarter its size; on a busy machine the small may be slower."""
    return (size - size // 4) / (large_s - small_s) if large_s > small_s else size / large_s


def _large_bytes(probe_s: float) -> int:
    low, high = _LARGE_BYTES
    return max(low, min(high, int(_PROBE_BYTES * _LARGE_S / probe_s))) // 4 * 4


class _Trip(NamedTuple):
    """Seconds from a send until it was over for its sender, and until its answer was there."""

    rid_s: float
    answered_s: float


def _exchange(source: int, target: int, size: int, times: int) -> list[_Trip]:
    """Send messages one way, each answered by a small one; return what that took, at the source only.

    A receive is posted before the message that lets the other side send, so no message waits for a ready notice.
    """
    message, answer = torch.zeros(size, dtype=torch.uint8), torch.zeros(_SMALL_BYTES, dtype=torch.uint8)
    if dist.get_rank() == target:
        _answer(source, message, answer, times)
        return []
    trips = []
    dist.recv(answer, target)  # The other side has posted its first receive.
    for _ in range(times):
        coming = _receiving(answer, target)
        start = time.perf_counter()
        _sending(message, target).wait()
        rid_s = time.perf_counter() - start
        coming.wait()
        trips.append(_Trip(rid_s, time.perf_counter() - start))
    return trips


def _answer(source: int, message: torch.Tensor, answer: torch.Tensor, times: int) -> None:
    coming = _receiving(message, source)
    dist.send(answer, source)
    for i in range(times):
        coming.wait()
        if i + 1 < times:
            coming = _receiving(message, source)
        _sending(answer, source).wait()


def _receiving(tensor: torch.Tensor, source: int) -> dist.Work:
    work = dist.irecv(tensor, source)
    assert work is not None  # This rank is in the group.
    return work


def _sending(tensor: torch.Tensor, target: int) -> dist.Work:
    work = dist.isend(tensor, target)
    assert work is not None
    return work
