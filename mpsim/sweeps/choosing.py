"""Choose where a plan of a sweep stands: which device each of its ranks gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.lowering.caveats import check_point
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.plan.model import Plan, check_size
from mpsim.simulation.cutting import Played, fastest_played, overflows, round_step
from mpsim.simulation.preparing import prepare_played
from mpsim.sweeps.placing import placements
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["best_played"]

# All replays of a plan's placements together, and how many of them are cut with care.
_MOST_TASKS = 30_000
_FINALISTS = 3
# Whether it overflows a memory, and its step: what is less is better.
_Score = tuple[bool, float]


def best_played(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    by_type: Mapping[str, Workload],
    *,
    host_speed: float = 1.0,
    unchecked: bool = False,
) -> Played:
    """Return the plan on the devices on which it fits and its step is the shortest, of `placements`, and its replay.

    Each is replayed once, its stages balanced, until 30,000 tasks were replayed; the best three are cut anew where
    their step is the shortest. Of equal ones the topology's order counts, then the first.

    Raises
    ------
    MpsimError
        What is wrong with the plan in the topology's order, if it cannot be run anywhere; costs that miss the step
        measured beside them, unless `unchecked`.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.topology.model import Device
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> unlike = chain(2, link="1GB/s@0", devices=[Device(name=""), Device(name="", speed=4.0)])
    >>> best_played(work, unlike, Plan(), {}).lowering.plan.devices
    (1,)
    """
    places = placements(topology, plan.dp, plan.pp, plan.cp * plan.tp) if plan.ranks <= len(topology.devices) else [()]
    if len(places) == 1:
        return prepare_played(workload, topology, plan, by_type=by_type, host_speed=host_speed, unchecked=unchecked)
    check_size(plan)
    left, found, errors = _MOST_TASKS, [], []
    for place in places:
        try:
            lowering = lower(workload, topology, replace(plan, devices=place), by_type=by_type, host_speed=host_speed)
            score, tasks = _score(lowering)
        except MpsimError as error:
            errors.append(error)
            continue
        found.append((score, lowering))
        left -= tasks
        if left < tasks:
            break
    if not found:
        raise errors[0]
    found.sort(key=lambda one: one[0])
    finalists = [_replayed(fastest_played(lowering)) for _, lowering in found[:_FINALISTS]]
    best = min(finalists, key=_score_of)
    check_point(best.lowering, unchecked=unchecked)
    return best


def _score(lowering: Lowering) -> tuple[_Score, int]:
    """Return what to judge a plan by, and the tasks of its program."""
    played = _replayed(Played(lowering))
    assert played.program is not None
    return _score_of(played), len(played.program.tasks)


def _replayed(played: Played) -> Played:
    """Return a plan with its program and its replay."""
    program = played.program or program_of(played.lowering, folded=True)
    timing = played.timing or replay(program, played.lowering.topology)
    return played._replace(program=program, timing=timing)


def _score_of(played: Played) -> _Score:
    assert played.program is not None
    assert played.timing is not None
    return overflows(played.lowering, played.program, played.timing), round_step(played.timing.step_s)
