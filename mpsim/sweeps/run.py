"""Run every plan of a grid, in one process or several: the same rows in any case."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from mpsim.bars import Progress, ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.collectives.mapping import check_algorithm
from mpsim.errors import MpsimError
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import check_devices, scaled_by_type
from mpsim.lowering.draws import Seed, Trials, Variability, check_processes, seed_of
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.plan.model import MIB, Plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.schedules import Schedule, as_registered, resolve_schedule
from mpsim.plan.sharding import Sharding
from mpsim.result.model import Result
from mpsim.sweeps.cache import Cache, cache_folder
from mpsim.sweeps.executors import submitting
from mpsim.sweeps.file import check_suffix, save_sweep
from mpsim.sweeps.grid import Candidate, candidates
from mpsim.sweeps.jobs import Cell, baseline_for, batches_of, workloads_of
from mpsim.sweeps.journal import Journal, journal_path, open_journal
from mpsim.sweeps.model import Row, SweepInterrupted, SweepResult, finish
from mpsim.sweeps.question import Question, ask, cell_text, digest
from mpsim.sweeps.row import Job, origin_of, row_here
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["sweep"]


@checked
def sweep(
    workload: Workload | str | Path | Sequence[Workload | str | Path],
    topology: Topology | str | Path,
    *,
    batch: int | Sequence[int],
    devices: int | None = None,
    microbatches: Sequence[int] | None = None,
    schedules: Sequence[str | Schedule] | None = None,
    tensor: Sequence[int] | None = None,
    bucket_bytes: int = 25 * MIB,
    algorithm: str = "ring",
    runtime: str = "ideal",
    launch: str = "",
    recompute: str = "",
    host_speed: float = 1.0,
    trials: int = 1,
    rng: Seed = 0,
    variability: Variability | None = None,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    baseline: Result | Sequence[Result] | None = None,
    speedups: bool = True,
    processes: int | None = None,
    executor: Executor | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    cache: bool | str | Path = False,
    progress: ShowProgress = None,
) -> SweepResult:
    """Simulate every plan that uses up to so many devices, and rank them.

    Parameters
    ----------
    workload : Workload or sequence of Workload
        What is split. Of several, such as one model with sequences of several lengths, and of several batches, each
        has its own ranks, speedups and baseline; `mpsim.sweeps.scaling_rows` lays them side by side.
    topology : Topology
        Over what.
    batch : int or sequence of int
        Samples in one step over all replicas: the same for every plan, or several that are swept one by one.
    devices : int, optional
        Devices at most; which of them, and which stage or replica each gets, is part of the search where they or the
        links are unlike (`mpsim.sweeps.placing.placements`). None: all.
    microbatches, schedules, tensor : sequence, optional
        Restrict the grid; see `mpsim.sweeps.grid.candidates` for what None stands for.
    bucket_bytes, algorithm, runtime, launch, recompute, host_speed
        Of every plan.
    trials, rng, variability, by_type, rescale, speed, unchecked
        As in `simulate`; all plans meet the same draws.
    baseline : Result or sequence of Result, optional
        What speedups compare with, of the same batch; of several workloads or batches one for each of them. None: the
        fastest way to run the batch on one of the topology's devices.
    speedups : bool
        Whether rows have speedups at all.
    processes : int, optional
        None: as many as there are processors. The rows do not depend on it.
    executor : concurrent.futures.Executor, optional
        Computes the rows instead of processes of this call's own; its workers need mpsim, and no torch.
    output : path, optional
        The file, ``.csv`` or ``.parquet``, to keep the rows in: each is there once it is done, whatever happens to
        this process, and the ranked table takes their place in the end. No file where no plan can be run.
    resume : bool
        Go on with the rows of the same sweep that `output` has; otherwise what it has is lost.
    cache : bool or path
        Take rows from a folder, and keep them there for other sweeps: True for the user's cache folder.
    progress : callable or bool, optional
        Called with the number of plans done and their total; by default a bar, in a terminal or a notebook, of what
        takes more than two seconds. False: none.

    Returns
    -------
    SweepResult
        One row for each plan; those that cannot be run say why.

    Raises
    ------
    MpsimError
        What is asked for makes no sense for any plan; or `output` cannot be written, or answers another question.
    SweepInterrupted
        Ctrl-C; it holds the rows that were ready.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> found = sweep(Workload.chain("four", layers), chain(4, link="1GB/s@0"), batch=8, processes=1)
    >>> found.best["plan"], found.best["step_s"], found.best["speedup"]
    ('dp=4 micro-batches=2', 24.0, 4.0)
    """
    topology = Topology.of(topology)
    n_devices = _checked_devices(devices, topology)
    if output is not None:
        check_suffix(output)
    drawn = Trials(count=trials, rng=seed_of(rng), variability=variability or Variability())
    works, batches = workloads_of(workload), batches_of(batch)
    for name, value in (("processes", processes), *_each(microbatches, tensor)):
        if value is not None and value < 1:
            raise MpsimError(f"{name} is {value}, expected 1 or more")
    schedules = None if schedules is None else [as_registered(one) for one in schedules]
    for schedule in schedules or ():
        resolve_schedule(schedule)
    check_algorithm("all_reduce", algorithm)
    if by_type and len(works) > 1:
        raise MpsimError(f"costs by type of device are of one workload, {len(works)} are swept: sweep each by itself")
    base = Plan(
        bucket_bytes=bucket_bytes,
        algorithm=algorithm,
        runtime=runtime,
        launch=launch,
        sharding=Sharding(recompute=recompute),
    )
    job_of = partial(Job, topology=topology, trials=drawn, unchecked=unchecked, host_speed=host_speed)
    grid_of = partial(candidates, microbatches=microbatches, schedules=schedules, tensor=tensor)
    jobs: list[Job] = []
    cells: list[Cell] = []
    notes: list[str] = []
    for work in works:
        scaled = scaled_by_type(work, topology, by_type, rescale=rescale, speed=speed)
        notes += _checked_costs(work, topology, scaled, recompute)
        for size in batches:
            grid = grid_of(work, n_devices, size)
            if not grid:
                raise MpsimError(f"tensor sizes {list(tensor or ())} need more than the {n_devices} devices there are")
            cells += [Cell(len(jobs), candidate) for candidate in grid]
            held = baseline_for(baseline, works, work, size)
            jobs.append(job_of(workload=work, base=replace(base, batch=size), by_type=scaled, baseline=held))
    workers = min(processes or os.cpu_count() or 1, len(cells))
    check_processes(workers)
    kept = _kept(jobs, cells, output=output, resume=resume, cache=cache, speedups=speedups)
    with progress_of(progress, "plans") as told, kept as (journal, known):
        table = _Table(cells=cells, progress=told, journal=journal, caches=known)
        try:
            table.begin()
            _fill(table, jobs, workers, executor)
        except KeyboardInterrupt:
            raise SweepInterrupted(table.finished(workers, jobs, speedups=speedups)) from None
    found = table.finished(workers, jobs, speedups=speedups)
    if output is not None:
        _save(found, Path(output))
    return replace(found, notes=tuple(dict.fromkeys(notes)))


def _checked_costs(work: Workload, topology: Topology, by_type: Mapping[str, Workload], recompute: str) -> list[str]:
    """Refuse costs of which no plan could be made on any device; return what they have to say."""
    costs = Costs(work, by_type, work.microbatch, 1)
    check_devices(costs, topology.devices)  # any of them may be chosen
    recomputed_layers(work, [layer.costs[0] for layer in work.layers], parse_recompute(recompute))
    return [*costs.remarks(topology.devices)]


def _save(found: SweepResult, output: Path) -> None:
    """Write the table in the place of the rows as they came; of a sweep without a plan that can be run nothing."""
    some = any(row["reason"] is None for row in found.rows)
    if some:
        save_sweep(output.resolve(), found)  # where rows were appended, through a link too
    if journal_path(output) != output or not some:
        journal_path(output).unlink(missing_ok=True)


@contextmanager
def _kept(
    jobs: Sequence[Job], cells: Sequence[Cell], *, output: str | Path | None, resume: bool,
    cache: bool | str | Path, speedups: bool,
) -> Iterator[tuple[Journal | None, list[Cache]]]:  # fmt: skip
    """Open what rows are kept in: one journal, and a cache for each job."""
    folder = None if cache is False else _folder(cache)
    if output is None and folder is None:
        yield None, []
        return
    asked = [_question(job, [cell.candidate for cell in cells if cell.job == i]) for i, job in enumerate(jobs)]
    with ExitStack() as stack:
        journal, known = None, []
        if output is not None:
            batch = digest(([one.batch for one in asked], speedups))
            grid = digest([one.grid for one in asked])
            whole = [replace(one, batch=batch, grid=grid) for one in asked]
            journal = stack.enter_context(open_journal(output, [whole[cell.job] for cell in cells], resume=resume))
        if folder is not None:
            known = [stack.enter_context(closing(Cache(folder, one))) for one in asked]
        yield journal, known


def _question(job: Job, grid: Sequence[Candidate]) -> Question:
    """Return what the rows of a job answer."""
    apart = ("workload", "topology", "base", "baseline")
    others = [getattr(job, one.name) for one in fields(job) if one.name not in apart]
    baseline = None if job.baseline is None else (job.baseline.plan, job.baseline.step_s)
    return ask(
        workload=job.workload,
        topology=job.topology,
        options=(others, replace(job.base, batch=0)),
        batch=(job.base.batch, baseline),
        grid=grid,
    )


def _folder(cache: bool | str | Path) -> Path | None:
    if "\0" in str(cache):
        raise MpsimError(f"cache {str(cache)!r} is no path of a folder: name one, or give True for your own")
    try:
        return cache_folder() if isinstance(cache, bool) else Path(cache)
    except RuntimeError:
        return None  # nobody's


def _each(microbatches: Sequence[int] | None, tensor: Sequence[int] | None) -> Iterator[tuple[str, int]]:
    yield from (("microbatches", count) for count in microbatches or ())
    yield from (("tensor size", size) for size in tensor or ())


def _checked_devices(devices: int | None, topology: Topology) -> int:
    have = len(topology.devices)
    if devices is not None and not 1 <= devices <= have:
        raise MpsimError(f"{devices} devices asked for, topology {topology.name!r} has {have}: ask for 1 to {have}")
    return devices or have


@dataclass(slots=True, kw_only=True)
class _Table:
    """The rows of a sweep as they come, and where they are kept."""

    cells: Sequence[Cell]
    progress: Progress
    journal: Journal | None
    caches: Sequence[Cache]  # of each job, or none
    rows: dict[int, Row] = field(default_factory=dict)
    known: int = 0

    def begin(self) -> None:
        """Take over what is known."""
        if self.journal is not None:
            self.rows |= self.journal.rows
        for number in self.missing if self.caches else ():
            job, candidate = self.cells[number]
            if (row := self.caches[job].get(cell_text(candidate))) is not None:
                self._keep(number, row)
        self.known = len(self.rows)
        if self.rows:
            self.progress(len(self.rows), len(self.cells))

    @property
    def missing(self) -> list[int]:
        """The numbers of the plans without a row."""
        return [number for number in range(len(self.cells)) if number not in self.rows]

    def add(self, number: int, row: Row) -> None:
        """Keep a row that was computed."""
        if self.caches:
            job, candidate = self.cells[number]
            self.caches[job].put(cell_text(candidate), row)
        self._keep(number, row)
        self.progress(len(self.rows), len(self.cells))

    def _keep(self, number: int, row: Row) -> None:
        self.rows[number] = row if self.journal is None else self.journal.append(number, row)

    def finished(self, processes: int, jobs: Sequence[Job], *, speedups: bool) -> SweepResult:
        """Return the rows there are, ranked."""
        rows = [self.rows[i] for i in sorted(self.rows)]
        plans = [(jobs[number], candidate) for number, candidate in self.cells]
        found = replace(finish(rows, len(self.cells), processes), known=self.known, origin_of=partial(origin_of, plans))
        if speedups:
            return found
        empty = dict.fromkeys(("speedup", "baseline", "baseline_step_s"))
        return replace(found, rows=tuple(row | empty for row in found.rows))


def _fill(table: _Table, jobs: Sequence[Job], processes: int, executor: Executor | None) -> None:
    """Compute the rows that are missing."""
    if executor is None and processes == 1:
        for number in table.missing:
            job, candidate = table.cells[number]
            table.add(number, row_here(jobs[job], candidate))
        return
    futures: dict[Future[Row], int] = {}
    try:
        with submitting(jobs, processes, executor) as submit:
            futures.update((submit(*table.cells[number]), number) for number in table.missing)
            for future in as_completed(futures):
                table.add(futures[future], future.result())
    except BrokenExecutor:
        raise MpsimError(
            f"a worker process died after {len(table.rows)} of {len(table.cells)} plans (out of memory?): lower the"
            f" number of processes, {processes}, or the number of trials"
        ) from None
    finally:  # of a sweep that is left early, too
        for future, number in futures.items():
            if executor is not None:  # those of its own processes have ended with them
                future.cancel()
            if number not in table.rows and future.done() and not future.cancelled() and not future.exception():
                table.add(number, future.result())
