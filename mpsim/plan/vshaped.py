"""Schedules with two stages a rank, in a V: rank `r` holds the stages `r` and ``2 * ranks - 1 - r``.

The last stage lives where the first does: a rank's two stages may share a loss, an embedding, and their memory evenly.
In the pictures capitals are passes of the rank's first stage, small letters of its second one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import product

from mpsim.errors import MpsimError
from mpsim.plan.operations import Operation, Rows

__all__ = ["dualpipe_v", "first_microbatches", "v_half", "v_min", "zb_v"]


def zb_v(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """Zero bubble where F, I and W take as long, in 1F1B's memory (ZB-V, https://arxiv.org/abs/2401.10241, section 6).

    ::

        rank 0  F0 F1 F2 f0 i0 w0 f1 i1 w1 F3 I0 W0 f2 i2 w2 I1 W1 f3 i3 w3 I2 W2
        rank 1  .. F0 f0 F1 f1 i0 w0 F2 I0 W0 f2 i1 w1 F3 I1 W1 f3 i2 w2 I2 i3 I3

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(zb_v(2, 3)))
    0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2
    1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2
    """
    _check_chunks("zb-v", chunks)
    most = max(microbatches, 2 * ranks - 1)  # What the pattern needs to unfold; with fewer, those are left out.
    rows = []
    for rank in range(ranks):
        behind = ranks - rank
        cells = (
            ["F0"] * (2 * behind - 1)
            + ["F1", "F0"] * rank
            + ["F1", "I1", "W1"] * behind
            + ["F0", "I0", "W0", "F1", "I1", "W1"] * (most - 2 * ranks + rank + 1)
            + ["I0", "W0", "F1", "I1", "W1"] * (behind - 1)
            + ["I0", "I1"] * rank
            + ["I0", "W0"] * behind
            + ["W1"] * rank
            + ["W0"] * rank
        )
        rows.append(_numbered(cells, (rank, 2 * ranks - 1 - rank)))
    return first_microbatches(rows, microbatches)


def dualpipe_v(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """Half of DualPipe, with which each rank overlaps a forward and a backward (https://arxiv.org/abs/2412.19437).

    One direction is enough, and one copy of the parameters (https://github.com/deepseek-ai/DualPipe).

    ::

        rank 0  F0 F1 F2 f0 i0 w0 f1 F3+b1 f2+B0 b2 .. f3+B1 b3 I2 W2 I3 W3
        rank 1  .. F0 f0 F1 f1 F2 b0 f2+B0 F3+b1 f3+B1 b2 B2 .. i3 I3 w3 W3

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(dualpipe_v(2, 4)))
    0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3+3B1 3F2+0B0 3B2 3F3+0B1 3B3 0I2 0W2 0I3 0W3
    1F0 2F0 1F1 2F1 1F2 2B0 2F2+1B0 1F3+2B1 2F3+1B1 2B2 1B2 2I3 1I3 2W3 1W3
    """
    _check_chunks("dualpipe-v", chunks)
    most = max(microbatches, 2 * ranks)
    rows = []
    for rank in range(ranks):
        behind = ranks - 1 - rank
        steady = ["F0+", "B1", "F1+", "B0"] * (most - 2 * ranks + rank + 1)
        if not behind:  # The last rank's first backward follows from the forward just before it.
            steady[0] = "F0"
        # The second half of these is split: who waits for them goes on at once.
        drain = [f"{'B' if i <= rank else 'I'}{1 - i % 2}" for i in range(2 * (rank + 1))]
        cells = (
            ["F0"] * (2 * behind)
            + ["F0", "F1"] * (rank + 1)
            + ["I1", "W1", "F1"] * behind
            + steady
            + ["B1", "F1+", "B0"] * behind
            + drain
            + ["W", "I0"] * behind
            + ["W"] * (rank + 1)
        )
        rows.append(_numbered(cells, (rank, 2 * ranks - 1 - rank)))
    return first_microbatches(rows, microbatches)


def v_min(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """A V that holds about a third of what 1F1B does (V-Min, https://arxiv.org/abs/2405.15362).

    A micro-batch comes back to a rank as early as it can. Each micro-batch does so six units of time after the one
    before; delays keep any two from meeting.

    ::

        rank 0  F0 .. .. f0 i0 w0 F1 I0 W0 f1 i1 w1 F2 I1 W1 f2 i2 w2 .. I2 W2
        rank 1  .. F0 f0 .. .. i0 I0 F1 f1 w0 W0 i1 I1 F2 f2 w1 W1 i2 I2 w2 W2

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(v_min(2, 2)))
    0F0 3F0 3I0 3W0 0F1 0I0 0W0 3F1 3I1 3W1 0I1 0W1
    1F0 2F0 2I0 1I0 1F1 2F1 2W0 1W0 2I1 1I1 2W1 1W1
    """
    _check_chunks("v-min", chunks)
    return _repeated(ranks, microbatches, (1, 1, 1, 1))


def v_half(ranks: int, microbatches: int, chunks: int = 2) -> Rows:
    """A V that holds about half of what 1F1B does (V-Half, https://arxiv.org/abs/2405.15362).

    As V-Min, but the first stages' forwards and the last ones' backwards leave a unit of time between two ranks, which
    gives slack to those that take longer.

    ::

        rank 0  F0 F1 .. .. .. f0 i0 w0 F2 .. f1 i1 w1 I0 W0 f2 i2 w2 I1 W1 .. ..
        rank 1  .. F0 .. .. f0 F1 .. i0 w0 f1 F2 I0 i1 W0 f2 w1 .. I1 i2 W1 w2 ..
        rank 2  .. .. F0 f0 .. .. F1 f1 i0 w0 I0 W0 F2 f2 i1 w1 I1 W1 .. i2 w2 I2

    Examples
    --------
    >>> from mpsim.plan.operations import format_rows
    >>> print(format_rows(v_half(2, 2)))
    0F0 3F0 3I0 0F1 3W0 3F1 3I1 3W1 0I0 0W0 0I1 0W1
    1F0 2F0 2I0 1F1 2F1 2W0 1I0 2I1 1W0 2W1 1I1 1W1
    """
    _check_chunks("v-half", chunks)
    return _repeated(ranks, microbatches, (2, 1, 2, 1))


_PERIOD = 6  # Units of time in which a rank does a micro-batch: F, I and W of two stages.


def _repeated(ranks: int, microbatches: int, steps: tuple[int, int, int, int]) -> Rows:
    """Return rows in which a pattern is repeated: each micro-batch does the same, `_PERIOD` after the one before.

    `steps` are the units of time from a rank to the next one: down with F, up with F, down with I, up with I.
    """
    starts = _starts(ranks, steps)
    rows = []
    for rank in range(ranks):
        stages = (rank, 2 * ranks - 1 - rank)
        slots = {
            start + _PERIOD * k: Operation(stages[chunk], kind, k)
            for (kind, chunk), start in zip((("F", 0), ("F", 1), ("I", 1), ("I", 0)), starts[rank], strict=True)
            for k in range(microbatches)
        }
        for slot, operation in sorted(slots.items()):
            if operation.kind == "I":
                free = slot + 1
                while free in slots:
                    free += 1
                slots[free] = operation._replace(kind="W")
        rows.append([operation for _, operation in sorted(slots.items())])
    return rows


def _starts(ranks: int, steps: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Return when each rank does F of its first and second stage, and I of its second and first one.

    Each leg sets out as soon as the one before has arrived, or up to five units later: by the least delays with which
    no two meet on a rank, whatever the micro-batches.
    """
    for delays in sorted(product(range(_PERIOD), repeat=3), key=sum):
        begin = [0]
        for step, delay in zip(steps, delays, strict=False):
            begin.append(begin[-1] + step * (ranks - 1) + 1 + delay)
        starts = []
        for rank in range(ranks):
            behind = ranks - 1 - rank
            down, up = (begin[0] + steps[0] * rank, begin[2] + steps[2] * rank), (begin[1], begin[3])
            starts.append((down[0], up[0] + steps[1] * behind, down[1], up[1] + steps[3] * behind))
        if all(len({start % _PERIOD for start in row}) == len(row) for row in starts):
            return starts
    raise AssertionError("each of the patterns has such delays")


def first_microbatches(rows: Rows, microbatches: int) -> Rows:
    """Return rows without the micro-batches from `microbatches` on."""
    return [
        [
            one._replace(overlaps=one.overlaps and after.microbatch < microbatches)
            for one, after in zip(row, [*row[1:], row[-1]], strict=True)
            if one.microbatch < microbatches
        ]
        for row in rows
    ]


def _numbered(cells: Iterable[str], stages: Sequence[int]) -> list[Operation]:
    """Return a row of what its cells name: kind, and which of its two stages; ``W`` is the weights that wait longest.

    Each is of the micro-batch that comes next.
    """
    done: dict[tuple[str, int], int] = defaultdict(int)
    waiting: deque[tuple[int, int]] = deque()
    row = []
    for cell in cells:
        kind, overlaps = cell[0], cell.endswith("+")
        if kind == "W":
            chunk, k = next(one for one in waiting if cell in ("W", f"W{one[0]}"))
            waiting.remove((chunk, k))
        else:
            chunk = int(cell[1])
            k = done["F" if kind == "F" else "B", chunk]
            done["F" if kind == "F" else "B", chunk] += 1
            if kind == "I":
                waiting.append((chunk, k))
        row.append(Operation(stages[chunk], kind, k, overlaps))
    return row


def _check_chunks(name: str, chunks: int) -> None:
    if chunks != 2:
        raise MpsimError(f"{name} has 2 stages a rank, {chunks} were asked for: leave the number out")
