"""``mpsim sweep``: predict every plan, rank them, write the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from mpsim import interrupts
from mpsim.cli.baseline import baseline_of, baseline_option
from mpsim.cli.options import options_of
from mpsim.cli.output import TABLES, check_kept, json_option, output_option, print_json, say, tell
from mpsim.cli.planning import host_speed_option
from mpsim.cli.progress import progress_bar
from mpsim.cli.read import costs_by_type, read_pair
from mpsim.cli.scaling import ScalingOptions, scaling_options, unchecked_option
from mpsim.cli.trials import TrialOptions, trial_options, trials_of
from mpsim.cli.types import BYTES, NUMBERS
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials
from mpsim.plan.model import LAUNCHES
from mpsim.plan.schedules import SCHEDULES
from mpsim.result.model import Result
from mpsim.simulation import simulate as simulate_plan
from mpsim.sweeps import SweepInterrupted, SweepResult, scaling_rows, table
from mpsim.sweeps import sweep as sweep_plans
from mpsim.sweeps.executors import EXECUTORS, cluster_executor
from mpsim.sweeps.file import check_suffix
from mpsim.sweeps.journal import journal_path
from mpsim.workload.model import Workload

__all__ = ["sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    batch: tuple[int, ...]
    devices: int | None
    microbatches: tuple[int, ...] | None
    schedules: str | None
    tensor: tuple[int, ...] | None
    bucket: int
    algorithm: str
    runtime: str
    launch: str
    recompute: str
    scaling: ScalingOptions
    unchecked: bool
    host_speed: float
    trials: TrialOptions
    baseline: str
    processes: int | None
    executor: str
    address: str | None
    resume: bool
    cache: bool
    top: int
    progress: bool | None
    output: str | None


@click.command(epilog="Plans that cannot be run are rows too, with the reason instead of numbers.")
@click.argument("workloads", nargs=-1, metavar="WORKLOAD...")
@click.argument("topology")
@click.option("--batch", type=NUMBERS, required=True, metavar="B,B,…", help="Samples in a step; each is ranked alone.")
@click.option("--devices", type=int, metavar="N", help="Up to so many of the topology's; by default all.")
@click.option("--microbatches", type=NUMBERS, help="By default every count whose micro-batch was measured, 8 at most.")
@click.option("--schedules", metavar="NAME,NAME,…", help=f"Of {', '.join(SCHEDULES)}; by default the first three.")
@click.option("--tensor", type=NUMBERS, help="Tensor-parallel sizes; by default all.")
@click.option("--bucket", type=BYTES, default="25 MiB", show_default=True, help="Gradients all-reduced at once.")
@click.option("--algorithm", default="ring", show_default=True, metavar="NAME", help="Of the collectives.")
@click.option("--runtime", default="ideal", show_default=True, metavar="NAME", help="How messages behave.")
@click.option("--launch", default="", metavar="NAME", help=f"Of hosts: {', '.join(LAUNCHES)}; by default as traced.")
@click.option("--recompute", default="", metavar="WHAT", help="Forwards run again, as of mpsim simulate.")
@scaling_options
@unchecked_option
@host_speed_option
@trial_options
@baseline_option
@click.option("--processes", type=int, metavar="N", help="By default one for each processor.")
@click.option("--executor", default="processes", show_default=True, metavar="|".join(EXECUTORS), help="Who computes.")
@click.option("--address", metavar="ADDRESS", help="Of a cluster of Ray's or Dask's; by default one is started here.")
@click.option("--resume/--no-resume", default=True, help="Go on with the rows in -o, the default; or begin it anew.")
@click.option("--cache/--no-cache", default=True, help="Take rows known from other sweeps, and keep these; or neither.")
@click.option("--top", type=int, default=10, show_default=True, metavar="N", help="Plans to list; 0: all.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write a row for each plan (.csv or .parquet), as they come.", suffixes=TABLES)
def sweep(workloads: tuple[str, ...], topology: str, as_json: bool, **given: Any) -> None:
    """Predict every way of splitting WORKLOAD over up to --devices of TOPOLOGY, and rank them.

    Of several WORKLOADs, such as a model with sequences of several lengths, and of several batches each is ranked by
    itself; what more devices bring to all of them (strong and weak scaling) comes first.

    \b
      mpsim sweep mlp.json switch:8,link=eth_10g,memory=4GiB --batch 8192 -o mlp.csv
      mpsim sweep workloads/gpt2.h200.json dgx_h200 --batch 64 --runtime torch-nccl -o gpt2.csv
      mpsim plot gpt2.csv -o gpt2.png
      mpsim sweep seq-2048.json seq-4096.json dgx_h100 --batch 8,16,32 -o llama.csv
    """
    asked = options_of(_Asked, given)
    if not workloads:
        raise MpsimError(f"WORKLOAD or TOPOLOGY is missing, {topology!r} alone is given: see mpsim sweep --help")
    if asked.output:
        check_suffix(asked.output)
    if asked.top < 0:
        raise MpsimError(f"--top is {asked.top}, expected the number of plans to list, or 0 for all")
    check_kept([asked.output] if asked.output else [], [*workloads, topology])
    run = _prepared(workloads, topology, asked)
    try:
        found = run()
    except SweepInterrupted as stop:
        raise _interrupted(stop.result, asked.output) from None
    _refuse_nothing(found)
    if asked.output:
        tell(f"wrote {asked.output}")
    if as_json:
        print_json(_as_dict(found))
    else:
        names = [", ".join(map(str, _values(found, name))) for name in ("workload", "topology", "global_batch")]
        say(table(found, asked.top, head="{} | {} | batch {}\n".format(*names)))
        known = f", {found.known} of them known" if found.known else ""
        say(f"\n{found.planned} plans{known}, {_count(found.processes, 'process', 'processes')}")


def _prepared(paths: Sequence[str], topology_text: str, given: _Asked) -> Callable[[], SweepResult]:
    """Return the sweep with everything read and checked, ready to be run."""
    pairs = [read_pair(path, topology_text) for path in paths]
    workloads, topology = [workload for workload, _ in pairs], pairs[0][1]
    if given.scaling.costs and len(workloads) > 1:
        raise MpsimError(f"--costs is of one workload, {len(workloads)} are given: sweep each by itself")
    batches = sorted(set(given.batch))
    trials = _trials(given.trials, workloads, batches)
    shared: dict[str, Any] = {
        "trials": trials.count, "rng": trials.rng, "variability": trials.variability,
        "by_type": costs_by_type(given.scaling.costs, topology), "rescale": given.scaling.rescale,
        "speed": given.scaling.speed, "unchecked": given.unchecked, "host_speed": given.host_speed,
    }  # fmt: skip
    n_devices = min(given.devices or len(topology.devices), len(topology.devices))
    simulated = {work.name: partial(simulate_plan, work, topology, spans=False, **shared) for work in workloads}
    baselines = [
        baseline_of(given.baseline, work, batch, n_devices, simulated[work.name])
        for work in workloads
        for batch in batches
    ]
    chosen = given.schedules
    schedules = None if chosen is None else [name.strip() for name in chosen.split(",")]

    def run() -> SweepResult:
        with _executor(given) as executor, progress_bar(given.progress, "plans") as progress:
            return sweep_plans(
                workloads, topology, batch=batches, devices=given.devices, microbatches=given.microbatches,
                schedules=schedules, tensor=given.tensor, bucket_bytes=given.bucket,
                algorithm=given.algorithm, runtime=given.runtime, launch=given.launch,
                recompute=given.recompute, baseline=_held(baselines),
                speedups=given.baseline != "none",
                processes=given.processes, executor=executor, output=given.output, resume=given.resume,
                cache=given.cache, progress=progress, **shared,
            )  # fmt: skip

    return run


def _trials(given: TrialOptions, workloads: Sequence[Workload], batches: Sequence[int]) -> Trials:
    """Return the trials of every plan; epochs have as many for each workload and batch, or are refused."""
    found = [trials_of(given, max(batch, 1), work.dataset_samples) for work in workloads for batch in batches]
    counts = sorted({trials.count for trials in found})
    if len(counts) > 1:
        raise MpsimError(
            f"--epochs {given.epochs} is from {counts[0]} to {counts[-1]} steps, by the batch and the workload:"
            " give --trials"
        )
    return found[0]


def _held(baselines: Sequence[Result | None]) -> Result | list[Result] | None:
    """Return what the plans are held against: a result for all, or one for each workload and batch."""
    found = [one for one in baselines if one is not None]
    return found[0] if len(baselines) == len(found) == 1 else found or None


def _executor(given: _Asked) -> AbstractContextManager[Executor | None]:
    if given.executor != "processes":
        if given.address and given.processes:
            raise MpsimError(f"--processes is {given.processes}, a cluster at --address has its own: leave one out")
        return cluster_executor(given.executor, given.address, given.processes)
    if given.address:
        raise MpsimError(f"--address {given.address!r} is a cluster's: give --executor ray or dask")
    return nullcontext()


def _interrupted(found: SweepResult, output: str | None) -> click.exceptions.Exit:
    """Say where the rows are."""
    said = f"mpsim: error: {interrupts.words()} after {len(found.rows)} of {found.planned} plans"
    if output and found.rows:
        said += f"; their rows are in {journal_path(output)}: the same command goes on with them"
    elif not output:
        said += "; with -o FILE their rows would have been kept"
    tell(said)
    return click.exceptions.Exit(interrupts.exit_code())


def _refuse_nothing(found: SweepResult) -> None:
    """A sweep of which no plan can be run is an error; the most frequent reason is the one to tell."""
    if all(row["reason"] for row in found.rows):
        reason, count = found.reasons[0]
        raise MpsimError(f"none of {found.planned} plans can be run; of {count} the reason is: {reason}")


def _values(found: SweepResult, name: str) -> list[Any]:
    """Return the values of a column, each once."""
    return [*dict.fromkeys(row[name] for row in found.rows)]


def _as_dict(found: SweepResult) -> dict[str, Any]:
    first, groups = found.rows[0], found.groups
    one = {"workload": first["workload"], "global_batch": first["global_batch"], "best": groups[0].best}
    return (one if len(groups) == 1 else {}) | {
        "workloads": _values(found, "workload"),
        "topology": first["topology"],
        "global_batches": _values(found, "global_batch"),
        "plans": found.planned,
        "plans_not_run": sum(count for _, count in found.reasons),
        "plans_too_large": len(found.too_large),
        "plans_known": found.known,
        "processes": found.processes,
        "caveats": list(found.caveats),
        "notes": list(found.notes),
        "bests": [group.best for group in groups],
        "scaling": scaling_rows(found),
        "rows": list(found.rows),
    }


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
