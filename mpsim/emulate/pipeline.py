"""Run the rows of a schedule: a thread a rank, each doing its operations in order as what they need arrives."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

import torch

from mpsim.errors import MpsimError
from mpsim.plan.schedules import Operation, format_rows

__all__ = ["Message", "Rows", "play"]

Message = dict[str, Any]
Rows = Sequence[Sequence[Operation]]
Key = tuple[str, int, int]  # direction F or B, the stage that sends, the micro-batch


def play(rows: Rows, work: Callable[[Operation, Message], Message]) -> None:
    """Run every row in a thread of its own.

    An operation gets what its neighbour's of the same micro-batch returned: a forward that of the stage before, a
    backward that of the stage behind, where there is one. Threads take over the caller's gradient mode.

    Parameters
    ----------
    rows : sequence of sequence of Operation
        Of a schedule of one direction, a row a rank; or its forwards alone, or its backwards alone.
    work : callable
        ``work(operation, received) -> sent``.

    Raises
    ------
    MpsimError
        The rows wait for each other in a ring.
    Exception
        Whatever `work` raised first; the other threads end.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> done = []
    >>> play(gpipe(2, 1), lambda operation, received: done.append(str(operation)) or {})
    >>> done
    ['0F0', '1F0', '1B0', '0B0']
    """
    _check_ends(rows)
    posts = _Posts(rows)
    mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def run(row: Sequence[Operation]) -> None:
        try:
            with torch.inference_mode(mode[1]), torch.set_grad_enabled(mode[0]):
                for operation in row:
                    posts.deliver(operation, work(operation, posts.collect(operation)))
        except BaseException as error:  # ends every other thread, and is raised by the caller
            posts.fail(error)

    threads = [threading.Thread(target=run, args=(row,), name=f"rank-{i}") for i, row in enumerate(rows[1:], 1)]
    for thread in threads:
        thread.start()
    run(rows[0])
    _join(threads, posts)
    if posts.error is not None:
        raise posts.error


def _join(threads: Sequence[threading.Thread], posts: _Posts) -> None:
    """Wait for all threads; Ctrl-C ends them as a failure does, and none is at work when it is raised."""
    while any(thread.is_alive() for thread in threads):
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:
            posts.fail(error)


def _stages(rows: Rows) -> int:
    return 1 + max(operation.stage for row in rows for operation in row)


def _sends(operation: Operation) -> Key | None:
    if operation.kind == "W":
        return None
    return ("F" if operation.kind == "F" else "B", operation.stage, operation.microbatch)


def _needs(operation: Operation, stages: int) -> Key | None:
    if operation.kind == "F":
        return ("F", operation.stage - 1, operation.microbatch) if operation.stage > 0 else None
    if operation.kind == "W" or operation.stage == stages - 1:
        return None
    return ("B", operation.stage + 1, operation.microbatch)


class _Posts:
    """What has been sent and not yet been collected."""

    def __init__(self, rows: Rows) -> None:
        self.stages = _stages(rows)
        self.error: BaseException | None = None
        self.futures: dict[Key, Future[Message]] = {
            key: Future() for row in rows for operation in row if (key := _sends(operation)) is not None
        }
        self.lock = threading.Lock()

    def collect(self, operation: Operation) -> Message:
        key = _needs(operation, self.stages)
        if key is None:
            return {}
        message = self.futures[key].result()
        self.futures[key] = Future()  # what has been collected is not kept
        return message

    def deliver(self, operation: Operation, message: Message) -> None:
        key = _sends(operation)
        if key is not None:
            with contextlib.suppress(InvalidStateError):  # another stage has failed
                self.futures[key].set_result(message)

    def fail(self, error: BaseException) -> None:
        with self.lock:
            if self.error is None:
                self.error = error
        for future in self.futures.values():
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)


def _check_ends(rows: Rows) -> None:
    """Refuse rows that wait for each other: threads would wait for ever."""
    heads, sent, stages = [0] * len(rows), set[Key | None](), _stages(rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while heads[rank] < len(row):
                operation = row[heads[rank]]
                needs = _needs(operation, stages)
                if needs is not None and needs not in sent:
                    break
                sent.add(_sends(operation))
                heads[rank] += 1
                moved = True
    stuck = [row[head] for head, row in zip(heads, rows, strict=True) if head < len(row)]
    if stuck:
        raise MpsimError(f"schedule cannot finish, its ranks wait for each other at {format_rows([stuck])}")
