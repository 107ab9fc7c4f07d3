"""``mpsim calibrate``: what collectives cost on a topology, from logs of nccl-tests or results of real runs."""

from __future__ import annotations

from typing import Any

import click

from mpsim.cli.output import DOCUMENTS, check_kept, json_option, output_option, print_json, tell
from mpsim.topology.file import save_topology
from mpsim.topology.spec import parse_topology

__all__ = ["calibrate"]


@click.command()
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option("--topology", required=True, metavar="TOPOLOGY", help="A file or a builder; its links need types.")
@json_option
@output_option("-o", "--output", what="Write the topology with its costs.", suffixes=DOCUMENTS, required=True)
def calibrate(logs: tuple[str, ...], topology: str, as_json: bool, output: str) -> None:
    """Fit what collectives cost on TOPOLOGY to what LOG... measured, and write it into a topology file.

    LOG is the output of a program of nccl-tests or rccl-tests (text, JSON, CSV), or a result of mpsim emulate. The
    ranks of a log are taken to be the topology's first devices. Several kinds of collectives and numbers of ranks make
    several curves, each fitted to all logs of its kind.

    \b
      all_reduce_perf -b 1K -e 1G -f 2 -g 8 > all_reduce_perf.log
      mpsim calibrate all_reduce_perf.log --topology switch:8,link=nvlink4 -o node.json
      mpsim simulate --collectives 64MiB node.json --algorithm auto
    """
    check_kept([output], (*logs, topology))
    from mpsim.calibrate import calibrate as fit
    from mpsim.calibrate import read_log
    from mpsim.calibrate.text import calibration_text, calibration_to_dict

    measured = [one for path in logs for one in read_log(path)]
    found = fit(parse_topology(topology), measured)
    save_topology(output, found.topology)
    shown: dict[str, Any] = calibration_to_dict(found)
    if as_json:
        print_json(shown)
    else:
        click.echo(calibration_text(found))
    tell(f"wrote {output}")
