"""How a search, a sweep and a result write their own report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.report.gather import Given, Progress, gather
from mpsim.report.material import Source
from mpsim.report.page import check_page, save_report
from mpsim.result.model import Origin, Result
from mpsim.search.found import Found
from mpsim.search.rates import Rates
from mpsim.search.study import Study
from mpsim.search.text import counted
from mpsim.sweeps.model import SweepResult
from mpsim.units import whole

__all__ = ["given_of_found", "report_found", "report_result", "report_sweep"]


def given_of_found(found: Found, rates: Rates | None = None, sources: Sequence[Source] = ()) -> Given:
    """Return what a report of a search is made of."""
    given = Given(sweep=found.sweep, plans=dict(found.plans), counted=tuple(counted(found)), sources=tuple(sources))
    return _of_study(given, found.study, rates) if found.study is not None else given


def report_found(found: Found, path: str | Path, **options: Any) -> None:
    """Write a search's report."""
    _write(given_of_found(found), path, **options)


def report_sweep(found: SweepResult, path: str | Path, **options: Any) -> None:
    """Write the report of a sweep of one workload and batch; of one from a file, what its rows say."""
    given = Given(sweep=found)
    if found.origin_of is not None and found.best is not None:
        given = _of_origin(given, found.origin_of(found.best), found.best["plan"])
    _write(given, path, **options)


def report_result(result: Result, path: str | Path, real: Sequence[Result] = (), **options: Any) -> None:
    """Write a result's report."""
    if bad := [one for one in real if not isinstance(one, Result)]:
        raise MpsimError(f"real has {bad[0]!r}, expected results of mpsim emulate -o: mpsim.load_result reads them")
    if result.made_by == "emulate":
        given = Given(real=(result, *real))
    else:
        given = Given(results=(result,), real=tuple(real))
    if result.origin is not None:
        given = _of_origin(given, result.origin, result.plan)
    _write(given, path, **options)


def _write(
    given: Given,
    path: str | Path,
    *,
    what_ifs: bool = True,
    batch: int | None = None,
    top: int = 100,
    progress: Progress | None = None,
) -> None:
    top = whole(top, "top", 1)
    check_page(path)
    save_report(path, gather(given, batch=batch, what_ifs=what_ifs, progress=progress), top=top)


def _of_origin(given: Given, origin: Origin, text: str) -> Given:
    """Return what is known where the plan that a row's text says was replayed from this."""
    study = Study(origin.workload, origin.topology, **origin.options)
    return replace(_of_study(given, study), plans={text: origin.plan})


def _of_study(given: Given, study: Study, rates: Rates | None = None) -> Given:
    rates = rates or Rates.of(study.workload, study.topology)
    return replace(given, study=study, workload=study.workload, topology=study.topology, rates=rates)
