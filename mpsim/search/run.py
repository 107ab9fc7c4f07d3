"""Find the best plan: bound all, simulate those that may be better than the best so far, and no other."""

from __future__ import annotations

import heapq
import os
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from mpsim.bars import Progress, ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials, check_processes
from mpsim.plan.model import Plan, check_size
from mpsim.processes import worker_pool
from mpsim.search.bounds import NOTHING, Least
from mpsim.search.found import Found, FoundInterrupted, Unfit
from mpsim.search.space import Axes, Family, count_variants, families, variants
from mpsim.search.study import Study
from mpsim.simulation.cutting import round_step
from mpsim.sweeps.file import check_suffix, save_sweep
from mpsim.sweeps.journal import Journal, journal_path, open_journal
from mpsim.sweeps.model import Row, finish
from mpsim.sweeps.question import Question, code_digest, digest

__all__ = ["best", "dry_run"]

_TOP = 10
_EVERYTHING, _PLAIN = Axes(), Plan()


@checked
def best(
    study: Study,
    *,
    batch: int,
    axes: Axes = _EVERYTHING,
    base: Plan | str | Path = _PLAIN,
    top: int = _TOP,
    trials: Trials | None = None,
    prune: bool = True,
    processes: int | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    progress: ShowProgress = None,
) -> Found:
    """Return the best plans of a study: of each number of devices the fastest that fits, and the fastest of all.

    Every plan of the space is bounded from below, in step and in memory. Plans are simulated in the order of their
    bounds, until no other can be among those that are asked for: the answer is that of simulating every plan.

    Parameters
    ----------
    study : Study
        A workload on a topology.
    batch : int
        Samples in one step over all replicas: the same for every plan.
    axes : Axes
        What is tried.
    base : Plan
        All else that plans have: runtime, algorithm, buckets.
    top : int
        So many of the fastest plans are found, whatever their number of devices.
    trials : Trials, optional
        Of the plans found; the search itself is at the median.
    prune : bool
        False: simulate every plan, to check the answer.
    processes : int, optional
        None: as many as there are processors. The answer does not depend on it.
    output : path, optional
        The file, ``.csv`` or ``.parquet``, to keep the rows in: each is there once it is simulated, and those of the
        answer take their place in the end.
    resume : bool
        Go on with the rows of the same search that `output` has.
    progress : callable or bool, optional
        Called with the number of plans decided and of all; by default a bar, in a terminal or a notebook, of what takes
        more than two seconds. False: none.

    Raises
    ------
    MpsimError
        No plan can be run.
    FoundInterrupted
        Ctrl-C; it holds the best so far.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> study = Study(Workload.chain("four", layers, activation_bytes=10**9), chain(4, link="1GB/s@0"))
    >>> found = best(study, batch=8, processes=1)
    >>> found.best["plan"], found.best["step_s"], found.simulated < found.planned
    ('dp=4 micro-batches=2', 24.0, True)
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise MpsimError(f"batch is {batch!r}, expected 1 or more samples")
    if output is not None:
        check_suffix(output)
    made, left = families(study.workload, len(study.topology.devices), batch, axes)
    base = replace(Plan.of(base), batch=batch)
    if not made:
        raise MpsimError(_none(left))
    workers = processes or os.cpu_count() or 1
    check_processes(workers)
    search = _Search(study, made, base, axes, top=top, prune=prune)
    kept = _journal(study, batch, axes, base, output, search.planned, resume=resume)
    with progress_of(progress, "plans") as search.progress, kept as search.journal:
        try:
            search.run(workers)
        except KeyboardInterrupt:
            raise FoundInterrupted(search.found(left, workers, complete=False)) from None
        found = search.found(left, workers, complete=True, trials=trials)
    if output is not None and found.sweep.rows:
        save_sweep(Path(output).resolve(), found.sweep)
        if journal_path(output) != Path(output):
            journal_path(output).unlink(missing_ok=True)
    return found


def dry_run(study: Study, *, batch: int, axes: Axes = _EVERYTHING, base: Plan = _PLAIN) -> Found:
    """Return how many plans there are, and how many are known not to fit or not to run, before any is simulated.

    The arguments are those of `best`.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> found = dry_run(Study(Workload.chain("four", layers), chain(2, link="1GB/s@0")), batch=2)
    >>> found.planned, dict(found.counts)
    (24, {})
    """
    made, left = families(study.workload, len(study.topology.devices), batch, axes)
    if not made:
        raise MpsimError(_none(left))
    search = _Search(study, made, replace(base, batch=batch), axes, top=1, prune=True)
    search.bound()
    return search.found(left, 1, complete=False)


def _none(left: Counter[str]) -> str:
    if left:
        reason, count = left.most_common(1)[0]
        return f"no plan can be: {reason} ({count} times): change the batch, or trace other micro-batches"
    return "no plan can be: no sizes of the axes that are asked for make up a number of devices that is: allow others"


@contextmanager
def _journal(
    study: Study, batch: int, axes: Axes, base: Plan, output: str | Path | None, size: int, *, resume: bool
) -> Iterator[Journal | None]:
    """Open what rows are kept in."""
    if output is None:
        yield None
        return
    options = (study.by_type, study.unchecked, study.host_speed)
    question = Question(
        code=code_digest(),
        workload=digest(study.workload),
        topology=digest(study.topology),
        options=digest(options),
        batch=digest(batch),
        grid=digest((axes, base)),
    )
    with open_journal(output, [question] * size, resume=resume) as journal:
        yield journal


@dataclass(order=True, slots=True)
class _Node:
    """A family that is not expanded yet, or a plan, with its bound: what is decided next has the least."""

    least_s: float
    number: int
    family: Family = field(compare=False)
    plan: Plan | None = field(default=None, compare=False)
    tier: int = field(default=0, compare=False)


class _Search:
    """The plans of a space, from bounds to rows."""

    def __init__(
        self,
        study: Study,
        made: Sequence[Family],
        base: Plan,
        axes: Axes,
        *,
        top: int,
        prune: bool,
    ) -> None:
        self._study, self._base, self._axes = study, base, axes
        self._top, self._prune = top, prune
        self.journal: Journal | None = None
        self.progress: Progress = lambda done, total: None
        self._counts = Counter[str]()
        self._reasons = Counter[str]()
        self._unfit: Unfit | None = None
        self.rows: dict[int, Row] = {}
        self._cut: dict[int, Plan] = {}  # those of the rows, with their stages
        # Steps of plans that fit, with their devices and numbers, ascending; the first for each number of devices.
        self._every: list[tuple[float, int, int]] = []
        self._fastest: dict[int, tuple[float, int, int]] = {}
        # The plans of a family have the numbers from its own to the next one's.
        sizes = [self._size(family) for family in made]
        self._numbers = [*accumulate(sizes, initial=0)]
        self._made, self.planned = made, self._numbers[-1]
        self._decided = 0

    # The space.

    def _size(self, family: Family) -> int:
        plan = family.plan(self._base)
        return count_variants(self._study.workload, family, self._base, self._axes) * len(self._study.places(plan))

    def _variants(self, family: Family) -> list[Plan]:
        plans = variants(self._study.workload, family, self._base, self._axes)
        return [
            plan if not place else replace(plan, devices=place) for plan in plans for place in self._study.places(plan)
        ]

    def bound(self) -> None:
        """Decide the plans that cannot be run, or cannot fit."""
        heap: list[_Node] = []
        for number, family in zip(self._numbers, self._made, strict=False):
            self._push_all(number, family, heap)

    def run(self, workers: int) -> None:
        """Decide every plan."""
        heap = [_Node(0.0, number, family) for number, family in zip(self._numbers, self._made, strict=False)]
        heapq.heapify(heap)
        self.progress(0, self.planned)
        futures: dict[Future[Any], _Node] = {}
        try:
            with worker_pool(workers, _start, self._study) if workers > 1 else nullcontext() as pool:
                while heap or futures:
                    while len(futures) < workers and (node := self._next(heap)) is not None:
                        assert node.plan is not None
                        if pool is None:
                            self._take(node, _work(self._study, self._tier(node), node.plan), heap)
                        else:
                            futures[pool.submit(_work_of, self._tier(node), node.plan)] = node
                    done, _ = wait(futures, return_when=FIRST_COMPLETED) if futures else (set(), None)
                    for future in done:
                        self._take(futures.pop(future), future.result(), heap)
        except BrokenExecutor:
            raise MpsimError(
                f"a worker process died after {len(self.rows)} plans (out of memory?): lower the number of processes,"
                f" {workers}"
            ) from None

    def _tier(self, node: _Node) -> int:
        """Return the tier of the bound that a plan gets next; that of none: it is simulated."""
        return node.tier if self._prune else len(_TIERS)

    def _take(self, node: _Node, found: Row | tuple[Plan, Least] | str, heap: list[_Node]) -> None:
        """Take in what was found out of a plan: its row, a closer bound, or why it cannot be run."""
        if isinstance(found, dict):
            self._keep(node, found)
        else:
            self._bounded(node, found, heap)

    def _next(self, heap: list[_Node]) -> _Node | None:
        """Return the next plan to simulate, or to bound with more than a moment's work.

        Bounds become closer as their turn comes, and what they rule out goes.
        """
        while heap:
            node = heapq.heappop(heap)
            if node.plan is None:
                self._expand(node, heap)
            elif self._ruled_out(node.family.ranks, node.least_s):
                self._decide("bounded")
            elif self._tier(node) < _SOON:
                self._closer(node, heap)
            elif self._tier(node) < len(_TIERS):
                return node
            elif self.journal is not None and node.number in self.journal.rows:
                self._keep(node, self.journal.rows[node.number], known=True)
            else:
                return node
        return None

    def _expand(self, node: _Node, heap: list[_Node]) -> None:
        """Bound the plans of a family."""
        family = node.family
        if node.tier == 0 and self._prune:
            least_s = self._lightest(family)
            if least_s is not None:
                heapq.heappush(heap, _Node(round_step(least_s), node.number, family, None, 1))
                return
        if node.tier == 1 and self._ruled_out(family.ranks, node.least_s):
            self._decide("bounded", self._size(family))
            return
        self._push_all(node.number, family, heap)

    def _lightest(self, family: Family) -> float | None:
        """Return what any plan of a family takes at least: the work of its ranks; None where that is not known."""
        plan = family.plan(self._base)
        if family.pp > 1:
            plan = replace(plan, schedule="gpipe")
        try:
            return min(self._study.bounds.work_s(replace(plan, devices=place)) for place in self._study.places(plan))
        except MpsimError:
            return None

    def _push_all(self, first: int, family: Family, heap: list[_Node]) -> None:
        """Put the plans of a family where they belong, but for those that cannot fit whatever their schedule."""
        alike: dict[object, list[tuple[int, Plan]]] = {}
        for number, plan in enumerate(self._variants(family), first):
            alike.setdefault((plan.sharding, plan.devices), []).append((number, plan))
        for own in alike.values():
            least = self._lightest_of([plan for _, plan in own])
            if least.overflows:
                self._nearer(own[0][1], self._study.bounds.rough(own[0][1]).memory_bytes)
                self._decide("too large", len(own))
                continue
            for number, plan in own:
                self._push(_Node(0.0, number, family, plan), heap)

    def _lightest_of(self, plans: Sequence[Plan]) -> Least:
        """Return the bound of memory of plans that differ in their schedules."""
        if not self._prune or len(plans) == 1:
            return NOTHING
        try:
            return self._study.bounds.lightest(plans)
        except MpsimError:
            return NOTHING

    def _push(self, node: _Node, heap: list[_Node]) -> None:
        """Put a plan where its bound belongs, if it can be and fits."""
        if not self._prune:
            heapq.heappush(heap, node)
            return
        self._closer(node, heap)

    def _closer(self, node: _Node, heap: list[_Node]) -> None:
        """Bound a plan more closely."""
        assert node.plan is not None
        self._bounded(node, _bound(self._study, node.tier, node.plan), heap)

    def _bounded(self, node: _Node, found: tuple[Plan, Least] | str, heap: list[_Node]) -> None:
        """Put a plan where its new bound belongs; what cannot be, or cannot fit, goes."""
        if isinstance(found, str):
            self._reasons[found] += 1
            self._decide("impossible")
            return
        plan, least = found
        if least.overflows:
            self._too_large(node, least)
            return
        least_s = round_step(least.step_s * (1 - 1e-11))
        heapq.heappush(heap, replace(node, least_s=max(node.least_s, least_s), plan=plan, tier=node.tier + 1))

    def _too_large(self, node: _Node, least: Least) -> None:
        assert node.plan is not None
        self._nearer(node.plan, least.memory_bytes)
        self._decide("too large")

    def _nearer(self, plan: Plan, count: float) -> None:
        """Remember the plan that comes nearest to fitting."""
        if self._unfit is None or count < self._unfit.bytes:
            devices = self._study.topology.devices
            least = min(devices[device].memory_bytes for device in plan.place(len(devices)))
            self._unfit = Unfit(plan=plan, bytes=count, capacity_bytes=least)

    # What is found.

    def _ruled_out(self, n_devices: int, least_s: float) -> bool:
        """Whether a plan of so many devices that takes no less can be no part of the answer."""
        if not self._prune:
            return False
        own = self._fastest.get(n_devices)
        if own is None or least_s <= own[0]:
            return False
        return not self._top or (len(self._every) >= self._top and least_s > self._every[self._top - 1][0])

    def _keep(self, node: _Node, row: Row, *, known: bool = False) -> None:
        if self.journal is not None and not known:
            row = self.journal.append(node.number, row)
        self.rows[node.number] = row
        if node.plan is not None and node.plan.boundaries is not None:
            self._cut[node.number] = node.plan
        if row["reason"]:
            self._reasons[row["reason"]] += 1
            self._decide("impossible")
            return
        self._decide("simulated")
        if row["fits"] is False:
            assert node.plan is not None
            self._nearer(node.plan, float(row["highest_peak_memory_bytes"]))
            return
        own = (round_step(row["step_s"]), row["n_devices"], node.number)
        insort(self._every, own)
        self._fastest[own[1]] = min(own, self._fastest.get(own[1], own))

    def _decide(self, what: str, count: int = 1) -> None:
        self._counts[what] += count
        self._decided += count
        self.progress(self._decided, self.planned)

    def found(self, left: Counter[str], workers: int, *, complete: bool, trials: Trials | None = None) -> Found:
        """Return the answer: of each number of devices the fastest, and the fastest of all."""
        numbers = sorted({number for *_, number in (*self._every[: self._top], *self._fastest.values())})
        chosen = [self._cut.get(number) or self._study.as_cut(self.plan_of(number)) for number in numbers]
        known = [self.rows[number] for number in numbers]
        drawn = trials if complete and trials != Trials() else None
        rows = self._drawn(chosen, drawn, workers) if drawn else known
        rows = [row | {"question": own["question"]} for row, own in zip(rows, known, strict=True)]
        plans = {row["plan"]: plan for row, plan in zip(rows, chosen, strict=True)}
        sweep = finish(rows, len(rows), workers)
        return Found(
            sweep=replace(sweep, notes=(*self._untried(chosen), *self._study.notes)),
            planned=self.planned,
            counts=dict(self._counts),
            reasons=dict(self._reasons + left),
            unfit=self._unfit,
            complete=complete,
            plans=plans,
            study=self._study,
        )

    def _untried(self, plans: Sequence[Plan]) -> list[str]:
        """Say what else might be faster than these, where some devices are further apart than others."""
        if self._axes.shards or not any(plan.sharding.zero and not plan.sharding.shards for plan in plans):
            return []
        routes = self._study.routes
        reached = {routes.bandwidth_bytes_per_s(routes.path(0, i)) for i in range(1, len(self._study.topology.devices))}
        if len(reached) < 2:
            return []
        return ["not tried: replicas that shard in groups, as within a node (--shards 0,N), which may be faster"]

    def _drawn(self, plans: Sequence[Plan], trials: Trials, workers: int) -> list[Row]:
        """Return the rows of the plans of the answer over some trials."""
        if workers == 1 or len(plans) < 2:
            return [self._study.row(plan, trials) for plan in plans]
        with worker_pool(min(workers, len(plans)), _start, self._study) as pool:
            return list(pool.map(_drawn, plans, [trials] * len(plans)))

    def plan_of(self, number: int) -> Plan:
        """Return the plan of a number."""
        at = bisect_right(self._numbers, number) - 1
        return self._variants(self._made[at])[number - self._numbers[at]]


def _rough(study: Study, plan: Plan) -> tuple[Plan, Least]:
    return plan, study.bounds.rough(plan)


def _close(study: Study, plan: Plan) -> tuple[Plan, Least]:
    return plan, study.bounds.close(plan)


_TIERS: tuple[Callable[[Study, Plan], tuple[Plan, Least]], ...] = (_rough, _close, Study.timed, Study.cut)
_SOON = 2  # of them, which take no process of their own

_shared: list[Study] = []


def _start(study: Study) -> None:
    _shared[:] = [study]


def _bound(study: Study, tier: int, plan: Plan) -> tuple[Plan, Least] | str:
    """Return a plan with a bound, or why it cannot be run."""
    try:
        check_size(plan)
        return _TIERS[tier](study, plan)
    except MpsimError as error:
        return str(error)


def _work(study: Study, tier: int, plan: Plan) -> Row | tuple[Plan, Least] | str:
    """Return the row of a plan, or where there is another tier its bound."""
    return _bound(study, tier, plan) if tier < len(_TIERS) else study.row(plan)


def _work_of(tier: int, plan: Plan) -> Row | tuple[Plan, Least] | str:
    return _work(_shared[0], tier, plan)


def _drawn(plan: Plan, trials: Trials) -> Row:
    return _shared[0].row(plan, trials)
