"""``mpsim calibrate``: what collectives cost on a topology, or how fast its devices are, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, check_kept, json_option, output_option, print_json, say, tell
from mpsim.cli.progress import progress_bar
from mpsim.cli.types import SECONDS
from mpsim.errors import MpsimError
from mpsim.topology.file import save_topology
from mpsim.topology.spec import parse_topology
from mpsim.units import duration, format_duration
from mpsim.workload.reading import read_workload

__all__ = ["calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    compute: str | None
    step: float | None
    plan: str | None
    layer: tuple[str, ...]
    progress: bool | None


@click.command()
@click.argument("logs", nargs=-1, metavar="LOG...")
@click.option("--topology", required=True, metavar="TOPOLOGY", help="A file or a builder; its links need types.")
@click.option("--compute", metavar="WORKLOAD", help="No LOG: the devices' speed, from roofline costs of one of them.")
@click.option("--step", type=SECONDS, help="Of --compute: the step that was measured, under --plan.")
@click.option("--plan", metavar="FILE|TEXT", help="Of --step: the plan that was run; of --layer: how ranks share.")
@click.option("--layer", multiple=True, metavar="NAME=TIME", help="Of --compute: a layer's forward and backward.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write the topology with its costs.", suffixes=DOCUMENTS, required=True)
def calibrate(logs: tuple[str, ...], topology: str, as_json: bool, output: str, **given: Any) -> None:
    """Fit what collectives cost on TOPOLOGY to what LOG... measured, and write it into a topology file.

    LOG is the output of a program of nccl-tests or rccl-tests (text, JSON, CSV), or a result of mpsim emulate. The
    ranks of a log are taken to be the topology's first devices. Several kinds of collectives and numbers of ranks make
    several curves, each fitted to all logs of its kind.

    With --compute, WORKLOAD has roofline costs (mpsim trace --analytical), and the devices get the speed at which they
    come to one measured step, or to measured layers.

    \b
      all_reduce_perf -b 1K -e 1G -f 2 -g 8 > all_reduce_perf.log
      mpsim calibrate all_reduce_perf.log --topology switch:8,link=nvlink4 -o node.json
      mpsim simulate --collectives 64MiB node.json --algorithm auto
      mpsim trace gpt2 --analytical A100-SXM4-80GB --batch 1,2,4,8 -o gpt2.a100.json
      mpsim simulate gpt2.a100.json dgx_a100 --dp 8 --batch 64 --save-plan plan.json
      mpsim calibrate --compute gpt2.a100.json --step "65 ms" --plan plan.json --topology dgx_a100 -o node.json
    """
    asked = options_of(_Asked, given)
    check_kept([output], tuple(filter(None, (*logs, topology, asked.compute, asked.plan))))
    if asked.compute:
        _compute(asked.compute, logs, topology, as_json, output, asked)
        return
    said = [name for name in ("step", "plan", "layer") if getattr(asked, name)]
    if said:
        raise MpsimError(f"--{said[0]} is of --compute WORKLOAD, which is missing: name roofline costs")
    if not logs:
        raise MpsimError(
            "LOG... is missing: name logs of nccl-tests, or --compute WORKLOAD; see mpsim calibrate --help"
        )
    from mpsim.calibration import calibrate as fit
    from mpsim.calibration import read_log
    from mpsim.calibration.text import calibration_text, calibration_to_dict

    measured = [one for path in logs for one in read_log(path)]
    with progress_bar(asked.progress, "curves") as progress:
        found = fit(parse_topology(topology), measured, progress=progress)
    save_topology(output, found.topology)
    shown: dict[str, Any] = calibration_to_dict(found)
    if as_json:
        print_json(shown)
    else:
        say(calibration_text(found))
    tell(f"wrote {output}")


def _compute(workload: str, logs: tuple[str, ...], topology: str, as_json: bool, output: str, given: _Asked) -> None:
    from mpsim.calibration.compute import calibrate_compute

    if logs:
        raise MpsimError(f"--compute takes no LOG, got {logs[0]!r}: calibrate collectives first, and give its topology")
    if given.step is not None and not given.plan:
        raise MpsimError("--step needs --plan: the plan that was run (mpsim simulate --save-plan writes one)")
    found = calibrate_compute(
        read_workload(workload),
        parse_topology(topology),
        step_s=given.step,
        plan=given.plan,
        layers_s=_layers(given.layer) if given.layer else None,
    )
    save_topology(output, found.topology)
    shown = {name: getattr(found, name) for name in ("device", "speed", "measured_s", "modelled_s", "source")}
    if as_json:
        print_json(shown)
    else:
        say(
            f"{found.device}: speed {found.speed:.4g} of its roofline; {found.source} took"
            f" {format_duration(found.measured_s)}, the roofline says {format_duration(found.modelled_s)}"
        )
    tell(f"wrote {output}")


def _layers(texts: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in map(_layer, texts):
        if name in found:
            raise MpsimError(f"--layer {name} is given twice: leave one out")
        found[name] = seconds
    return found


def _layer(text: str) -> tuple[str, float]:
    name, equals, time = text.rpartition("=")
    if not (name and equals and time):
        raise MpsimError(f"--layer {text!r}: write NAME=TIME, as in 'h.0=19.6 ms'")
    return name, duration(time, f"--layer {name}")
