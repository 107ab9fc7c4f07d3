"""Several jobs on one cluster: each trains on devices of its own, step after step, and all share the links."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mpsim.calls import checked
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.caveats import borrowed, caveats
from mpsim.lowering.devices import scaled_by_type
from mpsim.lowering.emit import program_of
from mpsim.lowering.model import Lowering
from mpsim.plan.model import Plan, check_size
from mpsim.program.account import account_traffic
from mpsim.program.model import Program, Stream, Task, Timing
from mpsim.reprs import short_repr
from mpsim.simulation.preparing import prepare
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["Job", "JobResult", "simulate_jobs"]

_MOST_TASKS = 5_000_000
_MOST_ROUNDS = 12


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one of several jobs trains, and how; a plan that names no devices gets the first that are free.

    Workload and plan may be given as text, as in `simulate`.
    `by_type` has the same model as traced on other types of device.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> Job(name="mine", workload=work, plan=Plan(dp=2)).plan.dp
    2
    """

    name: str
    workload: Workload
    plan: Plan
    by_type: Mapping[str, Workload | str | Path] = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """A job's steps beside the others.

    Attributes
    ----------
    name, plan : str
    devices : tuple of int
        Of the topology, by rank.
    alone_step_s : float
        Its step with the links to itself.
    step_s : float
        The mean of its steps while all jobs ran.
    least_step_s, most_step_s : float
        The shortest and the longest of them: jobs drift past each other.
    steps : int
        How many those were.
    caveats : tuple of str
        What may make them wrong, in a phrase each.
    notes : tuple of str
        What the job's traces have to say in words.
    """

    name: str
    plan: str
    devices: tuple[int, ...]
    alone_step_s: float
    step_s: float
    least_step_s: float
    most_step_s: float
    steps: int
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def slowdown(self) -> float:
        """How many times as long its mean step takes as alone."""
        return self.step_s / self.alone_step_s


class _Laid(NamedTuple):
    """A job with its devices, and one step of it."""

    job: Job
    lowering: Lowering
    program: Program
    alone_s: float

    @property
    def place(self) -> tuple[int, ...]:
        return self.lowering.place


@checked
def simulate_jobs(
    jobs: Sequence[Job],
    topology: Topology | str | Path,
    *,
    steps: int = 8,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
) -> tuple[JobResult, ...]:
    """Predict the steps of jobs that run at once on devices of their own and share the topology's links.

    All begin at the same moment and begin each next step when the last one is over, every time at its median. Each
    runs until all have done `steps` steps; steps that end later than the first job stops are not counted. Whether each
    fits its devices' memory `simulate` says of it alone.

    Parameters
    ----------
    jobs : sequence of Job
        Their names differ, and so do their devices.
    steps : int
        That every job does at least.
    rescale, speed, unchecked
        As in `simulate`, for every job.

    Raises
    ------
    MpsimError
        No jobs, a name twice, a device of two jobs, a plan that cannot be run, or steps so unlike in length that too
        many of the short ones fit into a long one.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.wire import Wire
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=1024)]
    >>> jobs = [Job(name=name, workload=Workload.chain(name, layers), plan=Plan(dp=2)) for name in "xy"]
    >>> [one.slowdown for one in simulate_jobs(jobs, switch(4, link=Wire(1024.0)))]
    [1.0, 1.0]
    """
    topology = Topology.of(topology)
    if steps < 1:
        raise MpsimError(f"steps is {steps}, expected 1 or more")
    laid = _lay([_scaled(job, topology, rescale, speed) for job in jobs], topology, unchecked)
    slowest_s = max(one.alone_s for one in laid)
    counts = [steps * math.ceil(slowest_s / one.alone_s) for one in laid]
    for _ in range(_MOST_ROUNDS):
        _check_tasks(laid, counts)
        ends = _ends(laid, counts, topology)
        over_s = min(times[-1] for times in ends)
        done = [sum(end_s <= over_s for end_s in times) for times in ends]
        if min(done) >= steps:
            break
        # Whoever stopped first goes on for as long as the last one is likely to take.
        longest_s = max(times[-1] for times in ends)
        counts = [
            max(count, math.ceil(1.1 * count * longest_s / times[-1]))
            for count, times in zip(counts, ends, strict=True)
        ]
    return tuple(_result(one, times[:count]) for one, times, count in zip(laid, ends, done, strict=True))


def _scaled(job: Job, topology: Topology, rescale: str | None, speed: float | None) -> Job:
    try:
        return replace(job, by_type=scaled_by_type(job.workload, topology, job.by_type, rescale=rescale, speed=speed))
    except MpsimError as error:
        raise MpsimError(f"job {job.name!r}: {error}") from None


def _lay(jobs: Sequence[Job], topology: Topology, unchecked: bool) -> list[_Laid]:
    if not jobs:
        raise MpsimError("no jobs: name at least one")
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise MpsimError(f"two jobs are called {name!r}: give each a name of its own")
    owner = {device: job.name for job in jobs for device in job.plan.devices}
    for job in jobs:
        for device in job.plan.devices:
            if owner[device] != job.name:
                raise MpsimError(
                    f"jobs {job.name!r} and {owner[device]!r} both have device {device}: give each its own"
                )
    found = []
    for job in jobs:
        if not job.plan.devices:
            free = [device for device in range(len(topology.devices)) if device not in owner][: job.plan.ranks]
            if len(free) < job.plan.ranks:
                raise MpsimError(
                    f"job {job.name!r} needs {job.plan.ranks} devices, {len(free)} of {len(topology.devices)} are left"
                )
            owner |= dict.fromkeys(free, job.name)
            job = replace(job, plan=replace(job.plan, devices=tuple(free)))
        found.append(_one(job, topology, unchecked))
    return found


def _one(job: Job, topology: Topology, unchecked: bool) -> _Laid:
    check_size(job.plan)
    try:
        lowering = prepare(job.workload, topology, job.plan, by_type=job.by_type, unchecked=unchecked)
        if lowering.asynchronous:
            raise MpsimError(f"{job.plan.schedule_name} has no end of a step that the next could wait for: use another")
        program = program_of(lowering)
        alone_s = replay(program, topology).step_s
    except MpsimError as error:
        raise MpsimError(f"job {job.name!r}: {error}") from None
    if not 0 < alone_s < math.inf:
        raise MpsimError(f"job {job.name!r}: its step lasts {alone_s} s, so that no number of steps fills any time")
    return _Laid(job, lowering, program, alone_s)


def _check_tasks(laid: Sequence[_Laid], counts: Sequence[int]) -> None:
    tasks = sum(len(one.program.tasks) * count for one, count in zip(laid, counts, strict=True))
    if tasks > _MOST_TASKS:
        each = ", ".join(
            f"{count:,} of {one.job.name!r}, {one.alone_s:.3g} s each" for one, count in zip(laid, counts, strict=True)
        )
        raise MpsimError(f"too many steps ({each}): {tasks:,} tasks, {_MOST_TASKS:,} at most; ask for fewer")


def _ends(laid: Sequence[_Laid], counts: Sequence[int], topology: Topology) -> list[list[float]]:
    """Return when each step of each job is over."""
    streams: list[Stream] = []
    tasks: list[Task] = []
    marks: list[list[int]] = []
    with collector_paused():
        for one, count in zip(laid, counts, strict=True):
            marks.append(_repeat(one, count, streams, tasks))
        timing: Timing = replay(Program(streams=tuple(streams), tasks=tuple(tasks)), topology)
    return [[timing.end_s[i] for i in own] for own in marks]


def _repeat(one: _Laid, count: int, streams: list[Stream], tasks: list[Task]) -> list[int]:
    """Add a job's steps, each after the last; return the tasks that mark where they end."""
    first = len(streams)
    streams += one.program.streams
    mark = Stream(device=one.place[0], name=f"steps of {one.job.name}")
    streams.append(mark)
    own = one.program.tasks
    followed = {i for task in own for i in (*task.after, *task.after_buffered)}
    last = [i for i in range(len(own)) if i not in followed]
    marks: list[int] = []
    for _ in range(count):
        base = len(tasks)
        before = (marks[-1],) if marks else ()
        for task in own:
            tasks.append(
                task._replace(
                    streams=tuple([first + stream for stream in task.streams]),
                    after=tuple([base + i for i in task.after]) if task.after else before,
                    after_buffered=tuple([base + i for i in task.after_buffered]),
                )
            )
        marks.append(len(tasks))
        tasks.append(Task("step", "step", (len(streams) - 1,), tuple([base + i for i in last])))
    return marks


def _result(one: _Laid, ends: Sequence[float]) -> JobResult:
    lasted = [end_s - start_s for start_s, end_s in zip([0.0, *ends], ends, strict=False)]
    return JobResult(
        name=one.job.name,
        plan=one.job.plan.text,
        devices=one.place,
        alone_step_s=one.alone_s,
        step_s=ends[-1] / len(ends),
        least_step_s=min(lasted),
        most_step_s=max(lasted),
        steps=len(ends),
        caveats=(*caveats(one.lowering), *borrowed(account_traffic(one.program))),
        notes=one.lowering.costs.remarks(one.lowering.topology.devices[device] for device in one.place),
    )
