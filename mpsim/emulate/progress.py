"""How far each rank is: a shared page, written by the ranks at every step and read by the launcher when it wonders."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from mpsim.emulate.assignment import Memory

__all__ = ["JOINING", "MEASURING", "PREPARING", "READY", "STARTING", "Progress", "Where", "make_progress"]

# Instead of a trial, before there is one; warm-ups are -1, -2, ...
STARTING, PREPARING, JOINING, MEASURING, READY = -1_000_005, -1_000_004, -1_000_003, -1_000_002, -1_000_001
_ROW = struct.Struct("qqq")


class Where(NamedTuple):
    """Where a rank is: a count that grows with every step, the trial, and the step of its script."""

    beats: int
    trial: int
    step: int


class Progress:
    """The page.

    Examples
    --------
    >>> memory = make_progress(2)
    >>> Progress(memory).note(1, 0, 7)
    >>> Progress(memory).where(1)
    Where(beats=1, trial=0, step=7)
    >>> memory.close()
    """

    def __init__(self, memory: Memory) -> None:
        self._page = mmap.mmap(memory.descriptor, 0)
        self._beats = 0

    def note(self, rank: int, trial: int, step: int) -> None:
        """Say where a rank is."""
        self._beats += 1
        _ROW.pack_into(self._page, rank * _ROW.size, self._beats, trial, step)

    def where(self, rank: int) -> Where:
        """Return where a rank last said it was."""
        return Where(*_ROW.unpack_from(self._page, rank * _ROW.size))

    def all(self) -> bytes:
        """Return the page: it is another one as soon as any rank goes on."""
        return self._page[:]


def make_progress(ranks: int) -> Memory:
    """Return a page on which every rank is starting."""
    memory = Memory.make("progress")
    os.write(memory.descriptor, _ROW.pack(0, STARTING, 0) * ranks)
    return memory
