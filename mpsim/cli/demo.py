"""``mpsim demo``: the main job from end to end, each step a command that is shown before it runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mpsim.errors import MpsimError

__all__ = ["demo"]

CLUSTER = "switch:8,link=eth_10g,memory=8GiB"


@click.command()
@click.option(
    "-o", "--output", "folder", metavar="FOLDER", default="out/demo", show_default=True, help="For its files."
)
@click.option("--cluster", metavar="TOPOLOGY", default=CLUSTER, show_default=True, help="Eight devices or more.")
@click.pass_context
def demo(context: click.Context, folder: str, cluster: str) -> None:
    """Trace a model on this machine, replay every split of it over eight such machines, rank and draw them.

    The model is the multi-layer perceptron of the MNIST tutorials, a batch of 8,192 images.
    """
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MpsimError(f"cannot make the folder {folder!r}: {error.strerror}; choose another with -o") from None
    program = context.find_root().command
    for arguments in _commands(where, cluster):
        click.secho(f"\n$ mpsim {shlex.join(arguments)}", bold=True)
        with program.make_context("mpsim", arguments) as inner:
            program.invoke(inner)


def _commands(where: Path, cluster: str) -> list[list[str]]:
    workload, table, picture = str(where / "mnist-mlp.json"), str(where / "sweep.csv"), str(where / "speedup.png")
    hybrid = ["--dp", "2", "--pp", "2", "--tp", "2", "--batch", "8192", "--microbatches", "4"]
    return [
        ["trace", "mnist-mlp", "--batch", "1024,2048,4096,8192", "--tensor", "1,2,4", "-o", workload],
        ["sweep", workload, cluster, "--batch", "8192", "-o", table],
        ["plot", table, "-o", picture],
        # What a busy machine measured may contradict itself by a little: the answer says so, and the demo goes on.
        ["simulate", workload, cluster, *hybrid, "--unchecked", "--plot", str(where / "timeline.png")],
    ]
