"""Start: the row of a pipeline rank, each operation a computation of a whole stage."""

from __future__ import annotations

from mpsim.lowering.instructions import Compute, Instructions
from mpsim.lowering.model import Lowering

__all__ = ["start"]


def start(lowering: Lowering, rank: int) -> Instructions:
    """Return the row of a pipeline rank as computations; where it has no update of its own, one a stage ends it."""
    stages = lowering.stages
    found: Instructions = []
    for operation in lowering.rows[rank]:
        stage, kind, microbatch, overlaps = operation
        layers = stages[stage].layers
        found.append(Compute(stage, kind, microbatch, layers.start, layers.stop, overlaps=overlaps))
    if not lowering.asynchronous:
        own = [(stage, stages[stage].layers) for stage in lowering.shape.held_by(rank)]
        found += [Compute(stage, "U", -1, layers.start, layers.stop) for stage, layers in own]
    return found
