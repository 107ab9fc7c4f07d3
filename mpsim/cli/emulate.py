"""``mpsim emulate``: run one plan, or a list of collectives, on real processes over real links."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpsim.cli.answer import Answer, Asked, available, collectives_topology, coordinates, give, stage_layers
from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, PICTURES, check_apart, json_option, output_option, tell
from mpsim.cli.planning import plan_of, plan_options
from mpsim.cli.progress import progress_bar
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import by_type_of, scaling_options
from mpsim.cli.trials import trial_options, trials_of
from mpsim.cli.types import Sizes, depth_of
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.lowering.lower import lower
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import save_plan
from mpsim.result.text import format_percent
from mpsim.simulation.cutting import fastest_cut
from mpsim.topology.spec import parse_topology

if TYPE_CHECKING:
    from mpsim.emulate.run import Emulation
    from mpsim.topology.model import Topology
    from mpsim.workload.model import Workload

__all__ = ["emulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked(Asked):
    compute: str
    fabric: str
    medians: bool
    model: str | None
    depth: str
    links: str | None
    progress: bool | None


# Above it a run says more of what else the machine does than of the plan.
_DISTURBED = 0.02


@click.command(epilog="What runs, and what is measured when, is described in docs/emulate.md.")
@click.argument("inputs", nargs=-1, metavar="WORKLOAD|MODEL TOPOLOGY")
@plan_options
@click.option(
    "--devices", type=int, metavar="N", help="Use no more than the topology's first N; by default all there are."
)
@click.option(
    "--compute",
    type=click.Choice(["replay", "real"]),
    default="replay",
    show_default=True,
    help="Sleep for the traced times, so that few cores can stand for many devices; or run the model's parts.",
)
@click.option(
    "--fabric",
    default="host",
    show_default=True,
    metavar="host|namespaces",
    help="Loopback; or the topology's bandwidths and latencies, which takes root.",
)
@click.option("--collectives", type=Sizes(), help="No workload: exchange these collectives, one after another.")
@click.option("--collective", default="all_reduce", show_default=True, metavar="KIND", help="Of --collectives.")
@scaling_options
@trial_options
@click.option("--medians", is_flag=True, help="Of --compute replay: every layer at its median in every trial.")
@click.option("--model", metavar="MODEL", help="Of --compute real: what the workload was traced from, if not its name.")
@click.option("--depth", default="auto", show_default=True, metavar="auto|N", help="As the workload was traced.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write the result, spans included.", suffixes=DOCUMENTS)
@output_option("--links", what="Write the topology as measured: simulate on it to compare.", suffixes=DOCUMENTS)
@output_option("--save-plan", what="Write the plan.", suffixes=DOCUMENTS)
@output_option("--perfetto", what="Write a trace for https://ui.perfetto.dev.", suffixes=DOCUMENTS)
@output_option("--plot", what="Draw the timeline (.png, .svg or .pdf).", suffixes=PICTURES)
def emulate(inputs: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Run one way of splitting WORKLOAD over TOPOLOGY: a process a device, every byte sent by torch.distributed.

    WORKLOAD is a file that mpsim trace wrote; a MODEL of the zoo is traced here first, at the plan's own sizes.
    TOPOLOGY is a file or a builder, as for mpsim simulate, whose prediction for the same words this is to be held
    against.

    \b
      mpsim emulate mlp.json switch:2,link=1Gbit/s@1ms --fabric namespaces --pp 2 --microbatches 4 --trials 8
      mpsim emulate mnist-mlp ring:2,link=eth_10g --compute real --dp 2 --batch 4096
      mpsim emulate --collectives 2600,33024,131584,803840 --devices 4 --trials 8
    """
    asked = options_of(_Asked, given)
    check_apart(asdict(asked.files) | {"links": asked.links}, inputs)
    if find_spec("torch") is None:
        raise MpsimError("a real run needs PyTorch, which is not installed: pip install 'mpsim[trace]'")
    answer, run = _plan(inputs, asked) if asked.collectives is None else _collectives(asked.collectives, inputs, asked)
    if asked.links:
        _write_links(asked.links, run)
    give(answer, asked.files, as_json)


def _plan(inputs: tuple[str, ...], given: _Asked) -> tuple[Answer, Emulation]:
    if len(inputs) != 2:
        got = f", got {len(inputs)}: {' '.join(inputs)}" if inputs else ""
        raise MpsimError(f"emulate takes a WORKLOAD or MODEL and a TOPOLOGY{got}: see mpsim emulate --help")
    if given.plan.runtime not in (None, "torch-gloo"):
        raise MpsimError(f"--runtime is {given.plan.runtime!r}, what runs here is torch-gloo: leave it out")
    workload, topology, model = _inputs(*inputs, given)
    plan = plan_of(given.plan, workload, available(given.plan.devices, len(topology.devices)))
    if given.links and plan.ranks == 1:
        raise MpsimError(f"--links {given.links!r}: the plan has one rank, and no links to measure; leave it out")
    by_type = by_type_of(given.scaling, workload, topology)
    lowering = fastest_cut(lower(workload, topology, plan, by_type=by_type))
    batch = global_batch(workload, plan)
    trials = trials_of(given.trials, batch, workload.dataset_samples)
    from mpsim.emulate.run import emulate_lowering

    with progress_bar(given.progress, "steps") as progress:
        run = emulate_lowering(
            lowering,
            topology,
            trials,
            compute=given.compute,
            model=model,
            depth=depth_of(given.depth),
            fabric=given.fabric,
            draws=not given.medians,
            progress=progress,
        )
    if given.files.save_plan:
        save_plan(given.files.save_plan, plan, made_now(""))
    return (
        Answer(result=run.result, notes=_notes(run), stages=stage_layers(lowering), coordinates=coordinates(lowering)),
        run,
    )


def _collectives(sizes: tuple[int, ...], inputs: tuple[str, ...], given: _Asked) -> tuple[Answer, Emulation]:
    others = {
        "runtime": given.plan.runtime is not None, "algorithm": given.plan.algorithm is not None,
        "compute": given.compute != "replay", "model": given.model is not None, "medians": given.medians,
    }  # fmt: skip
    text, notes = collectives_topology(inputs, given, others)
    topology = parse_topology(text)
    trials = trials_of(given.trials, 0, 0)
    if not trials.variability.none:
        raise MpsimError("--collectives has no computations to slow down, and links their own jitter: leave those out")
    from mpsim.emulate.run import emulate_collectives

    with progress_bar(given.progress, "steps") as progress:
        run = emulate_collectives(
            sizes,
            topology,
            kind=given.collective,
            devices=available(given.plan.devices, len(topology.devices)),
            trials=trials.count,
            fabric=given.fabric,
            progress=progress,
        )
    return Answer(result=run.result, notes=(*notes, *_notes(run))), run


def _inputs(first: str, second: str, given: _Asked) -> tuple[Workload, Topology, str | None]:
    """Return the workload, the topology, and the model if one was named."""
    if Path(first).exists() or not _is_model(first):
        return *read_pair(first, second), given.model
    topology = parse_topology(second)
    return _traced(first, given, len(topology.devices)), topology, given.model or first


def _is_model(text: str) -> bool:
    from mpsim.workload.zoo import ZOO

    return text.partition("[")[0] in ZOO or re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", text) is not None


def _traced(model: str, given: _Asked, devices: int) -> Workload:
    """Measure a model at the sizes that the plan needs."""
    from mpsim.emulate.recipes import split_name
    from mpsim.workload.source import resolve_model
    from mpsim.workload.trace import trace

    source = resolve_model(*split_name(model))
    plan = plan_of(given.plan, None, available(given.plan.devices, devices))
    size = plan.batch // (plan.dp * plan.microbatches) if plan.batch else source.default_batch
    tell(f"tracing {source.name} at micro-batch {size}")
    return trace(source, microbatches=(size,), tensor=tuple({1: None, plan.tp: None}), depth=depth_of(given.depth))


def _notes(run: Emulation) -> tuple[str, ...]:
    notes = [f"the bytes went over {run.fabric}"]
    if run.links is not None:
        notes.append(run.links.provenance.source)
    if run.overrun_fraction > _DISTURBED:
        percent = format_percent(run.overrun_fraction)
        notes.append(
            f"this machine is busy: computations overran by {percent} of the step; run it again when it is not"
        )
    if run.losses:
        notes.append(f"loss {run.losses[-1]:.6g}")
    return tuple(notes)


def _write_links(path: str, run: Emulation) -> None:
    from mpsim.topology.file import save_topology

    assert run.links is not None
    save_topology(path, run.links)
    tell(f"wrote {path}")
