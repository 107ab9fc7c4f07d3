"""Run a plan for real: processes, messages and collectives, and the same result that a replay gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpsim.bars import ShowProgress, progress_of
from mpsim.calls import checked
from mpsim.emulate.assignment import Report
from mpsim.emulate.fabric import open_fabric
from mpsim.emulate.launch import Launch, launch
from mpsim.emulate.links import imposed_topology, pairs_to_measure, topology_from, with_hops
from mpsim.emulate.measured import Layout, lay_out, timing_of
from mpsim.emulate.pace import with_paces
from mpsim.emulate.pairing import check_scripts
from mpsim.emulate.recipes import recipes
from mpsim.errors import MpsimError, unknown
from mpsim.lowering.bind import collective_scripts, scripts
from mpsim.lowering.caveats import caveats, scalings
from mpsim.lowering.devices import scaled_by_type
from mpsim.lowering.draws import Seed, Trials, Variability
from mpsim.lowering.instructions import Compute, Post, Script
from mpsim.lowering.lower import lower, run_by
from mpsim.lowering.model import Lowering
from mpsim.lowering.rates import sample_rates
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.program.account import account_devices, account_traffic, spans_of
from mpsim.program.model import Timing
from mpsim.result.model import DeviceUse, MemoryUse, Result
from mpsim.result.statistics import check_baseline, middle
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.model import Workload

__all__ = ["Emulation", "emulate", "emulate_collectives", "emulate_lowering"]

RUNTIME = "torch-gloo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """A real run.

    Attributes
    ----------
    result : Result
        As a replay gives it, but for what a run cannot know: its step on an ideal network, bubbles and memory.
    links : Topology or None
        The topology with each link as it was measured before the run, and with real computation each device's speed
        and slowdown beside communication: what a prediction is to be made with. None where nothing was measured.
    fabric : str
        What carried the bytes.
    overrun_fraction : float
        By how much replayed computations of the result's trial took longer than they should, on the device where
        that was most, as a fraction of the step: what a busy machine adds, and no prediction knows. 0 for real ones.
    losses : tuple of float
        Of each trial, the mean over replicas; empty where nothing was computed.
    boundaries : tuple of int
        The first layer of each stage but the first, as it was run.
    """

    result: Result
    links: Topology | None
    fabric: str
    overrun_fraction: float = 0.0
    losses: tuple[float, ...] = ()
    boundaries: tuple[int, ...] = ()


@checked
def emulate(
    workload: Workload | str | Path,
    topology: Topology | str | Path,
    plan: Plan | str | Path,
    *,
    trials: int = 1,
    compute: str = "replay",
    model: Any = None,
    depth: int | str = "auto",
    fabric: str = "host",
    measure_links: bool = True,
    rng: Seed = 0,
    draws: bool = True,
    variability: Variability | None = None,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    baseline: Result | None = None,
    warm_ups: int = 1,
    progress: ShowProgress = None,
) -> Emulation:
    """Run a plan on real processes, one a device, that send every byte, and compute or sleep for as long.

    Parameters
    ----------
    workload, topology, plan
        What is split, over what, and how. The plan's runtime is not asked: what runs is torch.distributed over gloo.
        Stages that it leaves open are balanced; `simulate` cuts where its replay is fastest: name the boundaries to
        compare the two.
    trials : int
        Steps that are run and measured.
    compute : {"replay", "real"}
        Sleep for the traced times, so that two cores can stand for eight devices; or run the model's parts.
    model : str, Example or None
        With real computation: a zoo name or ``package.module:factory``, with sizes as in ``gpt2[n_layer=2]``, or one
        micro-batch as an `Example`; None: what the workload is named after.
    depth : int or "auto"
        With real computation: as the workload was traced.
    fabric : {"host", "namespaces"}
        Loopback, or the topology's own links; see `mpsim.emulate.fabric.open_fabric`.
    measure_links : bool
        Measure first what a message costs, and return the topology that it makes.
    rng : int or numpy.random.Generator
        Seed of the trials' layer times, which are those that `mpsim.simulate` draws.
    draws : bool
        With several trials, draw layer times from the measured samples, as `simulate` does; otherwise every trial
        has them at their medians.
    variability : Variability, optional
        Stragglers; links have the jitter that they have.
    by_type : mapping of str to Workload, optional
        The same model traced on other types of device.
    rescale, speed
        What makes costs of one device stand for others, as in `mpsim.simulate`.
    baseline : Result, optional
        What the speedup compares with; None: nothing.
    warm_ups : int
        Steps before those, which nobody records.
    progress : callable or bool, optional
        Called with how many of all steps all processes are through, and how many there are; by default a bar, in a
        terminal or a notebook, of what takes more than two seconds. False: none.

    Raises
    ------
    MpsimError
        A plan that cannot be run, too many processes, or a process that failed.
    """
    workload, topology, plan = Workload.of(workload), Topology.of(topology), Plan.of(plan)
    by_type = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
    return emulate_lowering(
        lower(workload, topology, plan, by_type=by_type),
        topology,
        Trials(count=trials, rng=rng, variability=variability or Variability()),
        compute=compute,
        model=model,
        depth=depth,
        fabric=fabric,
        measure_links=measure_links,
        draws=draws,
        baseline=baseline,
        warm_ups=warm_ups,
        progress=progress,
    )


def emulate_lowering(
    lowering: Lowering,
    topology: Topology,
    trials: Trials,
    *,
    compute: str = "replay",
    model: Any = None,
    depth: int | str = "auto",
    fabric: str = "host",
    measure_links: bool = True,
    draws: bool = True,
    baseline: Result | None = None,
    warm_ups: int = 1,
    progress: ShowProgress = None,
) -> Emulation:
    """Run a plan that is lowered, with its stages as they are cut.

    Parameters
    ----------
    lowering : Lowering
        Of the plan, whatever its runtime.
    topology : Topology
        As it was given: what is measured is written into it.
    trials : Trials
        Steps that are run and measured, and what differs between them.
    compute, model, depth, fabric, measure_links, draws, baseline, warm_ups, progress
        As in `emulate`.

    Raises
    ------
    MpsimError
        As `emulate`.
    """
    lowering = run_by(lowering, RUNTIME)
    workload, plan = lowering.workload, lowering.plan
    _check(plan, trials, warm_ups)
    batch = global_batch(workload, plan)
    check_baseline(baseline, batch)
    if compute not in ("replay", "real"):
        raise unknown("compute", compute, ("replay", "real"))
    shared = plan.sharding.text or (f"cp={plan.cp} ep={plan.ep}" if max(plan.cp, plan.ep) > 1 else "")
    if compute == "real" and shared:
        raise MpsimError(
            f"real computation has whole replicas that keep all for backward, the plan {shared}: use --compute replay"
        )
    if plan.sharding.offload:
        raise MpsimError(
            f"a process has no host to offload to, the plan offload={plan.sharding.offload}: leave that out"
        )
    random = draws and compute == "replay"
    drawn = _drawn(lowering, trials if random else replace(trials, count=1))
    models = recipes(lowering, model, depth) if compute == "real" else ()
    ran = _run(drawn, topology, fabric, trials.count, warm_ups, measure_links, progress, models)
    emulation = ran.emulation(
        workload=workload.name,
        measured_on=workload.device,
        plan=plan.text,
        global_batch=batch,
        fidelity="measured" if compute == "real" else lowering.fidelity.value,
        caveats=() if compute == "real" else caveats(lowering),
        scalings=() if compute == "real" else scalings(lowering),
        **sample_rates(workload, topology)._asdict(),
        baseline=baseline.plan if baseline else "",
        baseline_step_s=baseline.step_s if baseline else 0.0,
    )
    return replace(emulation, boundaries=lowering.boundaries)


@checked
def emulate_collectives(
    sizes: Sequence[int],
    topology: Topology | str | Path,
    *,
    kind: str = "all_reduce",
    devices: int | None = None,
    trials: int = 1,
    fabric: str = "host",
    measure_links: bool = True,
    warm_ups: int = 1,
    progress: ShowProgress = None,
) -> Emulation:
    """Exchange a list of collectives for real, in order, trial after trial.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each collective's whole tensor.
    topology : Topology
        What carries them.
    kind : str
        Of every collective: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``broadcast``. The
        algorithm is gloo's.
    devices : int, optional
        How many of the topology's devices take part, the first ones; None: all.
    trials, fabric, measure_links, warm_ups, progress
        As in `emulate`.

    Raises
    ------
    MpsimError
        No sizes, too few or too many devices, or a process that failed.
    """
    topology = Topology.of(topology)
    count = len(topology.devices) if devices is None else devices
    if not 2 <= count <= len(topology.devices):
        raise MpsimError(
            f"{count} devices asked for, topology {topology.name!r} has {len(topology.devices)}: a collective takes 2"
            " or more"
        )
    if not sizes:
        raise MpsimError("no collective sizes: give bytes, as in 2600,33024,131584,803840")
    steps = Trials(count=trials)
    _check_warm_ups(warm_ups)
    drawn = (collective_scripts(sizes, kind, range(count)),)
    ran = _run(drawn, topology, fabric, steps.count, warm_ups, measure_links, progress)
    return ran.emulation(
        workload=f"{len(sizes)} collectives of {sum(sizes)} bytes",
        plan=f"{kind} over {count} devices",
        fidelity="measured",
    )


def _check(plan: Plan, trials: Trials, warm_ups: int) -> None:
    _check_warm_ups(warm_ups)
    if plan.algorithm != "ring":
        raise MpsimError(
            f"the plan asks for {plan.algorithm!r} collectives, gloo has its own ring: leave the algorithm out"
        )
    if trials.variability.link_jitter_s:
        raise MpsimError(
            f"a jitter of {trials.variability.link_jitter_s:g} s cannot be imposed on a real run: its links have their"
            " own"
        )


def _check_warm_ups(warm_ups: int) -> None:
    if warm_ups < 0:
        raise MpsimError(f"warm_ups is {warm_ups}, expected 0 or more")


def _drawn(lowering: Lowering, trials: Trials) -> tuple[tuple[Script, ...], ...]:
    """Return every rank's script, for each trial if they differ."""
    if not trials.differ(random=lowering.random):
        return (scripts(lowering),)
    seeded = trials.seeded()
    return tuple(scripts(lowering, seeded.draw(i)) for i in range(trials.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """What came out of a run."""

    drawn: tuple[tuple[Script, ...], ...]
    layout: Layout
    timings: tuple[Timing, ...]
    devices: tuple[int, ...]
    topology: Topology
    links: Topology | None
    fabric: str
    losses: tuple[float, ...]

    def emulation(self, **label: object) -> Emulation:
        """Account for the middle trial."""
        steps = [timing.step_s for timing in self.timings]
        trial = middle(steps)
        timing = self.timings[trial]
        program = self.layout.program
        uses = account_devices(program, self.topology, self.devices, timing, None)
        result = Result(
            **label,  # type: ignore[arg-type]
            made_by="emulate",
            runtime=RUNTIME,
            topology=self.topology.name,
            step_s=timing.step_s,
            trial_step_s=tuple(steps),
            trials=len(steps),
            free_step_s=None,
            devices=tuple(map(_without_memory, uses)),
            traffic=account_traffic(program),
            spans=spans_of(program, self.devices, timing),
        )
        return Emulation(
            result=result,
            links=self.links,
            fabric=self.fabric,
            overrun_fraction=0.0 if self.losses else self._overrun_s(trial) / timing.step_s,
            losses=self.losses,
        )

    def _overrun_s(self, trial: int) -> float:
        """Return by how much a device's computations took longer than the script has them."""
        late_s = dict.fromkeys(range(len(self.devices)), 0.0)
        timing = self.timings[trial]
        for ((rank, i), *_), start_s, end_s in zip(
            (posts for posts, _ in self.layout.sources), timing.start_s, timing.end_s, strict=True
        ):
            step = self.drawn[trial % len(self.drawn)][rank].steps[i]
            if isinstance(step, Compute):
                late_s[rank] += end_s - start_s - step.seconds
        return max(late_s.values())


def _without_memory(use: DeviceUse) -> DeviceUse:
    """Return a device's use without bytes that nobody counted."""
    return DeviceUse(
        name=use.name,
        type=use.type,
        compute_s=use.compute_s,
        exposed_communication_s=use.exposed_communication_s,
        idle_s=use.idle_s,
        bubble_s=None,
        memory=MemoryUse(),
    )


def _run(
    drawn: tuple[tuple[Script, ...], ...],
    topology: Topology,
    fabric: str,
    trials: int,
    warm_ups: int,
    measure_links: bool,
    progress: ShowProgress,
    models: tuple[bytes, ...] = (),
) -> _Ran:
    check_scripts(drawn[0])
    devices = tuple(script.device for script in drawn[0])
    imposed = imposed_topology(fabric, topology)
    order = Launch(
        scripts=drawn,
        names=tuple(topology.devices[device].name for device in devices),
        trials=trials,
        warm_ups=warm_ups,
        patience_s=30.0 + _longest_s(drawn, imposed),
        pairs=pairs_to_measure(imposed, devices) if measure_links and len(devices) > 1 else (),
        models=models,
    )
    with progress_of(progress, "steps") as told, open_fabric(fabric, topology, devices) as opened:
        reports = launch(opened, order, told)
        description = opened.description
    layout = lay_out(drawn[0], Routes(imposed))
    return _Ran(
        drawn=drawn,
        layout=layout,
        timings=_timings(layout, reports, trials),
        devices=devices,
        topology=imposed,
        links=_measured(reports, imposed, drawn[0]) if order.pairs else None,
        fabric=description,
        losses=_losses(reports),
    )


def _measured(reports: Sequence[Report], imposed: Topology, ranks: tuple[Script, ...]) -> Topology:
    """Return the topology with its links, and devices that computed, as they were measured."""
    devices = [script.device for script in ranks]
    links = with_hops(topology_from(reports[0].paths, imposed, devices), devices, reports[0].smallest_s)
    paces = tuple(report.pace for report in reports if report.pace is not None)
    return with_paces(links, ranks, paces) if paces else links


def _losses(reports: Sequence[Report]) -> tuple[float, ...]:
    """Return the loss of each trial: the mean over the ranks that make it."""
    made = [report.losses for report in reports if report.losses]
    return tuple(sum(losses) / len(losses) for losses in zip(*made, strict=True))


def _timings(layout: Layout, reports: Sequence[Report], trials: int) -> tuple[Timing, ...]:
    return tuple(timing_of(layout, [report.trials[i] for report in reports]) for i in range(trials))


def _longest_s(drawn: tuple[tuple[Script, ...], ...], topology: Topology) -> float:
    """Return how long a step takes at the very most: all its computations and bytes one after another."""
    slowest = min((link.bandwidth_bytes_per_s for link in topology.links), default=math.inf)
    compute = max(
        sum(step.seconds for script in ranks for step in script.steps if isinstance(step, Compute)) for ranks in drawn
    )
    posts = [step for script in drawn[0] for step in script.steps if isinstance(step, Post)]
    latency = sum(link.latency_s for link in topology.links)
    return compute + sum(4 * step.bytes / slowest + 4 * latency for step in posts)
