"""Traces that mpsim wrote for Perfetto, read back as results: what ran when, and where each device's step went."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.interchange.chrome import Slice, read_trace, slices
from mpsim.interchange.losses import Losses
from mpsim.interchange.recognise import is_ours
from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import HOLDERS, DeviceUse, MemoryUse, Result, Spans, Timeline

__all__ = ["load_perfetto"]

_AXES = ("pp", "tp", "cp", "ep", "dp")
_COUNTERS = ("memory", *(f"memory: {holder}" for holder in HOLDERS))
_PHASES = ("X", "M", "C", "s", "f")  # slices, names, counters, both ends of messages
_MOST_AT_US = 1e300  # Of an arrow; past it, or infinite, it is none.
_ABOUT = ("workload", "topology", "plan", "runtime", "made_by", "fidelity")


@checked
def load_perfetto(path: str | Path) -> tuple[Result, Losses]:
    """Read a trace that `save_perfetto` wrote, and list what it does not tell.

    Raises
    ------
    MpsimError
        Not a trace, not one of mpsim's, or a transfer that not all of its devices have.

    Examples
    --------
    >>> import tempfile
    >>> from mpsim.result.perfetto import save_perfetto
    >>> spans = Spans(name=("0F0",), kind=("forward",), axis=("",), devices=((0,),), stage=(0,), microbatch=(0,),
    ...               bytes=(0,), start_s=(0.0,), end_s=(2.0,))
    >>> use = DeviceUse(name="gpu0", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=(use,), spans=spans)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_perfetto(folder + "/trace.json", result)
    ...     load_perfetto(folder + "/trace.json")[0].spans == spans
    True
    """
    trace = read_trace(path)
    if not is_ours(trace):
        raise MpsimError(f"{path} is no trace of mpsim's: its otherData names no workload, plan and step_s")
    about = trace["otherData"]
    reader = _Reader(trace, path)
    spans = _spans(reader.found)
    step_s, last_s = about["step_s"], max(spans.end_s, default=0.0)
    # Spans are rounded to the nanosecond, the step is not.
    if isinstance(step_s, bool) or not isinstance(step_s, int | float) or not last_s <= step_s + 1e-9:
        raise MpsimError(f"{path}: its step_s is {step_s!r}, its last span ends at {last_s} s")
    reader.losses.add("times are whole nanoseconds")
    reader.losses.add("memory at its peak, by holder: not told, what each holds over time is")
    reader.losses.add("step on an ideal network, bubble, baseline, trials, traffic by link: not in such a trace")
    workload, topology, plan, runtime, made_by, fidelity = (str(about.get(name, "")) for name in _ABOUT)
    result = Result(
        workload=workload,
        topology=topology,
        plan=plan,
        runtime=runtime,
        made_by=made_by,
        fidelity=fidelity,
        step_s=float(step_s),
        trial_step_s=(float(step_s),),
        free_step_s=None,
        devices=tuple(_use(reader, i, spans, float(step_s)) for i in range(len(reader.devices))),
        spans=spans,
    )
    return result, reader.losses


class _Span(NamedTuple):
    """One span, in the order in which spans are kept."""

    start_us: float
    end_us: float
    name: str
    kind: str
    axis: str
    stage: int
    microbatch: int
    bytes: int
    n_devices: int
    named: str


class _Reader:
    """Gathers devices, memory and spans from events."""

    def __init__(self, trace: Mapping[str, Any], path: str | Path) -> None:
        self.path, self.losses = path, Losses()
        self.names: dict[str, str] = {}
        self.threads: dict[tuple[str, str], str] = {}
        # By process and counter, "memory" or "memory: holder": bytes by time; of several at one time the last counts.
        self.memory: dict[str, dict[str, dict[float, int]]] = defaultdict(lambda: defaultdict(dict))
        self.messages = _Messages()
        for event in trace["traceEvents"]:
            if isinstance(event, dict) and isinstance(event.get("args", {}), dict):
                self._read(event, event.get("args", {}))
            if isinstance(event, dict) and event.get("ph") not in _PHASES:
                self.losses.add("events of a phase that mpsim does not write: left out", repr(event.get("name")))
        self.devices = list(self.names)
        if not self.devices:
            raise MpsimError(f"{path} names no device: it was edited; simulate with --perfetto again")
        self.found = self._spans(slices(trace, path))

    def _read(self, event: Mapping[str, Any], args: Mapping[str, Any]) -> None:
        pid = str(event.get("pid", ""))
        if event.get("name") == "process_name":
            self.names[pid] = str(args.get("name", pid))
        elif event.get("name") == "thread_name":
            self.threads[pid, str(event.get("tid", ""))] = str(args.get("name", ""))
        elif event.get("ph") in ("s", "f"):
            self.messages.read(event)
        elif event.get("ph") == "C" and event.get("name") in _COUNTERS:
            at_us, held = event.get("ts"), args.get("bytes")
            if (
                not isinstance(at_us, int | float)
                or not isinstance(held, int)
                or not (0 <= at_us < math.inf)
                or not 0 <= held < 2**63
            ):
                shown = f"{repr(held)[:40]} at {repr(at_us)[:40]} us"
                raise MpsimError(f"{self.path}: the memory of {self.names.get(pid, pid)!r} is {shown}")
            self.memory[pid][str(event["name"])][at_us / 1e6] = held

    def _spans(self, found: Sequence[Slice]) -> list[tuple[_Span, tuple[int, ...]]]:
        """Return spans with their devices; a transfer stands under each of its devices."""
        position = {pid: i for i, pid in enumerate(self.devices)}
        seen: dict[_Span, list[int]] = defaultdict(list)
        for one in found:
            if one.thread[0] not in position:
                raise MpsimError(f"{self.path}: {one.name!r} runs on process {one.thread[0]}, which has no name")
            seen[self._span(one)].append(position[one.thread[0]])
        spans: list[tuple[_Span, tuple[int, ...]]] = []
        for span, where in sorted(seen.items(), key=lambda item: item[0][:2]):
            if span.n_devices == 1:
                spans += [(span, (device,)) for device in where]
            else:
                spans += [(span, devices) for devices in self._groups(span, where)]
        return spans

    def _span(self, one: Slice) -> _Span:
        track = self.threads.get(one.thread, "").split(" ")[0]
        numbers = {"stage": -1, "microbatch": -1, "bytes": 0, "n_devices": 1}
        for name in numbers:
            numbers[name] = number = one.args.get(name, numbers[name])
            if not isinstance(number, int) or not -1 <= number < 2**63:
                shown = repr(number)[:40]
                raise MpsimError(f"{self.path}: {one.name!r} has {shown} as {name}, expected a whole number")
        if one.start_us < 0:
            raise MpsimError(f"{self.path}: {one.name!r} starts at {one.start_us} us, before its step: it was edited")
        return _Span(
            start_us=round(one.start_us, 3),
            end_us=round(one.end_us, 3),
            name=one.name,
            kind=str(one.args.get("kind", one.category)),
            axis=track if track in _AXES else "",
            stage=numbers["stage"],
            microbatch=numbers["microbatch"],
            bytes=numbers["bytes"],
            n_devices=max(1, numbers["n_devices"]),
            named=str(one.args.get("devices", "")),
        )

    def _groups(self, span: _Span, where: list[int]) -> list[tuple[int, ...]]:
        """Return the devices of each of several transfers that are alike."""
        times, rest = divmod(len(where), span.n_devices)
        if rest:
            raise MpsimError(
                f"{self.path}: transfer {span.name!r} at {span.start_us} us stands under {len(where)} devices, it is of"
                f" {span.n_devices}: the file was edited"
            )
        counts = Counter(where)
        pairs = self.messages.pairs(span, {self.devices[device]: device for device in counts})
        if Counter(device for pair in pairs for device in pair) == counts:
            return pairs
        if len(counts) == span.n_devices:
            return [tuple(sorted(counts))] * times
        self.losses.add("alike transfers of many devices at one moment: which has which is a guess", repr(span.name))
        ordered = sorted(where)
        return [tuple(ordered[i * span.n_devices : (i + 1) * span.n_devices]) for i in range(times)]


class _Messages:
    """Gathers the arrows of messages: from which process to which."""

    def __init__(self) -> None:
        self._ends: dict[str, str] = {}
        self._starts: dict[tuple[str, float], list[tuple[str, str]]] = defaultdict(list)

    def read(self, event: Mapping[str, Any]) -> None:
        """Take one end of an arrow; what is no whole one is passed over: a slice tells all but the direction."""
        number, at_us, pid = str(event.get("id")), event.get("ts"), str(event.get("pid", ""))
        if event["ph"] == "f":
            self._ends[number] = pid
        elif isinstance(at_us, int | float) and abs(at_us) <= _MOST_AT_US:
            self._starts[str(event.get("name", "")), round(float(at_us), 3)].append((number, pid))

    def pairs(self, span: _Span, where: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Return sender and receiver of each message like a span, of those processes whose numbers are given."""
        starts = self._starts.get((span.name, span.start_us), ()) if span.kind == "send" else ()
        ends = ((pid, self._ends.get(number, "")) for number, pid in starts)
        return [(where[source], where[target]) for source, target in ends if {source, target} <= where.keys()]


def _spans(found: Sequence[tuple[_Span, tuple[int, ...]]]) -> Spans:
    return Spans(
        name=tuple(span.name for span, _ in found),
        kind=tuple(span.kind for span, _ in found),
        axis=tuple(span.axis for span, _ in found),
        devices=tuple(devices for _, devices in found),
        stage=tuple(span.stage for span, _ in found),
        microbatch=tuple(span.microbatch for span, _ in found),
        bytes=tuple(span.bytes for span, _ in found),
        start_s=tuple(span.start_us / 1e6 for span, _ in found),
        end_s=tuple(span.end_us / 1e6 for span, _ in found),
    )


_MOST_DEVICES = 10**9


def _use(reader: _Reader, device: int, spans: Spans, step_s: float) -> DeviceUse:
    """Return where a device's step went: when it computed, and when a transfer of its was under way besides."""
    computed, active = [], []
    for i, devices in enumerate(spans.devices):
        if device in devices and not is_launch(spans, i):
            interval = (spans.start_s[i], spans.end_s[i])
            active.append(interval)
            if not is_transfer(spans, i):
                computed.append(interval)
    compute_s, active_s = _covered(computed), _covered(active)
    name, count = _labelled(reader.names[reader.devices[device]])
    return DeviceUse(
        name=name,
        count=count,
        compute_s=compute_s,
        exposed_communication_s=active_s - compute_s,
        idle_s=max(0.0, step_s - active_s),
        bubble_s=None,
        memory=_memory(reader.memory[reader.devices[device]]),
    )


def _labelled(label: str) -> tuple[str, int]:
    """Return a device's name, and how many it stands for, of what `DeviceUse.label` says."""
    name, times, count = label.rpartition(" × ")
    number = count.replace(",", "")
    return (name, int(number)) if times and number.isdecimal() and 1 < int(number) < _MOST_DEVICES else (label, 1)


def _memory(counters: Mapping[str, Mapping[float, int]]) -> MemoryUse:
    """Return what a device holds over time, in all and by holder."""
    total = counters.get("memory", {})
    holders = [(name.removeprefix("memory: "), held) for name, held in counters.items() if name != "memory"]
    return MemoryUse(
        timeline_s=tuple(total),
        timeline_bytes=tuple(total.values()),
        by_holder=tuple(
            Timeline(holder=name, time_s=tuple(held), bytes=tuple(held.values())) for name, held in holders
        ),
    )


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Return the seconds that some intervals cover, each counted once."""
    total, until = 0.0, 0.0
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
