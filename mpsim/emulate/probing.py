"""Measure what a message between two ranks costs: ping-pong over the runtime that will run the plan."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence

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
    ways = [(source, target, _bandwidths(source, target, repeats)) for source, target in ((a, b), (b, a))]
    # The second direction was measured by the other rank, which sent: it tells this one.
    told = torch.tensor(ways[1][2] or [0.0] * repeats, dtype=torch.float64)
    if dist.get_rank() == b:
        dist.send(told, a)
        return []
    dist.recv(told, b)
    ways[1] = (b, a, told.tolist())
    latencies = sorted(trip_s / 2 for trip_s in trips)
    return [_path(source, target, latencies, bandwidths) for source, target, bandwidths in ways]


def _path(source: int, target: int, latencies: Sequence[float], bandwidths: Sequence[float]) -> MeasuredPath:
    return MeasuredPath(
        source=source,
        target=target,
        latency_s=statistics.median(latencies),
        latency_interval_s=(latencies[len(latencies) // 20], latencies[-1 - len(latencies) // 20]),
        bandwidth_bytes_per_s=statistics.median(bandwidths),
        bandwidth_interval_bytes_per_s=(min(bandwidths), max(bandwidths)),
    )


def _bandwidths(source: int, target: int, repeats: int) -> list[float]:
    """Return the bandwidth one way, from pairs of a large and a small transfer; at the source only."""
    probe_s = _exchange(source, target, _PROBE_BYTES, 3)
    large = torch.tensor([_large_bytes(min(probe_s)) if probe_s else 0])
    if dist.get_rank() == source:
        dist.send(large, target)
    else:
        dist.recv(large, source)
    size = int(large)
    found = []
    for _ in range(repeats):
        slow, fast = _exchange(source, target, size, 1), _exchange(source, target, size // 4, 1)
        if slow:
            found.append(_slope(size, slow[0], fast[0]))
    return found


def _slope(size: int, large_s: float, small_s: float) -> float:
    """Return the bandwidth from a transfer and one of a quarter its size; on a busy machine the small may be slower."""
    return (size - size // 4) / (large_s - small_s) if large_s > small_s else size / large_s


def _large_bytes(probe_s: float) -> int:
    low, high = _LARGE_BYTES
    return max(low, min(high, int(_PROBE_BYTES * _LARGE_S / probe_s))) // 4 * 4


def _exchange(source: int, target: int, size: int, times: int) -> list[float]:
    """Send messages one way, each answered by a small one; return the round trips in seconds, at the source only.

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
        going = _sending(message, target)
        coming.wait()
        trips.append(time.perf_counter() - start)
        going.wait()
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
