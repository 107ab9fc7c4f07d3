"""What a plan says that no other trainer's configuration does: refused, or listed."""

from __future__ import annotations

from mpsim.errors import MpsimError
from mpsim.interchange.losses import Losses
from mpsim.lowering.stages import microbatch_size
from mpsim.plan.grid import Grid
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.workload.model import Workload

__all__ = ["check_said", "list_unsaid", "microbatch_of", "pipeline_outermost"]

_FIELDS = ("units", "gather_ahead", "reshard_after_forward", "keep_gathered", "gather_dtype", "reduce_dtype")
_PLAIN = Sharding()


def check_said(plan: Plan, what: str, said: tuple[str, ...]) -> None:
    """Refuse what a configuration has no place for.

    Parameters
    ----------
    plan : Plan
        To be written.
    what : str
        Whose configuration it is.
    said : tuple of str
        Those fields of how replicas shard that it has a place for.

    Raises
    ------
    MpsimError
        Names the first field.

    Examples
    --------
    >>> check_said(Plan(sharding=Sharding(offload="all")), "Megatron", ())
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: plan has offload=all, for which Megatron has no place here: export a plan without
    """
    sharding = plan.sharding
    for name in ("offload", "accumulate", *_FIELDS):
        value = getattr(sharding, name)
        if name not in said and value != getattr(_PLAIN, name):
            raise MpsimError(f"plan has {name}={value}, for which {what} has no place here: export a plan without")


def list_unsaid(plan: Plan, what: str, losses: Losses) -> None:
    """List what a configuration leaves to the machine that runs it.

    Examples
    --------
    >>> losses = Losses()
    >>> list_unsaid(Plan(dp=2, algorithm="tree"), "Megatron", losses)
    >>> losses.lines
    ('algorithm=tree: NCCL chooses (NCCL_ALGO)',)
    """
    if plan.algorithm != "ring":
        losses.add(f"algorithm={plan.algorithm}: NCCL chooses (NCCL_ALGO)")
    if plan.runtime != "ideal":
        losses.add(f"runtime={plan.runtime}: {what} is its own")


def microbatch_of(plan: Plan, workload: Workload | None) -> int:
    """Return the samples in one micro-batch.

    Raises
    ------
    MpsimError
        The plan leaves the batch to the workload, and there is none.

    Examples
    --------
    >>> microbatch_of(Plan(batch=8, dp=2, microbatches=2), None)
    2
    """
    if workload is None:
        if not plan.batch:
            raise MpsimError("plan leaves its batch open: give the WORKLOAD that it is for, or a plan with --batch")
        return plan.batch // (plan.dp * plan.microbatches)
    return microbatch_size(workload, plan)


def pipeline_outermost(dp: int, pp: int, inner: int) -> tuple[int, ...]:
    """Return the devices of a plan's ranks where replicas lie inside of stages; empty where that makes no difference.

    Parameters
    ----------
    dp, pp, inner : int
        Replicas, pipeline ranks, and ranks that share a layer or a sequence.

    Examples
    --------
    >>> pipeline_outermost(2, 2, 1), pipeline_outermost(1, 2, 2)
    ((0, 2, 1, 3), ())
    """
    if dp == 1 or pp == 1:
        return ()
    theirs = Grid((("pp", pp), ("dp", dp), ("inner", inner)))
    return tuple(theirs.rank(pp=p, dp=d, inner=i) for d in range(dp) for p in range(pp) for i in range(inner))
