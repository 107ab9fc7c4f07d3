"""Schedules with one stage a rank.

The pictures have a rank in a row and a unit of time in a column; a number is a micro-batch.
"""

from __future__ import annotations

from mpsim.plan.operations import Operation, Rows

__all__ = ["eager_1f1b", "gpipe", "gpipe_accumulated", "naive", "one_f_one_b", "pipedream", "zb_h1", "zb_h2"]


def naive(ranks: int, microbatches: int) -> Rows:
    """One micro-batch at a time through all stages and back; the baseline of teaching and papers.

    ::

        rank 0  F0 .. .. .. .. B0 F1
        rank 1  .. F0 .. .. B0 .. ..
        rank 2  .. .. F0 B0 .. .. ..

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(naive(2, 2)))
    0F0 0B0 0F1 0B1
    1F0 1B0 1F1 1B1
    """
    return [[Operation(s, kind, k) for k in range(microbatches) for kind in "FB"] for s in range(ranks)]


def gpipe(ranks: int, microbatches: int) -> Rows:
    """All forwards, then all backwards (Huang et al., https://arxiv.org/abs/1811.06965).

    ::

        rank 0  F0 F1 F2 .. .. .. .. B0 B1 B2
        rank 1  .. F0 F1 F2 .. .. B0 B1 B2 ..
        rank 2  .. .. F0 F1 F2 B0 B1 B2 .. ..

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(gpipe(2, 2)))
    0F0 0F1 0B0 0B1
    1F0 1F1 1B0 1B1
    """
    return [[Operation(s, kind, k) for kind in "FB" for k in range(microbatches)] for s in range(ranks)]


def gpipe_accumulated(ranks: int, microbatches: int) -> Rows:
    """GPipe over as many micro-batches as there are ranks, again and again: gradients add up, one update ends the step.

    No rank holds more micro-batches than there are ranks, for a bubble in each round (https://arxiv.org/abs/1811.06965).

    ::

        rank 0  F0 F1 .. .. B0 B1 F2 F3 .. .. B2 B3
        rank 1  .. F0 F1 B0 B1 .. .. F2 F3 B2 B3 ..

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(gpipe_accumulated(2, 3)))
    0F0 0F1 0B0 0B1 0F2 0B2
    1F0 1F1 1B0 1B1 1F2 1B2
    """
    rounds = [range(first, min(first + ranks, microbatches)) for first in range(0, microbatches, ranks)]
    return [[Operation(s, kind, k) for one in rounds for kind in "FB" for k in one] for s in range(ranks)]


def one_f_one_b(ranks: int, microbatches: int) -> Rows:
    """Warm up, then one forward and one backward in turn (PipeDream-flush, https://arxiv.org/abs/2006.09503).

    A stage holds at most ``ranks - stage`` micro-batches, where GPipe holds all of them.

    ::

        rank 0  F0 F1 F2 .. .. B0 F3 B1 .. B2 .. B3
        rank 1  .. F0 F1 .. B0 F2 B1 F3 B2 .. B3 ..
        rank 2  .. .. F0 B0 F1 B1 F2 B2 F3 B3 .. ..

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(one_f_one_b(2, 3)))
    0F0 0F1 0B0 0F2 0B1 0B2
    1F0 1B0 1F1 1B1 1F2 1B2
    """
    return [_in_turn(s, min(microbatches, ranks - s), microbatches) for s in range(ranks)]


def eager_1f1b(ranks: int, microbatches: int) -> Rows:
    """1F1B that warms up about twice as long (https://arxiv.org/abs/2211.05322).

    Between two passes that wait for each other through a message there is always another one to run: messages hide,
    and a stage holds at most ``2 * (ranks - stage) - 1`` micro-batches.

    ::

        rank 0  F0 F1 F2 F3 .. B0 .. B1 .. B2 .. B3
        rank 1  .. F0 F1 F2 B0 F3 B1 .. B2 .. B3 ..
        rank 2  .. .. F0 B0 F1 B1 F2 B2 F3 B3 ..

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(eager_1f1b(2, 4)))
    0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3
    1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3
    """
    return [_in_turn(s, min(microbatches, 2 * (ranks - s) - 1), microbatches) for s in range(ranks)]


def _in_turn(stage: int, warm_up: int, microbatches: int) -> list[Operation]:
    row = [Operation(stage, "F", k) for k in range(warm_up)]
    for k in range(microbatches):
        row.append(Operation(stage, "B", k))
        if warm_up + k < microbatches:
            row.append(Operation(stage, "F", warm_up + k))
    return row


def pipedream(ranks: int, microbatches: int) -> Rows:
    """1F1B that updates after each backward and never flushes (PipeDream, https://arxiv.org/abs/1806.03377).

    A micro-batch comes back through the weights that it went forward with, of which a stage stashes a version for each
    that it holds. What the next step's forwards would fill is no bubble: the time between steps tells, not one step's.

    ::

        rank 0  F0 F1 .. B0 U0 F2 B1 U1 ..
        rank 1  .. F0 B0 U0 F1 B1 U1 F2 B2

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(pipedream(2, 2)))
    0F0 0F1 0B0 0U0 0B1 0U1
    1F0 1B0 1U0 1F1 1B1 1U1
    """
    return [
        [one for op in row for one in ((op, op._replace(kind="U")) if op.kind == "B" else (op,))]
        for row in one_f_one_b(ranks, microbatches)
    ]


def zb_h1(ranks: int, microbatches: int) -> Rows:
    """1F1B with backward split: weights fill the bubble, in 1F1B's memory (ZB-H1, https://arxiv.org/abs/2401.10241).

    No stage holds more than `ranks` micro-batches; each lets as many weights wait as stages come before it.

    ::

        rank 0  F0 F1 F2 .. .. I0 W0 F3 I1 W1 I2 W2 I3 W3
        rank 1  .. F0 F1 .. I0 F2 I1 W0 F3 I2 W1 I3 W2 W3
        rank 2  .. .. F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(zb_h1(2, 3)))
    0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2
    1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2
    """
    return [_split(s, min(microbatches, ranks - s), s, microbatches) for s in range(ranks)]


def zb_h2(ranks: int, microbatches: int) -> Rows:
    """Zero bubble where F, I and W take as long, in twice 1F1B's memory (ZB-H2, https://arxiv.org/abs/2401.10241).

    Stages start one after another and end so: what bubble the step has left, the next one fills.

    ::

        rank 0  F0 F1 F2 F3 F4 I0 W0 F5 I1 W1 I2 W2 I3 W3 I4 W4 I5 W5
        rank 1  .. F0 F1 F2 I0 F3 I1 F4 I2 W0 F5 I3 W1 I4 W2 I5 W3 W4
        rank 2  .. .. F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 W0 F5 I5 W1 W2 W3

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(zb_h2(2, 4)))
    0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
    1F0 1I0 1F1 1I1 1F2 1I2 1W0 1F3 1I3 1W1 1W2 1W3
    """
    return [_split(s, min(microbatches, 2 * (ranks - s) - 1), 2 * s, microbatches) for s in range(ranks)]


def _split(stage: int, warm_up: int, waiting: int, microbatches: int) -> list[Operation]:
    """Return a row of 1F1B with backward split, in which the weights of `waiting` micro-batches wait."""
    row = [Operation(stage, "F", k) for k in range(warm_up)]
    for k in range(microbatches):
        row.append(Operation(stage, "I", k))
        if k >= waiting:
            row.append(Operation(stage, "W", k - waiting))
        if warm_up + k < microbatches:
            row.append(Operation(stage, "F", warm_up + k))
    return row + [Operation(stage, "W", k) for k in range(max(microbatches - waiting, 0), microbatches)]
