"""Overlap: two operations in one cell, of which one computes while the other communicates."""

from __future__ import annotations

from itertools import zip_longest

from mpsim.lowering.instructions import Collective, Compute, Instruction, Instructions, Key, Send, Wait
from mpsim.lowering.model import Lowering

__all__ = ["overlap"]


def overlap(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Run the two operations of a cell in turn, from one exchange to the next.

    Both begin when the messages that either needs are there, and what they send goes when both are done. In between,
    what one exchanges goes on while the other computes::

        one     [f1]      [f2]
        links       [=f1=]    [=f2=]
        other       [b1]      [b2]
    """
    first = {_operation(one) for one in instructions if isinstance(one, Compute) and one.overlaps}
    if not first:
        return instructions
    found: Instructions = []
    at = 0
    while at < len(instructions):
        one = instructions[at]
        if _operation(one) in first:
            cell, at = _cell(instructions, at)
            found += cell
        else:
            found.append(one)
            at += 1
    return found


def _operation(one: Instruction) -> tuple[int, str, int] | None:
    """Return whose computation, exchange or wait for an exchange it is; a second forward is part of its backward."""
    if isinstance(one, Compute):
        stage, kind, microbatch = one[:3]
    elif isinstance(one, Collective) or (isinstance(one, Wait) and isinstance(one.keys[0], tuple)):
        _, stage, kind, microbatch, *_ = one.key if isinstance(one, Collective) else one.keys[0]
    else:
        return None
    return stage, "B" if kind in "BIR" else kind, microbatch


def _cell(instructions: Instructions, at: int) -> tuple[Instructions, int]:
    """Return the cell that begins with an operation, and where what follows it begins."""
    bodies: dict[tuple[int, str, int], Instructions] = {}
    early: Instructions = []
    late: Instructions = []
    sent: set[Key] = set()
    while at < len(instructions):
        one = instructions[at]
        own = _operation(one)
        if own is not None:
            if own not in bodies and len(bodies) == 2:
                break
            bodies.setdefault(own, []).append(one)
        elif isinstance(one, Send) or (isinstance(one, Wait) and one.keys[0] in sent):
            sent |= {one.key} if isinstance(one, Send) else set()
            late.append(one)
        elif len(bodies) == 2:
            break  # of what comes next
        else:
            early.append(one)
        at += 1
    return early + _in_turn(*bodies.values()) + late, at


def _in_turn(first: Instructions, second: Instructions) -> Instructions:
    """Return two operations, each awaiting its last exchange when its turn comes again."""
    found: Instructions = []
    waits: list[Instructions] = [[], []]
    nothing: tuple[Instructions, Instructions] = ([], [])
    for parts in zip_longest(_up_to_waits(first), _up_to_waits(second), fillvalue=nothing):
        for i, (work, wait) in enumerate(parts):
            found += waits[i] + work
            waits[i] = wait
    return found + waits[0] + waits[1]


def _up_to_waits(instructions: Instructions) -> list[tuple[Instructions, Instructions]]:
    """Return what is done up to each wait, and that wait."""
    found: list[tuple[Instructions, Instructions]] = []
    work: Instructions = []
    for one in instructions:
        if isinstance(one, Wait):
            found.append((work, [one]))
            work = []
        else:
            work.append(one)
    return [*found, (work, [])] if work else found
