"""How fast the ranks compute at this moment, alone and while bytes move: measured before a run, as its links are.

A trace was taken earlier, one micro-batch at a time, by one process on a machine that did nothing else. Here all ranks
run their own passes of a step at once, without a pause or a message, and once more while all of them all-reduce without
a pause. The first says how far the trace's times hold, the second what communication takes from the computation beside
it. When a rank waits, and for what, is left to the prediction.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from mpsim.lowering.instructions import Compute, Script
from mpsim.topology.model import Topology

__all__ = ["Pace", "measure_pace", "with_paces"]

_TALK_S = 0.1  # An all-reduce takes about this long: what it takes to begin one is nothing beside it,
_TALK_BYTES = (2**18, 16 * 2**20)  # within these bounds.
_LEAST_S = 1.0


class Pace(NamedTuple):
    """Median seconds of a step's passes at a rank: alone, and beside communication."""

    alone_s: float
    beside_s: float


def measure_pace(
    compute: Callable[[], None],
    bandwidth_bytes_per_s: float,
    *,
    repeats: int = 3,
    note: Callable[[], None] = lambda: None,
) -> Pace:
    """Return how long this rank's computation takes; every rank of the default process group calls this.

    Parameters
    ----------
    compute : callable
        The passes of a step, in their order.
    bandwidth_bytes_per_s : float
        What was measured between two ranks.
    repeats : int
        At least so many, and for a second.
    note : callable
        Called after each: a rank whose steps are long has not come to a stop.
    """
    import torch
    import torch.distributed as dist

    compute()
    note()
    dist.barrier()
    alone_s = _median_s(compute, repeats, note)
    dist.barrier()
    busy = threading.Event()
    busy.set()
    low, high = _TALK_BYTES
    payload = torch.zeros(int(max(low, min(high, _TALK_S * bandwidth_bytes_per_s))) // 4)
    talking = threading.Thread(target=_talk, args=(payload, busy))
    talking.start()
    try:
        beside_s = _median_s(compute, repeats, note)
    finally:
        busy.clear()
        talking.join()
    return Pace(alone_s, beside_s)


def _talk(payload: Any, busy: threading.Event) -> None:
    """All-reduce until no rank is busy."""
    import torch
    import torch.distributed as dist

    left = torch.ones(1)
    while left:
        dist.all_reduce(payload)
        left[0] = float(busy.is_set())
        dist.all_reduce(left)


def _median_s(compute: Callable[[], None], repeats: int, note: Callable[[], None]) -> float:
    found: list[float] = []
    while len(found) < repeats or sum(found) < _LEAST_S:
        start_s = time.perf_counter()
        compute()
        found.append(time.perf_counter() - start_s)
        note()
    return statistics.median(found)


def with_paces(topology: Topology, scripts: tuple[Script, ...], paces: tuple[Pace, ...]) -> Topology:
    """Return the topology with its devices' speeds and slowdown beside communication as they were measured.

    The slowdown is the mean over the ranks: where they share a machine, which of them gives way to the communication
    of all is another one each time.

    Parameters
    ----------
    scripts : tuple of Script
        Of each rank, with the times that its trace makes for the speeds that `topology` states.
    paces : tuple of Pace
        Of each rank.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> script = Script(device=1, rank=0, steps=(Compute(0, "F", 0, 0, 1, 0.02),))
    >>> found = with_paces(ring(2, link="1GB/s@1us"), (script,), (Pace(0.04, 0.05),)).devices[1]
    >>> found.speed, found.overlap_slowdown
    (0.5, 1.25)
    """
    slowdown = max(1.0, statistics.fmean(pace.beside_s / pace.alone_s for pace in paces))
    devices = list(topology.devices)
    for script, pace in zip(scripts, paces, strict=True):
        traced_s = sum(step.seconds for step in script.steps if isinstance(step, Compute) and step.kind != "optimizer")
        stated = devices[script.device]
        devices[script.device] = replace(
            stated,
            speed=stated.speed * traced_s / pace.alone_s if traced_s else stated.speed,
            overlap_slowdown=slowdown,
        )
    return replace(topology, devices=tuple(devices))
