"""When each operation of rows runs, by times that are given: what schedules are drawn, weighed and checked by.

This knows ranks, operations and what one waits for, and nothing of links that are shared; `mpsim.simulate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpsim.errors import MpsimError
from mpsim.plan.rows import Shape, shape_of
from mpsim.plan.schedules import Operation

__all__ = ["row_times", "waits_for"]

_Times = list[list[tuple[float, float]]]


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
    if kind not in ("F", "B", "I"):
        return None
    source = shape.before(stage) if kind == "F" else shape.behind(stage)
    return None if source is None else Operation(source, "F" if kind == "F" else "I", microbatch)


def row_times(
    rows: Sequence[Sequence[Operation]], seconds: Callable[[Operation], float], message_s: float = 0.0
) -> _Times:
    """Return when each operation of each row begins and ends.

    A rank does its operations one after another, each as soon as what it needs has arrived.

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
    >>> from mpsim.plan.schedules import gpipe
    >>> row_times(gpipe(2, 1), lambda operation: 1.0)
    [[(0.0, 1.0), (3.0, 4.0)], [(1.0, 2.0), (2.0, 3.0)]]
    """
    shape = shape_of(rows)
    done: dict[tuple[int, str, int], tuple[float, int]] = {}
    times: _Times = [[] for _ in rows]
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while len(times[rank]) < len(row):
                operation = row[len(times[rank])]
                needed = waits_for(operation, shape)
                found = (0.0, rank) if needed is None else done.get(needed[:3])
                if found is None:
                    break
                ready_s = found[0] + (message_s if found[1] != rank else 0.0)
                start_s = max(ready_s, times[rank][-1][1] if times[rank] else 0.0)
                times[rank].append((start_s, start_s + seconds(operation)))
                kind = "I" if operation.kind == "B" else operation.kind
                done[operation.stage, kind, operation.microbatch] = (times[rank][-1][1], rank)
                moved = True
    stuck = [str(row[len(ran)]) for row, ran in zip(rows, times, strict=True) if len(ran) < len(row)]
    if stuck:
        raise MpsimError(f"schedule cannot finish, its ranks wait for each other at {', '.join(stuck)}")
    return times
