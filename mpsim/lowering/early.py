"""Early: where receives are posted that are not put off until their computation, as torch's runtime has them.

``_add_send_recv`` of ``torch.distributed.pipelining`` goes through all ranks again and again, an operation of each at a
time, and posts a receive where its receiver is when its message is sent. The order does not depend on any time.
https://github.com/pytorch/pytorch/blob/main/torch/distributed/pipelining/schedules.py
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.plan.operations import Operation
from mpsim.plan.shape import Shape

__all__ = ["early_receives"]

_Row = Sequence[Operation]
_Message = tuple[int, str, int]


def early_receives(rows: Sequence[_Row], shape: Shape) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return for each rank, before each of its operations, of which operations the receives are posted there.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> from mpsim.plan.shape import shape_of
    >>> early_receives(gpipe(2, 2), shape_of(gpipe(2, 2)))[1]  # That of 1F1 is posted while 1F0 is computed.
    ((0,), (1,), (), ())
    """
    index = [{message: i for i, one in enumerate(row) if (message := _into(one))} for row in rows]
    cells = [_turns(row) for row in rows]
    found: list[list[list[int]]] = [[[] for _ in row] for row in rows]
    at = [0] * len(rows)  # turns behind which each rank is,
    behind = [0] * len(rows)  # and operations
    there: set[_Message] = set()
    while any(at[rank] < len(own) for rank, own in enumerate(cells)):
        for rank, own in enumerate(cells):
            if at[rank] == len(own) or not all(_ready(one, shape, there) for one in own[at[rank]]):
                continue
            cell = own[at[rank]]
            at[rank] += 1
            behind[rank] += len(cell)
            for message in filter(None, (_out_of(one, shape) for one in cell)):
                there.add(message)
                home = shape.home[message[0]]
                if home != rank:
                    found[home][behind[home]].append(index[home][message])
    return tuple(tuple(map(tuple, row)) for row in found)


def _turns(row: _Row) -> list[list[Operation]]:
    """Return the cells of a row, and an empty one wherever torch does something else with a stage that takes a turn.

    It gathers the parameters of the next three stages before it needs the first of them, lets go of those of others,
    and reduces a stage's gradients behind its last backward.
    """
    cells = _cells(row)
    last = {one.stage: one for one in row if one.kind in "BW"}
    found: list[list[Operation]] = []
    gathered: set[int] = set()
    for cell, coming in zip(cells, _coming(cells), strict=True):
        found += [[] for _ in gathered ^ set(coming)]
        gathered = set(coming)
        found += [cell, *([] for one in cell if last.get(one.stage) == one)]
    return found


def _cells(row: _Row) -> list[list[Operation]]:
    """Return the operations of a row, those of one cell together."""
    found: list[list[Operation]] = [[]]
    for one in row:
        found[-1].append(one)
        if not one.overlaps:
            found.append([])
    return found[:-1]


def _coming(cells: Sequence[Sequence[Operation]]) -> list[tuple[int, ...]]:
    """Return for each cell the three stages that it and those behind it are of first."""
    found = []
    order: list[int] = []
    for cell in reversed(cells):
        own = list(dict.fromkeys(one.stage for one in cell))
        order = own + [stage for stage in order if stage not in own]
        found.append(tuple(order[:3]))
    return found[::-1]


def _into(one: Operation) -> _Message | None:
    """Return what an operation reads: whose it is, its direction, its micro-batch."""
    return None if one.kind in "WU" else (one.stage, "F" if one.kind == "F" else "B", one.microbatch)


def _out_of(one: Operation, shape: Shape) -> _Message | None:
    """Return what an operation makes, as its reader reads it."""
    reader = shape.target(one.stage, one.kind)
    return None if reader is None else (reader, "F" if one.kind == "F" else "B", one.microbatch)


def _ready(one: Operation, shape: Shape, there: set[_Message]) -> bool:
    """Whether what an operation reads is there, or on its way."""
    message = _into(one)
    return message in there or shape.source(one.stage, one.kind) is None
