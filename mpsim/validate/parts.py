"""Where a step went, from its spans: what a prediction and a real run are compared by, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mpsim.result.model import Result, Spans

__all__ = ["PARTS", "differences", "parts_of"]

COMPUTE, IDLE = "compute", "idle"
# Each kind of communication: messages between stages, gradients that stages share (of tied parameters, and of copies
# of a stage), gradients of replicas, pieces of layers, and collectives of no axis.
PARTS = (COMPUTE, "sends", "tied", "dp", "tp", "cp", "ep", "collectives", IDLE)
_Change = tuple[float, str, int]  # when, what, and whether one more of it runs or one less


def parts_of(result: Result) -> dict[str, float]:
    """Return the seconds that the mean device spent in each part; they add up to the step.

    While a device computes, all is compute; while it does not, and transfers that it takes part in are under way, the
    time is shared equally between the kinds of them; the rest is idle.

    Examples
    --------
    >>> spans = Spans(
    ...     name=("a", "b"), kind=("forward", "send"), axis=("", "pp"), devices=((0,), (0, 1)), stage=(0, 0),
    ...     microbatch=(0, 0), bytes=(0, 64), start_s=(0.0, 0.5), end_s=(1.0, 3.0),
    ... )
    >>> from mpsim.result.model import DeviceUse
    >>> use = DeviceUse(name="d", compute_s=1.0, exposed_communication_s=2.0, idle_s=1.0)
    >>> result = Result(
    ...     workload="w", topology="t", plan="p", step_s=4.0, trial_step_s=(4.0,), free_step_s=None,
    ...     devices=(use, use), spans=spans,
    ... )
    >>> parts = parts_of(result)
    >>> parts["compute"], parts["sends"], parts["idle"]
    (0.5, 2.25, 1.25)
    """
    devices = [_parts_of_device(changes) for changes in _changes(result.spans, len(result.devices))]
    mean = {part: sum(device[part] for device in devices) / max(len(devices), 1) for part in PARTS[:-1]}
    return mean | {IDLE: result.step_s - sum(mean.values())}


def differences(predicted: Result, measured: Result) -> dict[str, float]:
    """Return what each part adds to the error of a prediction, as fractions of the measured step.

    They add up to ``predicted.step_s / measured.step_s - 1``.
    """
    ours, theirs = parts_of(predicted), parts_of(measured)
    return {part: (ours[part] - theirs[part]) / measured.step_s for part in PARTS}


def _changes(spans: Spans, devices: int) -> list[list[_Change]]:
    """Return for each device when something began or ended there."""
    found: list[list[_Change]] = [[] for _ in range(devices)]
    columns = (spans.name, spans.kind, spans.axis, spans.devices, spans.start_s, spans.end_s)
    reduced = _reduced(spans)
    for name, kind, axis, where, start_s, end_s in zip(*columns, strict=True):
        if end_s > start_s:
            part = _part(kind, axis, name in reduced)
            for device in where:
                found[device] += [(start_s, part, 1), (end_s, part, -1)]
    return found


_OF_MESSAGES = frozenset({"send", "notice", "post", "launch"})
_COMPUTE = frozenset({"forward", "recompute", "backward", "backward_input", "backward_weight", "optimizer", "compute"})


def _part(kind: str, axis: str, reduced: bool) -> str:
    """Return the part that a span belongs to."""
    if kind in _COMPUTE:
        return COMPUTE
    if axis == "pp":
        return "tied" if reduced else "sends"
    return axis or "collectives"


def _reduced(spans: Spans) -> frozenset[str]:
    """Return the names of what stages reduce; what leads up to a transfer, such as a notice, goes by its name."""
    columns = zip(spans.name, spans.kind, spans.axis, strict=True)
    return frozenset(name for name, kind, axis in columns if axis == "pp" and kind not in _OF_MESSAGES)


def _parts_of_device(changes: Sequence[_Change]) -> dict[str, float]:
    """Return the seconds of each part but idleness on one device."""
    seconds = dict.fromkeys(PARTS, 0.0)
    running: Counter[str] = Counter()
    before_s = 0.0
    for now_s, part, change in sorted(changes):
        active = [COMPUTE] if running[COMPUTE] else [name for name, count in running.items() if count]
        for name in active:
            seconds[name] += (now_s - before_s) / len(active)
        running[part] += change
        before_s = now_s
    return seconds
