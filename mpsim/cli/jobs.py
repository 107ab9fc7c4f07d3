"""``mpsim jobs``: several jobs at once on one cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mpsim.cli.output import json_option, print_json, say
from mpsim.cli.scaling import rescale_option, speed_option, unchecked_option
from mpsim.errors import MpsimError
from mpsim.plan.model import load_plan
from mpsim.result.text import caution, short_notes
from mpsim.simulation.jobs import Job, JobResult, simulate_jobs
from mpsim.tables import Text, align_rows, joined
from mpsim.topology.spec import parse_topology
from mpsim.units import format_duration
from mpsim.workload.reading import read_workload

__all__ = ["jobs"]


@click.command()
@click.argument("topology")
@click.argument("names", nargs=-1, required=True, metavar="WORKLOAD=PLAN...")
@click.option("--steps", type=int, default=8, show_default=True, metavar="N", help="That every job does at least.")
@rescale_option
@speed_option
@unchecked_option
@json_option
def jobs(
    topology: str,
    names: tuple[str, ...],
    steps: int,
    as_json: bool,
    rescale: str | None,
    speed: float | None,
    unchecked: bool,
) -> None:
    """Predict the steps of jobs that train at once on TOPOLOGY, on devices of their own, and share its links.

    WORKLOAD is a file that mpsim trace wrote, PLAN one that mpsim simulate --save-plan did. A plan that places nothing
    gets the first devices that are free. Each job begins its next step when the last is over.

    \b
      mpsim simulate workloads/gpt2.cpu.json ring:8,link=eth_1g --dp 4 --place 0,2,4,6 --save-plan a.json
      mpsim simulate workloads/bert-base.cpu.json ring:8,link=eth_1g --dp 4 --place 1,3,5,7 --save-plan b.json
      mpsim jobs ring:8,link=eth_1g workloads/gpt2.cpu.json=a.json workloads/bert-base.cpu.json=b.json
    """
    found = simulate_jobs(
        _read(names), parse_topology(topology), steps=steps, rescale=rescale, speed=speed, unchecked=unchecked
    )
    if as_json:
        print_json({"jobs": [asdict(one) | {"slowdown": one.slowdown} for one in found]})
    else:
        said = [f"{one.name}: {phrase}" for one in found for phrase in one.caveats]
        told = [f"{one.name}: {text}" for one in found for text in one.notes]
        say(joined("", [caution(said), joined("\n", [_table(found), *short_notes(told)])]))


def _read(names: tuple[str, ...]) -> list[Job]:
    found: list[Job] = []
    for text in names:
        workload, equals, plan = text.partition("=")
        if not (workload and equals and plan):
            raise MpsimError(f"{text!r} is no job: write WORKLOAD=PLAN, two files")
        stem = Path(workload).stem
        taken = [job.name for job in found]
        name = next(one for i in range(1, len(names) + 2) if (one := stem if i == 1 else f"{stem} {i}") not in taken)
        found.append(Job(name=name, workload=read_workload(workload), plan=load_plan(plan)))
    return found


def _table(found: tuple[JobResult, ...]) -> Text:
    rows = [("job", "plan", "devices", "alone", "beside the others", "shortest to longest", "slowdown")]
    for one in found:
        spread = f"{format_duration(one.least_step_s)} to {format_duration(one.most_step_s)}"
        rows.append(
            (
                one.name, one.plan, _numbers(one.devices), format_duration(one.alone_step_s),
                format_duration(one.step_s), spread, f"{one.slowdown:.2f}",
            )
        )  # fmt: skip
    return align_rows(rows, left=(0, 1, 2))


def _numbers(devices: tuple[int, ...]) -> str:
    shown = ",".join(map(str, devices[:8]))
    return shown + (f",… ({len(devices)})" if len(devices) > 8 else "")
