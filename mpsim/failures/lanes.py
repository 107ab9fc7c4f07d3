"""Many trials at once through steps, checkpoints, failures and restarts: closed forms between events, no step by step.

Times are whole multiples of a power of two of a second, so that sums are exact: the parts of a trial add up to its wall
time to the last bit, and a case worked by hand comes out as it was worked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.errors import MpsimError

__all__ = ["PARTS", "Mode", "Rows", "play", "quantum_s", "rounded"]

Floats = NDArray[np.float64]
PARTS = ("useful", "lost", "checkpoint", "restart", "repair", "slowed")
_LEAST_STEPS = 1024  # quanta in a step: a coarser one would not be the step that was replayed


class Mode(NamedTuple):
    """What a step and a checkpoint take while the same devices run at the same pace, in seconds.

    Attributes
    ----------
    step_s : float
        A step.
    useful_s : float
        What the undisturbed plan would take for as many samples.
    blocked_s : float
        How long a checkpoint keeps the steps up.
    written_s : float
        How long after that it is not safe yet.
    restart_s : float
        A restart, reading the checkpoint included.
    """

    step_s: float
    useful_s: float
    blocked_s: float
    written_s: float
    restart_s: float


class Rows(NamedTuple):
    """What happens to trials, in order of time; shape (trials, most events), the rest at infinity.

    An event that stops the run is followed by `detect_s`, then `wait_s`, then a restart; any goes on in `mode`.
    """

    at_s: Floats
    stops: NDArray[np.bool_]
    mode: NDArray[np.int64]
    detect_s: Floats
    wait_s: Floats

    def first(self, count: int) -> Rows:
        """Return those of the first trials."""
        at_s, stops, mode, detect_s, wait_s = self
        return Rows(at_s[:count], stops[:count], mode[:count], detect_s[:count], wait_s[:count])


def quantum_s(horizon_s: float) -> float:
    """Return the time of which all others are multiples: the finest whose sums up to four horizons are exact.

    Examples
    --------
    >>> quantum_s(86400.0) == 2.0**-34
    True
    """
    return 2.0 ** (math.ceil(math.log2(horizon_s)) + 2 - 53)


def rounded(seconds: Floats, quantum: float, most: float) -> Floats:
    """Return times as multiples of the quantum, none longer than `most`."""
    found: Floats = np.minimum(np.rint(np.minimum(seconds, most) / quantum) * quantum, most)
    return found


def play(modes: Sequence[Mode], every: Floats, rows: Rows, horizon_s: float) -> dict[str, Floats]:
    """Return the seconds of each part of each trial's wall time, for each number of steps between checkpoints.

    Parameters
    ----------
    modes : sequence of Mode
        The first is the undisturbed one, in which all trials begin.
    every : array, shape (intervals,)
        Steps between checkpoints.
    rows : Rows
        Events of each trial.
    horizon_s : float
        Wall time of each trial.

    Returns
    -------
    dict of str to array, shape (intervals, trials)
        By name of part; together they are the horizon, exactly.

    Raises
    ------
    MpsimError
        A step too short for the horizon.

    Examples
    --------
    >>> empty = np.zeros((1, 0))
    >>> rows = Rows(empty, empty.astype(bool), empty.astype(int), empty, empty)
    >>> parts = play([Mode(1.0, 1.0, 2.0, 0.0, 0.0)], np.array([4.0]), rows, 15.0)
    >>> parts["useful"], parts["checkpoint"]
    (array([[11.]]), array([[4.]]))
    """
    quantum = quantum_s(horizon_s)
    horizon_s = float(rounded(np.array(horizon_s), quantum, math.inf))
    if min(mode.step_s for mode in modes) < _LEAST_STEPS * quantum:
        raise MpsimError(
            f"a step of {min(mode.step_s for mode in modes):g} s is too short for a run of {horizon_s:g} s: shorten it"
        )
    table = rounded(np.array(list(modes), dtype=float).T, quantum, horizon_s)
    lanes = _Lanes(table, every, rows.at_s.shape[0])
    at_s = rounded(rows.at_s, quantum, horizon_s)
    detect_s, wait_s = (rounded(one, quantum, horizon_s) for one in (rows.detect_s, rows.wait_s))
    there = rows.at_s < horizon_s
    for i in range(at_s.shape[1]):
        lanes.advance(at_s[:, i])
        lanes.change(there[:, i], rows.stops[:, i] & there[:, i], rows.mode[:, i], detect_s[:, i], wait_s[:, i])
    lanes.advance(np.full(at_s.shape[0], horizon_s))
    return lanes.parts()


class _Lanes:
    """Where each trial stands with each interval: arrays of shape (intervals, trials).

    From a restart or the end of a checkpoint on, `done` of `every` steps, then the checkpoint; `into` is how far the
    step or checkpoint under way is. `spent` and `made` are what steps since then took and are worth; `pending` and
    `worth` those of a checkpoint that is still being written for `writing` seconds more; `safe` and `kept` those that
    no failure takes away.
    """

    def __init__(self, table: Floats, every: Floats, trials: int) -> None:
        shape = (len(every), trials)
        self.table, self.every = table, np.broadcast_to(every[:, None], shape)
        self.now = np.zeros(trials)
        self.mode = np.zeros(trials, dtype=np.int64)
        self.step, self.value, self.blocked, self.written, self.again = (np.full(trials, row[0]) for row in table)
        names = (
            "done", "into", "spent", "made", "pending", "worth", "writing", "safe", "kept", "lost", "saving",
            "restarting", "waiting",
        )  # fmt: skip
        self.__dict__.update({name: np.zeros(shape) for name in names})
        # The step under way keeps the pace at which it began.
        self.pace, self.yields = np.full(shape, self.step[0]), np.full(shape, self.value[0])
        # What is left of detection, of waiting, and of the restart.
        self.hold = [np.zeros(shape) for _ in range(3)]

    done: Floats
    into: Floats
    spent: Floats
    made: Floats
    pending: Floats
    worth: Floats
    writing: Floats
    safe: Floats
    kept: Floats
    lost: Floats
    saving: Floats
    restarting: Floats
    waiting: Floats

    def advance(self, until: Floats) -> None:
        """Let time pass up to a moment of each trial."""
        left = np.broadcast_to(until - self.now, self.done.shape).copy()
        self.now = until
        for hold, into in zip(self.hold, (self.restarting, self.waiting, self.restarting), strict=True):
            took = np.minimum(left, hold)
            hold -= took
            into += took
            left -= took
        self._finish_step(left)
        self._to_checkpoint(left)
        self._cycles(left)
        self._to_checkpoint(left)

    def _pass(self, left: Floats, took: Floats) -> None:
        """Spend time; what is written meanwhile becomes safe once it is all there."""
        left -= took
        self.writing -= np.minimum(self.writing, took)
        over = self.writing == 0
        self.safe += np.where(over, self.pending, 0.0)
        self.kept += np.where(over, self.worth, 0.0)
        self.pending[over] = 0.0
        self.worth[over] = 0.0

    def _finish_step(self, left: Floats) -> None:
        under_way = (self.done < self.every) & (self.into > 0)
        took = np.where(under_way, np.minimum(left, self.pace - self.into), 0.0)
        self.into += took
        self.spent += took
        self._pass(left, took)
        whole = under_way & (self.into == self.pace)
        self.done += whole
        self.made += np.where(whole, self.yields, 0.0)
        self.into[whole] = 0.0

    def _to_checkpoint(self, left: Floats) -> None:
        """Do the steps up to the next checkpoint, wait for the one before, and make it, as far as time goes."""
        stepping = (self.done < self.every) & (self.into == 0)
        count = np.where(stepping, np.minimum(left // self.step, self.every - self.done), 0.0)
        self.done += count
        self.made += count * self.value
        self.spent += count * self.step
        self._pass(left, count * self.step)
        begun = stepping & (self.done < self.every)
        took = np.where(begun, left, 0.0)
        np.copyto(self.into, took, where=begun)
        np.copyto(self.pace, self.step, where=begun)
        np.copyto(self.yields, self.value, where=begun)
        self.spent += took
        self._pass(left, took)
        full = self.done == self.every
        took = np.where(full, np.minimum(left, self.writing), 0.0)
        self.saving += took
        self._pass(left, took)
        copying = full & (self.writing == 0)
        took = np.where(copying, np.minimum(left, self.blocked - self.into), 0.0)
        self.into += took
        self.saving += took
        left -= took
        self._copied(copying & (self.into == self.blocked))

    def _copied(self, where: NDArray[np.bool_]) -> None:
        """Begin to write what was copied."""
        self.pending += np.where(where, self.spent, 0.0)
        self.worth += np.where(where, self.made, 0.0)
        np.copyto(self.writing, self.written, where=where)
        for each in (self.spent, self.made, self.done, self.into):
            each[where] = 0.0
        self._pass(np.zeros_like(self.done), np.zeros_like(self.done))

    def _cycles(self, left: Floats) -> None:
        """Do as many whole rounds of steps and a checkpoint as time has room for; each begins at the end of one."""
        steps = self.every * self.step
        cycle = np.maximum(steps, self.written) + self.blocked
        # Where time is left, the first part ended with a checkpoint.
        count = left // cycle
        some = count > 0
        before = np.maximum(count - 1, 0.0)
        self.saving += count * (cycle - steps)
        self.safe += before * steps + np.where(some, self.pending, 0.0)
        self.kept += before * self.every * self.value + np.where(some, self.worth, 0.0)
        np.copyto(self.pending, steps, where=some)
        np.copyto(self.worth, self.every * self.value, where=some)
        np.copyto(self.writing, self.written, where=some)
        left -= count * cycle
        self._pass(left, np.zeros_like(left))

    def change(
        self, there: NDArray[np.bool_], stops: NDArray[np.bool_], mode: NDArray[np.int64], detect: Floats, wait: Floats
    ) -> None:
        """Go on in another mode, where it stops from the last safe checkpoint."""
        self.mode = np.where(there, mode, self.mode)
        self.step, self.value, self.blocked, self.written, self.again = self.table[:, self.mode]
        if not stops.any():
            return
        self.lost += np.where(stops, self.spent + self.pending, 0.0)
        for each in (self.done, self.into, self.spent, self.made, self.pending, self.worth, self.writing):
            each[:, stops] = 0.0
        for hold, new in zip(self.hold, (detect, wait, self.again), strict=True):
            hold[:, stops] = new[stops]

    def parts(self) -> dict[str, Floats]:
        """Return the parts; a step that is under way at the end counts for as much of it as is done."""
        stepping = self.done < self.every
        part = np.where(stepping, np.where(self.pace == self.yields, self.into, self._share()), 0.0)
        useful = self.kept + self.worth + self.made + part
        slowed = self.safe + self.pending + self.spent - useful
        found = (useful, self.lost, self.saving, self.restarting, self.waiting, slowed)
        return dict(zip(PARTS, found, strict=True))

    def _share(self) -> Floats:
        """Return what the step under way is worth so far, rounded as all times are."""
        quantum = quantum_s(float(self.now.max()))
        found: Floats = np.rint(self.into / self.pace * self.yields / quantum) * quantum
        return found
