"""Run the cases of a grid one after another: what is measured at once would measure the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from mpsim.bars import ShowProgress, each
from mpsim.errors import MpsimError
from mpsim.validate.cases import Case
from mpsim.validate.compare import Comparison, compare_case
from mpsim.validate.model import Validation
from mpsim.workload.model import Workload

__all__ = ["validate_emulated"]


def validate_emulated(
    cases: Sequence[Case],
    workloads: Mapping[str, Workload],
    *,
    fabric: str = "host",
    compute: str = "replay",
    done: Sequence[Comparison] = (),
    keep: Callable[[Sequence[Comparison]], None] = lambda rows: None,
    progress: ShowProgress = None,
) -> Validation:
    """Predict and run every case, and compare.

    Parameters
    ----------
    cases : sequence of Case
        The grid.
    workloads : mapping of str to Workload
        Each model's trace.
    fabric, compute : str
        As `mpsim.emulate.run.emulate` has them.
    done : sequence of Comparison
        Rows from before: their cases are not run again, if fabric, compute and trials are the same.
    keep : callable
        Called with all rows after each new one.
    progress : callable or bool, optional
        Called with the number of cases done and their total; by default a bar, in a terminal or a notebook, of what
        takes more than two seconds. False: none.

    Returns
    -------
    Validation
        A row for each case; those that could not be run say why.
    """
    there = {_key(row): row for row in done}
    rows: list[Comparison] = []
    failures: list[tuple[str, str]] = []
    for case in each(cases, progress, "cases"):
        row = there.get((case.name, case.trials, fabric, compute))
        try:
            rows.append(row or _timed(case, workloads[case.model], fabric, compute))
        except MpsimError as error:
            failures.append((case.name, str(error)))
        if row is None:
            keep(rows)
    return Validation(rows=tuple(rows), planned=len(cases), failures=tuple(failures))


def _key(row: Comparison) -> tuple[str, int, str, str]:
    return row.name, row.trials, row.fabric, row.compute


def _timed(case: Case, workload: Workload, fabric: str, compute: str) -> Comparison:
    start = time.perf_counter()
    row = compare_case(case, workload, fabric=fabric, compute=compute)
    return row.with_wall(time.perf_counter() - start)
