"""From a table's row back to its plan, and to the step that the row has: the same one, or it is said."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials
from mpsim.lowering.plan_words import plan_of_words
from mpsim.plan.model import Plan
from mpsim.result.model import Result
from mpsim.search.study import Study
from mpsim.simulation.run import simulate_played
from mpsim.sweeps.choosing import best_played
from mpsim.sweeps.model import Row

__all__ = ["plan_of_row", "result_of_row", "said_without_stages"]


def plan_of_row(row: Row) -> Plan:
    """Return the plan that a row's text says; its stages are open where the text does not name them.

    Raises
    ------
    MpsimError
        The text has a word that no plan of this mpsim has: a schedule of somebody's own, say.

    Examples
    --------
    >>> from mpsim.plan.sharding import Sharding
    >>> plan = Plan(dp=2, pp=2, batch=8, microbatches=4, schedule="gpipe", sharding=Sharding(zero=1))
    >>> plan_of_row({"plan": plan.text, "global_batch": 8, "runtime": "ideal"}) == plan
    True
    """
    try:
        plan = plan_of_words(row["plan"])
    except MpsimError as error:
        raise MpsimError(f"{error}: that is no word of a plan that this mpsim knows") from None
    return replace(plan, batch=row["global_batch"] or 0, runtime=row["runtime"] or "ideal")


def result_of_row(study: Study, row: Row, plan: Plan | None = None) -> tuple[Plan, Result, str]:
    """Simulate a row's plan again: return it with its stages, its result with spans, and what is other than the row.

    Parameters
    ----------
    study : Study
        What the plan is of.
    row : dict
        Of a table of the study.
    plan : Plan, optional
        The row's plan, where it is known; otherwise what `plan_of_row` reads.

    Raises
    ------
    MpsimError
        The plan cannot be read from the row's text, or cannot be run.
    """
    plan = plan or plan_of_row(row)
    found = [_played(study, study.as_cut(plan))]
    if not _same(row, found[0][1]):  # a sweep cuts and places otherwise than a search
        found.append(_as_swept(study, plan))
    chosen = next((one for one in found if _same(row, one[1])), found[0])
    return (*chosen, "" if _same(row, chosen[1]) else _other(row, chosen[1]))


def _played(study: Study, plan: Plan) -> tuple[Plan, Result]:
    return plan, study.result(plan, spans=True, fold=True)


def _as_swept(study: Study, plan: Plan) -> tuple[Plan, Result]:
    played = best_played(
        study.workload, study.topology, plan, study.by_type, host_speed=study.host_speed, unchecked=study.unchecked
    )
    lowering = played.lowering
    result = simulate_played(played, Trials(), unchecked=study.unchecked, spans=True, fold=True)
    return replace(lowering.plan, boundaries=lowering.boundaries if lowering.shape.stages > 1 else None), result


def _drawn(row: Row) -> bool:
    """Whether a row's step is that of trials that differ, where this page has the median of each layer."""
    return bool(row["trials"] and row["trials"] > 1 and row["step_p5_s"] != row["step_p95_s"])


def _same(row: Row, result: Result) -> bool:
    return _drawn(row) or isclose(row["step_s"], result.step_s, rel_tol=1e-9)


def _other(row: Row, result: Result) -> str:
    return (
        f"simulated again here, the best plan takes {result.step_s:.6g} s, in the table {row['step_s']:.6g} s: the"
        " table was made by another mpsim or with other options, so that what is said of the step below is not its own"
    )


def said_without_stages(text: str) -> str:
    """Return a plan's text without its stages, which one result names and another leaves open.

    Examples
    --------
    >>> said_without_stages("dp=1 pp=2 tp=1 micro-batches=4 gpipe stages=3")
    'dp=1 pp=2 tp=1 micro-batches=4 gpipe'
    """
    return " ".join(word for word in text.split() if not word.startswith("stages="))
