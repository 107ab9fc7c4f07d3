"""``mpsim explain``: where a step goes, what it waits for, and what would make it shorter."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from mpsim.cli.answer import available
from mpsim.cli.options import options_of
from mpsim.cli.output import check_apart, json_option, output_option, print_json, say, tell
from mpsim.cli.planning import PlanOptions, host_speed_option, plan_of, plan_options
from mpsim.cli.progress import progress_bar
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options, unchecked_option
from mpsim.errors import MpsimError, at
from mpsim.explanation import Explanation
from mpsim.explanation import explain as explained
from mpsim.files import write_text
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan, load_plan
from mpsim.sweeps.file import csv_line
from mpsim.workload.model import Workload

__all__ = ["explain"]

_EXAMPLE = "as in '--dp 4 --tp 2'"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    plan: PlanOptions
    scaling: ScalingOptions
    unchecked: bool
    host_speed: float
    fold: bool | None
    against: str | None
    what_ifs: bool
    progress: bool | None
    output: str | None


@click.command()
@click.argument("workload")
@click.argument("topology")
@plan_options
@click.option("--devices", type=int, metavar="N", help="Use no more than the topology's first N.")
@click.option(
    "--against",
    metavar="PLAN",
    help="Say why it is faster or slower than another plan: its file, text, or options, as in '--dp 4 --tp 2'.",
)
@click.option("--what-ifs/--no-what-ifs", default=True, help="Simulate it again with one thing changed at a time.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@scaling_options
@unchecked_option
@host_speed_option
@click.option(
    "--fold/--no-fold", default=None, help="Simulate one of the devices that do the same; by default from 17 on."
)
@json_option
@output_option("-o", "--output", what="Write the critical path, a row for each task (.csv).", suffixes=(".csv",))
def explain(workload: str, topology: str, as_json: bool, **given: Any) -> None:
    """Say where a step goes, what it waits for, and what would make it shorter.

    WORKLOAD, TOPOLOGY and the plan are those of mpsim simulate, every time at its median. The parts of the step add up
    to it; each what-if is the step simulated again with that one thing changed. Of --against's options those left out
    are the defaults, batch, runtime, algorithm and launch the plan's own. See docs/explain.md.

    \b
      mpsim explain workloads/gpt2.h200.json dgx_h200:2 --dp 8 --tp 2 --batch 64 --runtime torch-nccl
      mpsim explain mlp.json switch:4,link=eth_10g --pp 4 --microbatches 8 --batch 8192 --against '--dp 4'
      mpsim explain mlp.json switch:4,link=eth_10g --pp 2 --dp 2 --microbatches 4 --no-what-ifs -o path.csv
    """
    asked = options_of(_Asked, given)
    read = (workload, topology, asked.plan.plan, asked.against)
    check_apart({"output": asked.output}, read)
    work, where = read_pair(workload, topology)
    devices = available(asked.plan.devices, len(where.devices))
    plan = plan_of(asked.plan, work, devices)
    other = None if asked.against is None else _against(asked.against, work, plan, devices)
    with progress_bar(asked.progress if asked.what_ifs else False, "what-ifs") as progress:
        found = explained(
            work,
            where,
            plan,
            against=other,
            what_ifs=asked.what_ifs,
            by_type=by_type_of(asked.scaling, work, where),
            unchecked=asked.unchecked,
            host_speed=asked.host_speed,
            fold=asked.fold,
            progress=progress,
        )
    if asked.output:
        _write(asked.output, found)
    if as_json:
        print_json(found.to_dict())
    else:
        say(str(found))


def _against(text: str, workload: Workload, plan: Plan, devices: int) -> Plan:
    """Return the other plan: of a file, of its text or of options, with the batch and the runtime of the first."""
    try:
        batch = global_batch(workload, plan)
        if Path(text).is_file() or text.endswith(".json"):
            other = load_plan(text)
            return other if other.batch else replace(other, batch=batch)
        if not text.lstrip().startswith("-") and "=" in text:
            other = Plan.of(text)
            return replace(
                other, batch=other.batch or batch, runtime=other.runtime if "runtime=" in text else plan.runtime
            )
        said = _options(text)
        own: dict[str, Any] = {name: getattr(plan, name) or None for name in ("runtime", "algorithm", "launch")}
        left = {name: value for name, value in (own | {"batch": batch}).items() if getattr(said, name) is None}
        return plan_of(replace(said, **({} if said.plan else left)), workload, devices)
    except MpsimError as error:
        raise at("--against", error) from None


def _options(text: str) -> PlanOptions:
    """Return the options that stand in a text."""
    command = click.command(add_help_option=False)(plan_options(lambda **given: given))
    try:
        given = command.make_context("--against", shlex.split(text)).params
    except click.UsageError as error:
        why = error.format_message().rstrip(".")
        raise MpsimError(
            f"{text!r}: {why[:1].lower()}{why[1:]}: name a plan's file, or its options, {_EXAMPLE}"
        ) from None
    except ValueError as error:
        raise MpsimError(f"{text!r}: {error}: write its options as for a shell, {_EXAMPLE}") from None
    if not any(value not in (None, False) for value in given.values()):
        raise MpsimError(f"{text!r} has no options of a plan: name a file, or write them, {_EXAMPLE}")
    return PlanOptions(**given, devices=None)


def _write(path: str, found: Explanation) -> None:
    rows = found.path_rows()
    lines = [csv_line(list(rows[0])), *(csv_line(list(row.values())) for row in rows)]
    write_text(path, "".join(lines))
    tell(f"wrote {path}")
