"""Messages: what crosses from one pipeline rank to another is received before a computation and sent after it."""

from __future__ import annotations

from mpsim.lowering.instructions import Compute, Instructions, Receive, Send
from mpsim.lowering.model import Lowering

__all__ = ["messages"]


def messages(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put a receive before what needs the outcome of another rank's stage, and a send behind what such a one needs."""
    shape, home = lowering.shape, lowering.shape.home
    if len(lowering.rows) == 1:
        return instructions
    found: Instructions = []
    for one in instructions:
        if not isinstance(one, Compute) or one.pass_kind in "WU":
            found.append(one)
            continue
        stage, microbatch = one.stage, one.microbatch
        way = "F" if one.pass_kind == "F" else "B"
        source, target = shape.before(stage), shape.behind(stage)
        if way == "B":
            source, target = target, source
        if source is not None and home[source] != home[stage]:
            size = lowering.crossing_bytes(source, stage)
            found.append(Receive((way, stage, microbatch), home[source], size, source, stage, microbatch, way))
        found.append(one)
        if target is not None and home[target] != home[stage]:
            size = lowering.crossing_bytes(stage, target)
            found.append(Send((way, target, microbatch), home[target], size, stage, target, microbatch, way))
    return found
