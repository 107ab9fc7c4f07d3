"""``mpsim simulate``: predict one plan, or a list of collectives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from mpsim.cli.baseline import baseline_of, baseline_option, without_baseline
from mpsim.cli.output import DOCUMENTS, PICTURES, check_apart, json_option, output_option, print_json, tell
from mpsim.cli.planning import PLAN_OPTIONS, plan_of, plan_options
from mpsim.cli.read import costs_by_type, read_pair
from mpsim.cli.trials import trial_options, trials_of
from mpsim.cli.types import Sizes
from mpsim.errors import MpsimError
from mpsim.plan.model import save_plan
from mpsim.program.lower import lower
from mpsim.program.stages import microbatch_size
from mpsim.result.frames import result_to_dict
from mpsim.result.model import Result
from mpsim.result.text import summary
from mpsim.simulate import simulate as simulate_plan
from mpsim.simulate import simulate_collectives
from mpsim.topology.spec import parse_topology

__all__ = ["simulate"]

_RING = "ring:{n},link=eth_10g"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A result, what is to be known beside it, and the layers of each stage."""

    result: Result
    notes: tuple[str, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    coordinates: tuple[tuple[str, Any], ...] = ()


@click.command(epilog="Sizes and times are written with their units; see docs/model.md for what each number means.")
@click.argument("inputs", nargs=-1, metavar="WORKLOAD TOPOLOGY")
@plan_options
@click.option(
    "--devices", type=int, metavar="N", help="Use no more than the topology's first N; by default all there are."
)
@click.option("--collectives", type=Sizes(), help="No workload: replay these collectives, one after another.")
@click.option("--collective", default="all_reduce", show_default=True, metavar="KIND", help="Of --collectives.")
@click.option("--costs", multiple=True, metavar="TYPE=FILE", help="The workload traced on a type of device.")
@trial_options
@baseline_option
@click.option("--processes", type=int, default=1, show_default=True, metavar="N", help="That share the trials.")
@json_option
@output_option("-o", "--output", what="Write the result, spans included.", suffixes=DOCUMENTS)
@output_option("--save-plan", what="Write the plan.", suffixes=DOCUMENTS)
@output_option("--perfetto", what="Write a trace for https://ui.perfetto.dev.", suffixes=DOCUMENTS)
@output_option("--plot", what="Draw the timeline (.png, .svg or .pdf).", suffixes=PICTURES)
def simulate(inputs: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Predict one way of splitting WORKLOAD over TOPOLOGY.

    WORKLOAD is a file that mpsim trace wrote; TOPOLOGY a file, or a builder such as
    switch:8,link=nvlink4,device=H100-SXM5-80GB. With --collectives there is no workload, and TOPOLOGY may be left out.

    \b
      mpsim simulate mlp.json ring:4,link=nvlink4 --pp 4 --microbatches 8
      mpsim simulate gpt2.json nodes:2,per_node=4,inside=nvlink4,between=ib_ndr --dp 2 --tp 4 --batch 64
      mpsim simulate --collectives 2600,33024,131584,803840 --algorithm ring --devices 4 --trials 8
    """
    check_apart(given, "output", "save_plan", "perfetto", "plot")
    answer = _collectives(inputs, given) if given["collectives"] is not None else _plan(inputs, given)
    _write(answer.result, given)
    if as_json:
        print_json(_as_dict(answer))
    else:
        click.echo(_as_text(answer))


def _plan(inputs: tuple[str, ...], given: dict[str, Any]) -> _Answer:
    if len(inputs) != 2:
        got = f", got {len(inputs)}: {' '.join(inputs)}" if inputs else ""
        raise MpsimError(f"simulate takes a WORKLOAD and a TOPOLOGY{got}: see mpsim simulate --help")
    workload, topology = read_pair(*inputs)
    available = _available(given["devices"], len(topology.devices))
    plan = plan_of(given, workload, available)
    by_type = costs_by_type(given["costs"], topology)
    batch = microbatch_size(workload, plan) * plan.microbatches * plan.dp
    trials = trials_of(given, batch, workload.dataset_samples)
    run = partial(
        simulate_plan, workload, topology, trials=trials.count, rng=trials.seed, variability=trials.variability,
        by_type=by_type, processes=given["processes"],
    )  # fmt: skip
    lowering = lower(workload, topology, plan, by_type=by_type)
    baseline = baseline_of(given["baseline"], workload, batch, plan.ranks, partial(run, spans=False))
    result = run(plan, baseline=baseline)
    if given["save_plan"]:
        save_plan(given["save_plan"], plan)
    notes = []
    if plan.ranks < available:
        notes.append(f"the plan uses {plan.ranks} of {available} devices: give --dp, --pp, --tp or --strategy for more")
    names = [layer.name for layer in workload.layers]
    return _Answer(
        result=without_baseline(result) if given["baseline"] == "none" else result,
        notes=tuple(notes),
        stages=tuple(tuple(names[stage.layers.start : stage.layers.stop]) for stage in lowering.stages),
        coordinates=(
            ("strategy", plan.strategy), ("dp", plan.dp), ("pp", plan.pp), ("tp", plan.tp),
            ("microbatches", plan.microbatches), ("microbatch_size", microbatch_size(workload, plan)),
            ("schedule", plan.schedule_name if plan.pp > 1 else None),
        ),
    )  # fmt: skip


def _available(asked: int | None, have: int) -> int:
    if asked is not None and not 1 <= asked <= have:
        raise MpsimError(f"--devices asks for {asked}, topology has {have}: ask for 1 to {have}")
    return asked or have


def _collectives(inputs: tuple[str, ...], given: dict[str, Any]) -> _Answer:
    said = [name for name in PLAN_OPTIONS if given[name] is not None]
    said += [name.replace("_", "-") for name in ("costs", "save_plan") if given[name]]
    said += [name for name, default in (("runtime", None), ("baseline", "one")) if given[name] != default]
    if said:
        raise MpsimError(f"--collectives has no workload to split: leave out --{said[0]}")
    if given["epochs"] is not None:
        raise MpsimError(f"--collectives has no epochs, --epochs is {given['epochs']}: give --trials")
    if len(inputs) > 1:
        raise MpsimError(f"--collectives takes a TOPOLOGY alone, got {' '.join(inputs)}: leave the workload out")
    text, notes = _topology_text(inputs, given["devices"])
    topology = parse_topology(text)
    trials = trials_of(given, 0, 0)
    result = simulate_collectives(
        given["collectives"],
        topology,
        kind=given["collective"],
        algorithm=given["algorithm"] or "ring",
        devices=_available(given["devices"], len(topology.devices)),
        trials=trials.count,
        rng=trials.seed,
        variability=trials.variability,
        processes=given["processes"],
    )
    return _Answer(result=result, notes=notes)


def _topology_text(inputs: tuple[str, ...], devices: int | None) -> tuple[str, tuple[str, ...]]:
    if inputs:
        return inputs[0], ()
    if devices is None:
        raise MpsimError("--collectives needs a TOPOLOGY, or --devices N for a ring of 10 Gbit/s Ethernet")
    if devices < 2:
        raise MpsimError(f"--devices is {devices}: a collective takes 2 devices or more")
    text = _RING.format(n=devices)
    return text, (f"no topology given: took {text} (10 Gbit/s Ethernet of the catalog); name your own to change it",)


def _write(result: Result, given: dict[str, Any]) -> None:
    if given["output"]:
        from mpsim.result.file import save_result

        save_result(given["output"], result)
    if given["perfetto"]:
        from mpsim.result.perfetto import save_perfetto

        save_perfetto(given["perfetto"], result)
    if given["plot"]:
        from mpsim.cli.plot import draw

        draw([result], "timeline", given["plot"])
    for name in ("output", "save_plan", "perfetto", "plot"):
        if given[name]:
            tell(f"wrote {given[name]}")


def _as_dict(answer: _Answer) -> dict[str, Any]:
    found = result_to_dict(answer.result) | dict(answer.coordinates)
    if answer.stages:
        found["stages"] = [list(layers) for layers in answer.stages]
    return found | {"notes": list(answer.notes)}


def _as_text(answer: _Answer) -> str:
    blocks = [summary(answer.result)]
    if len(answer.stages) > 1:
        blocks.append("\n".join(f"stage {i:<9} {_layers(names)}" for i, names in enumerate(answer.stages)))
    blocks += [f"note: {note}" for note in answer.notes]
    return "\n\n".join(blocks)


def _layers(names: tuple[str, ...]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} layers)"
