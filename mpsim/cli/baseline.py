"""What speedups compare with: one device, naive model parallel, a plan or result of a file, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from mpsim.errors import MpsimError, did_you_mean
from mpsim.plan.model import Plan, load_plan
from mpsim.result.model import Result
from mpsim.sweeps.grid import microbatch_counts
from mpsim.workload.model import Workload

__all__ = ["baseline_of", "baseline_option", "without_baseline"]

_WORDS = ("one", "naive", "none")

baseline_option = click.option(
    "--baseline",
    default="one",
    show_default=True,
    metavar="one|naive|none|FILE",
    help="What speedups compare with: one device, layers one after another over as many devices, or a plan or result.",
)


def baseline_of(
    word: str, workload: Workload, batch: int, n_devices: int, simulate: Callable[[Plan], Result]
) -> Result | None:
    """Return the result that stands for the baseline; None for one device, or none at all.

    Raises
    ------
    MpsimError
        No such baseline, or it cannot be run; the message says that it is the baseline's.
    """
    if word in ("one", "none"):
        return None
    try:
        if word == "naive":
            return simulate(_naive(workload, batch, n_devices))
        return _from_file(word, batch, simulate)
    except MpsimError as error:
        raise MpsimError(f"--baseline {word}: {error}") from None


def _naive(workload: Workload, batch: int, n_devices: int) -> Plan:
    if n_devices < 2:
        raise MpsimError("layers one after another over devices need 2 or more of them, the plan has 1: use one")
    fewest = microbatch_counts(workload, batch, 1, 1)[0]
    return Plan(pp=n_devices, batch=batch, microbatches=fewest, schedule="naive")


def _from_file(path: str, batch: int, simulate: Callable[[Plan], Result]) -> Result:
    if not Path(path).exists():
        raise MpsimError(f"no such baseline and no such file{did_you_mean(path, _WORDS)}")
    from mpsim.cli.identify import noun_of
    from mpsim.result.file import load_result

    noun = noun_of(path)
    if noun == "result":
        return load_result(path)
    if noun == "plan":
        return simulate(replace(load_plan(path), batch=batch))
    raise MpsimError(f"the file is a {noun}: give a plan or a result")


def without_baseline(result: Result) -> Result:
    """Return the result without a speedup."""
    return replace(result, baseline="", baseline_step_s=0.0)
