"""The phases of a pipelined step: it fills (warm-up), runs full (steady state), and drains (cool-down)."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from mpsim.result.model import Result

__all__ = ["PHASES", "Phase", "phases"]

PHASES = ("warm-up", "steady-state", "cool-down")


class Phase(NamedTuple):
    """A part of a step, in seconds from its start."""

    name: str
    start_s: float
    end_s: float


def phases(result: Result) -> tuple[Phase, ...]:
    """Return warm-up, steady state and cool-down of a step of several stages; nothing where it has no such phases.

    In the steady state every device has begun with backwards and still has forwards to run, as in 1F1B. Where there is
    no such time, as in GPipe, it is when every device has begun and none is done with its passes.

    Examples
    --------
    >>> phases(Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0))
    ()
    """
    forwards, backwards = _passes(result, "forward"), _passes(result, "backward")
    if len(forwards) < 2 or not forwards.keys() & backwards.keys():
        return ()
    starts = [min(start for start, _ in passes) for passes in backwards.values()]
    ends = [max(end for _, end in passes) for passes in forwards.values()]
    full, drains = max(starts), min(ends)
    if full >= drains:
        every = {device: forwards[device] + backwards.get(device, []) for device in forwards}
        full = max(min(start for start, _ in passes) for passes in every.values())
        drains = min(max(end for _, end in passes) for passes in every.values())
    if not 0.0 < full < drains < result.step_s:
        return ()
    edges = (0.0, full, drains, result.step_s)
    return tuple(Phase(name, *edges[i : i + 2]) for i, name in enumerate(PHASES))


def _passes(result: Result, kind: str) -> dict[int, list[tuple[float, float]]]:
    """Return when each device runs forwards, or backwards; only of stages, and where there are two of these."""
    spans = result.spans
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    if len(set(spans.stage) - {-1}) < 2:
        return found
    for i, of in enumerate(spans.kind):
        if of.startswith(kind) and spans.microbatch[i] >= 0 and len(spans.devices[i]) == 1:
            found[spans.devices[i][0]].append((spans.start_s[i], spans.end_s[i]))
    return found
