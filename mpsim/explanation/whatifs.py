"""What-ifs: the step simulated again with one thing changed, the most gained first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mpsim.bars import Progress
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.explanation import changes
from mpsim.explanation.balanced import balanced_durations
from mpsim.explanation.changes import Changed
from mpsim.explanation.model import WhatIf
from mpsim.lowering.emit import program_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.plan.shape import shape_of
from mpsim.program.account import account_devices
from mpsim.program.model import Program, Timing
from mpsim.result.text import MOST_DEVICES
from mpsim.simulation.cutting import Played
from mpsim.simulation.preparing import prepare_played
from mpsim.workload.model import Workload

__all__ = ["Setting", "programmed", "simulate_changes"]

_Make = Callable[[], Changed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a step depends on beside topology and plan, as `mpsim.simulate` takes it."""

    by_type: Mapping[str, Workload]
    unchecked: bool
    host_speed: float
    fold: bool | None


def programmed(played: Played, fold: bool | None) -> tuple[Program, Timing | None]:
    """Return the program of a plan, folded as asked, and its replay, where the search for its cut has had it."""
    lowering, program = played.lowering, played.program
    folded = lowering.grid.size > MOST_DEVICES if fold is None else fold
    if program is not None and (folded or not program.stands_for):
        return program, played.timing
    known = played.timing if folded else None
    return program_of(lowering, folded=folded), known


def simulate_changes(
    lowering: Lowering, program: Program, step_s: float, setting: Setting, progress: Progress
) -> tuple[WhatIf, ...]:
    """Return what a step would take if one thing were otherwise, the most gained first, then what cannot be run.

    Parameters
    ----------
    lowering, program, step_s
        The step as it is.
    setting : Setting
        What else it depends on.
    progress : callable
        Told how many are done of how many.
    """
    asked = _Asked(lowering, program, step_s, setting)
    questions = [partial(asked.simulated, *one) for one in _questions(lowering, program)]
    schedules, reason = _schedules(lowering)
    tried = [partial(asked.simulated, str(one.plan.schedule), partial(_same, one)) for one in schedules]
    asks: list[Callable[[], WhatIf]] = [*questions, *tried, asked.alike]
    found = []
    for done, ask in enumerate(asks, start=1):
        found.append(ask())
        progress(done, len(asks))
    others = _next_best(found[len(questions) : -1], reason)
    return tuple(
        sorted(
            [*found[: len(questions)], found[-1], others],
            key=lambda one: (one.gain_fraction is None, -(one.gain_fraction or 0.0)),
        )
    )


def _schedules(lowering: Lowering) -> tuple[list[Changed], str]:
    """Return the plan under all other schedules, or why there are none."""
    try:
        return changes.other_schedules(lowering), "no other schedule has rows for it"
    except MpsimError as error:
        return [], str(error)


def _next_best(tried: Sequence[WhatIf], reason: str) -> WhatIf:
    """Return the fastest of other schedules, those that fit before the others."""
    name = "next-best schedule"
    ran = [one for one in tried if one.step_s is not None]
    if not ran:
        return WhatIf(name=name, reason=tried[0].reason if tried else reason)
    best = min(ran, key=lambda one: (one.fits is False, one.step_s))
    return replace(best, name=f"{name}: {best.name}", detail=f"the best of {len(ran)} others that run")


def _questions(lowering: Lowering, program: Program) -> Iterator[tuple[str, _Make]]:
    used = {link for task in program.tasks if task.traffic is not None for link in task.traffic.links}
    for kind in changes.kinds_in_use(lowering, used):
        yield f"{kind} twice as fast", partial(changes.faster_links, lowering, kind)
    if used:
        yield "no latency", partial(changes.no_latency, lowering)
    yield "CUDA graphs", partial(changes.cuda_graphs, lowering)
    yield "one more node", partial(changes.one_more_node, lowering)
    yield "stages cut anew", partial(changes.best_cut, lowering)
    yield "twice the micro-batches", partial(changes.more_microbatches, lowering, larger_batch=False)
    yield "twice the batch", partial(changes.more_microbatches, lowering, larger_batch=True)


class _Asked:
    """One step, and what is asked of it."""

    def __init__(self, lowering: Lowering, program: Program, step_s: float, setting: Setting) -> None:
        self._lowering, self._program, self._step_s, self._setting = lowering, program, step_s, setting
        self._batch = global_batch(lowering.workload, lowering.plan)

    def simulated(self, name: str, make: _Make) -> WhatIf:
        """Return a what-if, or why it cannot be run."""
        try:
            return self._run(name, make())
        except MpsimError as error:
            return WhatIf(name=name, reason=str(error))

    def _run(self, name: str, changed: Changed) -> WhatIf:
        """Simulate a change; of a plan that leaves its stages open also cut as it is now, where that is faster.

        A search for a cut does not look at all of them: what it finds for faster links may be the slower one.
        """
        found = self._cut(name, changed, changed.plan)
        now = self._lowering
        if changed.plan.boundaries is None and now.shape.stages > 1 and _stages(changed.plan) == now.shape.stages:
            kept = self._cut(name, changed, replace(changed.plan, boundaries=now.boundaries))
            return min(found, kept, key=lambda one: (one.fits is False, one.step_s))
        return found

    def _cut(self, name: str, changed: Changed, plan: Plan) -> WhatIf:
        setting, workload = self._setting, self._lowering.workload
        played = prepare_played(
            workload, changed.topology, plan, by_type=setting.by_type, unchecked=setting.unchecked,
            host_speed=setting.host_speed,
        )  # fmt: skip
        lowering = played.lowering
        program, timing = programmed(played, setting.fold)
        timing = timing or replay(program, lowering.topology)
        uses = account_devices(program, lowering.topology, lowering.place, timing, None)
        fits = None if any(use.fits is None for use in uses) else all(use.fits for use in uses)
        batch = global_batch(workload, plan)
        return WhatIf(
            name=name,
            detail=changed.detail,
            step_s=timing.step_s,
            global_batch=batch,
            gain_fraction=self._gain(timing.step_s, batch),
            fits=fits,
            topology=changed.topology,
            plan=plan,
        )

    def _gain(self, step_s: float, batch: int) -> float:
        """Return by how much less time a sample takes."""
        return 1.0 - (step_s * self._batch) / (self._step_s * batch) if self._step_s else 0.0

    def alike(self) -> WhatIf:
        """Return what the step would take if all stages took equally long, which no cut of its layers may do."""
        lowering = self._lowering
        several = lowering.shape.stages > 1
        name = f"{'stages' if several else 'devices'} that take equally long"
        if not several and not self._unlike():
            return WhatIf(name=name, reason="the plan has one stage, on devices that are alike")
        step_s = replay(self._program, lowering.topology, durations=balanced_durations(self._program)).step_s
        return WhatIf(
            name=name,
            detail="if a cut could make them; memory not asked" if several else "",
            step_s=step_s,
            global_batch=self._batch,
            gain_fraction=self._gain(step_s, self._batch),
        )

    def _unlike(self) -> bool:
        nodes = (self._lowering.topology.devices[device] for device in self._lowering.place)
        return len({(node.type, node.speed) for node in nodes}) > 1


def _stages(plan: Plan) -> int:
    return shape_of(plan.rows()).stages


def _same(changed: Changed) -> Changed:
    return changed
