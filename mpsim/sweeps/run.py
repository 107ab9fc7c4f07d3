"""Run every plan of a grid, in one process or several: the same rows in any case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from mpsim.collectives.mapping import check_algorithm
from mpsim.errors import MpsimError
from mpsim.lowering.costs import Costs
from mpsim.lowering.devices import check_devices, scaled_by_type
from mpsim.lowering.draws import Seed, Trials, Variability, seed_of
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.plan.model import MIB, Plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.schedules import Schedule, resolve_schedule
from mpsim.plan.sharding import Sharding
from mpsim.processes import worker_pool
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.result.statistics import check_baseline
from mpsim.simulation.run import simulate_lowering
from mpsim.sweeps.choosing import best_placed
from mpsim.sweeps.grid import Candidate, candidates
from mpsim.sweeps.model import COLUMNS, Row, SweepInterrupted, SweepResult, finish
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["sweep"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What all plans of a sweep share; sent to each process once."""

    workload: Workload
    topology: Topology
    base: Plan
    trials: Trials
    by_type: Mapping[str, Workload]
    unchecked: bool
    host_speed: float
    baseline: Result | None


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
    processes: int | None = None,
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
    processes : int, optional
        None: as many as there are processors. The rows do not depend on it.
    progress : callable, optional
        Called with the number of plans done and their total.

    Returns
    -------
    SweepResult
        One row for each plan; those that cannot be run say why.

    Raises
    ------
    MpsimError
        What is asked for makes no sense for any plan.
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
    job = _Job(
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
    found = _run(job, grid, workers, progress or (lambda done, total: None))
    return replace(found, notes=costs.remarks(topology.devices))


def _each(microbatches: Sequence[int] | None, tensor: Sequence[int] | None) -> Iterator[tuple[str, int]]:
    yield from (("microbatches", count) for count in microbatches or ())
    yield from (("tensor size", size) for size in tensor or ())


def _checked_devices(devices: int | None, topology: Topology) -> int:
    have = len(topology.devices)
    if devices is not None and not 1 <= devices <= have:
        raise MpsimError(f"{devices} devices asked for, topology {topology.name!r} has {have}: ask for 1 to {have}")
    return devices or have


def _run(job: _Job, grid: list[Candidate], processes: int, progress: Progress) -> SweepResult:
    rows: dict[int, Row] = {}
    run = _run_here if processes == 1 else _run_in_pool
    try:
        run(job, grid, processes, rows, progress)
    except KeyboardInterrupt:
        raise SweepInterrupted(finish([rows[i] for i in sorted(rows)], len(grid), processes)) from None
    return finish([rows[i] for i in range(len(grid))], len(grid), processes)


def _run_here(job: _Job, grid: list[Candidate], processes: int, rows: dict[int, Row], progress: Progress) -> None:
    for i, candidate in enumerate(grid):
        rows[i] = _row(job, candidate)
        progress(len(rows), len(grid))


def _run_in_pool(job: _Job, grid: list[Candidate], processes: int, rows: dict[int, Row], progress: Progress) -> None:
    futures: list[Future[Row]] = []
    try:
        with worker_pool(processes, _start, job) as pool:
            futures.extend(pool.submit(_row_there, candidate) for candidate in grid)
            for i, future in enumerate(futures):
                rows[i] = future.result()
                progress(len(rows), len(grid))
    except BrokenProcessPool:
        raise MpsimError(
            f"a worker process died after {len(rows)} of {len(grid)} plans (out of memory?): lower the number of"
            f" processes, {processes}, or the number of trials"
        ) from None
    except BaseException:
        rows |= {i: f.result() for i, f in enumerate(futures) if f.done() and not f.cancelled() and not f.exception()}
        raise


_shared: list[_Job] = []


def _start(job: _Job) -> None:
    """Keep what all plans share."""
    _shared[:] = [job]


def _row_there(candidate: Candidate) -> Row:
    return _row(_shared[0], candidate)


def _row(job: _Job, candidate: Candidate) -> Row:
    """Return the row of one plan, or why it cannot be run."""
    row: Row = dict.fromkeys(COLUMNS) | _coordinates(job, candidate)
    try:
        lowering = best_placed(
            job.workload,
            job.topology,
            candidate.plan(job.base),
            job.by_type,
            host_speed=job.host_speed,
            unchecked=job.unchecked,
        )
        result = simulate_lowering(lowering, job.trials, unchecked=job.unchecked, baseline=job.baseline, spans=False)
    except MpsimError as error:
        return row | {"reason": str(error)}
    return row | summary_row(result)


def _coordinates(job: _Job, candidate: Candidate) -> Row:
    """Return what is known of a plan before it is run."""
    batch, parts = job.base.batch, candidate.dp * candidate.microbatches
    # The text and the strategy do not depend on the batch, the one thing for which there may be no such plan.
    plan = candidate.plan(Plan())
    return {
        "workload": job.workload.name,
        "topology": job.topology.name,
        "plan": plan.text,
        "strategy": plan.strategy,
        "n_devices": candidate.ranks,
        "dp": candidate.dp,
        "pp": candidate.pp,
        "tp": candidate.tp,
        "global_batch": batch,
        "microbatches": candidate.microbatches,
        "microbatch_size": None if batch % parts else batch // parts,
        "schedule": plan.schedule_name if candidate.pp > 1 else None,
        "runtime": job.base.runtime,
        "algorithm": job.base.algorithm,
        "trials": job.trials.count,
    }
