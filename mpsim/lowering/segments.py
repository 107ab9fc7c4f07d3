"""How the passes of a stage fall into runs of layers, up to where something must be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.lowering.buckets import Bucket, fill
from mpsim.lowering.stages import Stage
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation

__all__ = ["Passes", "Segment", "passes_of"]


class Segment(NamedTuple):
    """A run of layers in one pass, up to where something must be sent: ``first..last-1`` of the stage's layers."""

    first: int
    last: int
    collectives: tuple[tuple[str, int], ...] = ()
    buckets: tuple[int, ...] = ()


class Passes(NamedTuple):
    """How the passes of one stage fall into segments, and its gradient buckets."""

    segments: dict[str, list[Segment]]
    last: dict[str, list[Segment]]
    buckets: list[Bucket]
    last_operation: Operation


def passes_of(stage: Stage, row: Sequence[Operation], plan: Plan) -> Passes:
    """Find the segments of each kind of pass; the row's last backward ends one at each bucket."""
    buckets = fill(stage.gradients, plan.first_bucket_bytes, plan.bucket_bytes) if plan.dp > 1 else []
    ends: dict[int, list[int]] = {}
    for i, bucket in enumerate(buckets):
        ends.setdefault(bucket.layer - stage.layers.start, []).append(i)
    backward = [op for op in row if op.kind in "BW"]
    segments = {kind: _segments(stage, kind, {}) for kind in "FBIW"}
    last = {kind: _segments(stage, kind, ends) for kind in "BW"}
    return Passes(segments, last, buckets, backward[-1])


def _segments(stage: Stage, kind: str, bucket_ends: dict[int, list[int]]) -> list[Segment]:
    """Cut a pass where a layer has collectives or completes a bucket; backward runs the layers in reverse."""
    n = len(stage.layers)
    phase = {"F": "forward", "B": "backward", "I": "backward"}.get(kind, "")
    order = range(n) if kind == "F" else range(n - 1, -1, -1)
    found: list[Segment] = []
    start = order[0]
    for i in order:
        calls = tuple((c.kind, c.bytes) for c in stage.costs[i].collectives if c.phase == phase and c.bytes)
        buckets = tuple(bucket_ends.get(i, ()))
        if calls or buckets or i == order[-1]:
            found.append(Segment(min(start, i), max(start, i) + 1, calls, buckets))
            start = i + (1 if kind == "F" else -1)
    return found
