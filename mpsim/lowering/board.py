"""The tasks and streams of a program while they are being put down, and what a rank waits for between two of them."""

from __future__ import annotations

from typing import NamedTuple

from mpsim.program.model import Stream, Task

__all__ = ["NOW", "Board", "Now"]


class Now(NamedTuple):
    """What a rank waits for before its next step: tasks that must have ended, and sends it must be rid of.

    A task below 0 stands for the arrival of the message of number ``-1 - task``: its sender may not have been followed
    yet.
    """

    after: tuple[int, ...] = ()
    after_buffered: tuple[int, ...] = ()

    def and_(self, *others: Now) -> Now:
        """Return both, and these, each once: what many collectives wait for would be counted over and over."""
        if len(others) == 1:
            if not (self.after or self.after_buffered):
                return others[0]
            if len(others[0].after) == 1 and not others[0].after_buffered:
                return (
                    self if others[0].after[0] in self.after else Now(self.after + others[0].after, self.after_buffered)
                )
        after, rid = [*self.after], [*self.after_buffered]
        for other_after, other_rid in others:
            after += other_after
            rid += other_rid
        return Now(tuple(dict.fromkeys(after)), tuple(dict.fromkeys(rid)) if rid else ())


NOW = Now()
_PARTS = 2**40  # more than any program has messages


class Board:
    """Collects tasks; a stream is made when it is first asked for."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        # By the number of a message: the task that ends when it has arrived.
        self.arrived: dict[int, int] = {}
        # Tasks that wait for a message to come; and what others wait for that was said after they were put down.
        self._open: list[int] = []
        self._more: dict[int, list[Now]] = {}
        self._parts: dict[object, int] = {}
        self._streams: dict[tuple[int, str, int, bool], int] = {}

    def stream(self, device: int, name: str, slots: int = 0, host: bool = False) -> int:
        """Return the index of a device's stream."""
        return self._streams.setdefault((device, name, slots, host), len(self._streams))

    def streams(self) -> tuple[Stream, ...]:
        """Return the streams made so far."""
        return tuple(Stream(device=device, name=name, slots=n, host=host) for device, name, n, host in self._streams)

    def add(self, task: Task, now: Now = NOW) -> int:
        """Put down a task that waits for these, and return its index."""
        if now != NOW:
            task = task._replace(after=now.after, after_buffered=now.after_buffered)
        return self.put(task)

    def put(self, task: Task) -> int:
        """Put down a task that knows what it waits for, and return its index."""
        index = len(self.tasks)
        if task.after and min(task.after) < 0:
            self._open.append(index)
        self.tasks.append(task)
        return index

    def wait(self, index: int, now: Now) -> None:
        """Let a task that is there wait for these too."""
        if now != NOW:
            self._more.setdefault(index, []).append(now)

    def number(self, key: object) -> int:
        """Return the number of a message: its key, if that is a number; what is a part of something gets its own."""
        return key if isinstance(key, int) else self._parts.setdefault(key, _PARTS + len(self._parts))

    def arrival(self, number: int) -> int:
        """Return the task after which a message is there, or what stands for it until its sender is followed."""
        return self.arrived.get(number, -1 - number)

    def finish(self) -> None:
        """Give every task what it waits for; messages to come are known by now."""
        for i in dict.fromkeys((*self._open, *self._more)):
            task = self.tasks[i]
            now = Now(task.after, task.after_buffered).and_(*self._more.get(i, ()))
            done = dict.fromkeys(self.arrived[-1 - j] if j < 0 else j for j in now.after)
            self.tasks[i] = task._replace(after=tuple(done), after_buffered=now.after_buffered)
