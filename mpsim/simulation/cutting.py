"""Cut a plan that leaves its stages open: where its predicted step is the shortest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from mpsim.engine.replay import replay
from mpsim.lowering.balancing import boundaries_worth_trying
from mpsim.lowering.emit import program_of
from mpsim.lowering.instructions import Compute
from mpsim.lowering.lower import cut_at
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import Stage, scales_of
from mpsim.plan.automatic import Fitted
from mpsim.plan.schedules import resolve_schedule
from mpsim.program.account import account_devices
from mpsim.program.model import Program, Timing
from mpsim.simulation.timetable import Timetable

__all__ = ["Played", "fastest_cut", "fastest_played", "is_cut"]

_Boundaries = tuple[int, ...]
# Of a search: some hundredths of a second, tenths where a program is large.
_MOST_REPLAYS, _MOST_TASKS = 48, 15_000


class Played(NamedTuple):
    """A plan that is lowered; its program, folded, and replay at the median where the search for its cut had them."""

    lowering: Lowering
    program: Program | None = None
    timing: Timing | None = None


def fastest_cut(lowering: Lowering) -> Lowering:
    """Return the plan cut where its predicted step is the shortest; one that names its boundaries as it is.

    The step is replayed, every time at its median, for the cuts that `boundaries_worth_trying` finds, those of the
    least `least_step_s` first, then for those that differ from the best so far by one layer of one stage. Cuts
    that take more than the best so far at least are left out. It ends when none is faster, or after 48 replays or
    15,000 tasks, of ranks that are alike one counted. Of equal steps the first found counts, the balanced cut before
    all. A program of more than half as many tasks stays balanced, as `lower` cuts it. A cut that overflows a memory
    counts only if none does not.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=0.5, backward_s=0.5) for name in "abcd"]
    >>> work = Workload.chain("four", layers, activation_bytes=[60, 100, 60, 0])
    >>> balanced = lower(work, chain(2, link="50B/s@0"), Plan(pp=2))
    >>> balanced.boundaries, fastest_cut(balanced).boundaries
    ((2,), (1,))
    """
    return fastest_played(lowering).lowering


def fastest_played(lowering: Lowering) -> Played:
    """Return what `fastest_cut` does, and the replay that found it to be the fastest."""
    return Played(lowering) if is_cut(lowering) else _Search(lowering).fastest()


def is_cut(lowering: Lowering) -> bool:
    """Return whether a plan stays cut as it is: there is no other cut, or its program is too large to try any.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("three", [Layer.given(name, forward_s=0.5, backward_s=0.5) for name in "abc"])
    >>> [is_cut(lower(work, chain(3, link="50B/s@0"), Plan(pp=pp))) for pp in (1, 2, 3)]
    [True, False, True]
    """
    if lowering.plan.boundaries is not None or lowering.shape.stages in (1, len(lowering.workload.layers)):
        return True
    return 2 * _fewest_tasks(lowering) > _MOST_TASKS


def _fewest_tasks(lowering: Lowering) -> int:
    """Return how many tasks one line of ranks has at least: computations, and what those that share layers exchange."""
    sizes: dict[tuple[int, str, bool], int] = {}
    count = 0
    for stage, kind, microbatch, *_ in (one for row in lowering.rows for one in row):
        closes = (stage, kind, microbatch) in lowering.closing
        if (stage, kind, closes) not in sizes:
            layers = lowering.stages[stage].layers
            whole = Compute(stage, kind, microbatch, layers.start, layers.stop)
            inside = [end for end in lowering.ends(whole) if layers.start <= end < layers.stop]
            phase = "forward" if kind == "F" else "backward" if kind in "BI" else ""
            calls = [one for own in lowering.stages[stage].exchanges.get(phase, {}).values() for one in own]
            sizes[stage, kind, closes] = max(len(inside), 1) + sum(one.bytes > 0 for one in calls)
        count += sizes[stage, kind, closes]
    return count


class _Search:
    """Looks for the fastest cut of one plan."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering
        self._scales = scales_of(lowering.costs, lowering.routes, lowering.plan, lowering.place, lowering.shape)
        self._least_s = least_step_s(lowering)
        self._bounded = any(lowering.topology.devices[device].memory_bytes for device in lowering.place)
        self._seen: set[_Boundaries] = set()
        # A cut has most stages of the one beside it.
        self._stages: dict[range, Stage] = {stage.layers: stage for stage in lowering.stages}
        self._left = _MOST_TASKS
        self._best, self._score = lowering.boundaries, (True, inf)
        self._played = Played(lowering)

    def fastest(self) -> Played:
        """Return the plan with the fastest cut found."""
        whole = self._lowering
        self._program = program_of(whole, folded=True, memory=False)
        if 2 * len(self._program.tasks) > _MOST_TASKS:
            return self._played
        self._try([self._best])
        self._try(boundaries_worth_trying(self._scales))
        while self._try(_neighbours(self._best, len(whole.workload.layers))):
            pass
        return self._played

    def _cut(self, boundaries: _Boundaries) -> tuple[Lowering, Program]:
        if boundaries == self._lowering.boundaries:
            return self._lowering, self._program
        cut = cut_at(self._lowering, boundaries, self._stages)
        return cut, program_of(cut, folded=True, memory=False)

    def _try(self, cuts: Iterable[_Boundaries]) -> bool:
        """Try the cuts that were not yet, the most promising first; return whether one of them is better than all."""
        before = self._best
        new = [cut for cut in cuts if cut not in self._seen]
        least = dict(zip(new, self._least_s(new), strict=True))
        for cut in sorted(least, key=lambda cut: (round_step(least[cut]), cut)):
            if (False, round_step(least[cut])) >= self._score:
                break
            made, program = self._cut(cut)
            self._left -= len(program.tasks)
            if self._left < 0 or len(self._seen) == _MOST_REPLAYS:
                break
            self._seen.add(cut)
            timing = replay(program, self._lowering.topology)
            step_s = round_step(timing.step_s)
            if (False, step_s) < self._score:
                # What it keeps is worked out of the few that are faster alone.
                held = program_of(made, folded=True) if self._bounded else None
                score = held is not None and overflows(self._lowering, held, timing), step_s
                if score < self._score:
                    self._score, self._best = score, cut
                    self._played = Played(made, held, timing)
        return self._best != before


def least_step_s(lowering: Lowering) -> Callable[[Sequence[_Boundaries]], list[float]]:
    """Return what tells of each of some cuts how long a step takes at least.

    Where stages update amid the step, and of rows that are made for a cut, it knows nothing.
    """
    if lowering.asynchronous or isinstance(resolve_schedule(lowering.plan.schedule), Fitted):
        return lambda cuts: [0.0] * len(cuts)
    table = Timetable(lowering)
    return lambda cuts: table.ended(cuts).row_s.max(axis=1).tolist() if cuts else []


def round_step(step_s: float) -> float:
    """Drop the digits that replays round differently."""
    return float(f"{step_s:.12g}")


def overflows(lowering: Lowering, program: Program, timing: Timing) -> bool:
    """Return whether a device has less memory than it takes."""
    uses = account_devices(program, lowering.topology, lowering.place, timing, None)
    return any(use.fits is False for use in uses)


def _neighbours(boundaries: _Boundaries, n_layers: int) -> Iterator[_Boundaries]:
    """Yield the boundaries with one of them a layer earlier or later.

    Examples
    --------
    >>> list(_neighbours((1, 3), 5))
    [(2, 3), (1, 2), (1, 4)]
    """
    edges = (0, *boundaries, n_layers)
    for i, at in enumerate(boundaries):
        for moved in (at - 1, at + 1):
            if edges[i] < moved < edges[i + 2]:
                yield (*boundaries[:i], moved, *boundaries[i + 1 :])
