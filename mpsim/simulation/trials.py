"""Replay trial after trial, in one process or several: the same seed gives the same bits."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

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

ProgramOf = Callable[[Draw | None], Program]
# Drawn at once at most: tasks by trials.
_MOST_NUMBERS = 2**22


def drawn_steps(redrawn: Redrawn, topology: Topology, trials: Trials) -> list[float]:
    """Return the step of each trial, in order of trial number, of a program that is lowered once.

    Until transfers meet on a link trials are had many at once; from there on each is replayed by itself.

    Parameters
    ----------
    redrawn : Redrawn
        The program, and what its tasks take in each trial.
    topology, trials
        As of `trial_steps`.
    """
    one = partial(_drawn_steps, redrawn, topology, trials)
    most = max(1, min(_MOST_NUMBERS // max(1, len(redrawn.program.tasks)), -(-trials.count // trials.processes)))
    parts = [range(first, min(first + most, trials.count)) for first in range(0, trials.count, most)]
    if trials.processes == 1 or len(parts) == 1:
        found = [one(part) for part in parts]
    else:
        _check_pickles(one, trials.processes)
        with worker_pool(min(trials.processes, len(parts))) as pool:
            found = list(pool.map(one, parts))
    return [step_s for steps in found for step_s in steps]


def _drawn_steps(redrawn: Redrawn, topology: Topology, trials: Trials, which: Sequence[int]) -> list[float]:
    """Return the step of some trials, by their numbers."""
    draws = [trials.draw(trial) for trial in which]
    with collector_paused():
        return _played_steps(redrawn, topology, draws)


def _played_steps(redrawn: Redrawn, topology: Topology, draws: Sequence[Draw]) -> list[float]:
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
    steps: list[float] = found.tolist()
    return steps


def trial_steps(program_of: ProgramOf, topology: Topology, trials: Trials) -> list[float]:
    """Return the step of each trial, in order of trial number, each lowered and replayed by itself.

    Parameters
    ----------
    program_of : callable
        The program that a draw gives; it must pickle when there are several processes.
    topology : Topology
        Whose links.
    trials : Trials
        With a whole number as their seed.

    Raises
    ------
    MpsimError
        `program_of` does not pickle and there are several processes.
    """
    one = partial(_trial_step, program_of, topology, trials)
    processes = min(trials.processes, trials.count)
    if processes == 1:
        return [one(trial) for trial in range(trials.count)]
    _check_pickles(one, processes)
    with worker_pool(processes) as pool:
        return list(pool.map(one, range(trials.count), chunksize=max(1, trials.count // (4 * processes))))


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
