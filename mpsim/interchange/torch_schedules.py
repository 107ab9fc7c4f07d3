"""The names that torch.distributed.pipelining has for schedules, and for which numbers they run what is run here."""

from __future__ import annotations

from mpsim.errors import MpsimError, did_you_mean
from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.schedule_file import schedule_csv
from mpsim.plan.shape import shape_of

__all__ = ["TORCH_NAMES", "class_name", "from_class", "rows_as_csv"]

# Each is held to torch's own order, cell by cell, in tests.
TORCH_NAMES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "looped-bfs": "LoopedBFS",
    "interleaved-1f1b": "Interleaved1F1B",
    "interleaved-zb": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}


def class_name(plan: Plan) -> str:
    """Return the name of the class of torch's that runs a plan's schedule; ``""`` if none does.

    Examples
    --------
    >>> class_name(Plan(pp=2, microbatches=4)), class_name(Plan(pp=2, microbatches=4, schedule="zb-h1"))
    ('1F1B', '')
    >>> class_name(Plan(pp=2, microbatches=5, schedule="interleaved-1f1b"))
    ''
    """
    name, count = plan.schedule, plan.microbatches
    if not isinstance(name, str):
        return ""
    rounds = max(1, count // plan.pp)
    uneven = name.startswith("interleaved") and count % rounds
    few = name == "dualpipe-v" and count < 2 * plan.pp
    one = name == "naive" and count == 1
    return "1F1B" if one else "" if uneven or few else TORCH_NAMES.get(name, "")


def from_class(text: str) -> str:
    """Return the schedule that a name of torch's stands for, in letters of either case.

    Raises
    ------
    MpsimError
        None of that name is known here.

    Examples
    --------
    >>> from_class("interleaved1f1b")
    'interleaved-1f1b'
    """
    known = {theirs.lower(): ours for ours, theirs in TORCH_NAMES.items()}
    if text.lower() not in known:
        near = did_you_mean(text, TORCH_NAMES.values())
        raise MpsimError(f"schedule {text!r} is none of torch's that is known here{near}")
    return known[text.lower()]


def rows_as_csv(plan: Plan) -> str:
    """Return a plan's rows as torch's CSV.

    Raises
    ------
    MpsimError
        Rows that torch does not run.

    Examples
    --------
    >>> print(rows_as_csv(Plan(pp=2, schedule="gpipe")), end="")
    0F0,0B0
    1F0,1B0
    """
    name = plan.schedule_name
    if isinstance(plan.schedule, Fitted) or name == "zb-auto":
        raise MpsimError(f"schedule {name!r} is made anew for what stages cost: give its rows (--schedule FILE.csv)")
    rows = plan.rows()
    if any(operation.kind == "U" for row in rows for operation in row):
        raise MpsimError(f"schedule {name!r} updates amid the step, torch's update behind it: use one without U")
    if (directions := shape_of(rows).directions) > 1:
        raise MpsimError(f"schedule {name!r} has {directions} copies of each stage, torch's pipelines one: use another")
    return schedule_csv(rows)
