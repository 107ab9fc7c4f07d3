"""Find the cheapest change with which a plan fits that does not: of one thing, or where none is enough of two."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from mpsim.bars import Progress, ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.search.chosen import with_layers
from mpsim.search.cuts import other_cuts
from mpsim.search.found import Unfit
from mpsim.search.made_fit import Fix, MadeFit, options_of
from mpsim.search.neighbours import KINDS, OPEN, Beside, neighbours
from mpsim.search.study import Study
from mpsim.search.weighing import Weighed, Weighing
from mpsim.simulation.cutting import round_step
from mpsim.topology.grown import grown
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["made_fit", "make_fit", "on_more_devices"]

_PAIRS = 1  # So many pairs are found, where no single change is enough.


@checked
def make_fit(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    plan: Plan | str | Path,
    *,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    host_speed: float = 1.0,
    progress: ShowProgress = None,
) -> MadeFit:
    """Find the changes with which a plan fits that does not, and what each costs in time.

    Changed is one thing at a time: what is computed again and of which layers, what is offloaded, what replicas shard,
    whether ranks share sequences, the schedule, the size of micro-batches, the stages, and axes that are larger in
    place of others on the same devices, or on devices that the plan leaves free. Of each kind the fastest that fits is
    found: plans that surely overflow a memory are left out, then they are simulated in the order of the least that
    they can take, until no other can be faster. Where no single change is enough, two kinds are changed at once.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how: values, or what the command line takes, a file or text.
    by_type, rescale, speed, unchecked, host_speed
        As in `mpsim.simulate`.
    progress : callable or bool, optional
        Called with how many kinds of change are done, and how many there are. By default a bar shows it where somebody
        looks and it takes a while; False: nothing.

    Returns
    -------
    MadeFit
        Printed it is what ``mpsim simulate --make-fit`` says.

    Raises
    ------
    MpsimError
        The plan cannot be run.

    Examples
    --------
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given("a", forward_s=1.0, backward_s=2.0, saved_bytes=80),
    ...           Layer.given("b", forward_s=2.0, backward_s=2.0, saved_bytes=90)]
    >>> work = Workload.chain("two", layers, activation_bytes=10)
    >>> print(make_fit(work, parse_topology("chain:1,link=1GB/s@0,memory=110B"), Plan(microbatches=2)).best)
    fits with --recompute a: +14.3 % of time (needs 90 B of 110 B)
    """
    study = Study(
        workload, topology, by_type=by_type, rescale=rescale, speed=speed, unchecked=unchecked, host_speed=host_speed
    )
    with progress_of(progress, "kinds of change") as told:
        return made_fit(study, Plan.of(plan), progress=told)


def made_fit(
    study: Study, plan: Plan, *, kinds: Sequence[str] = tuple(KINDS), progress: Progress | None = None
) -> MadeFit:
    """Return what `make_fit` does, of a plan of a study; of `kinds` of change alone, and pairs that begin with one."""
    return _Search(study, plan, kinds).found(progress or (lambda done, total: None))


def on_more_devices(study: Study, plan: Plan, most: int = 8) -> tuple[Topology, MadeFit] | None:
    """Return with how many times the devices a plan fits, 2, 4 or 8, and how; None if that is not known.

    Raises
    ------
    MpsimError
        Nobody knows how the topology grows.
    """
    times = 2
    while times <= most:
        topology = grown(study.topology, times)
        larger = Study(
            study.workload, topology, by_type=study.by_type, unchecked=study.unchecked, host_speed=study.host_speed
        )
        found = made_fit(larger, plan, kinds=("devices",))
        if found.fixes:
            return topology, found
        times *= 2
    return None


def _opens(plan: Plan) -> tuple[str, ...]:
    """Return the kinds of change of a plan of which there are more than can be listed."""
    return tuple(kind for kind in OPEN if kind != "stages" or plan.pp > 1)


class _Change(NamedTuple):
    """A plan beside the one that does not fit; or, of an open kind, one beside which there are more to be found."""

    kinds: tuple[str, ...]
    plan: Plan
    open: str = ""


@dataclass(order=True, slots=True)
class _Node:
    """A change with its bound: what is decided next has the least."""

    least_s: float
    number: int
    change: _Change = field(compare=False)


class _Search:
    """Looks for the changes of one plan that fit, the fastest first."""

    def __init__(self, study: Study, plan: Plan, kinds: Sequence[str]) -> None:
        self._study, self._given, self._kinds = study, plan, kinds
        # Every plan is of the same step, whatever becomes of its micro-batches.
        self._plan = replace(plan, batch=global_batch(study.workload, plan))
        self._weighing = Weighing(study)
        self._beside = Beside(study.workload, study.topology)
        self._nearest: Unfit | None = None
        self._tried = 0
        self._some = False  # whether there was anything to try

    def found(self, progress: Progress) -> MadeFit:
        """Return the answer."""
        now = self._weighing.weigh(self._plan)
        use = now.fullest
        made = MadeFit(
            workload=self._study.workload.name, topology=self._study.topology.name, plan=self._given,
            step_s=now.step_s, peak_bytes=use.memory.peak_bytes, capacity_bytes=use.capacity_bytes,
            fits=not now.excess,
        )  # fmt: skip
        if made.fits:
            return made
        fixes: list[Fix] = []
        short = []
        for done, kind in enumerate(self._kinds, start=1):
            own = self._fastest(self._single(kind), 1, now)
            fixes += own
            short += [kind] if self._some and not own else []
            progress(done, len(self._kinds))
        # On the same devices two changes come before one with which it takes more of them.
        here = [kind for kind in self._kinds if kind != "devices"]
        if not any(one.kinds != ("devices",) for one in fixes):
            fixes += self._fastest(self._pairs(here), _PAIRS, now)
        if not fixes:
            fixes = self._fastest(self._pairs(["devices"]), _PAIRS, now)
        fixes.sort(key=lambda one: (one.plan.ranks, round_step(one.step_s), len(one.options)))
        return replace(
            made, fixes=tuple(fixes), short=tuple(short), nearest=None if fixes else self._nearest, tried=self._tried
        )

    # What may be changed.

    def _single(self, kind: str) -> Iterator[_Change]:
        for plan in neighbours(self._beside, self._plan, kind):
            yield _Change((kind,), plan)
        yield from (_Change((kind,), self._plan, kind) for one in _opens(self._plan) if one == kind)

    def _pairs(self, of: Sequence[str]) -> Iterator[_Change]:
        """Yield the changes of two kinds at once, the first of some, what is open last."""
        kinds = list(KINDS)
        closed = {kind: neighbours(self._beside, self._plan, kind) for kind in kinds}
        for at, first in enumerate(kinds):
            for plan in closed[first] if first in of else ():
                for second in kinds[at + 1 :]:
                    for other in neighbours(self._beside, plan, second):
                        yield _Change((first, second), other)
                for second in _opens(plan):
                    if second != first:
                        yield _Change((first, second), plan, second)

    def _opened(self, change: _Change) -> Iterable[_Change]:
        """Return the plans beside one of which it is known by now what it lacks where."""
        if change.open == "stages":
            plans = other_cuts(self._weighing, change.plan)
        else:
            plans = with_layers(self._weighing, change.plan, change.open)
        return [_Change(change.kinds, plan) for plan in plans]

    # Which of them are fast.

    def _fastest(self, changes: Iterable[_Change], most: int, now: Weighed) -> list[Fix]:
        """Return the fastest changes that fit, so many at most; of equal ones those that come first."""
        heap: list[_Node] = []
        numbers = count()
        self._some = False
        for change in changes:
            self._push(heap, next(numbers), change)
        found: list[tuple[float, int, _Change, Weighed]] = []
        while heap and (len(found) < most or heap[0].least_s <= found[-1][0]):
            node = heapq.heappop(heap)
            try:
                if node.change.open:
                    for change in self._opened(node.change):
                        self._push(heap, next(numbers), change, node.least_s)
                    continue
                weighed = self._weighing.weigh(node.change.plan)
            except MpsimError:
                continue
            self._tried, self._some = self._tried + 1, True
            if weighed.excess:
                use = weighed.fullest
                self._nearer(Unfit(node.change.plan, use.memory.peak_bytes, use.capacity_bytes))
                continue
            found.append((round_step(weighed.step_s), node.number, node.change, weighed))
            found = sorted(found, key=lambda one: one[:2])[:most]
        return [self._fix(change, weighed, now) for _, _, change, weighed in found]

    def _push(self, heap: list[_Node], number: int, change: _Change, least_s: float = 0.0) -> None:
        """Put a change where its bound belongs, if it can be and may fit."""
        plan = replace(change.plan, boundaries=None) if change.open == "stages" else change.plan
        chosen = change.open not in ("", "stages")
        try:
            least = self._weighing.least(plan)
            overflows = self._weighing.surely_overflows(plan) if chosen else least.overflows
        except MpsimError:
            return
        if overflows:
            self._some = True
            if not chosen:
                self._nearer(Unfit(plan, least.memory_bytes, self._capacity(plan)))
            return
        found = round_step(least.step_s * (1 - 1e-11))
        heapq.heappush(heap, _Node(max(found, least_s), number, change))

    def _capacity(self, plan: Plan) -> int:
        devices = self._study.topology.devices
        return min(devices[device].memory_bytes for device in plan.place(len(devices)))

    def _nearer(self, one: Unfit) -> None:
        if self._nearest is None or one.bytes - one.capacity_bytes < self._nearest.bytes - self._nearest.capacity_bytes:
            self._nearest = one

    def _fix(self, change: _Change, weighed: Weighed, now: Weighed) -> Fix:
        plan, weighed = self._plainest(change.plan, weighed)
        use = weighed.fullest
        return Fix(
            kinds=change.kinds,
            options=options_of(self._given, plan),
            plan=plan,
            step_s=weighed.step_s,
            more_fraction=weighed.step_s / now.step_s - 1.0 if now.step_s else 0.0,
            peak_bytes=use.memory.peak_bytes,
            capacity_bytes=use.capacity_bytes,
            caveats=tuple(text for text in weighed.caveats if text not in now.caveats),
        )

    def _plainest(self, plan: Plan, weighed: Weighed) -> tuple[Plan, Weighed]:
        """Return a plan with as little said as can be: stages left open, where they were and it is no slower."""
        if plan.boundaries is not None and self._given.boundaries is None:
            bare = replace(plan, boundaries=None)
            try:
                found = self._weighing.weigh(bare)
            except MpsimError:
                return plan, weighed
            if not found.excess and round_step(found.step_s) <= round_step(weighed.step_s):
                plan, weighed = bare, found
        if not self._given.batch:
            bare = replace(plan, batch=0)
            if global_batch(self._study.workload, bare) == plan.batch:
                plan = bare
        return plan, weighed
