"""Replay trial after trial, in one process or several: the same seed gives the same bits."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Draw, Trials
from mpsim.processes import worker_pool
from mpsim.program.model import Program
from mpsim.topology.model import Topology

__all__ = ["trial_steps"]

ProgramOf = Callable[[Draw | None], Program]


def trial_steps(program_of: ProgramOf, topology: Topology, trials: Trials) -> list[float]:
    """Return the step of each trial, in order of trial number.

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


def _check_pickles(one: partial[float], processes: int) -> None:
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
