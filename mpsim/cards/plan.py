"""A plan's card."""

from __future__ import annotations

from mpsim.cards import html
from mpsim.errors import MpsimError
from mpsim.plan.checks import marked_grid
from mpsim.plan.model import Plan, check_size
from mpsim.units import format_bytes

__all__ = ["card"]

_MOST_DRAWN = 1_000  # operations: of more, making the rows would take longer than reading the card
_AXES = {
    "dp": "replicas of the data (dp)", "pp": "pipeline stages (pp)", "tp": "ranks that share each layer (tp)",
    "cp": "ranks that share each sequence (cp)", "ep": "ranks that share experts (ep)",
}  # fmt: skip


def card(plan: Plan) -> str:
    """Return a plan's axes, how it is run, and what each pipeline rank does in which order.

    Examples
    --------
    >>> "pipeline stages (pp)" in card(Plan(pp=2, microbatches=2))
    True
    """
    used = [(words, str(getattr(plan, axis))) for axis, words in _AXES.items() if getattr(plan, axis) > 1]
    said = [
        ("devices", f"{plan.ranks:,}" + (": " + ", ".join(map(str, plan.devices)) if plan.devices else "")),
        *used,
        ("batch", f"{plan.batch:,} samples" if plan.batch else ""),
        ("micro-batches", f"{plan.microbatches:,} a replica"),
        ("schedule", plan.schedule_name if plan.pp > 1 else ""),
        ("stages begin at layers", ", ".join(map(str, plan.boundaries)) if plan.boundaries else ""),
        ("sharding", plan.sharding.text),
        ("gradient buckets", format_bytes(plan.bucket_bytes) if plan.replicas > 1 else ""),
        ("collectives", plan.algorithm if plan.ranks > 1 else ""),
        ("runtime", plan.runtime),
        ("launch", plan.launch),
    ]
    return html.card("Plan", plan.strategy, [html.facts(said), _rows(plan)], plan=plan.text)


def _rows(plan: Plan) -> str:
    if plan.pp == 1 or plan.pp * plan.microbatches > _MOST_DRAWN:
        return ""
    try:
        check_size(plan)
        grid = marked_grid(plan.rows(), ())
    except MpsimError as error:
        return html.lines([str(error)])
    return html.folded("what each pipeline rank runs, in order", html.pre(grid))
