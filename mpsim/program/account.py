"""Account for a step: where each device's time and memory went, and what was sent.

The definitions stand in ``docs/model.md``; each is tested there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

from mpsim.program.model import Program, Timing
from mpsim.result.model import Count, DeviceUse, MemoryUse, Spans
from mpsim.topology.model import Topology

__all__ = ["account_devices", "account_traffic", "spans_of"]

_Intervals = list[tuple[float, float]]
_NONE: _Intervals = []
# When, which of the tasks (twice its number, one more at its end), and by how many bytes.
_Change = tuple[float, int, int]


def account_devices(
    program: Program, topology: Topology, place: Sequence[int], timing: Timing, free: Timing | None
) -> tuple[DeviceUse, ...]:
    """Return where the step of each device in `place` went; `free` is the replay on free links, of a real run None."""
    step_s = timing.step_s
    busy, moving = _intervals(program, timing)
    bubbles = {} if free is None else _bubbles(program, place, free)
    memory = _memory(program, place, timing)
    uses = []
    for device in sorted(place):
        node = topology.devices[device]
        compute = _union(busy.get(device, _NONE))
        compute_s = _in_ulps(_length(compute), step_s)
        active_s = _in_ulps(_length(_union(compute + moving[device])), step_s) if device in moving else compute_s
        uses.append(
            DeviceUse(
                name=node.name,
                type=node.type,
                compute_s=compute_s,
                exposed_communication_s=active_s - compute_s,
                idle_s=step_s - active_s,
                bubble_s=bubbles.get(device),
                memory=memory[device],
                capacity_bytes=node.memory_bytes,
            )
        )
    return tuple(uses)


def _bubbles(program: Program, place: Sequence[int], free: Timing) -> dict[int, float]:
    """Return what of the step on free links each device does not compute."""
    busy, _ = _intervals(program, free)
    compute = {device: _length(_union(busy.get(device, _NONE))) for device in place}
    return {device: free.step_s - _in_ulps(seconds, free.step_s) for device, seconds in compute.items()}


def _in_ulps(part: float, whole: float) -> float:
    """Round to whole numbers of the last bit of `whole`: such parts of it add up to it exactly, in any order."""
    if not part or part == whole:
        return part
    unit = math.ulp(whole)
    return round(part / unit) * unit


def _intervals(program: Program, timing: Timing) -> tuple[dict[int, _Intervals], dict[int, _Intervals]]:
    """Return for each device when it computed, and when a transfer that it takes part in was under way."""
    device_of = [stream.device for stream in program.streams]
    busy: dict[int, _Intervals] = {}
    moving: dict[int, _Intervals] = {}
    for task, start, end in zip(program.tasks, timing.start_s, timing.end_s, strict=True):
        if end > start:
            found = busy if task.traffic is None else moving
            for device in {device_of[stream] for stream in task.streams}:
                found.setdefault(device, []).append((start, end))
    return busy, moving


def _union(intervals: _Intervals) -> _Intervals:
    """Merge intervals that touch or overlap."""
    if len(intervals) < 2:
        return intervals
    merged: _Intervals = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _length(intervals: _Intervals) -> float:
    """Return the total length, correctly rounded, so that it never exceeds a whole that contains it."""
    if len(intervals) < 2:
        return intervals[0][1] - intervals[0][0] if intervals else 0.0
    return math.fsum(edge for start, end in intervals for edge in (end, -start))


def _memory(program: Program, place: Sequence[int], timing: Timing) -> dict[int, MemoryUse]:
    """Return what each device held, by holder at its peak, and in all over time."""
    residents: dict[int, dict[str, int]] = {device: {} for device in place}
    for device, holder, count in program.residents:
        residents[device][holder] = residents[device].get(holder, 0) + count
    changes: dict[int, list[_Change]] = {device: [] for device in place}
    for device, _, count, first, last in program.allocations:
        if count:
            changes[device].append((timing.start_s[first], 2 * first, count))
            changes[device].append((timing.end_s[last], 2 * last + 1, -count))
    return {device: _memory_use(residents[device], changes[device]) for device in place}


def _memory_use(residents: dict[str, int], changes: list[_Change]) -> MemoryUse:
    """Return one device's memory; changes at one time come in the order of the tasks that make them."""
    base = sum(residents.values())
    if not changes:
        return MemoryUse(
            **{f"{holder}_bytes": count for holder, count in residents.items()},
            timeline_s=(0.0,),
            timeline_bytes=(base,),
        )
    changes.sort()
    levels = list(accumulate((count for *_, count in changes), initial=0))
    times, totals = [0.0], [base]
    for (time_s, *_), level in zip(changes, levels[1:], strict=True):
        if time_s == times[-1]:
            totals[-1] = base + level
        else:
            times.append(time_s)
            totals.append(base + level)
    return MemoryUse(
        **{f"{holder}_bytes": count for holder, count in residents.items()},
        activations_bytes=max(levels),
        timeline_s=tuple(times),
        timeline_bytes=tuple(totals),
    )


def account_traffic(program: Program) -> tuple[Count, ...]:
    """Return the transfers of a program by axis and kind: how many, their payload, and their bytes over all links.

    What is no message of its own, such as a notice or the latency behind a message's last byte, does not count.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    unmeasured: dict[tuple[str, str, str], dict[str, None]] = {}
    for task in program.tasks:
        traffic = task.traffic
        if traffic is not None and (traffic.rounds or traffic.links):
            key = (task.axis, task.kind, traffic.algorithm)
            sums = found.setdefault(key, [0, 0, 0.0, 0])
            sums[0] += traffic.rounds > 0
            sums[1] += traffic.payload_bytes
            sums[2] += traffic.link_bytes
            sums[3] += traffic.beyond
            if traffic.unmeasured:
                unmeasured.setdefault(key, {})[traffic.unmeasured] = None
    return tuple(
        Count(
            axis=axis,
            kind=kind,
            transfers=int(n),
            payload_bytes=int(payload),
            link_bytes=round(links),
            algorithm=algorithm,
            beyond=int(beyond),
            unmeasured="; ".join(unmeasured.get((axis, kind, algorithm), ())),
        )
        for (axis, kind, algorithm), (n, payload, links, beyond) in sorted(found.items())
    )


def spans_of(program: Program, place: Iterable[int], timing: Timing) -> Spans:
    """Return what ran when, with devices numbered as in the result."""
    number = {device: i for i, device in enumerate(sorted(place))}
    devices = [number[stream.device] for stream in program.streams]
    sets: dict[tuple[int, ...], tuple[int, ...]] = {}
    for task in program.tasks:
        if task.streams not in sets:
            sets[task.streams] = tuple(dict.fromkeys(devices[stream] for stream in task.streams))
    tasks = program.tasks
    return Spans(
        name=tuple(task.name for task in tasks),
        kind=tuple(task.kind for task in tasks),
        axis=tuple(task.axis for task in tasks),
        devices=tuple(sets[task.streams] for task in tasks),
        stage=tuple(task.stage for task in tasks),
        microbatch=tuple(task.microbatch for task in tasks),
        bytes=tuple(task.traffic.payload_bytes if task.traffic else 0 for task in tasks),
        start_s=timing.start_s,
        end_s=timing.end_s,
    )
