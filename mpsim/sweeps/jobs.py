"""What a sweep is made of: a job for each workload and batch, and the plans of each."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from mpsim.errors import MpsimError
from mpsim.result.model import Result
from mpsim.result.statistics import check_baseline
from mpsim.sweeps.grid import Candidate
from mpsim.units import whole
from mpsim.workload.model import Workload

__all__ = ["Cell", "baseline_for", "batches_of", "workloads_of"]


class Cell(NamedTuple):
    """A plan of a sweep, and the number of the job that it belongs to."""

    job: int
    candidate: Candidate


def workloads_of(given: Workload | str | Path | Sequence[Workload | str | Path]) -> tuple[Workload, ...]:
    """Return the workloads of a sweep: their names tell its rows apart.

    Raises
    ------
    MpsimError
        None, or two of one name.

    Examples
    --------
    >>> workloads_of([])
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: a sweep of no workload: give at least one
    """
    works = tuple(map(Workload.of, [given] if isinstance(given, Workload | str | Path) else given))
    if not works:
        raise MpsimError("a sweep of no workload: give at least one")
    names = [work.name for work in works]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MpsimError(f"two workloads are called {twice!r}, which is all that tells their rows apart: sweep one")
    return works


def batches_of(given: int | Sequence[int]) -> list[int]:
    """Return the global batches of a sweep, ascending, each once.

    Raises
    ------
    MpsimError
        None, or one below 1.

    Examples
    --------
    >>> batches_of(8), batches_of([16, 8, 16])
    ([8], [8, 16])
    """
    each = [given] if isinstance(given, Integral) else given
    batches = sorted({whole(one, "batch", 1) for one in each})  # type: ignore[union-attr]
    if not batches:
        raise MpsimError("a sweep of no batch: give at least one")
    return batches


def baseline_for(
    given: Result | Sequence[Result] | None, workloads: Sequence[Workload], workload: Workload, batch: int
) -> Result | None:
    """Return what the plans of a workload and batch are held against: of several results the one of the same.

    Raises
    ------
    MpsimError
        It is of another batch; none is of the same workload and batch.
    """
    if given is None or isinstance(given, Result):
        check_baseline(given, batch, "sweep")
        results = [] if given is None else [given]
    else:
        results = [one for one in given if one.global_batch == batch]
    found = [one for one in results if len(workloads) == 1 or one.workload == workload.name]
    if given is not None and not found:
        raise MpsimError(f"no baseline is of {workload.name!r} with a global batch of {batch}: a speedup needs one")
    return next(iter(found), None)
