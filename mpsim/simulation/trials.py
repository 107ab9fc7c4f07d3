"""Replay trial after trial, in one process or several: the same seed gives the same bits."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from mpsim.bars import Progress
from mpsim.engine.replay import replay
from mpsim.engine.straight import Straight
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.draws import Draw, Trials
from mpsim.lowering.redraw import Redrawn
from mpsim.processes import worker_pool
from mpsim.program.model import Program
from mpsim.topology.model import Topology

__all__ = ["ProgramOf", "drawn_steps", "trial_steps"]

_Found = TypeVar("_Found")
ProgramOf = Callable[[Draw | None], Program]
# Drawn at once at most: tasks by trials.
_MOST_NUMBERS = 2**22


def _untold(done: int, total: int) -> None:
    """Tell nobody."""


def drawn_steps(redrawn: Redrawn, topology: Topology, trials: Trials, progress: Progress = _untold) -> list[float]:
    """Return the step of each trial, in order of trial number, of a program that is lowered once.

    Until transfers meet on a link trials are had many at once; from there on each is replayed by itself.

    Parameters
    ----------
    redrawn : Redrawn
        The program, and what its tasks take in each trial.
    topology, trials, progress
        As of `trial_steps`.
    """
    one = partial(_drawn_steps, redrawn, topology, trials)
    most = max(1, min(_MOST_NUMBERS // max(1, len(redrawn.program.tasks)), -(-trials.count // trials.processes)))
    parts = [range(first, min(first + most, trials.count)) for first in range(0, trials.count, most)]
    if trials.processes == 1 or len(parts) == 1:
        found = [one(part, partial(_from, progress, part.start, trials.count)) for part in parts]
    else:
        _check_pickles(one, trials.processes)
        with worker_pool(min(trials.processes, len(parts))) as pool:
            found = list(_counted(pool.map(one, parts), progress, len(parts)))
    return [step_s for steps in found for step_s in steps]


def _from(progress: Progress, first: int, total: int, done: int) -> None:
    progress(first + done, total)


def _counted(found: Iterable[_Found], progress: Progress, total: int) -> Iterator[_Found]:
    """Yield what is found, and tell how much of it there is."""
    for done, one in enumerate(found, 1):
        yield one
        progress(done, total)


def _drawn_steps(
    redrawn: Redrawn,
    topology: Topology,
    trials: Trials,
    which: Sequence[int],
    told: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Return the step of some trials, by their numbers."""
    draws = [trials.draw(trial) for trial in which]
    with collector_paused():
        return _played_steps(redrawn, topology, draws, told)


def _played_steps(
    redrawn: Redrawn, topology: Topology, draws: Sequence[Draw], told: Callable[[int], None]
) -> list[float]:
    durations, late = redrawn.durations(draws), redrawn.late(draws)
    straight = Straight(redrawn.program, topology) if Straight.applies(redrawn.program, topology) else None
    played = straight.play(durations, late) if straight and straight.ends else None
    found = np.full(len(draws), np.nan) if played is None else played.step_s
    for i in np.flatnonzero(np.isnan(found)).tolist():
        found[i] = replay(
            redrawn.program,
            topology,
            durations=durations[:, i].tolist(),
            late=None if late is None else late[:, i].tolist(),
            begun=played and played.begun(i),
        ).step_s
        told(i + 1)
    told(len(draws))
    steps: list[float] = found.tolist()
    return steps


def trial_steps(program_of: ProgramOf, topology: Topology, trials: Trials, progress: Progress = _untold) -> list[float]:
    """Return the step of each trial, in order of trial number, each lowered and replayed by itself.

    Parameters
    ----------
    program_of : callable
        The program that a draw gives; it must pickle when there are several processes.
    topology : Topology
        Whose links.
    trials : Trials
        With a whole number as their seed.
    progress : callable
        Called with how much is done and the whole.

    Raises
    ------
    MpsimError
        `program_of` does not pickle and there are several processes.
    """
    one = partial(_trial_step, program_of, topology, trials)
    processes = min(trials.processes, trials.count)
    if processes == 1:
        return list(_counted(map(one, range(trials.count)), progress, trials.count))
    _check_pickles(one, processes)
    with worker_pool(processes) as pool:
        found = pool.map(one, range(trials.count), chunksize=max(1, trials.count // (4 * processes)))
        return list(_counted(found, progress, trials.count))


def _check_pickles(one: Callable[..., object], processes: int) -> None:
    """Refuse what cannot be sent to another process, such as a plan whose schedule is a lambda."""
    try:
        pickle.dumps(one)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MpsimError(
            f"{processes} processes cannot share the trials ({error}): define the schedule at the top of a module, or"
            " use 1 process"
        ) from None


def _trial_step(program_of: ProgramOf, topology: Topology, trials: Trials, trial: int) -> float:
    return replay(program_of(trials.draw(trial)), topology).step_s
