"""The tasks and streams of a program while they are being put down, and what a rank waits for between two of them."""

from __future__ import annotations

from typing import NamedTuple

from mpsim.program.model import Stream, Task

__all__ = ["NOW", "Board", "Now"]


class Now(NamedTuple):
    """What a rank waits for before its next step: tasks that must have ended, and sends it must be rid of.

    A task below 0 stands for the arrival of a message whose sender has not been followed yet.
    """

    after: tuple[int, ...] = ()
    after_buffered: tuple[int, ...] = ()

    def and_(self, *others: Now) -> Now:
        """Return both, and these, each once: what many collectives wait for would be counted over and over."""
        return Now(
            tuple(dict.fromkeys((*self.after, *(i for other in others for i in other.after)))),
            tuple(dict.fromkeys((*self.after_buffered, *(i for other in others for i in other.after_buffered)))),
        )


NOW = Now()


class Board:
    """Collects tasks; a stream is made when it is first asked for."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.after: list[list[int]] = []
        self.after_buffered: list[list[int]] = []
        # By the number of a message: the task that ends when it has arrived.
        self.arrived: dict[int, int] = {}
        self._numbers: dict[object, int] = {}
        self._streams: dict[tuple[int, str, int, bool], int] = {}

    def stream(self, device: int, name: str, slots: int = 0, host: bool = False) -> int:
        """Return the index of a device's stream."""
        return self._streams.setdefault((device, name, slots, host), len(self._streams))

    def streams(self) -> tuple[Stream, ...]:
        """Return the streams made so far."""
        return tuple(Stream(device=device, name=name, slots=n, host=host) for device, name, n, host in self._streams)

    def add(self, task: Task, now: Now = NOW) -> int:
        """Put down a task that waits for these, and return its index."""
        self.tasks.append(task)
        self.after.append(list(now.after))
        self.after_buffered.append(list(now.after_buffered))
        return len(self.tasks) - 1

    def wait(self, index: int, now: Now) -> None:
        """Let a task that is there wait for these too."""
        self.after[index] += now.after
        self.after_buffered[index] += now.after_buffered

    def number(self, key: object) -> int:
        """Return the number of a message."""
        return self._numbers.setdefault(key, len(self._numbers))

    def finish(self) -> None:
        """Give every task what it waits for; messages to come are known by now."""
        for i, (found, rid) in enumerate(zip(self.after, self.after_buffered, strict=True)):
            done = dict.fromkeys(self.arrived[-1 - j] if j < 0 else j for j in found)
            self.tasks[i] = self.tasks[i]._replace(after=tuple(done), after_buffered=tuple(dict.fromkeys(rid)))
