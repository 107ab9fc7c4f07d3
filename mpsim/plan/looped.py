"""Schedules with several stages a rank, looped: stage `s` lives on rank ``s % ranks``."""

from __future__ import annotations

from mpsim.plan.operations import Operation, Rows

__all__ = ["interleaved_1f1b", "interleaved_zb", "looped_bfs"]


def looped_bfs(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """All micro-batches through a rank's stage before its next one, and back (https://arxiv.org/abs/2211.05953).

    GPipe with stages that are `chunks` times as short: so is its bubble, and each stage's gradients are ready at once.
    The last micro-batch comes back first: the last rank has just run it. In the picture a stage's number comes first.

    ::

        rank 0  0F0 0F1 2F0 2F1 ... ... 2B1 2B0 0B1 0B0
        rank 1  ... 1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0 ...

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(looped_bfs(2, 2)))
    0F0 0F1 2F0 2F1 2B1 2B0 0B1 0B0
    1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0
    """
    rows = []
    for rank in range(ranks):
        forward = [Operation(c * ranks + rank, "F", k) for c in range(chunks) for k in range(microbatches)]
        rows.append(forward + [op._replace(kind="B") for op in reversed(forward)])
    return rows


def interleaved_1f1b(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """1F1B over several stages a rank, a round of micro-batches after another (https://arxiv.org/abs/2104.04473).

    A rank takes as many micro-batches as there are ranks through its first stage, then through its next one. Where
    `ranks` does not divide the micro-batches, rounds are longer and as even as can be. With one stage a rank it is
    eager 1F1B.

    ::

        rank 0  0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 ... 2B2 ... 2B3 0B2 0B3
        rank 1  ... 1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3 ...

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(interleaved_1f1b(2, 2)))
    0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1
    1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1
    """
    rows = []
    for rank in range(ranks):
        forward, backward, longest = _passes(rank, ranks, microbatches, chunks)
        warm_up = (chunks - 1) * longest + 2 * (ranks - 1 - rank)
        row = forward[:warm_up]
        for i, operation in enumerate(backward):
            row += [*forward[warm_up + i : warm_up + i + 1], operation._replace(kind="B")]
        rows.append(row)
    return rows


def interleaved_zb(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """Interleaved 1F1B with backward split: ZB-H1 over several stages a rank (https://arxiv.org/abs/2401.10241).

    A rank lets the weights of as many backwards wait as ranks come before it.

    ::

        rank 0  0F0 0F1 2F0 2F1 ... 2I0 2W0 0F2 2I1 2W1 0F3 0I0 0W0 2F2 0I1 0W1 2F3 2I2
        rank 1  ... 1F0 1F1 3F0 3I0 3F1 3I1 3W0 1F2 1I0 3W1 1F3 1I1 1W0 3F2 3I2 1W1 3F3

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(interleaved_zb(2, 2)))
    0F0 0F1 2F0 2F1 2I0 2W0 2I1 2W1 0I0 0W0 0I1 0W1
    1F0 1F1 3F0 3I0 3F1 3I1 3W0 1I0 3W1 1I1 1W0 1W1
    """
    rows = []
    for rank in range(ranks):
        forward, backward, longest = _passes(rank, ranks, microbatches, chunks)
        warm_up = (chunks - 1) * longest + ranks - 1 - rank
        row = forward[:warm_up]
        for i, operation in enumerate(backward):
            row += [*forward[warm_up + i : warm_up + i + 1], operation]
            row += [one._replace(kind="W") for one in backward[max(i - rank, 0) : max(i - rank + 1, 0)]]
        rows.append(row + [one._replace(kind="W") for one in backward[max(len(backward) - rank, 0) :]])
    return rows


def _passes(rank: int, ranks: int, microbatches: int, chunks: int) -> tuple[list[Operation], list[Operation], int]:
    """Return a rank's forwards and its backwards (as I), in order, and how many micro-batches the longest round has."""
    count = max(1, microbatches // ranks)
    rounds = [range(microbatches * i // count, microbatches * (i + 1) // count) for i in range(count)]
    order = [(chunk, k) for one in rounds for chunk in range(chunks) for k in one]
    forward = [Operation(chunk * ranks + rank, "F", k) for chunk, k in order]
    backward = [Operation((chunks - 1 - chunk) * ranks + rank, "I", k) for chunk, k in order]
    return forward, backward, max(map(len, rounds))
