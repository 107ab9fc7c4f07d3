"""What each rank holds between tasks, as its holds and drops say."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.lowering.instructions import Drop, Hold, Key
from mpsim.program.model import Allocation

__all__ = ["Held"]


class Held:
    """Follows a rank and collects what it holds, from one task to another.

    Examples
    --------
    >>> held = Held(device=3)
    >>> held.note(Hold(("a", 0), "activations", 64))
    >>> held.ran(5)
    >>> held.ran(6)
    >>> held.note(Drop(("a", 0)))
    >>> held.allocations
    [Allocation(device=3, holder='activations', bytes=64, first=5, last=6, begins=1, ends=2)]
    """

    def __init__(self, device: int) -> None:
        self.allocations: list[Allocation] = []
        self._device, self._last, self._place = device, -1, 0
        self._waiting: list[Hold] = []
        self._since: dict[Key, tuple[str, int, int, int]] = {}

    def note(self, step: Hold | Drop) -> None:
        """Take notice of a hold, from the next task on, or of a drop, with the end of the last one."""
        if isinstance(step, Hold):
            if step.bytes:
                self._waiting.append(step)
        elif step.key in self._since:
            self._end(step.key, self._last)
        else:
            self._waiting = [one for one in self._waiting if one.key != step.key]

    def left(self, key: Key, task: int) -> None:
        """Take notice of a task with whose end something is held no longer."""
        self._place += 1
        if key in self._since:
            self._end(key, task)

    def came(self, key: Key, holder: str, count: int, task: int) -> None:
        """Take notice of a task from whose beginning on something is held."""
        self._place += 1
        self._since[key] = holder, count, task, self._place

    def ran(self, task: int) -> None:
        """Take notice of a computation."""
        self._place += 1
        if self._waiting:
            for key, holder, count in self._waiting:
                self._since[key] = holder, count, task, self._place
            self._waiting.clear()
        self._last = task

    def reduced(self, tasks: Sequence[int]) -> None:
        """Take notice of reductions of gradients that were awaited: the last of them counts."""
        if tasks:
            self.ran(tasks[-1])

    def _end(self, key: Key, task: int) -> None:
        holder, count, first, begins = self._since.pop(key)
        self.allocations.append(Allocation(self._device, holder, count, first, task, begins, self._place))
