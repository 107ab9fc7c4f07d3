"""The plans of a sweep: every ``dp × pp × tp`` that the devices allow, by micro-batches and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt, log

from mpsim.plan.model import ALIKE_ALONE, Plan
from mpsim.plan.schedules import SCHEDULES, Schedule
from mpsim.workload.costs import measured_microbatches
from mpsim.workload.model import Workload

__all__ = ["Candidate", "candidates", "microbatch_counts"]

MOST_MICROBATCHES = 8
# Of mpsim's own schedules these are tried unasked; what a user registers is as well.
_WHERE_NAMED = frozenset(SCHEDULES) - {"naive", "gpipe", "1f1b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One cell of the grid; unlike a Plan it may be one that cannot be.

    `schedule` is None where the plan has no pipeline.

    Examples
    --------
    >>> Candidate(dp=2, pp=4, tp=1, microbatches=8, schedule="gpipe").plan(Plan(batch=64)).text
    'dp=2 pp=4 micro-batches=8 gpipe'
    """

    dp: int
    pp: int
    tp: int
    microbatches: int
    schedule: str | Schedule | None = None

    def plan(self, base: Plan) -> Plan:
        """Return the plan, with all else as in `base`.

        Raises
        ------
        MpsimError
            No such plan can be: the batch does not divide.
        """
        schedule = self.schedule or base.schedule
        return replace(base, dp=self.dp, pp=self.pp, tp=self.tp, microbatches=self.microbatches, schedule=schedule)

    @property
    def ranks(self) -> int:
        """Devices that it needs."""
        return self.dp * self.pp * self.tp


def candidates(
    workload: Workload,
    n_devices: int,
    batch: int,
    *,
    microbatches: Sequence[int] | None = None,
    schedules: Sequence[str | Schedule] | None = None,
    tensor: Sequence[int] | None = None,
) -> list[Candidate]:
    """Return every plan of up to `n_devices` devices once, those that use fewer devices first.

    Where the schedule makes no difference (no pipeline, or one micro-batch) there is one candidate for all of them.

    Parameters
    ----------
    workload : Workload
        Whose measured micro-batch sizes decide how a batch may be cut.
    n_devices, batch : int
        Devices at most; samples in one step over all replicas.
    microbatches : sequence of int, optional
        Numbers of micro-batches. None: every number that divides a replica's batch into micro-batches within the
        measured range, 8 at most, those that were measured themselves before those that lie between; where none
        does, the one that comes nearest, so that the plan appears with the reason why it cannot be run.
    schedules : sequence, optional
        Names or functions. None: all that are registered, but ``naive`` only with as few micro-batches as can be.
    tensor : sequence of int, optional
        Tensor-parallel sizes. None: all; those that were never traced appear with that reason.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> [(c.dp, c.pp, c.microbatches, c.schedule) for c in candidates(work, 2, 4, tensor=[1])]
    [(1, 1, 4, None), (1, 2, 4, 'naive'), (1, 2, 4, 'gpipe'), (1, 2, 4, '1f1b'), (2, 1, 2, None)]
    """
    found = []
    for dp, pp, tp in _shapes(n_devices, tensor):
        counts = list(dict.fromkeys(microbatches)) if microbatches else microbatch_counts(workload, batch, dp, tp)
        for count in counts:
            for schedule in _schedules(pp, count, count == min(counts), schedules):
                found.append(Candidate(dp=dp, pp=pp, tp=tp, microbatches=count, schedule=schedule))
    return found


def _shapes(n_devices: int, tensor: Sequence[int] | None) -> list[tuple[int, int, int]]:
    """Return every (dp, pp, tp) of up to so many devices, the smallest first."""
    sizes = sorted(set(tensor)) if tensor else range(1, n_devices + 1)
    shapes = [
        (dp, pp, tp)
        for tp in sizes
        for pp in range(1, n_devices // tp + 1)
        for dp in range(1, n_devices // (tp * pp) + 1)
    ]
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1] * shape[2], shape))


def microbatch_counts(workload: Workload, batch: int, dp: int, tp: int) -> list[int]:
    """Return the numbers of micro-batches worth trying, ascending; see `candidates`.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0, microbatch=4)])
    >>> microbatch_counts(work, 16, 2, 1)
    [2]
    """
    sizes = measured_microbatches(workload, tp)
    if batch % dp or not sizes:
        return [1]
    replica = batch // dp
    inside = [replica // size for size in range(sizes[-1], sizes[0] - 1, -1) if replica % size == 0]
    if not inside:
        return [min(_divisors(replica), key=lambda count: abs(log(replica / count / sizes[0])))]
    measured = [count for count in inside if replica // count in sizes]
    between = [count for count in inside if replica // count not in sizes]
    kept = _thin(measured, MOST_MICROBATCHES)
    return sorted(kept + _thin(between, MOST_MICROBATCHES - len(kept)))


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return low + [number // n for n in reversed(low) if n * n != number]


def _thin(counts: list[int], most: int) -> list[int]:
    """Return at most so many of the counts, evenly spread, the ends among them."""
    if len(counts) <= most:
        return counts
    step = (len(counts) - 1) / max(most - 1, 1)
    return [counts[round(i * step)] for i in range(most)]


def _schedules(
    pp: int, microbatches: int, fewest: bool, chosen: Sequence[str | Schedule] | None
) -> Sequence[str | Schedule | None]:
    """Return the schedules that differ from one another on such a plan."""
    if pp == 1:
        return [None]
    if chosen:
        alone = microbatches == 1
        return list(dict.fromkeys("naive" if alone and one in ALIKE_ALONE else one for one in chosen))
    if microbatches == 1:
        return ["naive"]
    return [name for name in SCHEDULES if name not in _WHERE_NAMED and (name != "naive" or fewest)]
