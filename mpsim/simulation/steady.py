"""What a step takes where steps follow one another: a rank begins its next one when it is done with its own part."""

from __future__ import annotations

from dataclasses import replace

from mpsim.engine.replay import replay
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.plan.schedule_file import GivenRows
from mpsim.program.model import Program, Timing
from mpsim.program.repeat import in_a_row

__all__ = ["steady_s"]

# By the third step a host has run as far ahead as it ever will, and ranks have drifted apart as far.
_STEPS = 4
# Of one step: replaying four of more takes longer than what it tells is worth.
_MOST_TASKS = 60_000


def steady_s(
    lowering: Lowering, program: Program, timing: Timing, median: bool = False, *, pipelines: bool = True
) -> float | None:
    """Return the time between the ends of steps that follow one another; None where the program is too large.

    Ranks that neither wait for one another's stages nor for a host take as long as for a single step. Where stages
    update as their rows say, and not at the end, there is no end of a step to wait for: then it is what as many
    micro-batches more take longer once the pipeline is full.

    Parameters
    ----------
    lowering, program, timing
        A plan, and one step of it.
    median : bool
        Whether the step is that of the plan at its median: then one of the ranks that do the same is enough.
    pipelines : bool
        Whether to replay pipelines whose hosts take no time; otherwise theirs is not known.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers)
    >>> lowering = lower(work, parse_topology("chain:2,link=1GB/s@0"), Plan(pp=2, microbatches=4))
    >>> program = program_of(lowering)
    >>> timing = replay(program, lowering.topology)
    >>> timing.step_s, steady_s(lowering, program, timing)
    (15.0, 15.0)
    """
    if lowering.asynchronous:
        return _asynchronous_s(lowering, program, timing) if pipelines else None
    if len(lowering.rows) == 1 and not lowering.launches:
        return timing.step_s
    if not (pipelines or lowering.launches):
        return None
    if median and not program.stands_for:
        program = program_of(lowering, folded=True)
    if len(program.tasks) > _MOST_TASKS:
        return None
    steps, firsts = in_a_row(program, _STEPS)
    end_s = replay(steps, lowering.topology).end_s
    return max(end_s[firsts[-1] :]) - max(end_s[firsts[-2] : firsts[-1]])


def _asynchronous_s(lowering: Lowering, program: Program, timing: Timing) -> float | None:
    """Return what a step's micro-batches take longer in a pipeline that is full: of twice as many as it has ranks."""
    plan = lowering.plan
    full = -(-2 * plan.pp // plan.microbatches)
    if isinstance(plan.schedule, GivenRows) or len(program.tasks) * (full + 1) > _MOST_TASKS:
        return None  # of other micro-batches its rows say nothing

    def step_s(count: int) -> float:
        if count == 1:
            return timing.step_s
        microbatches, batch = count * plan.microbatches, count * plan.batch
        longer = replace(plan, microbatches=microbatches, batch=batch, boundaries=lowering.boundaries)
        by_type, speed = lowering.costs.by_type, lowering.host_speed
        several = lower(lowering.workload, lowering.topology, longer, by_type=by_type, host_speed=speed)
        return replay(program_of(several, folded=bool(program.stands_for)), lowering.topology).step_s

    return step_s(full + 1) - step_s(full)
