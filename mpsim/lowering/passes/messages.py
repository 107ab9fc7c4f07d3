"""Messages: what crosses from one pipeline rank to another is received before a computation and sent after it."""

from __future__ import annotations

from typing import NamedTuple

from mpsim.lowering.instructions import Compute, Instructions, Receive, Send
from mpsim.lowering.model import Lowering

__all__ = ["messages"]


def messages(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put a receive before what needs the outcome of another rank's stage, and a send behind what such a one needs."""
    if len(lowering.rows) == 1:
        return instructions
    ports: dict[tuple[int, str], tuple[_Port | None, _Port | None]] = {}
    found: Instructions = []
    for one in instructions:
        if type(one) is not Compute or one.pass_kind in "WU":
            found.append(one)
            continue
        stage, kind, microbatch = one[:3]
        way = "F" if kind == "F" else "B"
        if (stage, way) not in ports:
            ports[stage, way] = _ports(stage, way, lowering)
        source, target = ports[stage, way]
        if source is not None:
            key = _key(stage, way, microbatch, lowering)
            found.append(Receive(key, source.rank, source.bytes, source.stage, stage, microbatch, way))
        found.append(one)
        if target is not None:
            key = _key(target.stage, way, microbatch, lowering)
            found.append(Send(key, target.rank, target.bytes, stage, target.stage, microbatch, way))
    return found


class _Port(NamedTuple):
    """A stage on another pipeline rank, and the bytes that one micro-batch sends there or brings from there."""

    stage: int
    rank: int
    bytes: int


def _ports(stage: int, way: str, lowering: Lowering) -> tuple[_Port | None, _Port | None]:
    """Return where a stage's messages of one direction come from, and where they go."""
    shape, home = lowering.shape, lowering.shape.home
    source, target = shape.source(stage, way), shape.target(stage, way)
    size = lowering.crossing_bytes
    return (
        None if source is None or home[source] == home[stage] else _Port(source, home[source], size(source, stage)),
        None if target is None or home[target] == home[stage] else _Port(target, home[target], size(stage, target)),
    )


def _key(to: int, way: str, microbatch: int, lowering: Lowering) -> int:
    """Return the number of a message, among those of one rank in each stage."""
    return (to * lowering.plan.microbatches + microbatch) * 2 + (way == "B")
