"""``mpsim export``: a plan's program in the format of other tools, or the plan in what others train with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import check_kept, output_option, tell
from mpsim.cli.planning import PlanOptions, plan_of, plan_options
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options
from mpsim.errors import MpsimError
from mpsim.files import write_text
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.simulation.cutting import fastest_cut
from mpsim.workload.model import Workload
from mpsim.workload.reading import read_workload

if TYPE_CHECKING:
    from mpsim.interchange.losses import Losses

__all__ = ["export"]


class _Formats(click.Group):
    """A group whose first command is meant where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the first command before arguments that begin with none."""
        if args and args[0] not in (*self.commands, "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are made."""
        return list(self.commands)


@click.group(cls=_Formats)
def export() -> None:
    """Write a plan for other tools: chakra, which is meant where no format is named, torch, torchtitan or megatron.

    \b
      mpsim export mlp.json ring:4,link=eth_10g --pp 4 --microbatches 8 -o step
      mpsim export torch plan.json mlp.json ring:4,link=eth_10g -o train.py
      mpsim export torchtitan plan.json llama.json -o train.toml
      mpsim export megatron plan.json llama.json -o flags.txt
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    plan: PlanOptions
    scaling: ScalingOptions


@export.command()
@click.argument("workload")
@click.argument("topology")
@plan_options
@click.option("--devices", type=int, metavar="N", help="Use no more than the topology's first N; by default all.")
@scaling_options
@click.option(
    "-o", "--output", required=True, metavar="PREFIX", help="Write PREFIX.0.et, PREFIX.1.et, … and the groups."
)
def chakra(workload: str, topology: str, output: str, **given: Any) -> None:
    """Write the program of a plan as Chakra execution traces, one for each device, which ASTRA-sim takes.

    What the format has no place for is listed. See docs/interchange.md.

    \b
      mpsim export mlp.json ring:4,link=eth_10g --pp 4 --microbatches 8 -o step
    """
    from mpsim.cli.answer import available
    from mpsim.interchange.chakra_export import export_files, save_chakra

    asked = options_of(_Asked, given)
    if not Path(output).parent.is_dir():
        raise MpsimError(f"-o {output!r}: there is no folder {str(Path(output).parent)!r}: make it first")
    work, graph = read_pair(workload, topology)
    check_kept(export_files(output, len(graph.devices)), (workload, topology))
    plan = plan_of(asked.plan, work, available(asked.plan.devices, len(graph.devices)))
    by_type = by_type_of(asked.scaling, work, graph)
    losses = save_chakra(output, program_of(fastest_cut(lower(work, graph, plan, by_type=by_type))), graph)
    for line in losses.lines:
        tell(f"not in the traces: {line}")
    last = f" to {output}.{len(graph.devices) - 1}.et" if len(graph.devices) > 1 else ""
    tell(f"wrote {output}.0.et{last} and {output}.comm_groups.json")


@export.command()
@click.argument("plan")
@click.argument("workload")
@click.argument("topology", required=False)
@click.option("--model", metavar="MODEL", help="What the workload was traced from, if not its name.")
@output_option("-o", "--output", what="The script to write, a .py file.", suffixes=("",), required=True)
def torch(plan: str, workload: str, topology: str | None, model: str | None, output: str) -> None:
    """Write a script that torchrun runs: PLAN, a plan's file or text, for the model that WORKLOAD was traced from.

    Mesh, parallelize_module, fully_shard or DistributedDataParallel, and stages with their schedule. Stages that the
    plan leaves open are cut for TOPOLOGY. What torch cannot say is refused; what it does otherwise than was predicted
    is listed, in the script too. The zoo's models are made by mpsim, your own by your module.

    \b
      mpsim export torch plan.json mlp.json ring:4,link=eth_10g -o train.py
      torchrun --nproc-per-node 4 train.py --steps 3
    """
    from mpsim.interchange.torch_script import torch_script

    if find_spec("torch") is None:
        raise MpsimError("this looks into the model with PyTorch, which is not installed: pip install 'mpsim[trace]'")
    check_kept([output], (plan, workload, topology))
    work = read_workload(workload)
    name, sizes = _model_of(work, model)
    text, losses = torch_script(_cut(Plan.of(plan), work, topology), work, name, sizes=sizes)
    write_text(output, text)
    for line in losses.lines:
        tell(f"otherwise than predicted: {line}")
    tell(f"wrote {output}")


@export.command()
@click.argument("plan")
@click.argument("workload", required=False)
@click.argument("topology", required=False)
@output_option("-o", "--output", what="The .toml to write.", suffixes=("",), required=True)
def torchtitan(plan: str, workload: str | None, topology: str | None, output: str) -> None:
    """Write PLAN, a plan's file or text, as torchtitan's TOML.

    WORKLOAD is a decoder's: its layers are named where the plan says its stages; stages that it leaves open are cut
    for TOPOLOGY, if that is given. A schedule that is none of torch's goes into a file of rows beside it (.csv). What
    torchtitan has no option for is refused, or listed in the first lines.

    \b
      mpsim export torchtitan plan.json llama.json -o train.toml
    """
    from mpsim.interchange.torch_schedules import class_name, rows_as_csv
    from mpsim.interchange.torchtitan import to_torchtitan

    rows = Path(output).with_suffix(".csv")
    check_kept([output, rows], (plan, workload, topology))
    work = read_workload(workload) if workload else None
    chosen = _cut(Plan.of(plan), work, topology)
    own = chosen.pp > 1 and not class_name(chosen)
    text, losses = to_torchtitan(chosen, work, rows.name if own else "")
    if own:
        write_text(rows, rows_as_csv(chosen))
    _write(output, text, losses)


@export.command()
@click.argument("plan")
@click.argument("workload", required=False)
@click.argument("topology", required=False)
@output_option("-o", "--output", what="The file of flags to write.", suffixes=("",), required=True)
def megatron(plan: str, workload: str | None, topology: str | None, output: str) -> None:
    """Write PLAN, a plan's file or text, as Megatron's flags, a line each: sizes, batch, layout, optimizer, recompute.

    WORKLOAD is a decoder's: the layout lays out its layers where the plan says its stages; stages that it leaves open
    are cut for TOPOLOGY, if that is given. What Megatron has no flag for is refused, or listed in the first lines.

    \b
      mpsim export megatron plan.json llama.json -o flags.txt
    """
    from mpsim.interchange.megatron import to_megatron

    check_kept([output], (plan, workload, topology))
    work = read_workload(workload) if workload else None
    text, losses = to_megatron(_cut(Plan.of(plan), work, topology), work)
    _write(output, text, losses)


def _write(output: str, text: str, losses: Losses) -> None:
    write_text(output, text)
    for line in losses.lines:
        tell(f"not said: {line}")
    tell(f"wrote {output}")


def _model_of(workload: Workload, model: str | None) -> tuple[str, dict[str, Any]]:
    """Return the model that was asked for, or that a workload of the zoo is named after."""
    from mpsim.emulate.recipes import split_name
    from mpsim.workload.zoo import ZOO

    name, sizes = split_name(model or workload.name)
    if model is None and name not in ZOO:
        raise MpsimError(
            f"the workload is named {workload.name!r}, which is no model of the zoo: say what it was traced from"
            " (--model package.module:factory, with sizes as in 'mnist-mlp[widths=784,10]')"
        )
    return name, sizes


def _cut(plan: Plan, workload: Workload | None, topology: str | None) -> Plan:
    """Return the plan with its stages cut, where it leaves that open and there is a topology."""
    if plan.boundaries is not None or plan.pp == 1 or topology is None or workload is None:
        return plan
    from mpsim.topology.spec import parse_topology

    return replace(plan, boundaries=fastest_cut(lower(workload, parse_topology(topology), plan)).boundaries)
