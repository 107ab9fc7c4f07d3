"""When each operation of rows runs, by times that are given: what schedules are drawn, weighed and checked by.

This knows ranks, operations and what one waits for, and nothing of links that are shared; `mpsim.simulate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpsim.errors import MpsimError
from mpsim.plan.operations import Operation
from mpsim.plan.shape import Shape, shape_of

__all__ = ["UNIT_S", "bubble_fraction", "row_times", "stuck_at", "unit_times", "waits_for"]

_Times = list[list[tuple[float, float]]]

# What schedules are drawn and compared by: an update is no time of a pass.
UNIT_S = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0, "U": 0.0}


def waits_for(operation: Operation, shape: Shape) -> Operation | None:
    """Return the forward or backward of another stage that an operation needs the outcome of, if there is one.

    A backward is named I; where it is not split it stands for B.

    Examples
    --------
    >>> shape = Shape(stages=2, home=(0, 1), direction=(0,))
    >>> str(waits_for(Operation(1, "F", 0), shape)), str(waits_for(Operation(0, "B", 0), shape))
    ('0F0', '1I0')
    """
    stage, kind, microbatch = operation[:3]
    source = shape.source(stage, kind)
    return None if source is None else Operation(source, "F" if kind == "F" else "I", microbatch)


def row_times(
    rows: Sequence[Sequence[Operation]], seconds: Callable[[Operation], float], message_s: float = 0.0
) -> _Times:
    """Return when each operation of each row begins and ends.

    A rank does its operations one after another, each as soon as what it needs has arrived. Two that share a cell begin
    together, once both can, and end together, after what they take one after the other: messages hide, compute adds up.

    Parameters
    ----------
    rows : sequence of sequence of Operation
        A row for each pipeline rank.
    seconds : callable
        What an operation takes.
    message_s : float
        What goes from one rank to another takes; between stages of one rank nothing does.

    Raises
    ------
    MpsimError
        The rows wait for each other in a ring.

    Examples
    --------
    >>> from mpsim.plan.flat import gpipe
    >>> row_times(gpipe(2, 1), lambda operation: 1.0)
    [[(0.0, 1.0), (3.0, 4.0)], [(1.0, 2.0), (2.0, 3.0)]]
    """
    times = _run(rows, seconds, message_s)
    stuck = [str(row[len(ran)]) for row, ran in zip(rows, times, strict=True) if len(ran) < len(row)]
    if stuck:
        raise MpsimError(f"schedule cannot finish, its ranks wait for each other at {', '.join(stuck)}")
    return times


def stuck_at(rows: Sequence[Sequence[Operation]]) -> list[tuple[int, int]]:
    """Return rank and place of the operations at which rows never go on; none where they run to their end.

    Examples
    --------
    >>> from mpsim.plan.operations import parse_rows
    >>> stuck_at(parse_rows("0F0 0B0 0F1 0B1")), stuck_at(parse_rows("0F0 0B0 0F1 0B1 \\n 1F1 1B1 1F0 1B0"))
    ([], [(0, 1), (1, 0)])
    """
    # Apart from `row_times`, as rows are checked wherever a plan is lowered, and most of that time goes here.
    stages = shape_of(rows).stages
    forward: set[tuple[int, int]] = set()
    backward: set[tuple[int, int]] = set()

    def waits(operation: Operation) -> bool:
        stage, kind, k, _ = operation
        if kind == "F":
            return stage % stages > 0 and (stage - 1, k) not in forward
        return kind in "BI" and (stage + 1) % stages > 0 and (stage + 1, k) not in backward

    at = [0] * len(rows)
    going = list(range(len(rows)))
    moved = True
    while moved:
        moved = False
        for rank in going:
            row, i = rows[rank], at[rank]
            while i < len(row) and not waits(row[i]) and not (row[i].overlaps and waits(row[i + 1])):
                for stage, kind, k, _ in row[i : i + 1 + row[i].overlaps]:
                    if kind == "F":
                        forward.add((stage, k))
                    elif kind in "BI":
                        backward.add((stage, k))
                    i += 1
            moved = moved or i > at[rank]
            at[rank] = i
        going = [rank for rank in going if at[rank] < len(rows[rank])]
    return [(rank, at[rank]) for rank in going]


def _run(rows: Sequence[Sequence[Operation]], seconds: Callable[[Operation], float], message_s: float) -> _Times:
    """Return the times of what can run, each row as far as it gets."""
    shape = shape_of(rows)
    done: dict[tuple[int, str, int], tuple[float, int]] = {}
    times: _Times = [[] for _ in rows]

    def ready_s(operation: Operation, rank: int) -> float | None:
        stage, kind, k, _ = operation
        source = shape.source(stage, kind)
        if source is None:
            return 0.0
        found = done.get((source, "F" if kind == "F" else "I", k))
        return found if found is None else found[0] + (message_s if found[1] != rank else 0.0)

    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while len(times[rank]) < len(row):
                place = len(times[rank])
                cell = row[place : place + 1 + row[place].overlaps]
                ready = [ready_s(operation, rank) for operation in cell]
                if None in ready:
                    break
                start_s = max(*(one for one in ready if one is not None), times[rank][-1][1] if times[rank] else 0.0)
                end_s = start_s + sum(map(seconds, cell))
                for operation in cell:
                    times[rank].append((start_s, end_s))
                    kind = "I" if operation.kind == "B" else operation.kind
                    done[operation.stage, kind, operation.microbatch] = (end_s, rank)
                moved = True
    return times


def unit_times(rows: Sequence[Sequence[Operation]]) -> _Times:
    """Return when each operation runs where F, I and W take 1 each, and B 2.

    Examples
    --------
    >>> from mpsim.plan.flat import gpipe
    >>> unit_times(gpipe(2, 1))
    [[(0.0, 1.0), (4.0, 6.0)], [(1.0, 2.0), (2.0, 4.0)]]
    """
    return row_times(rows, lambda operation: UNIT_S[operation.kind])


def bubble_fraction(rows: Sequence[Sequence[Operation]]) -> float:
    """Return the part of all ranks' time, from the first operation's begin to the last one's end, that is idle.

    By `unit_times`.

    Examples
    --------
    >>> from mpsim.plan.flat import gpipe
    >>> bubble_fraction(gpipe(2, 1)), bubble_fraction(gpipe(4, 9))
    (0.5, 0.25)
    """
    step_s = max(end_s for row in unit_times(rows) for _, end_s in row)
    return 1 - sum(UNIT_S[operation.kind] for row in rows for operation in row) / (len(rows) * step_s)
