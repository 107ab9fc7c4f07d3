"""Measure what a message between two ranks costs: ping-pong over the runtime that will run the plan."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from mpsim.emulate.links import MeasuredPath

__all__ = ["measure_links"]

_SMALL_BYTES = 8
_PROBE_BYTES = 256 * 2**10
_LARGE_S = 0.1  # A large message is one that takes about this long,
_LARGE_BYTES = (2**20, 16 * 2**20)  # within these bounds.


def measure_links(
    pairs: Sequence[tuple[int, int]], *, messages: int = 200, repeats: int = 5
) -> tuple[MeasuredPath, ...]:
    """Return what a message costs between each two ranks, both ways, one pair at a time while the others wait.

    Every rank of the default process group calls this with the same arguments; every rank gets all that was measured.

    Parameters
    ----------
    pairs : sequence of (int, int)
        Ranks of the group (see :func:`mpsim.emulate.links.pairs_to_measure`).
    messages : int
        Round trips of a small message.
    repeats : int
        Large messages each way.
    """
    mine: list[MeasuredPath] = []
    collected: list[list[MeasuredPath]] = [[] for _ in range(dist.get_world_size())]
    gc_was_on = gc.isenabled()
    gc.disable()
    for a, b in pairs:
        dist.barrier()
        if dist.get_rank() in (a, b):
            mine += _measure_pair(a, b, messages, repeats)
    if gc_was_on:
        gc.enable()
    dist.all_gather_object(collected, mine)
    return tuple(one for of_rank in collected for one in of_rank)


def _measure_pair(a: int, b: int, messages: int, repeats: int) -> list[MeasuredPath]:
    """Return both directions at the rank that comes first, nothing at the other."""
    trips = _exchange(a, b, _SMALL_BYTES, messages + messages // 10)[messages // 10 :]
    ways = [(source, target, _large(source, target, repeats)) for source, target in ((a, b), (b, a))]
    # The second direction was measured by the other rank, which sent: it tells this one.
    told = torch.tensor(ways[1][2] or [[0.0] * 3] * repeats, dtype=torch.float64)
    if dist.get_rank() == b:
        dist.send(told, a)
        return []
    dist.recv(told, b)
    ways[1] = (b, a, told.tolist())
    latencies = sorted(trip.answered_s / 2 for trip in trips)
    return [_path(source, target, latencies, found) for source, target, found in ways]


def _path(source: int, target: int, latencies: Sequence[float], found: Sequence[Sequence[float]]) -> MeasuredPath:
    """Return what the samples of one direction say: bandwidth, and when large messages had left and were answered."""
    bandwidths = [bandwidth for bandwidth, _, _ in found]
    latency_s = statistics.median(latencies)
    # Between a send's end and its answer lie what was still in the buffer, and a latency each way.
    held = [bandwidth * (answered_s - rid_s - 2 * latency_s) for bandwidth, rid_s, answered_s in found]
    return MeasuredPath(
        send_buffer_bytes=max(0, round(statistics.median(held))),
        source=source,
        target=target,
        latency_s=latency_s,
        latency_interval_s=(latencies[len(latencies) // 20], latencies[-1 - len(latencies) // 20]),
        bandwidth_bytes_per_s=statistics.median(bandwidths),
        bandwidth_interval_bytes_per_s=(min(bandwidths), max(bandwidths)),
    )


def _large(source: int, target: int, repeats: int) -> list[list[float]]:
    """Return the bandwidth one way, from pairs of a large and a small transfer, and the large one's times.

    At the source only, one row a pair: bytes per second, seconds until the send was over, seconds until the answer.
    """
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
            found.append([_slope(size, slow[0].answered_s, fast[0].answered_s), *slow[0]])
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
