"""Schedules with two directions: every other micro-batch enters at the last rank and passes the ranks the other way.

Each rank holds two stages, `r` of one direction and ``ranks - 1 - r`` of the other, and so all parameters are there
twice. The other direction's stages are numbered from `ranks` on. In the pictures small letters are its passes.
"""

from __future__ import annotations

from mpsim.errors import MpsimError
from mpsim.plan.flat import one_f_one_b
from mpsim.plan.operations import Operation, Rows
from mpsim.plan.timing import row_times
from mpsim.plan.vshaped import dualpipe_v, first_microbatches

__all__ = ["chimera", "dualpipe"]


def dualpipe(ranks: int, microbatches: int) -> Rows:
    """Two directions that meet, a forward of one overlapped by a backward of the other (https://arxiv.org/abs/2412.19437).

    A rank and its mirror do what two ranks of DualPipe-V do that hold the two ends of a V.

    ::

        rank 0  F0 F2 F4 f1 i1 w1 f3 F6+b3 f5+B0 b5 .. f7+B2 b7 I4 W4 I6 W6
        rank 1  .. F0 f1 F2 f3 F4 b1 f5+B0 F6+b3 f7+B2 b5 B4 .. i7 I6 w7 W6
        rank 2  .. f1 F0 f3 F2 f5 B0 F4+b1 f7+B2 F6+b3 B4 b5 .. I6 i7 W6 w7
        rank 3  f1 f3 f5 F0 I0 W0 F2 f7+B2 F4+b1 B4 .. F6+b3 B6 i5 w5 i7 w7

    Raises
    ------
    MpsimError
        An odd number of ranks.

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(dualpipe(2, 4)))
    0F0 3F1 0F2 3B1 3F3+0B0 3B3 0I2 0W2
    2F1 1F0 2F3 1B0 1F2+2B1 1B2 2I3 2W3
    """
    _check_even("dualpipe", ranks)
    half = dualpipe_v(ranks // 2, (microbatches + 1) // 2)
    near = [[_directed(op, op.stage >= ranks // 2, ranks) for op in row] for row in half]
    far = [[_directed(op, op.stage < ranks // 2, ranks) for op in row] for row in half]
    return first_microbatches([*near, *far[::-1]], microbatches)


def chimera(ranks: int, microbatches: int) -> Rows:
    """Two 1F1B pipelines that fill each other's bubbles (Chimera, https://arxiv.org/abs/2107.06925).

    Each direction takes half as many micro-batches as there are ranks; where there are more of them the next unit's
    forwards start in the bubble of the one before ("direct concatenation").

    ::

        rank 0  F0 F2 .. f1 b1 f3 b3 B0 .. B2
        rank 1  .. F0 f1 F2 f3 b1 B0 b3 B2 ..
        rank 2  .. f1 F0 f3 F2 B0 b1 B2 b3 ..
        rank 3  f1 f3 .. F0 B0 F2 B2 b1 .. b3

    Raises
    ------
    MpsimError
        An odd number of ranks.

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(chimera(2, 2)))
    0F0 3F1 3B1 0B0
    2F1 1F0 1B0 2B1
    """
    _check_even("chimera", ranks)
    each = ranks // 2
    alone = one_f_one_b(ranks, each)
    begins = [[begin for begin, _ in row] for row in row_times(alone, lambda _: 1.0)]
    rows = []
    for rank in range(ranks):
        # A unit of work takes a rank 2 * ranks; what begins at the same time in two units goes on with the older one.
        timed = [
            (begin + 2 * ranks * unit, Operation(stage + way * ranks, kind, 2 * (k + unit * each) + way))
            for way, stage in enumerate((rank, ranks - 1 - rank))
            for (_, kind, k, _), begin in zip(alone[stage], begins[stage], strict=True)
            for unit in range(-(-microbatches // ranks))
        ]
        rows.append([operation for _, operation in sorted(timed, key=lambda one: (one[0], one[1].microbatch))])
    return first_microbatches(rows, microbatches)


def _directed(operation: Operation, other: bool, ranks: int) -> Operation:
    """Return an operation of a V as one of a direction: two of its micro-batches go where one went."""
    stage, kind, microbatch, overlaps = operation
    return Operation(stage + other * ranks, kind, 2 * microbatch + other, overlaps)


def _check_even(name: str, ranks: int) -> None:
    if ranks % 2:
        raise MpsimError(f"{name} pairs each rank with its mirror, {ranks} ranks leave one alone: give an even number")
