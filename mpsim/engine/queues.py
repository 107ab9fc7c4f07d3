"""Streams that serve whoever comes first: a wire that carries messages in turn, worker threads that share one list."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mpsim.program.model import Stream, Task

__all__ = ["Queues"]


class Queues:
    """The streams of a program that have slots, and who stands before them.

    Parameters
    ----------
    streams : sequence of Stream
        Of a program; those without slots are left out.

    Examples
    --------
    >>> queues = Queues([Stream(device=0, name="wire", slots=1)])
    >>> first, second = Task("a", "send", (0,)), Task("b", "send", (0,))
    >>> queues.arrive(0, first), queues.arrive(1, second), queues.leave(first)
    (True, False, [1])
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.free = {i: stream.slots for i, stream in enumerate(streams) if stream.slots}
        self._line: dict[int, deque[int]] = {i: deque() for i in self.free}
        self._of: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._waits: dict[int, tuple[int, ...]] = {}

    def of(self, task: Task) -> tuple[int, ...]:
        """Return the streams with slots that a task is on."""
        found = self._of.get(task.streams)
        if found is None:
            found = self._of[task.streams] = tuple(stream for stream in task.streams if stream in self.free)
        return found

    def arrive(self, i: int, task: Task) -> bool:
        """Line up a task that waits for nothing else; True if it can start at once."""
        lines = self.of(task)
        if not lines:
            return True
        for line in lines:
            self._line[line].append(i)
        self._waits[i] = lines
        return self._take(i)

    def leave(self, task: Task) -> list[int]:
        """Free the slots of a task that has ended; return those that can start now."""
        changed = list(self.of(task))
        for line in changed:
            self.free[line] += 1
        started: list[int] = []
        while changed:
            line = changed.pop(0)
            while self._line[line] and self._take(i := self._line[line][0]):
                started.append(i)
                # Whoever stood behind it in another line may now be first there.
                changed += [other for other in self._waits[i] if other != line]
        return started

    def _take(self, i: int) -> bool:
        """Give a task its slots if it is first in every line and each has one free."""
        lines = self._waits[i]
        if any(self._line[line][0] != i or not self.free[line] for line in lines):
            return False
        for line in lines:
            self._line[line].popleft()
            self.free[line] -= 1
        return True
