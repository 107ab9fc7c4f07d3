"""What a rank holds throughout a step."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.program.buckets import Bucket
from mpsim.program.model import Resident
from mpsim.program.stages import Stage

__all__ = ["residents_of"]


def residents_of(stage: Stage, buckets: Sequence[Bucket], device: int) -> list[Resident]:
    """Return what a device holds of its stage from the first task to the last, and the buffers of its buckets."""
    held = {
        "parameters": stage.parameter_bytes,
        "gradients": sum(gradient.bytes for _, gradient in stage.gradients),
        "optimizer": stage.optimizer_bytes,
        "buffers": stage.buffer_bytes + sum(bucket.bytes for bucket in buckets),
    }
    return [Resident(device, holder, count) for holder, count in held.items() if count]
