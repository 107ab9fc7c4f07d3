"""What a result file may hold: times and bytes that a run could have had."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from mpsim.errors import MpsimError, unknown
from mpsim.result.model import HOLDERS, DeviceUse, MemoryUse, Result, Spans, Timeline

__all__ = ["check_result"]

_FIDELITIES = ("measured", "interpolated", "scaled", "analytical", "given", "doubtful")
# Of the step: what adding three times may leave between their sum and it.
_ROUNDING = 1e-9


def check_result(result: Result) -> None:
    """Refuse words and numbers that no run could have given.

    Raises
    ------
    MpsimError
        An unknown fidelity, negative or missing times, a device whose parts are not its step, spans of no device.
    """
    _check_times(result)
    if result.fidelity not in _FIDELITIES:
        raise unknown("fidelity", result.fidelity, _FIDELITIES)
    if result.global_batch < 0 or result.trials < 1:
        raise MpsimError(f"global_batch is {result.global_batch} and trials {result.trials}, expected 0 and 1 or more")
    for name in ("tokens_per_sample", "flops_per_sample", "peak_flops_per_s"):
        if not 0 <= getattr(result, name) < math.inf:
            raise MpsimError(f"{name} is {getattr(result, name)}, expected 0 or more")
    for device in result.devices:
        if device.count < 1:
            raise MpsimError(f"device {device.name!r} stands for {device.count}, expected 1 or more")
        _check_device(device, result.step_s)
    _check_spans(result.spans, len(result.devices))


def _check_times(result: Result) -> None:
    if not result.trial_step_s:
        raise MpsimError("trial_step_s is empty, expected at least one step")
    for name in ("step_s", "steady_s", "free_step_s", "baseline_step_s"):
        if getattr(result, name) is not None:
            _check_seconds(name, getattr(result, name))
    for seconds in result.trial_step_s:
        _check_seconds("trial_step_s", seconds)


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise MpsimError(f"{name} holds {seconds}, expected seconds, zero or more")


def _check_device(device: DeviceUse, step_s: float) -> None:
    parts = (device.compute_s, device.exposed_communication_s, device.exposed_launch_s, device.idle_s)
    for seconds in (*parts, device.bubble_s or 0.0):
        _check_seconds(f"device {device.name!r}", seconds)
    if abs(sum(parts) - step_s) > _ROUNDING * step_s:
        raise MpsimError(
            f"compute, exposed communication and launch, and idle of device {device.name!r} add up to {sum(parts)} s,"
            f" the step is {step_s} s"
        )
    _check_memory(device.name, device.memory)


def _check_memory(name: str, memory: MemoryUse) -> None:
    times, totals = memory.timeline_s, memory.timeline_bytes
    if len(times) != len(totals):
        raise MpsimError(f"the memory of device {name!r} has {len(times)} times and {len(totals)} totals")
    for field in dataclasses.fields(memory):
        value = getattr(memory, field.name)
        if field.name != "by_holder":
            _check_numbers(name, field.name, value if isinstance(value, tuple) else (value,))
    if list(times) != sorted(times):
        raise MpsimError(f"the memory of device {name!r}: the times do not ascend")
    _check_holders(name, memory)


def _check_numbers(name: str, what: str, values: Iterable[float]) -> None:
    bad = [one for one in values if not 0 <= one < math.inf]
    if bad:
        raise MpsimError(f"the memory of device {name!r}: {what} holds {bad[0]}, expected zero or more")


def _check_holders(name: str, memory: MemoryUse) -> None:
    """Refuse timelines by holder that do not add up to the one of all together."""
    known: list[str] = []
    for timeline in memory.by_holder:
        if timeline.holder not in HOLDERS:
            raise unknown("holder of memory", timeline.holder, HOLDERS)
        if timeline.holder in known:
            raise MpsimError(f"the memory of device {name!r} has two timelines of {timeline.holder}: keep one")
        known.append(timeline.holder)
        _check_timeline(name, timeline)
    sums = [sum(held) for held in zip(*(one.held(memory.timeline_s) for one in memory.by_holder), strict=True)]
    if memory.by_holder and sums != list(memory.timeline_bytes):
        i = next(i for i, (a, b) in enumerate(zip(sums, memory.timeline_bytes, strict=True)) if a != b)
        raise MpsimError(
            f"the memory of device {name!r} at {memory.timeline_s[i]} s: its holders add up to {sums[i]} bytes,"
            f" the total is {memory.timeline_bytes[i]}"
        )


def _check_timeline(name: str, timeline: Timeline) -> None:
    times, held = timeline.time_s, timeline.bytes
    if len(times) != len(held):
        raise MpsimError(
            f"{timeline.holder} of device {name!r} have {len(times)} times and {len(held)} numbers of bytes"
        )
    _check_numbers(name, timeline.holder, (*times, *held))
    if list(times) != sorted(times):
        raise MpsimError(f"the memory of device {name!r}: the times of {timeline.holder} do not ascend")


def _check_spans(spans: Spans, n_devices: int) -> None:
    lengths = {field.name: len(getattr(spans, field.name)) for field in dataclasses.fields(spans)}
    for column, length in lengths.items():
        if length != lengths["name"]:
            raise MpsimError(f"spans have {lengths['name']} names and {length} entries in {column!r}")
    for name, devices in zip(spans.name, spans.devices, strict=True):
        if devices and not 0 <= min(devices) <= max(devices) < n_devices:
            raise MpsimError(f"span {name!r} is on device {max(devices)}, the result has {n_devices}")
    for name, start_s, end_s in zip(spans.name, spans.start_s, spans.end_s, strict=True):
        if not 0 <= start_s <= end_s < math.inf:
            raise MpsimError(f"span {name!r} runs from {start_s} s to {end_s} s")
