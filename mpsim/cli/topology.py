"""``mpsim topology``: write the topology file that a builder makes, to be edited by hand."""

from __future__ import annotations

from dataclasses import replace

import click

from mpsim.cli.output import DOCUMENTS, output_option, tell
from mpsim.documents import made_now
from mpsim.topology.file import save_topology
from mpsim.topology.spec import parse_topology

__all__ = ["topology"]


@click.command()
@click.argument("spec")
@output_option("-o", "--output", what="The file to write.", suffixes=DOCUMENTS, required=True)
def topology(spec: str, output: str) -> None:
    """Write the topology file that SPEC stands for, a builder or a preset (mpsim show presets), to be edited by hand.

    \b
      mpsim topology torus:4x4,link=nvlink4 -o torus.json
      mpsim topology dgx_h100:4 -o cluster.json
      mpsim show torus.json
    """
    made = parse_topology(spec)
    # A preset says where its numbers come from; that stays, and who wrote the file is added.
    save_topology(output, replace(made, provenance=replace(made_now(""), source=made.provenance.source)))
    tell(f"wrote {output}")
