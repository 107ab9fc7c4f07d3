"""Explain a plan: replay it once more, and say who waited for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mpsim.bars import Progress, ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.explanation.account import Idle, mean_idle_s, parts_of_step
from mpsim.explanation.balanced import balanced_durations, durations_without_launches
from mpsim.explanation.critical import path_steps
from mpsim.explanation.kinds import Kinds
from mpsim.explanation.links import Watched
from mpsim.explanation.outcome import Explanation
from mpsim.explanation.whatifs import Setting, programmed, simulate_changes
from mpsim.lowering.devices import scaled_by_type
from mpsim.lowering.draws import Trials
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.program.model import Program
from mpsim.simulation.cutting import Played
from mpsim.simulation.preparing import prepare_played
from mpsim.simulation.run import simulate_played
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["explain"]


@checked
def explain(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    plan: Plan | str | Path,
    *,
    against: Plan | str | Path | None = None,
    what_ifs: bool = True,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    host_speed: float = 1.0,
    fold: bool | None = None,
    progress: ShowProgress = None,
) -> Explanation:
    """Say where a step of a plan goes, what it waits for, and what would make it shorter.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how: values, or what the command line takes, a file or text.
    against : Plan, optional
        Another plan of the same batch, whose account is laid beside this one's.
    what_ifs : bool
        Simulate the step again with one thing changed at a time, which takes as long as so many simulations.
    by_type, rescale, speed, unchecked, host_speed, fold
        As in `mpsim.simulate`.
    progress : callable or bool, optional
        Called with how many what-ifs are done, and how many there are; by default a bar, in a terminal or a notebook,
        of what takes more than two seconds. False: none.

    Returns
    -------
    Explanation
        Printed it is what ``mpsim explain`` says.

    Raises
    ------
    MpsimError
        As `mpsim.simulate`; or plans of unlike batches.

    Examples
    --------
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=500)
    >>> found = explain(work, parse_topology("chain:2,link=1kB/s@0"), Plan(pp=2, microbatches=2))
    >>> [(part.label, part.seconds) for part in found.parts]
    [('computing', 6.0), ('exposed pp send over 1 kB/s links', 1.25), ('pipeline bubble', 2.75)]
    >>> [one.name for one in found.path]
    ['0F0', '0F0>1', '1F0', '1B0', '1F1', '1B1', '1B1>0', '0B1']
    """
    workload, topology, plan = Workload.of(workload), Topology.of(topology), Plan.of(plan)
    against = None if against is None else Plan.of(against)
    types = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
    setting = Setting(by_type=types, unchecked=unchecked, host_speed=host_speed, fold=fold)
    if against is not None:
        _check_batches(workload, plan, against)
    with progress_of(progress, "what-ifs") as told:
        found = _explained(workload, topology, plan, setting, told if what_ifs else None)
    if against is None:
        return found
    return replace(found, against=_explained(workload, topology, against, setting, None))


def _check_batches(workload: Workload, plan: Plan, other: Plan) -> None:
    a, b = global_batch(workload, plan), global_batch(workload, other)
    if a != b:
        raise MpsimError(f"the plan's batch is {a}, that of the one it is held against {b}: give both the same one")


def _explained(
    workload: Workload, topology: Topology, plan: Plan, setting: Setting, progress: Progress | None
) -> Explanation:
    played = prepare_played(
        workload, topology, plan, by_type=setting.by_type, unchecked=setting.unchecked, host_speed=setting.host_speed
    )
    lowering, where = played.lowering, played.lowering.topology
    program, _ = programmed(played, setting.fold)
    watched, kinds = Watched(program, where), Kinds(program, where)
    timing = replay(program, where, observer=watched.see, releases=True)
    result = simulate_played(
        Played(lowering, program, timing),
        Trials(count=1),
        unchecked=setting.unchecked,
        spans=False,
        fold=setting.fold,
    )
    devices = sorted(program.stands_for or lowering.place)
    idle = _idle(program, where, devices, lowering.launches)
    return Explanation(
        result=result,
        parts=parts_of_step(program, timing, kinds, devices, result.devices, idle),
        path=path_steps(program, where, timing, kinds),
        links=watched.full(kinds),
        what_ifs=simulate_changes(lowering, program, result.step_s, setting, progress) if progress else (),
    )


def _idle(program: Program, topology: Topology, devices: Sequence[int], launches: bool) -> Idle:
    """Replay the step on an ideal network: as it is, launched for nothing, and with stages that are alike besides."""
    free = mean_idle_s(program, devices, replay(program, topology, free=True))
    bare, stages = program, free
    if launches:
        bare = _lasting(program, durations_without_launches(program))
        stages = mean_idle_s(bare, devices, replay(bare, topology, free=True))
    alike = _lasting(bare, balanced_durations(bare))
    return Idle(mean_idle_s(alike, devices, replay(alike, topology, free=True)), stages, free)


def _lasting(program: Program, durations: Sequence[float]) -> Program:
    tasks = (task._replace(duration_s=seconds) for task, seconds in zip(program.tasks, durations, strict=True))
    return replace(program, tasks=tuple(tasks))
