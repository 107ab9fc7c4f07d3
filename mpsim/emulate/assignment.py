"""What the launcher tells a rank, and what the rank reports back: neither needs torch to be read."""

from __future__ import annotations

import os
import pickle
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mpsim.emulate.links import MeasuredPath
from mpsim.emulate.pace import Pace
from mpsim.lowering.instructions import Collective, Script

__all__ = ["Assignment", "Memory", "Report", "Times", "groups_of", "own_environment"]


def own_environment() -> dict[str, str]:
    """Return this process's environment with what one that it starts needs: one thread, this very mpsim.

    Examples
    --------
    >>> own_environment()["OMP_NUM_THREADS"]
    '1'
    """
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH", "")
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}


class Memory:
    """A file that has no name: processes that are handed its descriptor share it, and it goes with the last of them.

    Whatever becomes of launcher and ranks, nothing is left in any folder.

    Examples
    --------
    >>> memory = Memory.make("example")
    >>> memory.dump([1, 2])
    >>> memory.load()
    [1, 2]
    >>> memory.close()
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def make(cls, name: str) -> Memory:
        """Return a new, empty one."""
        return cls(os.memfd_create(f"mpsim-{name}"))

    @property
    def path(self) -> str:
        """A path by which this process can open it."""
        return f"/proc/self/fd/{self.descriptor}"

    def dump(self, value: Any) -> None:
        """Write a value for a process that has the descriptor."""
        with open(self.path, "wb") as file:
            pickle.dump(value, file)

    def load(self) -> Any:
        """Read the value."""
        with open(self.path, "rb") as file:
            return pickle.load(file)

    def text(self) -> str:
        """Read what was printed into it."""
        with open(self.path, errors="replace") as file:
            return file.read()

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


class Times(NamedTuple):
    """When each step of a script began and ended in one trial, in seconds of a clock that all ranks share.

    Of a message or collective: when it was posted, and when it was found complete.
    """

    start_s: array[float]
    end_s: array[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one rank is to do.

    Attributes
    ----------
    rank : int
        Its number.
    devices : tuple of int
        The topology's device of each rank.
    scripts : tuple of Script
        This rank's: one for each trial, or one for all of them.
    groups : tuple of tuple of int
        The ranks of every set that has collectives, in one order for all ranks.
    trials, warm_ups : int
        Steps that are recorded, and steps before that are not.
    pairs : tuple of (int, int)
        Ranks between which links are measured first.
    patience_s : float
        After which gloo gives a message up.
    launcher : int
        Process id; without it the rank has no reason to live.
    store, progress, outcome : int
        Descriptors: where the ranks find each other, where each one says how far it is, and where it reports.
    model : bytes
        A pickled `mpsim.emulate.real.Recipe` of what to compute; empty: computations are slept through.
    """

    rank: int
    devices: tuple[int, ...]
    scripts: tuple[Script, ...]
    groups: tuple[tuple[int, ...], ...]
    trials: int
    warm_ups: int
    patience_s: float
    launcher: int
    store: int
    progress: int
    outcome: int
    pairs: tuple[tuple[int, int], ...] = ()
    model: bytes = b""

    def script(self, trial: int) -> Script:
        """Return the script of a trial; warm-ups, below 0, have that of the first."""
        return self.scripts[max(trial, 0) % len(self.scripts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a rank saw.

    Attributes
    ----------
    trials : tuple of Times
        Of each recorded step.
    paths : tuple of MeasuredPath
        What messages were measured to cost.
    smallest_s : float
        What the smallest all-reduce over all ranks was.
    pace : Pace or None
        How long the passes of a step were measured to take, where the rank computes.
    losses : tuple of float
        Of each recorded step, where the rank makes the loss.
    """

    trials: tuple[Times, ...]
    paths: tuple[MeasuredPath, ...] = ()
    smallest_s: float = 0.0
    pace: Pace | None = None
    losses: tuple[float, ...] = ()


def groups_of(scripts: tuple[Script, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the ranks of each set of devices that has a collective, in ascending order of ranks.

    Examples
    --------
    >>> from mpsim.lowering.bind import collective_scripts
    >>> groups_of(collective_scripts([64], "all_reduce", [5, 3]))
    ((0, 1),)
    """
    rank_of = {script.device: rank for rank, script in enumerate(scripts)}
    found = {
        tuple(sorted(rank_of[device] for device in step.group))
        for script in scripts
        for step in script.steps
        if isinstance(step, Collective)
    }
    return tuple(sorted(found))
