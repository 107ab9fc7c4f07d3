"""Gather what a report is made of: from what was found, what was read, and what is simulated once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.explanation import Explanation, explain
from mpsim.files import read_bytes
from mpsim.plan.model import Plan
from mpsim.report.material import NO_RATES, Material, Source
from mpsim.report.rebuild import result_of_row, said_without_stages
from mpsim.result.frames import summary_row
from mpsim.result.model import Result
from mpsim.search.rates import Rates
from mpsim.search.study import Study
from mpsim.sweeps.model import COLUMNS, Row, SweepResult, finish
from mpsim.sweeps.question import code_digest, digest
from mpsim.topology.builders import BUILDERS
from mpsim.topology.model import Topology
from mpsim.topology.presets import PRESETS
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Workload

__all__ = ["Given", "gather", "rows_of_results", "source_of", "topology_of"]

_UNSAID = Provenance()
_NEEDED = ("workload", "topology", "plan", "n_devices", "global_batch", "runtime", "step_s")
Progress = Callable[[int, int], None]
_AGAIN = "give the workload and, where it is a file, the topology: mpsim report {name} WORKLOAD TOPOLOGY -o report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a report is asked of.

    Attributes
    ----------
    sweep : SweepResult or None
        A table's rows; None: those of `results`.
    table : str
        The table's name, for what is said of it.
    results, real : sequence of Result
        Predictions, and what was run.
    workload, topology
        What the plans are of, None where it was not given.
    study : Study or None
        The two, where plans can be simulated again.
    rates : Rates
        In which units steps are told.
    plans : mapping of str to Plan
        Plans of rows, by their text, where they are known.
    counted : tuple of str
        What became of all the plans that were looked at.
    sources : tuple of Source
        What was read.
    """

    sweep: SweepResult | None = None
    table: str = ""
    results: Sequence[Result] = ()
    real: Sequence[Result] = ()
    workload: Workload | None = None
    topology: Topology | None = None
    study: Study | None = None
    rates: Rates = NO_RATES
    plans: dict[str, Plan] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """The table's name on the page, which need not say in which folder it is."""
        return Path(self.table).name or "RESULT"


def gather(
    given: Given, *, batch: int | None = None, what_ifs: bool = True, progress: Progress | None = None
) -> Material:
    """Return what a report is made of.

    Parameters
    ----------
    given : Given
        What was found and read.
    batch : int, optional
        Of which batch, where a table has several.
    what_ifs : bool
        Simulate the best plan's step again with one thing changed at a time.
    progress : callable, optional
        Told how many what-ifs are done of how many.

    Raises
    ------
    MpsimError
        There is nothing to report; or the table is of several questions, or of others than what was given beside it.
    """
    sweep = _of_one_question(given, batch)
    about = sweep.best or sweep.rows[0]
    doubts = [*_checked(given, about)]
    plan, result, missing = _best(given, sweep, doubts)
    found, why = _explained(given, plan, what_ifs, progress)
    if why:
        missing["explanation"] = why
    elif not what_ifs:
        missing["what-ifs"] = "leave --no-what-ifs out to have them simulated"
    return Material(
        sweep=sweep,
        counted=given.counted,
        rates=given.rates,
        workload=given.workload,
        topology=given.topology,
        plan=plan,
        result=result,
        explanation=found,
        real=tuple(given.real),
        doubts=tuple(doubts),
        missing=missing,
        sources=given.sources,
    )


def rows_of_results(results: Sequence[Result]) -> SweepResult:
    """Return results as the rows of a sweep, ranked.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> rows_of_results([result]).best["step_s"]
    2.0
    """
    rows: list[Row] = [dict.fromkeys(COLUMNS) | summary_row(result) for result in results]
    return finish(rows, len(rows), 1)


def _of_one_question(given: Given, batch: int | None) -> SweepResult:
    """Return the rows of the one workload, topology and batch that the report is about."""
    sweep = given.sweep if given.sweep is not None else rows_of_results(given.results or given.real)
    if not sweep.rows:
        raise MpsimError(f"{given.table or 'the study'} has no rows: there is nothing to report")
    for name in _NEEDED:
        if any(row[name] is None and (name != "step_s" or row["rank"]) for row in sweep.rows):
            raise MpsimError(
                f"{given.table or 'the study'} has a row without {name}: the file was edited, make it again"
            )
    groups = [one for one in sweep.groups if batch in (None, one.rows[0]["global_batch"])]
    if not groups:
        have = sorted({row["global_batch"] for row in sweep.rows})
        raise MpsimError(f"--batch is {batch}, {given.table} has rows of {', '.join(map(str, have))}: name one of them")
    if len(groups) > 1 and given.workload is not None:
        groups = [one for one in groups if one.rows[0]["workload"] == given.workload.name] or groups
    if len(groups) > 1:
        raise MpsimError(
            f"{given.table or 'what is given'} has rows of {len(groups)} workloads, topologies and batches, a report is"
            " of one: name it with --batch, or report each table by itself"
        )
    return replace(groups[0], notes=sweep.notes)


def _checked(given: Given, row: Row) -> list[str]:
    """Refuse a workload or a topology that the rows are not of; return what cannot be told."""
    for what, value in (("workload", given.workload), ("topology", given.topology)):
        if value is not None and row[what] != value.name:
            raise MpsimError(
                f"{given.table or 'the result'} is of {what} {row[what]!r}, {value.name!r} was given: give its own"
            )
    asked = str(row["question"] or "").partition(":")[0].split("-")
    if len(asked) < 3:
        return []
    if not code_digest().startswith(asked[0]):
        return [f"{given.name} was made by another mpsim, Python, numpy or simpy than this one"]
    topologies = [given.topology, given.study.topology if given.study else None]
    for what, part, values in (("workload", asked[1], [given.workload]), ("topology", asked[2], topologies)):
        known = [value for value in values if value is not None]
        if known and not any(digest(value).startswith(part) for value in known):
            raise MpsimError(
                f"{given.table} was made of another {what} {row[what]!r} than the one given: give that one, or have the"
                " report written as it is found: mpsim best … --report report.html"
            )
    return []


def _best(given: Given, sweep: SweepResult, doubts: list[str]) -> tuple[Plan | None, Result | None, dict[str, str]]:
    """Return the best plan, its result with spans, and why there is none."""
    row = sweep.best
    if row is None:
        return None, None, {"step": "no plan fits, so that there is no best one to show the step of"}
    own = _among(given.results or given.real, row)
    if given.study is None:
        why = "" if own is not None else _AGAIN.format(name=given.name)
        return None, own, {"step": why} if why else {}
    try:
        plan, result, other = result_of_row(given.study, row, given.plans.get(row["plan"]))
    except MpsimError as error:
        return None, own, {"step": str(error)}
    doubts += [other] if other else []
    return plan, result, {}


def _among(results: Sequence[Result], row: Row) -> Result | None:
    """Return the result that a row is the summary of."""
    plan = said_without_stages(row["plan"])
    same = [one for one in results if one.global_batch == row["global_batch"] and one.workload == row["workload"]]
    return next((one for one in same if said_without_stages(one.plan) == plan), None)


def _explained(
    given: Given, plan: Plan | None, what_ifs: bool, progress: Progress | None
) -> tuple[Explanation | None, str]:
    """Return where the best plan's step goes, or why that is not known."""
    study = given.study
    if study is None or plan is None:
        return None, _AGAIN.format(name=given.name) if study is None else "the best plan is not known"
    try:
        found = explain(
            study.workload, study.topology, plan, what_ifs=what_ifs, by_type=study.by_type, unchecked=study.unchecked,
            host_speed=study.host_speed, progress=progress,
        )  # fmt: skip
    except MpsimError as error:
        return None, str(error)
    return found, ""


def topology_of(sweep: SweepResult) -> Topology | None:
    """Return the topology of a table's rows, where its name makes it: just the one that they answer for, or None.

    Examples
    --------
    >>> topology_of(SweepResult(rows=(), planned=0)) is None
    True
    """
    rows = sweep.rows
    if not rows or len({row["topology"] for row in rows}) > 1:
        return None
    name, asked = rows[0]["topology"], str(rows[0]["question"] or "").partition(":")[0].split("-")
    if name.partition(":")[0] not in (*BUILDERS, *PRESETS) or len(asked) < 3:
        return None
    try:
        made = parse_topology(name)
    except MpsimError:
        return None
    return made if digest(made).startswith(asked[2]) else None


def source_of(what: str, path: str, provenance: Provenance = _UNSAID) -> Source:
    """Return a file, or a text that was given, as a source.

    Examples
    --------
    >>> source_of("topology", "ring:4,link=nvlink4").name
    'ring:4,link=nvlink4'
    """
    file = Path(path)
    if not file.is_file():
        return Source(what=what, name=path)
    return Source(what=what, name=file.name, sha256=sha256(read_bytes(path)).hexdigest(), provenance=provenance)
