"""What makes rows a schedule, and what is said of those that are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import NoReturn

from mpsim.errors import MpsimError
from mpsim.plan.operations import KINDS, Operation
from mpsim.plan.shape import mirrored, shape_of
from mpsim.plan.timing import stuck_at, waits_for

__all__ = ["check_form", "check_rows", "marked_grid"]

_Rows = Sequence[Sequence[Operation]]
_Done = set[tuple[int, str, int]]
_RANKS, _CELLS = 4, 6  # Shown on each side of what is marked.


def check_rows(rows: _Rows, ranks: int, microbatches: int) -> None:
    """Refuse rows that are not one forward and one whole backward of every micro-batch on every stage it passes.

    Parameters
    ----------
    rows : sequence of sequence of Operation
        A row for each pipeline rank; which stages it holds follows from the row.
    ranks, microbatches : int
        Of the plan.

    Raises
    ------
    MpsimError
        It names the operation, the rank, and what to do; the error's note has the rows, with the cell marked.

    Examples
    --------
    >>> from mpsim.plan.operations import parse_rows
    >>> check_rows(parse_rows("0F0 0F1 0B0 0B1"), 1, 2)
    >>> check_rows(parse_rows("0F0 0B1 0F1 0B0"), 1, 2)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: schedule: 0B1 stands before 0F1, which it needs: change the order of rank 0
    rank 0  0F0 [0B1] 0F1 0B0
    """
    check_form(rows)
    if len(rows) != ranks or not rows:
        raise MpsimError(f"schedule has {len(rows)} rows, the plan has {ranks} pipeline ranks: give one row a rank")
    homes = _homes(rows)
    done: _Done = set()
    for rank in range(ranks):
        _check_row(rows, rank, microbatches, done)
    _check_shape(rows, homes, microbatches, done)
    stuck = stuck_at(rows)
    if stuck:
        _refuse_deadlock(rows, stuck)


def check_form(rows: object) -> None:
    """Refuse what is no list of lists of operations: a schedule may be anybody's function.

    Raises
    ------
    MpsimError
        Names what stands there instead.

    Examples
    --------
    >>> check_form("0F0")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: schedule returned a str, expected a list with a list for each rank
    """
    if not isinstance(rows, list | tuple) or not all(isinstance(row, list | tuple) for row in rows):
        raise MpsimError(f"schedule returned a {type(rows).__name__}, expected a list with a list for each rank")
    for rank, row in enumerate(rows):
        for operation in row:
            if type(operation) is not Operation or operation[1] not in KINDS:
                _refuse_operation(operation, rank)
            for number in (operation[0], operation[2]):
                if type(number) is not int and not isinstance(number, Integral):
                    _refuse_operation(operation, rank)


def _refuse_operation(operation: object, rank: int) -> NoReturn:
    if isinstance(operation, Operation) and operation.kind not in KINDS:
        raise MpsimError(f"schedule: {operation} is of kind {operation.kind!r}, expected F, B, I, W or U")
    raise MpsimError(
        f"schedule: the row of rank {rank} holds {operation!r}: give Operation({rank}, 'F', 0), or read it with"
        " parse_rows"
    )


def _homes(rows: _Rows) -> list[int]:
    """Return the rank of each stage, which must be one, and refuse ranks without stages and numbers left out."""
    homes: dict[int, int] = {}
    for rank, row in enumerate(rows):
        if not row:
            _refuse(rows, f"rank {rank} runs nothing: give each rank a stage", [(rank, 0)])
        for i, operation in enumerate(row):
            if homes.setdefault(operation.stage, rank) != rank:
                _refuse(
                    rows,
                    f"{operation} stands in the row of rank {rank}, stage {operation.stage} lives on rank"
                    f" {homes[operation.stage]}: keep a stage on one rank",
                    [(rank, i)],
                )
    for number, stage in enumerate(sorted(homes)):
        if number != stage:
            _refuse(rows, f"there is a stage {stage} and no stage {number}: number stages from 0, leaving none out")
    return [homes[stage] for stage in range(len(homes))]


def _check_row(rows: _Rows, rank: int, microbatches: int, done: _Done) -> None:
    """Refuse what is twice in a row, or before what it needs, and cells that cannot be shared; note what is done."""
    row = rows[rank]
    for i, operation in enumerate(row):
        wrong = _wrong(operation, done, microbatches) or (_wrong_pair(row, i) if operation.overlaps else "")
        if wrong:
            _refuse(rows, wrong + (f": change the order of rank {rank}" if "before" in wrong else ""), [(rank, i)])
        done.add(operation[:3])


def _wrong(operation: Operation, done: _Done, microbatches: int) -> str:
    stage, kind, k, _ = operation
    if not 0 <= k < microbatches:
        return f"{operation} names micro-batch {k}, the plan has {microbatches}"
    if operation[:3] in done:
        return f"{operation} stands twice in its row"
    if kind == "U":
        whole = (stage, "B", k) in done or (stage, "W", k) in done
        return "" if whole else f"{operation} stands before the backward of micro-batch {k}, which it needs"
    needs = "I" if kind == "W" else "F"
    if kind != "F" and (stage, needs, k) not in done:
        return f"{operation} stands before {stage}{needs}{k}, which it needs"
    if (kind == "B" and (stage, "I", k) in done) or (kind == "I" and (stage, "B", k) in done):
        return f"stage {stage} runs both 'B' and 'I' of micro-batch {k}: give B, or I and W"
    return ""


def _wrong_pair(row: Sequence[Operation], i: int) -> str:
    if i + 1 == len(row):
        return f"{row[i]} shares its cell with the next operation, and is the last of its row"
    kinds = {row[i].kind, row[i + 1].kind}
    if row[i + 1].overlaps or "F" not in kinds or not kinds & {"B", "I"}:
        return f"{row[i]}{row[i + 1]} is no pair that can share a cell: give one forward and one backward"
    if row[i].stage == row[i + 1].stage and row[i].microbatch == row[i + 1].microbatch:
        return f"{row[i]}{row[i + 1]} share a cell, and the second needs the first: give them a cell each"
    return ""


def _check_shape(rows: _Rows, homes: Sequence[int], microbatches: int, done: _Done) -> None:
    """Refuse micro-batches that miss a stage of their direction, and gradients that no update uses."""
    passed: list[set[int]] = [set() for _ in range(microbatches)]
    for stage, kind, k in done:
        if kind == "F":
            passed[k].add(stage)
    stages = len(homes)
    each = stages // 2 if mirrored(homes) and max(map(len, passed)) <= stages // 2 else stages
    whole = [set(range(first, first + each)) for first in range(0, stages, each)]
    for k in range(microbatches):
        own = whole[min(passed[k], default=0) // each]
        if passed[k] != own:
            _refuse_passed(rows, homes, k, passed[k], own)
        for stage in own:
            if (stage, "B", k) not in done and (stage, "W", k) not in done:
                missing = f"{stage}W{k}" if (stage, "I", k) in done else f"{stage}B{k}"
                wrong = f"the backward of micro-batch {k} on stage {stage} is missing or half done"
                _refuse(rows, wrong, [(homes[stage], len(rows[homes[stage]]))], missing)
    _check_updates(rows)


def _refuse_passed(rows: _Rows, homes: Sequence[int], k: int, passed: set[int], own: set[int]) -> NoReturn:
    """Say which stage of its direction a micro-batch misses, or which one it passes that is none of it."""
    if own - passed:
        stage = min(own - passed)
        wrong = f"{stage}F{k} is missing: every micro-batch passes every stage"
        _refuse(rows, wrong, [(homes[stage], len(rows[homes[stage]]))], f"{stage}F{k}")
    stage = min(passed - own)
    wrong = f"micro-batch {k} passes stages of both directions, {min(own)} and {stage}: let it keep to one"
    row = rows[homes[stage]]
    _refuse(rows, wrong, [(homes[stage], next(i for i, op in enumerate(row) if op[:3] == (stage, "F", k)))])


def _check_updates(rows: _Rows) -> None:
    """Refuse a backward behind the last update of its stage, where stages update amid the step; all must then."""
    updates = {operation.stage for row in rows for operation in row if operation.kind == "U"}
    never = {operation.stage for row in rows for operation in row} - updates if updates else set()
    if never:
        stage = min(never)
        rank = next(r for r, row in enumerate(rows) for operation in row if operation.stage == stage)
        k = max(operation.microbatch for operation in rows[rank] if operation.stage == stage)
        missing = f"{stage}U{k}"
        _refuse(rows, f"stage {stage} never updates, others do: add {missing}", [(rank, len(rows[rank]))], missing)
    for rank, row in enumerate(rows):
        last = {operation.stage: i for i, operation in enumerate(row) if operation.kind == "U"}
        for i, operation in enumerate(row):
            if operation.kind in "BW" and last.get(operation.stage, i) < i:
                stage, _, k, _ = operation
                _refuse(rows, f"{operation} comes after the last update of stage {stage}: add {stage}U{k}", [(rank, i)])


def _refuse_deadlock(rows: _Rows, stuck: Sequence[tuple[int, int]]) -> NoReturn:
    shape = shape_of(rows)
    done = {operation[:3] for row in rows for operation in row}
    told = []
    for rank, i in stuck:
        # Of two that share a cell the second may be what waits.
        for head in rows[rank][i : i + 1 + rows[rank][i].overlaps]:
            needed = waits_for(head, shape)
            if needed is not None:
                whole = (needed.stage, "B", needed.microbatch) in done
                told.append(f"{head} waits for {needed._replace(kind='B') if whole and needed.kind == 'I' else needed}")
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    wrong = f"cannot finish, its ranks wait for each other: {', '.join(told[:3])}{more}: change the order"
    error = MpsimError(f"schedule {wrong}")
    error.add_note(marked_grid(rows, stuck))
    raise error


def _refuse(rows: _Rows, wrong: str, marks: Iterable[tuple[int, int]] = (), missing: str = "") -> NoReturn:
    error = MpsimError(f"schedule: {wrong}")
    error.add_note(marked_grid(rows, list(marks), missing))
    raise error


def marked_grid(rows: _Rows, marks: Sequence[tuple[int, int]], missing: str = "") -> str:
    """Return the rows around the first of the marked cells, given by rank and place, with brackets around each.

    A mark behind a row's end stands for what is missing there.

    Examples
    --------
    >>> from mpsim.plan.operations import parse_rows
    >>> print(marked_grid(parse_rows("0F0 0B0"), [(0, 2)], "0F1"))
    rank 0  0F0 0B0 [0F1?]
    """
    middle, place = marks[0] if marks else (0, 0)
    first, start = max(middle - _RANKS, 0), max(place - _CELLS, 0)
    shown = range(first, min(middle + _RANKS + 1, len(rows)))
    lines = []
    for rank in shown:
        row = rows[rank]
        cells = [f"[{row[i]}]" if (rank, i) in marks else str(row[i]) for i in range(start, len(row))][: 2 * _CELLS]
        if (rank, len(row)) in marks:
            cells.append(f"[{missing}?]")
        before, after = "... " if start else "", " ..." if len(row) - start > 2 * _CELLS else ""
        lines.append(f"rank {rank:<{len(str(shown[-1]))}}  {before}{' '.join(cells)}{after}".rstrip())
    if len(shown) < len(rows):
        lines.append(f"({len(rows)} ranks in all)")
    return "\n".join(lines)
