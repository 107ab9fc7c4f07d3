"""Simulate one plan: lower it, replay it on the links it has and on free ones, account for every second."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mpsim.bars import ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.caveats import borrowed, caveats, measured_on, scalings
from mpsim.lowering.draws import Seed, Trials, Variability
from mpsim.lowering.emit import program_of
from mpsim.lowering.rates import SampleRates, sample_rates
from mpsim.lowering.redraw import Redrawn
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.program.account import account_devices, account_traffic, spans_of
from mpsim.program.model import Program, Timing
from mpsim.result.model import Origin, Result, Spans
from mpsim.result.statistics import check_baseline, middle
from mpsim.result.text import MOST_DEVICES
from mpsim.scaling import Scaling
from mpsim.simulation.baseline import one_device
from mpsim.simulation.cutting import Played
from mpsim.simulation.preparing import prepare_played
from mpsim.simulation.steady import steady_s
from mpsim.simulation.trials import ProgramOf, drawn_steps, trial_steps
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["Label", "play", "simulate", "simulate_played"]


class Label(NamedTuple):
    """What a result says of where it comes from."""

    workload: str
    plan: str
    runtime: str = "ideal"
    baseline: str = ""
    fidelity: str = "given"
    measured_on: str = ""
    launch: str = ""
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    rates: SampleRates = SampleRates()


@checked
def simulate(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    plan: Plan | str | Path,
    *,
    trials: int = 1,
    rng: Seed = 0,
    variability: Variability | None = None,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    baseline: Result | None = None,
    host_speed: float = 1.0,
    processes: int = 1,
    spans: bool = True,
    fold: bool | None = None,
    progress: ShowProgress = None,
) -> Result:
    """Predict a step of a workload on a topology under a plan.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how: values, or what the command line takes, a file or text.
    trials : int
        With 1, and no `variability`, every time is at its median. With more, each trial draws every execution of
        every layer from its measured samples; where nothing is random one replay stands for all.
    rng : int or numpy.random.Generator
        Seed of the trials; the same seed gives the same bits, whatever the plan's other trials or `processes`.
    variability : Variability, optional
        Link jitter and stragglers.
    by_type : mapping of str to Workload, or to its file, optional
        The same model traced on other types of device.
    rescale, speed
        What makes costs of one device stand for others, see `mpsim.lowering.devices.scaled_by_type`; without either
        a trace on other devices is refused.
    unchecked : bool
        Take a trace whose layers miss the step that was measured beside them by more than 15 %.
    baseline : Result, optional
        What the speedup compares with; None: the fastest way to run the same global batch on one of the topology's
        devices.
    host_speed : float
        How many times as fast hosts launch as those of the traces.
    processes : int
        Processes that share the trials.
    spans : bool
        Keep what ran when, and find out what steps in a row take; without it a result is small, and soon there.
    fold : bool, optional
        Simulate one of the ranks that do the same at the same moments; the result has it once, with a `count`. By
        default from 17 ranks on, whose table no longer has a row for each. The numbers are those of the whole, to the
        last bit.
    progress : callable or bool, optional
        Called with the number of trials done and their total; by default a bar, in a terminal or a notebook, of trials
        that take more than two seconds. False: none.

    Returns
    -------
    Result
        The prediction.

    Raises
    ------
    MpsimError
        A plan that cannot be run; the message says what to change.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.topology.wire import Wire
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    >>> work = Workload.chain("four", layers, activation_bytes=1024)
    >>> plan = Plan(pp=4, microbatches=8, schedule="gpipe")
    >>> simulate(work, chain(4, link=Wire(1024.0)), plan).step_s
    39.0
    """
    workload, topology, plan = Workload.of(workload), Topology.of(topology), Plan.of(plan)
    drawn = Trials(count=trials, rng=rng, variability=variability or Variability(), processes=processes)
    played = prepare_played(
        workload, topology, plan, by_type=by_type, rescale=rescale, speed=speed, unchecked=unchecked,
        host_speed=host_speed,
    )  # fmt: skip
    return simulate_played(
        played, drawn, unchecked=unchecked, baseline=baseline, spans=spans, fold=fold, progress=progress
    )


def simulate_played(
    played: Played,
    trials: Trials,
    *,
    unchecked: bool = False,
    baseline: Result | None = None,
    spans: bool = True,
    fold: bool | None = None,
    progress: ShowProgress = False,
) -> Result:
    """Predict a step of a plan that is lowered, as `mpsim.simulation.preparing.prepare_played` does it.

    Parameters
    ----------
    played : Played
        A plan with its stages cut, and what was replayed of it, which is not replayed anew.
    trials : Trials
        How many steps, and what differs between them.
    unchecked, baseline, spans, fold, progress
        As in `simulate`, which shows a bar unasked; `unchecked` counts for the one device that a speedup compares with.

    Raises
    ------
    MpsimError
        A baseline of another batch, or a step without an end.
    """
    lowering = played.lowering
    workload, plan, place = lowering.workload, lowering.plan, lowering.place
    batch = global_batch(workload, plan)
    check_baseline(baseline, batch)
    name, seconds = (baseline.plan, baseline.step_s) if baseline else one_device(lowering, batch, unchecked=unchecked)
    folded = lowering.grid.size > MOST_DEVICES if fold is None else fold
    return play(
        partial(program_of, lowering, folded=folded),
        lowering.topology,
        place,
        trials=trials,
        random=lowering.random,
        spans=spans,
        label=Label(
            workload=workload.name,
            plan=plan.text,
            runtime=plan.runtime,
            baseline=name,
            fidelity=lowering.fidelity.value,
            measured_on=measured_on(lowering),
            launch="eager" if lowering.launches else plan.launch,
            caveats=caveats(lowering),
            notes=lowering.costs.remarks(lowering.topology.devices[device] for device in place),
            scalings=scalings(lowering),
            rates=sample_rates(workload, lowering.topology),
        ),
        global_batch=batch,
        baseline_step_s=seconds,
        steady=partial(steady_s, lowering, pipelines=spans),
        redrawn=partial(Redrawn, lowering) if Redrawn.applies(lowering) else None,
        played=played if folded or (played.program and not played.program.stands_for) else None,
        origin=Origin(
            workload,
            lowering.topology,
            plan,
            {"by_type": lowering.costs.by_type, "unchecked": unchecked, "host_speed": lowering.host_speed},
        ),
        progress=progress,
    )


def _check_finite(step_s: float) -> None:
    """Times of 1e308 s each are finite, their sum is not."""
    if not math.isfinite(step_s):
        raise MpsimError(f"the step lasts {step_s} s, more than a number holds: check the costs, speeds and bandwidths")


def play(
    program_of: ProgramOf,
    topology: Topology,
    place: Sequence[int],
    *,
    trials: Trials,
    random: bool,
    spans: bool,
    label: Label,
    global_batch: int = 0,
    baseline_step_s: float = 0.0,
    steady: Callable[[Program, Timing, bool], float | None] | None = None,
    redrawn: Callable[[], Redrawn] | None = None,
    played: Played | None = None,
    origin: Origin | None = None,
    progress: ShowProgress = False,
) -> Result:
    """Replay the trials of a program and account for the middle one.

    `steady` tells what steps in a row take, of a program at its median or not, `redrawn` is the program with its times
    drawn for many trials at once, `played` what was replayed of it at the median, and `origin` what it was made from.
    """
    draw, steps = None, []
    if trials.differ(random=random):
        trials = trials.seeded()
        with progress_of(progress, "trials") as told:
            steps = (
                drawn_steps(redrawn(), topology, trials, told)
                if redrawn
                else trial_steps(program_of, topology, trials, told)
            )
        draw = trials.draw(middle(steps))
    known = played if played is not None and draw is None else None
    program = (known and known.program) or program_of(draw)
    with collector_paused():
        timing = (known and known.timing) or replay(program, topology)
        free = replay(program, topology, free=True)
        _check_finite(timing.step_s)
        uses = account_devices(program, topology, place, timing, free)
        steady_s = timing.step_s if steady is None else steady(program, timing, draw is None)
        ran = spans_of(program, place, timing) if spans else Spans()
    traffic = account_traffic(program)
    return Result(
        workload=label.workload,
        plan=label.plan,
        runtime=label.runtime,
        baseline=label.baseline,
        fidelity=label.fidelity,
        measured_on=label.measured_on,
        launch=label.launch,
        caveats=(*label.caveats, *borrowed(traffic)),
        notes=label.notes,
        scalings=label.scalings,
        **label.rates._asdict(),
        topology=topology.name,
        global_batch=global_batch,
        step_s=timing.step_s,
        trial_step_s=tuple(steps) or (timing.step_s,),
        trials=trials.count,
        deterministic=draw is None,
        steady_s=steady_s,
        free_step_s=free.step_s,
        baseline_step_s=baseline_step_s,
        devices=uses,
        traffic=traffic,
        spans=ran,
        origin=origin,
    )
