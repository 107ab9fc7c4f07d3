"""Results as tables and plain objects; every column and key carries its unit."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mpsim.result.model import HOLDERS, Count, DeviceUse, Result
from mpsim.result.statistics import interval
from mpsim.sums import sum_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "devices_frame",
    "memory_by_holder_frame",
    "memory_frame",
    "result_to_dict",
    "spans_frame",
    "summary_row",
    "traffic_frame",
    "trials_frame",
]

_AXES = ("dp", "pp", "tp", "cp", "ep")


def summary_row(result: Result) -> dict[str, Any]:
    """Return a result as one flat row, the columns of a sweep's table.

    Where `result_to_dict` has a number for each device, the row has one for the plan: the highest peak memory
    (``highest_peak_memory_bytes``), and mean fractions of the step.

    Returns
    -------
    dict
        Text, numbers and booleans; None where a number does not exist (no baseline, unknown capacity).

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> row = summary_row(result)
    >>> row["step_s"], row["communication_overhead_fraction"], row["speedup"]
    (2.0, 0.25, None)
    """
    row = (
        _identity(result)
        | {"caveats": "; ".join(result.caveats) or None, "n_devices": result.n_devices}
        | _step(result)
        | _fractions(result)
    )
    row["highest_peak_memory_bytes"] = max(result.peak_memory_bytes, default=0)
    row["fits"] = result.fits
    row |= {f"{axis}_payload_bytes": _payload(result, axis) for axis in _AXES}
    row["payload_bytes"] = sum(count.payload_bytes for count in result.traffic)
    row["link_bytes"] = sum(count.link_bytes for count in result.traffic)
    return {key: _plain(value) for key, value in row.items()}


def result_to_dict(result: Result) -> dict[str, Any]:
    """Return a result as one object for JSON: what ``mpsim simulate --json`` prints.

    Returns
    -------
    dict
        ``devices`` and ``traffic`` are lists of objects, ``trial_step_s`` an object with ``median``, ``p5`` and
        ``p95``, ``peak_memory_bytes`` a list in the order of ``devices``; None where a number does not exist.
        ``deterministic`` is true where one replay stands for all trials, None where only one was asked for.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> result_to_dict(result)["trial_step_s"]
    {'median': 2.0, 'p5': 2.0, 'p95': 2.0}
    """
    over = interval(result)
    body = _identity(result) | _step(result) | _fractions(result)
    body |= {"caveats": list(result.caveats), "scalings": [asdict(one) for one in result.scalings]}
    body["notes"] = list(result.notes)
    del body["step_p5_s"], body["step_p95_s"]
    body["trial_step_s"] = {"median": over.median_s, "p5": over.low_s, "p95": over.high_s}
    body["peak_memory_bytes"] = list(result.peak_memory_bytes)
    body["fits"] = result.fits
    body["devices"] = [_device(device, result.step_s) for device in result.devices]
    body["traffic"] = [_count(count) for count in result.traffic]
    plain: dict[str, Any] = _plain(body)
    return plain


def _identity(result: Result) -> dict[str, Any]:
    names = ("workload", "measured_on", "topology", "plan", "runtime", "made_by", "fidelity", "global_batch")
    found = {name: getattr(result, name) for name in names} | {"launch": result.launch or "in times"}
    return found | {"plan": str(result.plan)}  # of which rows have all in columns of their own


def _step(result: Result) -> dict[str, Any]:
    over = interval(result)
    return {
        "step_s": result.step_s,
        "step_p5_s": over.low_s,
        "step_p95_s": over.high_s,
        "trials": result.trials,
        "deterministic": result.deterministic,
        "throughput_samples_per_s": result.throughput_samples_per_s if result.global_batch else None,
        "throughput_tokens_per_s": result.throughput_tokens_per_s,
        "device_flops_per_s": result.device_flops_per_s,
        "mfu_fraction": result.mfu_fraction,
        "speedup": result.speedup,
        "baseline": result.baseline or None,
        "baseline_step_s": result.baseline_step_s or None,
        "steady_s": result.steady_s,
        "free_step_s": result.free_step_s,
        "communication_overhead_s": result.communication_overhead_s,
        "communication_overhead_fraction": result.communication_overhead_fraction,
    }


def _fractions(result: Result) -> dict[str, float | None]:
    """Return the mean over devices of each part of the step, as a fraction of it; None of what is not known."""
    parts = ("compute", "exposed_communication", "exposed_launch", "idle", "bubble")
    return {f"{part}_fraction": _mean_fraction(result, f"{part}_s") for part in parts}


def _mean_fraction(result: Result, part: str) -> float | None:
    parts = [(getattr(device, part), device.count) for device in result.devices]
    if any(seconds is None for seconds, _ in parts):
        return None
    whole = result.step_s * result.n_devices
    return sum_of(parts) / whole if whole else 0.0


def _device(device: DeviceUse, step_s: float) -> dict[str, Any]:
    return {
        "name": device.name,
        "count": device.count,
        "type": device.type,
        "compute_s": device.compute_s,
        "exposed_communication_s": device.exposed_communication_s,
        "exposed_launch_s": device.exposed_launch_s,
        "idle_s": device.idle_s,
        "bubble_s": device.bubble_s,
        "bubble_fraction": None if device.bubble_s is None else device.bubble_s / step_s if step_s else 0.0,
        "peak_memory_bytes": device.memory.peak_bytes,
        "reserved_memory_bytes": device.memory.reserved_bytes or None,
        "memory": {f"{holder}_bytes": getattr(device.memory, f"{holder}_bytes") for holder in HOLDERS},
        "capacity_bytes": device.capacity_bytes or None,
        "fits": device.fits,
    }


def _count(count: Count) -> dict[str, Any]:
    names = ("kind", "axis", "transfers", "payload_bytes", "link_bytes", "algorithm", "beyond", "unmeasured")
    return {name: getattr(count, name) for name in names}


def _payload(result: Result, axis: str) -> int:
    return sum(count.payload_bytes for count in result.traffic if count.axis == axis)


def _plain(value: Any) -> Any:
    """Return `value` without what JSON cannot hold: not-a-number and infinity become None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def spans_frame(result: Result) -> pd.DataFrame:
    """Return one row for each span and each device that takes part in it.

    Returns
    -------
    DataFrame
        ``span`` numbers the spans (a transfer has one row for each of its devices and is counted once by it),
        ``stage`` and ``microbatch`` are missing where they have no meaning, ``bytes`` is the payload.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> list(spans_frame(result).columns)[:4]
    ['span', 'device', 'name', 'kind']
    """
    import pandas as pd

    spans = result.spans
    names = [device.name for device in result.devices]
    frame = pd.DataFrame(
        {
            "span": range(len(spans)),
            "device": [[names[i] for i in devices] for devices in spans.devices],
            "name": spans.name,
            "kind": spans.kind,
            "axis": spans.axis,
            "stage": pd.array(spans.stage, dtype="Int64"),
            "microbatch": pd.array(spans.microbatch, dtype="Int64"),
            "bytes": pd.array(spans.bytes, dtype="int64"),
            "start_s": pd.array(spans.start_s, dtype="float64"),
            "end_s": pd.array(spans.end_s, dtype="float64"),
        }
    )
    frame["duration_s"] = frame["end_s"] - frame["start_s"]
    for column in ("stage", "microbatch"):
        frame[column] = frame[column].mask(frame[column] < 0)
    return frame.explode("device", ignore_index=True).astype({"device": "str"})


def devices_frame(result: Result) -> pd.DataFrame:
    """Return one row for each device: where its step went, and what it holds at its peak.

    Examples
    --------
    >>> use = DeviceUse(name="gpu0", compute_s=1.5, exposed_communication_s=0.25, idle_s=0.25)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5,
    ...                 devices=(use,))
    >>> devices_frame(result)[["device", "compute_s", "compute_fraction"]].values.tolist()
    [['gpu0', 1.5, 0.75]]
    """
    import pandas as pd

    rows = []
    for device in result.devices:
        row = _device(device, result.step_s)
        name, holders = row.pop("name"), row.pop("memory")
        row = {"device": name} | row | holders
        for part in ("compute", "exposed_communication", "exposed_launch", "idle"):
            row[f"{part}_fraction"] = row[f"{part}_s"] / result.step_s if result.step_s else 0.0
        rows.append(row)
    frame = pd.DataFrame(rows)
    if rows:
        frame["capacity_bytes"] = frame["capacity_bytes"].astype("Int64")
        frame["fits"] = frame["fits"].astype("boolean")
    return frame


def trials_frame(result: Result) -> pd.DataFrame:
    """Return one row for each trial replayed; a single one where one replay stands for all.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> trials_frame(result).to_dict("records")
    [{'trial': 0, 'step_s': 2.0}]
    """
    import pandas as pd

    return pd.DataFrame({"trial": range(len(result.trial_step_s)), "step_s": result.trial_step_s})


def traffic_frame(result: Result) -> pd.DataFrame:
    """Return one row for each kind of traffic on each axis.

    Examples
    --------
    >>> sends = Count(kind="send", axis="pp", transfers=4, payload_bytes=4096, link_bytes=8192)
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5,
    ...                 traffic=(sends,))
    >>> traffic_frame(result).values.tolist()
    [['send', 'pp', 4, 4096, 8192, '', 0, '']]
    """
    import pandas as pd

    names = ("kind", "axis", "transfers", "payload_bytes", "link_bytes", "algorithm", "beyond", "unmeasured")
    return pd.DataFrame([_count(count) for count in result.traffic], columns=pd.Index(names))


def memory_frame(result: Result) -> pd.DataFrame:
    """Return the total on each device over time: one row for each change, valid until the device's next row.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> list(memory_frame(result).columns)
    ['device', 'time_s', 'memory_bytes']
    """
    import pandas as pd

    columns: dict[str, list[Any]] = {"device": [], "time_s": [], "memory_bytes": []}
    for device in result.devices:
        memory = device.memory
        columns["device"] += [device.name] * len(memory.timeline_s)
        columns["time_s"] += memory.timeline_s
        columns["memory_bytes"] += memory.timeline_bytes
    return pd.DataFrame(columns)


def memory_by_holder_frame(result: Result) -> pd.DataFrame:
    """Return what each holder holds on each device over time: one row for each change, valid until the pair's next row.

    Examples
    --------
    >>> from mpsim.result.model import MemoryUse, Timeline
    >>> memory = MemoryUse(by_holder=(Timeline(holder="activations", time_s=(0.0, 1.0), bytes=(64, 0)),))
    >>> use = DeviceUse(name="gpu0", compute_s=1.0, exposed_communication_s=0.0, idle_s=0.0, memory=memory)
    >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=1.0, trial_step_s=(1.0,), free_step_s=1.0,
    ...                 devices=(use,))
    >>> memory_by_holder_frame(result).values.tolist()
    [['gpu0', 'activations', 0.0, 64], ['gpu0', 'activations', 1.0, 0]]
    """
    import pandas as pd

    rows = [
        (device.name, timeline.holder, time_s, held)
        for device in result.devices
        for timeline in device.memory.by_holder
        for time_s, held in zip(timeline.time_s, timeline.bytes, strict=True)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["device", "holder", "time_s", "bytes"]))
