"""Account for a step: where each device's time and memory went, and what was sent.

The definitions stand in ``docs/model.md``; each is tested there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from mpsim.program.allocator import segment_bytes
from mpsim.program.model import Program, Resident, Timing, Traffic
from mpsim.result.model import HOLDERS, Count, DeviceUse, MemoryUse, Spans, Timeline
from mpsim.sums import sum_of
from mpsim.topology.model import Topology

__all__ = ["account_devices", "account_traffic", "parts_of", "spans_of"]

_Intervals = list[tuple[float, float]]
_NONE: _Intervals = []
# When, at which of the device's tasks (twice its place, one more at its end), by how many bytes, and who holds them.
_Change = tuple[float, int, int, str]


def account_devices(
    program: Program, topology: Topology, place: Iterable[int], timing: Timing, free: Timing | None
) -> tuple[DeviceUse, ...]:
    """Return where the step of each device in `place` went; `free`: the replay on an ideal network, if any."""
    step_s = timing.step_s
    parts = parts_of(program, timing)
    place = program.stands_for or place
    bubbles = {} if free is None else _bubbles(program, place, free)
    memory = _memory(program, place, timing)
    uses = []
    for device in sorted(place):
        node = topology.devices[device]
        compute_s, active_s, engaged_s = parts(device)
        uses.append(
            DeviceUse(
                name=node.name,
                type=node.type,
                compute_s=compute_s,
                exposed_communication_s=active_s - compute_s,
                exposed_launch_s=engaged_s - active_s,
                idle_s=step_s - engaged_s,
                bubble_s=bubbles.get(device),
                memory=memory[device],
                capacity_bytes=node.memory_bytes,
                count=program.stands_for.get(device, 1),
            )
        )
    return tuple(uses)


def parts_of(program: Program, timing: Timing) -> Callable[[int], tuple[float, float, float]]:
    """Return, of a device, for how long it computes; or communicates; or waits for nothing but a launch.

    Each of the three has those before it in it.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> program = Program(streams=(Stream(device=0, name="compute"),), tasks=(Task("a", "forward", (0,), (), 1.0),))
    >>> parts_of(program, Timing(start_s=(0.0,), end_s=(1.0,)))(0)
    (1.0, 1.0, 1.0)
    """
    busy, moving = _intervals(program, timing)
    step_s = timing.step_s
    waits = _launch_waits(program, timing, busy, moving) if any(stream.host for stream in program.streams) else {}

    def parts(device: int) -> tuple[float, float, float]:
        compute = _union(busy.get(device, _NONE))
        compute_s = _in_ulps(_length(compute), step_s)
        active = _union(compute + moving[device]) if device in moving else compute
        active_s = _in_ulps(_length(active), step_s) if device in moving else compute_s
        if device not in waits:
            return compute_s, active_s, active_s
        return compute_s, active_s, _in_ulps(_length(_union(active + waits[device])), step_s)

    return parts


def _launch_waits(
    program: Program, timing: Timing, busy: dict[int, _Intervals], moving: dict[int, _Intervals]
) -> dict[int, _Intervals]:
    """Return for each device when something on it waited for nothing but its launch, or its host alone went on."""
    hosts = {i: stream.device for i, stream in enumerate(program.streams) if stream.host}
    slotted = [stream.slots > 0 for stream in program.streams]
    host_of = [hosts.get(task.streams[0]) for task in program.tasks]
    free = [0.0] * len(program.streams)
    waits: dict[int, _Intervals] = {device: [] for device in hosts.values()}
    for task, end in zip(program.tasks, timing.end_s, strict=True):
        launches = [i for i in task.after if host_of[i] is not None]
        if launches:
            ready = [timing.end_s[i] for i in (*task.after, *task.after_buffered) if host_of[i] is None]
            since = max(ready + [free[stream] for stream in task.streams if not slotted[stream]], default=0.0)
            for i in launches:
                if timing.end_s[i] > since:
                    waits[host_of[i] or 0].append((since, timing.end_s[i]))
        for stream in task.streams:
            free[stream] = end
    for stream, device in hosts.items():
        last = max((end for _, end in busy.get(device, _NONE) + moving.get(device, _NONE)), default=0.0)
        if free[stream] > last:
            waits[device].append((last, free[stream]))
    return waits


def _bubbles(program: Program, place: Iterable[int], free: Timing) -> dict[int, float]:
    """Return what of the step on an ideal network each device neither computes nor waits for a launch."""
    parts, step_s = parts_of(program, free), free.step_s
    return {
        device: step_s - compute_s - (engaged_s - active_s)
        for device in place
        for compute_s, active_s, engaged_s in [parts(device)]
    }


def _in_ulps(part: float, whole: float) -> float:
    """Round to whole numbers of the last bit of `whole`: such parts of it add up to it exactly, in any order."""
    if not part or part == whole:
        return part
    unit = math.ulp(whole)
    return round(part / unit) * unit


def _intervals(program: Program, timing: Timing) -> tuple[dict[int, _Intervals], dict[int, _Intervals]]:
    """Return for each device when it computed, and when a transfer that it takes part in was under way."""
    device_of = [stream.device for stream in program.streams]
    host = [stream.host for stream in program.streams]
    busy: dict[int, _Intervals] = {}
    moving: dict[int, _Intervals] = {}
    for task, start, end in zip(program.tasks, timing.start_s, timing.end_s, strict=True):
        if end > start and not host[task.streams[0]]:
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


def _memory(program: Program, place: Iterable[int], timing: Timing) -> dict[int, MemoryUse]:
    """Return what each device held, by holder: at its peak, and over time."""
    residents: dict[int, list[Resident]] = {device: [] for device in place}
    for resident in program.residents:
        residents[resident.device].append(resident)
    changes: dict[int, list[_Change]] = {device: [] for device in place}
    for device, holder, count, first, last, begins, ends in program.allocations:
        changes[device].append((timing.start_s[first], 2 * begins, count, holder))
        changes[device].append((timing.end_s[last], 2 * ends + 1, -count, holder))
    return {device: _memory_use(residents[device], changes[device]) for device in place}


def _memory_use(residents: Sequence[Resident], changes: list[_Change]) -> MemoryUse:
    """Return one device's memory; changes at one time come in the order of the tasks that make them."""
    changes.sort()
    held: Counter[str] = Counter()
    for resident in residents:
        held[resident.holder] += resident.bytes
    base = total = sum(held.values())
    most, at_peak = total, dict(held)
    totals, of = _Steps(base), {holder: _Steps(held[holder]) for holder in HOLDERS}
    for (time_s, _), together in groupby(changes, lambda change: change[:2]):
        for *_, count, holder in together:
            held[holder] += count
            total += count
            of[holder].becomes(time_s, held[holder])
        if total > most:
            most, at_peak = total, dict(held)
        totals.becomes(time_s, total)
    return MemoryUse(
        **{f"{holder}_bytes": count for holder, count in at_peak.items()},
        reserved_bytes=_reserved(residents, most - base),
        timeline_s=tuple(totals.time_s),
        timeline_bytes=tuple(totals.bytes),
        by_holder=tuple(steps.timeline(holder) for holder, steps in of.items() if any(steps.bytes)),
    )


class _Steps:
    """A number of bytes over time, as it changes; of several changes at one time the last counts."""

    def __init__(self, count: int) -> None:
        self.time_s, self.bytes = [0.0], [count]

    def becomes(self, time_s: float, count: int) -> None:
        """Take notice of a change, at a time that is not before the last one's."""
        if time_s == self.time_s[-1]:
            self.bytes[-1] = count
        else:
            self.time_s.append(time_s)
            self.bytes.append(count)

    def timeline(self, holder: str) -> Timeline:
        """Return it as a holder's, without the times after which it is what it was before."""
        kept = [i for i, count in enumerate(self.bytes) if not i or count != self.bytes[i - 1]]
        return Timeline(
            holder=holder, time_s=tuple(self.time_s[i] for i in kept), bytes=tuple(self.bytes[i] for i in kept)
        )


def _reserved(residents: Sequence[Resident], beside: int) -> int:
    """Return what a caching allocator takes for what is held throughout, and for so many bytes beside it at most."""
    reserved = sum(resident.reserved for resident in residents)
    return reserved + segment_bytes([beside]) if reserved else 0


def account_traffic(program: Program) -> tuple[Count, ...]:
    """Return the transfers of a program by axis and kind: how many, their payload, and their bytes over all links.

    What is no message of its own, such as a notice or the latency behind a message's last byte, does not count.
    """
    tasks: Counter[tuple[str, str, Traffic]] = Counter(
        (task.axis, task.kind, task.traffic)
        for task in program.tasks
        if task.traffic is not None and (task.traffic.rounds or task.traffic.links)
    )
    found: dict[tuple[str, str, str], list[tuple[Traffic, int]]] = {}
    for (axis, kind, traffic), n in tasks.items():
        found.setdefault((axis, kind, traffic.algorithm), []).append((traffic, n * traffic.copies))
    return tuple(_count(*key, each) for key, each in sorted(found.items(), key=lambda item: item[0]))


def _count(axis: str, kind: str, algorithm: str, each: Sequence[tuple[Traffic, int]]) -> Count:
    """Return what transfers of one kind come to, each of which there is so many times."""
    return Count(
        axis=axis,
        kind=kind,
        transfers=sum(n for traffic, n in each if traffic.rounds),
        payload_bytes=sum(n * traffic.payload_bytes for traffic, n in each),
        link_bytes=round(sum_of((traffic.link_bytes, n) for traffic, n in each)),
        algorithm=algorithm,
        beyond=sum(n for traffic, n in each if traffic.beyond),
        unmeasured="; ".join(dict.fromkeys(traffic.unmeasured for traffic, _ in each if traffic.unmeasured)),
    )


def spans_of(program: Program, place: Iterable[int], timing: Timing) -> Spans:
    """Return what ran when, with devices numbered as in the result."""
    number = {device: i for i, device in enumerate(sorted(program.stands_for or place))}
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
