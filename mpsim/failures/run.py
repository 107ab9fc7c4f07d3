"""A plan through failures: replay its steps, draw what fails, play every trial, find the interval that loses least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.bars import ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.failures.components import Components, components_of, known_types
from mpsim.failures.daly import daly_s, expected_goodput, young_s
from mpsim.failures.draws import Floats
from mpsim.failures.lanes import PARTS, Mode, Rows, play, quantum_s, rounded
from mpsim.failures.model import Checkpoints, Failures, Recovery, Stragglers, check_time, seconds_of
from mpsim.failures.outages import Situation
from mpsim.failures.outcome import Formula, Goodput, Replayed, Tried
from mpsim.failures.replays import Replays
from mpsim.failures.search import best_interval
from mpsim.failures.state import state_of
from mpsim.failures.text import given_text
from mpsim.failures.trials import Drawn, Draws
from mpsim.lowering.caveats import borrowed, caveats
from mpsim.lowering.draws import Seed, seed_of
from mpsim.lowering.emit import program_of
from mpsim.lowering.model import Lowering
from mpsim.plan.model import Plan
from mpsim.program.account import account_devices, account_traffic
from mpsim.simulation.preparing import prepare
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["Run", "formula_of", "goodput", "goodput_of"]

_MOST_TRIALS = 100_000
_MOST_TASKS = 30_000_000
_ENOUGH_STOPS = 50_000  # of as many an interval's loss is known to half a percent, and two intervals' difference better


@checked
def goodput(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    plan: Plan | str | Path,
    *,
    failures: Failures,
    checkpoints: Checkpoints,
    recovery: Recovery | None = None,
    stragglers: Stragglers | None = None,
    horizon: float | str = "90 days",
    trials: int | None = None,
    rng: Seed = 0,
    tokens_per_sample: int = 0,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    host_speed: float = 1.0,
    progress: ShowProgress = None,
) -> Goodput:
    """Predict how much of a run's wall time is useful where devices, nodes and links fail, or are slow for a while.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how, as in `simulate`; every layer time at its median.
    failures : Failures
        How often what fails. Nobody measured that of your devices: it must be given.
    checkpoints : Checkpoints
        How the run is saved.
    recovery : Recovery, optional
        What is done about failures; by default all of it takes no time, and the answer says so.
    stragglers : Stragglers, optional
        Devices that are slow for a while.
    horizon : float or str
        Wall time of each trial, in seconds or as text.
    trials : int, optional
        By default 1,000, and 1 where nothing is random.
    rng : int or numpy.random.Generator
        Seed; the same seed gives the same bits.
    tokens_per_sample : int
        For tokens a second; 0: not known.
    by_type, rescale, speed, unchecked, host_speed
        As in `simulate`.
    progress : callable or bool, optional
        Called with the number of trials drawn and their total; by default a bar, in a terminal or a notebook, of what
        takes more than two seconds. False: none.

    Returns
    -------
    Goodput
        Parts of the wall time of each trial, the best interval, the formulas beside it.

    Raises
    ------
    MpsimError
        Nothing that fails, a plan that cannot be run, or more events than can be played.

    Examples
    --------
    >>> from mpsim.failures.model import Event
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=1.0)])
    >>> failures = Failures(listed=(Event(at_s=13.0, what="d0"),))
    >>> found = goodput(work, chain(1, link="1GB/s@0"), Plan(), failures=failures, horizon=30.0,
    ...                 checkpoints=Checkpoints(every_s=4.0, write_s=1.0), recovery=Recovery(restart_s=2.0))
    >>> found.useful_s, found.lost_s, found.checkpoint_s, found.restart_s
    ((20.0,), (3.0,), (5.0,), (2.0,))
    """
    workload, topology, plan = Workload.of(workload), Topology.of(topology), Plan.of(plan)
    lowering = prepare(
        workload, topology, plan, by_type=by_type, rescale=rescale, speed=speed, unchecked=unchecked,
        host_speed=host_speed,
    )  # fmt: skip
    return goodput_of(
        lowering, failures=failures, checkpoints=checkpoints, recovery=recovery, stragglers=stragglers,
        horizon=horizon, trials=trials, rng=rng, tokens_per_sample=tokens_per_sample, progress=progress,
    )  # fmt: skip


def goodput_of(
    lowering: Lowering,
    *,
    failures: Failures,
    checkpoints: Checkpoints,
    recovery: Recovery | None = None,
    stragglers: Stragglers | None = None,
    horizon: float | str = "90 days",
    trials: int | None = None,
    rng: Seed = 0,
    tokens_per_sample: int = 0,
    progress: ShowProgress = None,
) -> Goodput:
    """Do as `goodput` for a plan that is lowered, as `mpsim.simulation.preparing.prepare` does it.

    Raises
    ------
    MpsimError
        As there.
    """
    recovery = recovery or Recovery()
    horizon_s = seconds_of(horizon, "horizon")
    check_time("horizon", horizon_s, least="more than 0")
    count = _checked(lowering, failures, stragglers, trials, tokens_per_sample)
    replays = Replays(lowering, checkpoints, recovery)
    components = _components(replays, failures)
    draws = Draws(
        components=components, failures=failures, recovery=recovery, stragglers=stragglers, lowering=lowering,
        can_go_on=replays.can_go_on, seed=seed_of(rng), horizon_s=horizon_s,
    )  # fmt: skip
    with progress_of(progress, "trials") as told:
        drawn = draws.trials(count, told)
    _check_replays(len(drawn.situations), len(replays.program.tasks))
    modes_of = {one: replays.mode(one) for one in drawn.situations}
    run = Run(tuple(modes_of.values()), drawn.rows, horizon_s)
    mtbf_s = 1.0 / components.rate_per_s if components.rate_per_s else math.inf
    steps, best, tried, on = run.interval(checkpoints, mtbf_s)
    return Goodput(
        workload=lowering.workload.name,
        topology=lowering.topology.name,
        plan=lowering.plan.text,
        caveats=_caveats(replays, failures, recovery, stragglers),
        notes=_notes(lowering, drawn, len(modes_of)),
        fidelity=lowering.fidelity.value,
        n_devices=lowering.plan.ranks,
        nodes=components.nodes,
        step_s=replays.step_s,
        global_batch=replays.batch,
        tokens_per_sample=tokens_per_sample,
        kind=checkpoints.kind,
        interval_s=steps * replays.step_s,
        interval_steps=steps,
        checkpoint_bytes=0 if checkpoints.write_s is not None else sum(state_of(lowering).written),
        **replays.saving()._asdict(),
        mtbf_s=mtbf_s,
        horizon_s=run.wall_s,
        deterministic=not failures.random and stragglers is None,
        stops=tuple(drawn.rows.stops.sum(axis=1).tolist()),
        best=best,
        tried=tried,
        tried_on=on,
        formula=formula_of(steps, run.modes, mtbf_s, recovery, failures) if mtbf_s < math.inf else None,
        replayed=tuple(_replayed(one, mode, lowering, drawn.alike) for one, mode in modes_of.items()),
        **run.trials(steps),
    )


def _checked(
    lowering: Lowering, failures: Failures, stragglers: Stragglers | None, trials: int | None, tokens: int
) -> int:
    """Return how many trials there are to be."""
    random = failures.random or stragglers is not None
    if not random and not failures.listed:
        raise MpsimError(
            "nothing fails: nobody measured how often these devices do, so give a mean time between failures, as"
            " 50000h a device, or a list of failures"
        )
    if lowering.asynchronous:
        raise MpsimError(f"{lowering.plan.schedule_name} has no end of a step at which a run is saved: use another")
    known_types(lowering.topology, failures)
    count = (1000 if random else 1) if trials is None else trials
    if not 1 <= count <= _MOST_TRIALS:
        raise MpsimError(f"trials is {count}, expected 1 to {_MOST_TRIALS:,}")
    if tokens < 0:
        raise MpsimError(f"tokens in a sample are {tokens}, expected 0 or more")
    return count if random else 1


def _components(replays: Replays, failures: Failures) -> Components:
    lowering = replays.lowering
    # Of links that never fail none need be known, and of those that may all, not one for each class.
    wires = failures.link_mtbf_s != math.inf or failures.link_by_type or failures.listed
    tasks = program_of(lowering).tasks if wires else ()
    links = {i for task in tasks if task.traffic for i in task.traffic.links}
    replica = [lowering.grid.at(rank)["dp"] for rank in range(lowering.plan.ranks)]
    return components_of(lowering.topology, lowering.place, replica, links, failures)


def _check_replays(situations: int, tasks: int) -> None:
    if situations * tasks > _MOST_TASKS:
        raise MpsimError(
            f"{situations} situations of slow devices and replicas that are out, of {tasks:,} tasks each, are more than"
            f" the {_MOST_TASKS:,} tasks that are replayed: give fewer or shorter slow spells, or a shorter run"
        )


class Run(NamedTuple):
    """The trials of a plan: what steps take in each situation, and what happens when.

    Examples
    --------
    >>> none = np.zeros((1, 0))
    >>> events = Rows(none, none.astype(bool), none.astype(np.int64), none, none)
    >>> Run((Mode(1.0, 1.0, 2.0, 0.0, 0.0),), events, 15.0).trials(4)["checkpoint_s"]
    (4.0,)
    """

    modes: tuple[Mode, ...]
    rows: Rows
    horizon_s: float

    @property
    def wall_s(self) -> float:
        """The horizon as the trials have it, which is a multiple of the shortest time that they tell apart."""
        return float(rounded(np.array(self.horizon_s), quantum_s(self.horizon_s), math.inf))

    def trials(self, steps: int) -> dict[str, Any]:
        """Return the seconds of each part of each trial with so many steps between checkpoints."""
        parts = play(self.modes, np.array([float(steps)]), self.rows, self.horizon_s)
        return {f"{name}_s": tuple(parts[name][0].tolist()) for name in PARTS}

    def interval(self, checkpoints: Checkpoints, mtbf_s: float) -> tuple[int, Tried | None, tuple[Tried, ...], int]:
        """Return the steps between checkpoints, the best, all that were tried, and on how many trials.

        Raises
        ------
        MpsimError
            The best is asked for, and nothing stops.
        """
        step_s, stops = self.modes[0].step_s, self.rows.stops.sum(axis=1)
        asked = None if checkpoints.every_s is None else max(1, round(float(checkpoints.every_s) / step_s))
        if not stops.any():
            if asked is None:
                raise MpsimError("no trial is stopped, so no time between checkpoints is the best: say how long it is")
            return asked, None, (), 0
        between_s = mtbf_s if mtbf_s < math.inf else self.horizon_s * len(stops) / float(stops.sum())
        best, tried, on = self._searched(stops, between_s)
        return best.steps if asked is None else asked, best, tried, on

    def _searched(self, stops: NDArray[np.int64], between_s: float) -> tuple[Tried, tuple[Tried, ...], int]:
        whole = self.modes[0]
        on = min(int(np.searchsorted(stops.cumsum(), _ENOUGH_STOPS)) + 1, len(stops))
        few = Run(self.modes, self.rows.first(on), self.horizon_s)
        # A checkpoint that costs nothing is best made after every step, or as often as it is written.
        start = max(young_s(whole.blocked_s, between_s), whole.written_s, whole.step_s) / whole.step_s
        most = max(1, math.ceil(self.horizon_s / whole.step_s))
        best, tried = best_interval(few.means, whole.step_s, start, most)
        return replace(best, goodput=float(self.means(np.array([float(best.steps)]))[0])), tried, on

    def means(self, steps: Floats) -> Floats:
        """Return the mean goodput with each of some numbers of steps between checkpoints."""
        found: Floats = play(self.modes, steps, self.rows, self.horizon_s)["useful"].mean(axis=1) / self.horizon_s
        return found


def formula_of(steps: int, modes: Sequence[Mode], mtbf_s: float, recovery: Recovery, failures: Failures) -> Formula:
    """Return what Young's and Daly's formulas say of a run, and what of it they do not know.

    Examples
    --------
    >>> formula_of(10, [Mode(1.0, 1.0, 0.5, 0.0, 2.0)], 100.0, Recovery(), Failures(mtbf_s=100.0)).young_s
    10.0
    """
    whole = modes[0]
    there_s = 0.0 if recovery.spares else recovery.repair_s
    hold_s = max(recovery.detect_s, there_s) + recovery.swap_s + whole.restart_s
    misses = {
        "failures are Weibull": failures.shape != 1,
        "some are listed": bool(failures.listed),
        "a smaller plan goes on": recovery.smaller,
        "spares run out": bool(recovery.spares) or there_s == math.inf,
        "steps differ": any(mode.step_s != whole.step_s for mode in modes),
        "checkpoints are written beside steps": whole.written_s > 0,
    }
    return Formula(
        young_s=young_s(whole.blocked_s, mtbf_s),
        daly_s=daly_s(whole.blocked_s, mtbf_s),
        goodput=expected_goodput(steps * whole.step_s, whole.blocked_s, hold_s, mtbf_s),
        misses=tuple(text for text, missed in misses.items() if missed),
    )


def _caveats(
    replays: Replays, failures: Failures, recovery: Recovery, stragglers: Stragglers | None
) -> tuple[str, ...]:
    lowering, program = replays.lowering, replays.program
    uses = account_devices(program, lowering.topology, lowering.place, replays.timing, replays.timing)
    over = [f"the plan does not fit {use.name}" for use in uses if use.fits is False]
    given = given_text(failures, recovery, stragglers)
    return (given, *over[:1], *caveats(lowering), *borrowed(account_traffic(program)))


def _notes(lowering: Lowering, drawn: Drawn, replayed: int) -> tuple[str, ...]:
    found = list(lowering.costs.remarks(lowering.topology.devices[device] for device in lowering.place))
    if drawn.alike:
        found.append(
            f"replicas are taken to be alike, for {replayed} replays to stand for all that is out or slow in turn"
        )
    if drawn.unused:
        found.append(f"{drawn.unused} listed failures are of what the plan does not use")
    return tuple(found)


def _replayed(situation: Situation, mode: Mode, lowering: Lowering, alike: bool) -> Replayed:
    out, many = situation.out, "s" * (len(situation.out) > 1)
    named = f"replica{many} {', '.join(map(str, out))} out" if not alike else f"{len(out)} replica{many} out"
    words = [named] if out else []
    for factor in sorted({factor for _, factor in situation.slow}):
        names = [lowering.topology.devices[device].name for device, one in situation.slow if one == factor]
        words.append(f"{', '.join(names) if len(names) <= 3 else f'{len(names)} devices'} {factor:g} times slower")
    return Replayed(what=", ".join(words) or "undisturbed", step_s=mode.step_s, useful_s=mode.useful_s)
