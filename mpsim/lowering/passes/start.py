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
        held = [stage for stage, home in enumerate(lowering.shape.home) if home == rank]
        found += [Compute(stage, "U", -1, stages[stage].layers.start, stages[stage].layers.stop) for stage in held]
    return found
