"""Run every plan of a grid, in one process or several: the same rows in any case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from mpsim.collectives.mapping import check_algorithm
from mpsim.errors import MpsimError
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import check_devices, scaled_by_type
from mpsim.lowering.draws import Seed, Trials, Variability, check_processes, seed_of
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.plan.model import MIB, Plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.schedules import Schedule, resolve_schedule
from mpsim.plan.sharding import Sharding
from mpsim.result.model import Result
from mpsim.result.statistics import check_baseline
from mpsim.sweeps.cache import Cache, cache_folder
from mpsim.sweeps.executors import submitting
from mpsim.sweeps.file import check_suffix, save_sweep
from mpsim.sweeps.grid import Candidate, candidates
from mpsim.sweeps.journal import Journal, journal_path, open_journal
from mpsim.sweeps.model import Row, SweepInterrupted, SweepResult, finish
from mpsim.sweeps.question import ask, cell_text, digest
from mpsim.sweeps.row import Job, row_here
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["sweep"]

Progress = Callable[[int, int], None]


def sweep(
    workload: Workload,
    topology: Topology,
    *,
    batch: int,
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
    by_type: Mapping[str, Workload] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    baseline: Result | None = None,
    speedups: bool = True,
    processes: int | None = None,
    executor: Executor | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    cache: bool | str | Path = False,
    progress: Progress | None = None,
) -> SweepResult:
    """Simulate every plan that uses up to so many devices, and rank them.

    Parameters
    ----------
    workload, topology
        What is split, over what.
    batch : int
        Samples in one step over all replicas: the same for every plan.
    devices : int, optional
        Devices at most; which of them, and which stage or replica each gets, is part of the search where they or the
        links are unlike (`mpsim.sweeps.placing.placements`). None: all.
    microbatches, schedules, tensor : sequence, optional
        Restrict the grid; see `mpsim.sweeps.grid.candidates` for what None stands for.
    bucket_bytes, algorithm, runtime, launch, recompute, host_speed
        Of every plan.
    trials, rng, variability, by_type, rescale, speed, unchecked
        As in `simulate`; all plans meet the same draws.
    baseline : Result, optional
        What speedups compare with; None: the fastest way to run the batch on one of the topology's devices.
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
    progress : callable, optional
        Called with the number of plans done and their total.

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
    ('dp=4 pp=1 tp=1 micro-batches=2', 24.0, 4.0)
    """
    n_devices = _checked_devices(devices, topology)
    if output is not None:
        check_suffix(output)
    drawn = Trials(count=trials, rng=seed_of(rng), variability=variability or Variability())
    for name, value in (("batch", batch), ("processes", processes), *_each(microbatches, tensor)):
        if value is not None and value < 1:
            raise MpsimError(f"{name} is {value}, expected 1 or more")
    for schedule in schedules or ():
        resolve_schedule(schedule)
    check_algorithm("all_reduce", algorithm)
    by_type = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
    costs = Costs(workload, by_type, workload.microbatch, 1)
    check_devices(costs, topology.devices)  # any of them may be chosen
    check_baseline(baseline, batch, "sweep")
    recomputed_layers(workload, [layer.costs[0] for layer in workload.layers], parse_recompute(recompute))
    grid = candidates(workload, n_devices, batch, microbatches=microbatches, schedules=schedules, tensor=tensor)
    if not grid:
        raise MpsimError(f"tensor sizes {list(tensor or ())} need more than the {n_devices} devices there are")
    job = Job(
        workload=workload,
        topology=topology,
        base=Plan(
            batch=batch,
            bucket_bytes=bucket_bytes,
            algorithm=algorithm,
            runtime=runtime,
            launch=launch,
            sharding=Sharding(recompute=recompute),
        ),
        trials=drawn,
        by_type=by_type,
        unchecked=unchecked,
        host_speed=host_speed,
        baseline=baseline,
    )
    workers = min(processes or os.cpu_count() or 1, len(grid))
    check_processes(workers)
    with _kept(job, grid, output=output, resume=resume, cache=cache, speedups=speedups) as (journal, known):
        table = _Table(grid=grid, progress=progress or (lambda done, total: None), journal=journal, cache=known)
        try:
            table.begin()
            _fill(table, job, workers, executor)
        except KeyboardInterrupt:
            raise SweepInterrupted(table.finished(workers, speedups=speedups)) from None
    found = table.finished(workers, speedups=speedups)
    if output is not None:
        _save(found, Path(output))
    return replace(found, notes=costs.remarks(topology.devices))


def _save(found: SweepResult, output: Path) -> None:
    """Write the table in the place of the rows as they came; of a sweep without a plan that can be run nothing."""
    some = any(row["reason"] is None for row in found.rows)
    if some:
        save_sweep(output.resolve(), found)  # where rows were appended, through a link too
    if journal_path(output) != output or not some:
        journal_path(output).unlink(missing_ok=True)


@contextmanager
def _kept(
    job: Job, grid: list[Candidate], *, output: str | Path | None, resume: bool, cache: bool | str | Path,
    speedups: bool,
) -> Iterator[tuple[Journal | None, Cache | None]]:  # fmt: skip
    """Open what rows are kept in."""
    folder = None if cache is False else _folder(cache)
    if output is None and folder is None:
        yield None, None
        return
    baseline = None if job.baseline is None else (job.baseline.plan, job.baseline.step_s)
    others = [getattr(job, one.name) for one in fields(job) if one.name not in ("workload", "topology", "baseline")]
    asked = ask(workload=job.workload, topology=job.topology, options=(others, baseline), grid=grid)
    with ExitStack() as stack:
        journal = known = None
        if output is not None:
            whole = replace(asked, options=digest((asked.options, speedups)))
            journal = stack.enter_context(open_journal(output, whole, len(grid), resume=resume))
        if folder is not None:
            known = stack.enter_context(closing(Cache(folder, asked)))
        yield journal, known


def _folder(cache: bool | str | Path) -> Path | None:
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

    grid: Sequence[Candidate]
    progress: Progress
    journal: Journal | None
    cache: Cache | None
    rows: dict[int, Row] = field(default_factory=dict)
    known: int = 0

    def begin(self) -> None:
        """Take over what is known."""
        if self.journal is not None:
            self.rows |= self.journal.rows
        if self.cache is not None:
            for number in self.missing:
                if (row := self.cache.get(cell_text(self.grid[number]))) is not None:
                    self._keep(number, row)
        self.known = len(self.rows)
        if self.rows:
            self.progress(len(self.rows), len(self.grid))

    @property
    def missing(self) -> list[int]:
        """The numbers of the plans without a row."""
        return [number for number in range(len(self.grid)) if number not in self.rows]

    def add(self, number: int, row: Row) -> None:
        """Keep a row that was computed."""
        if self.cache is not None:
            self.cache.put(cell_text(self.grid[number]), row)
        self._keep(number, row)
        self.progress(len(self.rows), len(self.grid))

    def _keep(self, number: int, row: Row) -> None:
        self.rows[number] = row if self.journal is None else self.journal.append(number, row)

    def finished(self, processes: int, *, speedups: bool) -> SweepResult:
        """Return the rows there are, ranked."""
        rows = [self.rows[i] for i in sorted(self.rows)]
        found = replace(finish(rows, len(self.grid), processes), known=self.known)
        if speedups:
            return found
        empty = dict.fromkeys(("speedup", "baseline", "baseline_step_s"))
        return replace(found, rows=tuple(row | empty for row in found.rows))


def _fill(table: _Table, job: Job, processes: int, executor: Executor | None) -> None:
    """Compute the rows that are missing."""
    if executor is None and processes == 1:
        for number in table.missing:
            table.add(number, row_here(job, table.grid[number]))
        return
    futures: dict[Future[Row], int] = {}
    try:
        with submitting(job, processes, executor) as submit:
            futures.update((submit(table.grid[number]), number) for number in table.missing)
            for future in as_completed(futures):
                table.add(futures[future], future.result())
    except BrokenExecutor:
        raise MpsimError(
            f"a worker process died after {len(table.rows)} of {len(table.grid)} plans (out of memory?): lower the"
            f" number of processes, {processes}, or the number of trials"
        ) from None
    finally:  # of a sweep that is left early, too
        for future, number in futures.items():
            if executor is not None:  # those of its own processes have ended with them
                future.cancel()
            if number not in table.rows and future.done() and not future.cancelled() and not future.exception():
                table.add(number, future.result())
