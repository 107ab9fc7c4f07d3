"""Why a device does not compute: the gaps between its computations, each with what it waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from itertools import islice
from typing import NamedTuple

from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import Result

__all__ = ["Gap", "gaps", "gaps_by_device"]


class Gap(NamedTuple):
    """Some time in which a device does not compute.

    Attributes
    ----------
    start_s, end_s : float
        Seconds from the start of the step.
    cause : str
        ``wait``: a transfer that it takes part in is under way; ``launch``: what comes next waits for its launch;
        ``bubble``: neither, and on an ideal network most of the device's idle time remains; ``idle``: neither, and less
        does, or that is not known, as of a real run.
    """

    start_s: float
    end_s: float
    cause: str


_Intervals = list[tuple[float, float]]
_MOSTLY = 0.5  # So much of a device's idle time must be the bubble's for its gaps to be called so.


def gaps(result: Result, device: int) -> list[Gap]:
    """Return the gaps between the computations of a device, in order.

    They and its computations fill the step. Those of ``wait`` add up to its exposed communication, the rest to its
    exposed launch and idle time.

    Examples
    --------
    >>> from mpsim.result.model import DeviceUse, Spans
    >>> spans = Spans(name=("0F0", "send"), kind=("forward", "send"), axis=("", "pp"), devices=((0,), (0, 1)),
    ...               stage=(0, 0), microbatch=(0, 0), bytes=(0, 64), start_s=(0.0, 1.0), end_s=(1.0, 2.0))
    >>> use = DeviceUse(name="gpu0", compute_s=1.0, exposed_communication_s=1.0, idle_s=1.0, bubble_s=1.0)
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=3.0, trial_step_s=(3.0,), free_step_s=2.0,
    ...                 devices=(use, use), spans=spans)
    >>> [tuple(gap) for gap in gaps(result, 0)]
    [(1.0, 2.0, 'wait'), (2.0, 3.0, 'bubble')]
    """
    return gaps_by_device(result, [device])[device]


def gaps_by_device(result: Result, devices: Collection[int]) -> dict[int, list[Gap]]:
    """Return the gaps of each of some devices, as of `gaps`.

    Examples
    --------
    >>> from mpsim.result.model import DeviceUse
    >>> use = DeviceUse(name="gpu0", compute_s=0.0, exposed_communication_s=0.0, idle_s=3.0, bubble_s=3.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=3.0, trial_step_s=(3.0,), free_step_s=3.0,
    ...                 devices=(use,))
    >>> gaps_by_device(result, [0])
    {0: [Gap(start_s=0.0, end_s=3.0, cause='bubble')]}
    """
    spans = result.spans
    wanted = set(devices)
    kept: dict[int, tuple[_Intervals, _Intervals, _Intervals]] = {device: ([], [], []) for device in devices}
    for i, members in enumerate(spans.devices):
        kind = 2 if is_launch(spans, i) else 1 if is_transfer(spans, i) else 0
        for device in wanted.intersection(members):
            kept[device][kind].append((spans.start_s[i], spans.end_s[i]))
    return {device: _gaps(result, device, *intervals) for device, intervals in kept.items()}


def _gaps(result: Result, device: int, computed: _Intervals, moved: _Intervals, launched: _Intervals) -> list[Gap]:
    use, launches = result.devices[device], {end for _, end in launched}
    last_launch = max(launches, default=0.0)
    idle = "idle"
    if use.bubble_s is not None and use.bubble_s >= _MOSTLY * use.idle_s:
        idle = "bubble"
    waits = _union(moved)
    found = []
    for start, end in _between(_union(computed), result.step_s):
        for a, b, moving in _cut(start, end, waits):
            # A computation that begins as its launch ends waited for it, and at the end of a step a host may go on.
            late = b in launches if b < result.step_s else last_launch > a
            found.append(Gap(a, b, "wait" if moving else "launch" if late else idle))
    return found


def _union(intervals: Iterable[tuple[float, float]]) -> _Intervals:
    """Merge intervals that touch or overlap; those of no length are left out."""
    merged: _Intervals = []
    for start, end in sorted(one for one in intervals if one[1] > one[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _between(computed: _Intervals, step_s: float) -> _Intervals:
    """Return what of a step some disjoint intervals leave."""
    edges = [0.0, *(edge for interval in computed for edge in interval), step_s]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _cut(start: float, end: float, waits: _Intervals) -> list[tuple[float, float, bool]]:
    """Return the pieces of a gap, and whether something is under way in each."""
    pieces = []
    at = start
    first = bisect_right(waits, start, key=lambda wait: wait[1])
    for a, b in islice(waits, first, None):
        if a >= end:
            break
        if a > at:
            pieces.append((at, a, False))
        pieces.append((max(a, at), min(b, end), True))
        at = min(b, end)
    return [*pieces, (at, end, False)] if end > at else pieces
