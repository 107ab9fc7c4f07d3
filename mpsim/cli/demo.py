"""``mpsim demo``: the main job from end to end, each step a command that is shown before it runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from mpsim.cli.output import say
from mpsim.errors import MpsimError

__all__ = ["demo"]

CLUSTER = "switch:8,link=eth_10g,memory=8GiB"
# Measured on one GPU: inside an installed package, beside the package in the repository.
PLACES = [folder / "workloads" / "gpt2.h200.json" for folder in Path(__file__).parents[1:3]]


@click.command()
@click.option(
    "-o", "--output", "folder", metavar="FOLDER", default="out/demo", show_default=True, help="For its files."
)
@click.option("--cluster", metavar="TOPOLOGY", default=CLUSTER, show_default=True, help="Eight devices or more.")
@click.pass_context
def demo(context: click.Context, folder: str, cluster: str) -> None:
    """Trace a model here, replay every split of it over eight such machines, rank and draw them; then one of a GPU.

    The model traced here is the multi-layer perceptron of the MNIST tutorials, a batch of 8,192 images. The second is
    GPT-2 as it was measured on an H200, replayed over the eight of a DGX H200.
    """
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MpsimError(f"cannot make the folder {folder!r}: {error.strerror}; choose another with -o") from None
    say("1. A model traced on this machine, over eight such machines")
    _run(context, _traced_here(where, cluster))
    say("\n2. A model measured on a GPU, over eight such GPUs: a trace is true of the device that it was made on")
    stored = next((path for path in PLACES if path.is_file()), None)
    if stored is None:
        raise MpsimError(f"no file {str(PLACES[0])!r}: it is part of mpsim; install mpsim again")
    _run(context, _measured_on_a_gpu(where, os.path.relpath(stored)))


def _run(context: click.Context, commands: list[list[str]]) -> None:
    program = context.find_root().command
    for arguments in commands:
        say(f"\n$ mpsim {shlex.join(arguments)}", bold=True)
        with program.make_context("mpsim", arguments) as inner:
            program.invoke(inner)


def _traced_here(where: Path, cluster: str) -> list[list[str]]:
    workload, table, picture = str(where / "mnist-mlp.json"), str(where / "sweep.csv"), str(where / "speedup.png")
    hybrid = ["--dp", "2", "--pp", "2", "--tp", "2", "--batch", "8192", "--microbatches", "4"]
    return [
        ["trace", "mnist-mlp", "--batch", "1024,2048,4096,8192", "--tensor", "1,2,4", "-o", workload],
        # What a busy machine measured may contradict itself by a little: the answer says so, and the demo goes on.
        ["sweep", workload, cluster, "--batch", "8192", "--unchecked", "-o", table, "--no-resume"],
        ["plot", table, "-o", picture],
        ["simulate", workload, cluster, *hybrid, "--unchecked", "--plot", str(where / "timeline.png")],
    ]


def _measured_on_a_gpu(where: Path, workload: str) -> list[list[str]]:
    """Eight samples a step: small enough that hosts launch for longer than devices compute, which the last one says."""
    table, picture = str(where / "gpt2.csv"), str(where / "gpt2-speedup.png")
    asked = ["--batch", "8", "--runtime", "torch-nccl"]
    return [
        ["sweep", workload, "dgx_h200", *asked, "-o", table, "--no-resume"],
        ["plot", table, "-o", picture],
        ["simulate", workload, "dgx_h200", "--dp", "8", *asked],
    ]
