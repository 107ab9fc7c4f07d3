"""``mpsim export``: a plan's program in the format of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import check_kept, tell
from mpsim.cli.planning import PlanOptions, plan_of, plan_options
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options
from mpsim.errors import MpsimError
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.simulation.cutting import fastest_cut

__all__ = ["export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    plan: PlanOptions
    scaling: ScalingOptions


@click.command()
@click.argument("workload")
@click.argument("topology")
@plan_options
@click.option("--devices", type=int, metavar="N", help="Use no more than the topology's first N; by default all.")
@scaling_options
@click.option(
    "-o", "--output", required=True, metavar="PREFIX", help="Write PREFIX.0.et, PREFIX.1.et, … and the groups."
)
def export(workload: str, topology: str, output: str, **given: Any) -> None:
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
