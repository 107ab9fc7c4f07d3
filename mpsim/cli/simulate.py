"""``mpsim simulate``: predict one plan, or a list of collectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mpsim.cli.answer import Answer, Asked, available, collectives_topology, coordinates, give, stage_layers
from mpsim.cli.baseline import baseline_of, baseline_option, without_baseline
from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, PICTURES, check_apart, json_option, output_option
from mpsim.cli.planning import host_speed_option, plan_of, plan_options
from mpsim.cli.progress import progress_bar
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import by_type_of, scaling_options, unchecked_option
from mpsim.cli.trials import trial_options, trials_of
from mpsim.cli.types import Sizes
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan, save_plan
from mpsim.simulation import simulate_collectives
from mpsim.simulation.launching import launch_bound
from mpsim.simulation.preparing import prepare_played
from mpsim.simulation.run import simulate_played
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Workload

if TYPE_CHECKING:
    from mpsim.search.made_fit import MadeFit

__all__ = ["simulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked(Asked):
    unchecked: bool
    host_speed: float
    baseline: str
    processes: int
    fold: bool | None
    make_fit: bool
    progress: bool | None


@click.command(epilog="Sizes and times are written with their units; see docs/model.md for what each number means.")
@click.argument("inputs", nargs=-1, metavar="WORKLOAD TOPOLOGY")
@plan_options
@click.option(
    "--devices", type=int, metavar="N", help="Use no more than the topology's first N; by default all there are."
)
@click.option("--collectives", type=Sizes(), help="No workload: replay these collectives, one after another.")
@click.option("--collective", default="all_reduce", show_default=True, metavar="KIND", help="Of --collectives.")
@scaling_options
@unchecked_option
@host_speed_option
@trial_options
@baseline_option
@click.option("--processes", type=int, default=1, show_default=True, metavar="N", help="That share the trials.")
@click.option(
    "--fold/--no-fold", default=None, help="Simulate one of the devices that do the same; by default from 17 on."
)
@click.option("--make-fit", is_flag=True, help="Where it does not fit: find the changes with which it does, simulated.")
@click.option("--progress/--no-progress", default=None, help="Of --make-fit: a bar; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write the result, spans included.", suffixes=DOCUMENTS)
@output_option("--save-plan", what="Write the plan; with --make-fit the fastest that fits.", suffixes=DOCUMENTS)
@output_option("--perfetto", what="Write a trace for https://ui.perfetto.dev.", suffixes=DOCUMENTS)
@output_option("--plot", what="Draw the timeline (.png, .svg or .pdf).", suffixes=PICTURES)
def simulate(inputs: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Predict one way of splitting WORKLOAD over TOPOLOGY.

    WORKLOAD is a file that mpsim trace wrote; TOPOLOGY a file, or a builder such as
    switch:8,link=nvlink4,device=H200-SXM-141GB. Devices of another type than the traced one need --rescale, --speed
    or --costs; those without a type are taken to be like it. With --collectives there is no workload, and TOPOLOGY
    may be left out.

    \b
      mpsim simulate mlp.json switch:8,link=eth_10g,memory=4GiB --pp 4 --microbatches 8
      mpsim simulate workloads/gpt2.h200.json dgx_h200:2 --dp 8 --tp 2 --batch 64 --runtime torch-nccl
      mpsim simulate workloads/gpt2.h200.json dgx_h100:2 --dp 8 --tp 2 --batch 64 --rescale roofline
      mpsim simulate workloads/gpt2.h200.json switch:8,link=nvlink4,memory=8GiB --dp 8 --batch 64 --make-fit
      mpsim simulate --collectives 2600,33024,131584,803840 --algorithm ring --devices 4 --trials 8
    """
    asked = options_of(_Asked, given)
    check_apart(asdict(asked.files), inputs)
    answer = _plan(inputs, asked) if asked.collectives is None else _collectives(asked.collectives, inputs, asked)
    give(answer, asked.files, as_json)


def _plan(inputs: tuple[str, ...], given: _Asked) -> Answer:
    if len(inputs) != 2:
        got = f", got {len(inputs)}: {' '.join(inputs)}" if inputs else ""
        raise MpsimError(f"simulate takes a WORKLOAD and a TOPOLOGY{got}: see mpsim simulate --help")
    workload, topology = read_pair(*inputs)
    devices = available(given.plan.devices, len(topology.devices))
    plan = plan_of(given.plan, workload, devices)
    by_type = by_type_of(given.scaling, workload, topology)
    batch = global_batch(workload, plan)
    trials = trials_of(given.trials, batch, workload.dataset_samples, given.processes)
    lowered = partial(
        prepare_played, workload, topology, by_type=by_type, unchecked=given.unchecked, host_speed=given.host_speed
    )
    run = partial(simulate_played, trials=trials, unchecked=given.unchecked, fold=given.fold)
    played = lowered(plan)
    baseline = baseline_of(given.baseline, workload, batch, plan.ranks, lambda one: run(lowered(one), spans=False))
    result = run(played, baseline=baseline)
    fit = _made_fit(workload, topology, plan, by_type, given) if given.make_fit and result.fits is False else None
    if given.files.save_plan:
        save_plan(given.files.save_plan, fit.best.plan if fit and fit.best else plan, made_now(""))
    notes = []
    if result.fits is False and fit is None:
        notes.append("it does not fit: --make-fit finds the cheapest change with which it does")
    elif given.make_fit and fit is None:
        notes.append(f"--make-fit: {'it fits' if result.fits else 'no memory is known that is too small'}")
    if plan.ranks < devices:
        notes.append(f"the plan uses {plan.ranks} of {devices} devices: give --dp, --pp, --tp or --strategy for more")
    if result.launch == "eager":
        graphs = run(lowered(replace(plan, launch="graphs")), baseline=baseline, spans=False)
        result = replace(result, caveats=(*result.caveats, *launch_bound(result, graphs)))
    return Answer(
        result=without_baseline(result) if given.baseline == "none" else result,
        notes=tuple(notes),
        stages=stage_layers(played.lowering),
        coordinates=coordinates(played.lowering),
        made_fit=fit,
    )


def _made_fit(
    workload: Workload, topology: Topology, plan: Plan, by_type: Mapping[str, Workload], given: _Asked
) -> MadeFit:
    from mpsim.search.make_fit import make_fit

    with progress_bar(given.progress, "kinds of change") as progress:
        return make_fit(
            workload, topology, plan, by_type=by_type, unchecked=given.unchecked, host_speed=given.host_speed,
            progress=progress,
        )  # fmt: skip


def _collectives(sizes: tuple[int, ...], inputs: tuple[str, ...], given: _Asked) -> Answer:
    others = {
        "unchecked": given.unchecked, "baseline": given.baseline != "one", "host-speed": given.host_speed != 1.0,
        "make-fit": given.make_fit,
    }  # fmt: skip
    text, notes = collectives_topology(inputs, given, others)
    topology = parse_topology(text)
    trials = trials_of(given.trials, 0, 0, given.processes)
    result = simulate_collectives(
        sizes,
        topology,
        kind=given.collective,
        algorithm=given.plan.algorithm or "ring",
        runtime=given.plan.runtime or "ideal",
        devices=available(given.plan.devices, len(topology.devices)),
        trials=trials.count,
        rng=trials.rng,
        variability=trials.variability,
        processes=trials.processes,
        fold=given.fold,
    )
    return Answer(result=result, notes=notes)
