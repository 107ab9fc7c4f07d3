"""An explanation's card, and how a result, a sweep and a search explain themselves."""

from __future__ import annotations

from typing import Any

from mpsim.cards import html
from mpsim.errors import MpsimError
from mpsim.explanation import Explanation, explain
from mpsim.result.model import Origin, Result
from mpsim.search.found import Found
from mpsim.sweeps.model import Row, SweepResult

__all__ = ["card", "explain_found", "explain_result", "explain_sweep"]

_ASK = "call mpsim.explain(workload, topology, plan)"


def card(found: Explanation) -> str:
    """Return an explanation as it is printed.

    Examples
    --------
    >>> result = Result(workload="a<b", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> "a&lt;b" in card(Explanation(result=result, parts=(), path=(), links=()))
    True
    """
    result = found.result
    name = f"{result.workload} on {result.topology}"
    return html.card("Explanation", name, [html.pre(str(found))], plan=result.plan, cautions=result.caveats)


def explain_result(result: Result, **options: Any) -> Explanation:
    """Explain the step of a result, every time at its median.

    Raises
    ------
    MpsimError
        It does not know what it is a result of.
    """
    if result.origin is None:
        what = "a real run" if result.made_by == "emulate" else "a file, or of programs or several jobs,"
        raise MpsimError(f"this result is of {what} and has no workload to replay: {_ASK}")
    return _explained(result.origin, options)


def explain_sweep(found: SweepResult, rank: int = 1, **options: Any) -> Explanation:
    """Explain the plan of a rank of a sweep of one workload and batch.

    Raises
    ------
    MpsimError
        There is no such rank, or the sweep is of a file.
    """
    row = _ranked(found, rank)
    if found.origin_of is None:
        raise MpsimError(f"this sweep is of a file and has no workload to replay: {_ASK}")
    return _explained(found.origin_of(row), options)


def explain_found(found: Found, rank: int = 1, **options: Any) -> Explanation:
    """Explain the plan of a rank of a search.

    Raises
    ------
    MpsimError
        There is no such rank.
    """
    row = _ranked(found.sweep, rank)
    if found.study is None:
        raise MpsimError(f"this search does not say what it searched: {_ASK}")
    study = found.study
    told = {"by_type": study.by_type, "unchecked": study.unchecked, "host_speed": study.host_speed}
    return _explained(Origin(study.workload, study.topology, found.plans[row["plan"]], told), options)


def _ranked(found: SweepResult, rank: int) -> Row:
    if found.best is None:
        raise MpsimError("no plan can be run and fits, so there is none to explain")
    row = next((row for row in found.ranked if row["rank"] == rank), None)
    if row is None:
        raise MpsimError(f"rank is {rank!r}, expected 1 to {len(found.ranked)}")
    return row


def _explained(origin: Origin, options: dict[str, Any]) -> Explanation:
    return explain(origin.workload, origin.topology, origin.plan, **{**origin.options, **options})
