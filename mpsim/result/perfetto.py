"""A result as a Chrome trace, which https://ui.perfetto.dev opens.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
A device is a process; its computations are one thread and its transfers one for each axis. Slices of one thread must
nest or stand apart, so that spans that overlap are given further threads. Memory is a counter, and one for each holder.
A message is an arrow (a flow) from the slice under the device that sends it to that under the one that receives it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from mpsim.calls import checked
from mpsim.documents import in_order
from mpsim.errors import MpsimError
from mpsim.files import write_text
from mpsim.garbage import collector_paused
from mpsim.result.lanes import is_launch, is_transfer, pack
from mpsim.result.model import Result

__all__ = ["save_perfetto", "to_perfetto"]

_TRACKS = ("host", "compute", "pp", "tp", "cp", "ep", "dp", "transfers")


def to_perfetto(result: Result) -> dict[str, Any]:
    """Return the result as a trace in the Chrome trace-event format.

    Times are microseconds, to the nanosecond. A transfer stands under each device that takes part in it.

    Raises
    ------
    MpsimError
        The result was saved without its spans.

    Examples
    --------
    >>> from mpsim.result.model import DeviceUse, Spans
    >>> spans = Spans(name=("0F0",), kind=("forward",), axis=("",), devices=((0,),), stage=(0,), microbatch=(0,),
    ...               bytes=(0,), start_s=(0.0,), end_s=(2.0,))
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,), spans=spans)
    >>> [(event["name"], event["dur"]) for event in to_perfetto(result)["traceEvents"] if event["ph"] == "X"]
    [('0F0', 2000000.0)]
    """
    if not len(result.spans):
        raise MpsimError(f"result of {result.plan!r} holds no spans, a trace needs them: simulate again and keep them")
    events = []
    n_threads = 0
    tracks = _tracks(result)
    where: dict[tuple[int, int], int] = {}
    for device, use in enumerate(result.devices):
        pid = device + 1  # Process 0 is the idle process to Perfetto.
        events += [
            _meta(pid, 0, "process_name", name=use.label),
            _meta(pid, 0, "process_sort_index", sort_index=device),
        ]
        for track in _TRACKS:
            indices = sorted(tracks.get((device, track), ()), key=result.spans.start_s.__getitem__)
            slices, lanes = _slices(result, pid, n_threads, track, indices)
            events += slices
            where |= {(i, device): n_threads + lane + 1 for i, lane in zip(indices, lanes, strict=True)}
            n_threads += max(lanes, default=-1) + 1
        events += _memory(result, device, pid)
    events += _flows(result, where)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": _about(result)}


@checked
def save_perfetto(path: str | Path | Result, result: Result | str | Path) -> None:
    """Write the result as a trace that https://ui.perfetto.dev opens, whole or not at all; the result may come first.

    Raises
    ------
    MpsimError
        The result has no spans, or the file cannot be written there.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0)
    >>> save_perfetto("trace.json", result)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: result of 'dp=1' holds no spans, a trace needs them: simulate again and keep them
    """
    where, held = in_order(path, result, Result)
    with collector_paused():
        text = json.dumps(to_perfetto(held), allow_nan=False, separators=(",", ":"))
    write_text(where, text + "\n")


def _tracks(result: Result) -> dict[tuple[int, str], list[int]]:
    """Return the spans of each device and track."""
    spans = result.spans
    tracks: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, devices in enumerate(spans.devices):
        track = "host" if is_launch(spans, i) else "compute"
        if is_transfer(spans, i):
            track = spans.axis[i] if spans.axis[i] in _TRACKS else "transfers"
        for device in devices:
            tracks[device, track].append(i)
    return tracks


def _slices(
    result: Result, pid: int, n_threads: int, track: str, indices: list[int]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the events of one track of one device, and the lane of each of its spans, a thread each."""
    spans = result.spans
    # Whole nanoseconds, so that spans that touch still touch after the conversion.
    starts = [round(spans.start_s[i] * 1e9) for i in indices]
    ends = [round(spans.end_s[i] * 1e9) for i in indices]
    lanes = pack(starts, ends)
    used = max(lanes, default=-1) + 1
    events = []
    for lane in range(used):
        tid = n_threads + lane + 1
        name = track if track in ("host", "compute", "transfers") else f"{track} transfers"
        events.append(_meta(pid, tid, "thread_name", name=name if lane == 0 else f"{name} ({lane + 1})"))
        events.append(_meta(pid, tid, "thread_sort_index", sort_index=tid))
    for i, start, end, lane in zip(indices, starts, ends, lanes, strict=True):
        event = {
            "name": spans.name[i],
            "cat": spans.kind[i],
            "ph": "X",
            "ts": start / 1000,
            "dur": (end - start) / 1000,
        }
        events.append(event | {"pid": pid, "tid": n_threads + lane + 1, "args": _args(result, i)})
    return events, lanes


def _flows(result: Result, where: dict[tuple[int, int], int]) -> list[dict[str, Any]]:
    """Return an arrow for each message, from its sender, the first of its devices, to its receiver.

    It begins as the message does and ends within the last nanosecond of it, so that both ends lie in its slices. They
    come last: of what begins at one time, an arrow belongs to the slice that is already there.
    """
    spans, events = result.spans, []
    for i, (kind, devices) in enumerate(zip(spans.kind, spans.devices, strict=True)):
        if kind == "send" and len(devices) == 2:
            start, end = round(spans.start_s[i] * 1e9), round(spans.end_s[i] * 1e9)
            flow = {"name": spans.name[i], "cat": "message", "id": i + 1}
            for phase, device, at in (("s", devices[0], start), ("f", devices[1], max(start, end - 1))):
                event = flow | {"ph": phase, "ts": at / 1000, "pid": device + 1, "tid": where[i, device]}
                events.append(event if phase == "s" else event | {"bp": "e"})
    return events


def _args(result: Result, index: int) -> dict[str, Any]:
    spans = result.spans
    args: dict[str, Any] = {"kind": spans.kind[index]}
    if (stage := spans.stage[index]) >= 0:
        args["stage"] = stage
    if (microbatch := spans.microbatch[index]) >= 0:
        args["microbatch"] = microbatch
    if is_transfer(spans, index):
        devices = spans.devices[index]
        args |= {"bytes": spans.bytes[index], "n_devices": len(devices)}
        # A collective over a thousand devices would write a million names.
        if len(devices) <= 8:
            args["devices"] = ", ".join(result.devices[device].label for device in devices)
    return args


def _memory(result: Result, device: int, pid: int) -> list[dict[str, Any]]:
    memory = result.devices[device].memory
    tracks = [("memory", memory.timeline_s, memory.timeline_bytes)]
    tracks += [(f"memory: {one.holder}", one.time_s, one.bytes) for one in memory.by_holder]
    return [
        {"name": name, "ph": "C", "ts": round(time * 1e9) / 1000, "pid": pid, "args": {"bytes": held}}
        for name, times, counts in tracks
        for time, held in zip(times, counts, strict=True)
    ]


def _meta(pid: int, tid: int, kind: str, **args: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": args}


def _about(result: Result) -> dict[str, Any]:
    names = ("workload", "topology", "plan", "runtime", "made_by", "step_s", "fidelity")
    return {name: getattr(result, name) for name in names}
