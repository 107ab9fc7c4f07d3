"""``mpsim trace``: measure a model into a workload file."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, check_output, json_option, output_option, print_json, say, tell
from mpsim.cli.types import NUMBERS, depth_of
from mpsim.errors import MpsimError
from mpsim.workload.split import Split, split_text

if TYPE_CHECKING:
    from mpsim.workload.device_spec import DeviceSpec
    from mpsim.workload.model import Workload

__all__ = ["trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    output: str | None
    batch: tuple[int, ...] | None
    tensor: tuple[int, ...]
    split: tuple[str, ...]
    imbalance: float | None
    context: str
    regather: bool
    depth: str
    sizes: tuple[str, ...]
    repeats: int
    warmup: int
    optimizer: str
    precision: str | None
    threads: int
    device: str | None
    analytical: str | None
    blocks_of: str | None


@click.command()
@click.argument("model", required=False)
@output_option("-o", "--output", what="By default MODEL.DEVICE.json, here.", suffixes=DOCUMENTS)
@click.option("--batch", type=NUMBERS, help="Micro-batch sizes to measure, as in 1,2,4,8; by default the model's own.")
@click.option("--tensor", type=NUMBERS, default="1", show_default=True, help="Tensor-parallel sizes to measure.")
@click.option(
    "--split", multiple=True, metavar="SPLIT", help="Another split to measure, such as tp=2,sequence; repeatable."
)
@click.option(
    "--imbalance", type=float, metavar="X", help="With ep: tokens of the busiest rank, in means; by default 1."
)
@click.option(
    "--context",
    default="all-gather",
    show_default=True,
    metavar="all-gather|ring|ulysses",
    help="How ranks that share sequences (cp) share attention.",
)
@click.option(
    "--regather",
    is_flag=True,
    help="Ranks that share a sequence (tp) keep their parts and gather them again in backward, as Megatron-LM does.",
)
@click.option("--depth", default="auto", show_default=True, metavar="auto|N", help="How many modules deep layers lie.")
@click.option("--set", "sizes", multiple=True, metavar="NAME=VALUE", help="Change a size of the model (n_layer=4).")
@click.option(
    "--repeats",
    type=int,
    default=7,
    show_default=True,
    metavar="N",
    help="Measured repetitions, every one stored; as many again where layers miss the step, twice at most.",
)
@click.option("--warmup", type=int, default=2, show_default=True, metavar="N", help="Repetitions before, not stored.")
@click.option(
    "--optimizer",
    default="adamw",
    show_default=True,
    metavar="NAME",
    help="adamw, adam, momentum, sgd or sparse-adam.",
)
@click.option(
    "--precision",
    metavar="NAME",
    help="fp32, tf32, bf16, fp16, bf16-mixed or fp16-mixed, or with --analytical fp8-mixed, mxfp8-mixed or"
    " nvfp4-mixed; by default as the model is.",
)
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Compute threads on a CPU.")
@click.option("--device", metavar="cpu|cuda", help="By default CUDA where there is one, else the CPU.")
@click.option("--analytical", metavar="NAME", help="Do not run: roofline of a device of the catalog, for large models.")
@click.option(
    "--blocks-of",
    metavar="TRACE.json",
    help="With --analytical: layers that this trace of the device has of the same kind and shape take its times.",
)
@click.option("--list", "only_list", is_flag=True, help="List the models of the zoo.")
@json_option
def trace(model: str | None, only_list: bool, as_json: bool, **given: Any) -> None:
    """Run MODEL's training step here, layer by layer, and write what it costs.

    MODEL is a name of the zoo (--list), package.module:factory, called with the batch size, or hf:PATH, a folder with
    a config.json of transformers on this machine: the model is built with random weights.

    \b
      mpsim trace mnist-mlp --batch 1024,2048,4096,8192 -o mlp.json
      mpsim trace llama --set seq=64 --batch 1,2 --tensor 1,2 -o llama.json
      mpsim trace llama --split tp=2,sequence --split cp=2 --analytical H100-SXM5-80GB
      mpsim trace hf:Llama-3-8B --set num_hidden_layers=2 --set seq=256 --precision bf16
    """
    asked = options_of(_Asked, given)
    if only_list:
        _list(as_json)
        return
    if model is None:
        raise MpsimError(
            "trace takes a MODEL: mpsim trace --list has the zoo, your own is package.module:factory or hf:PATH"
        )
    if not asked.output:
        check_output("workload.json", "the current folder", DOCUMENTS)
    workload = _traced(model, asked)
    path = asked.output or _default_name(workload, asked.device)
    from mpsim.workload.file import save_workload

    save_workload(path, workload)
    tell(f"wrote {path}")
    if as_json:
        from mpsim.cli.point import at_point, point_to_dict

        print_json(point_to_dict(workload, at_point(workload, workload.microbatch, 1), 1))
    else:
        from mpsim.workload.show import show_workload

        say(show_workload(workload))
    splits = {Split(tp=size) for size in asked.tensor} | set(map(split_text, asked.split))
    if missing := len(set(asked.batch or (0,))) * len(splits) - len(workload.layers[0].costs):
        tell(f"mpsim: error: interrupted: {missing} points are missing; those that are whole are in {path}")
        raise click.exceptions.Exit(130)


def _list(as_json: bool) -> None:
    from mpsim.cli.catalog import models_text
    from mpsim.workload.zoo import list_models

    if as_json:
        print_json({"models": list_models()})
    else:
        say(models_text(list_models()))


def _traced(model: str, given: _Asked) -> Workload:
    if find_spec("torch") is None:
        raise MpsimError("tracing needs PyTorch, which is not installed: pip install 'mpsim[trace]'")
    from mpsim.workload.source import resolve_model
    from mpsim.workload.trace import trace as trace_model
    from mpsim.workload.zoo import parse_overrides

    depth = depth_of(given.depth)
    source = resolve_model(model, parse_overrides(given.sizes))
    analytical = _roofline(given.analytical, given.precision or "")
    measured = _measured(given.blocks_of, analytical)
    with _one_line_of_errors():
        workload = trace_model(
            source,
            microbatches=given.batch,
            tensor=given.tensor,
            splits=given.split,
            imbalance=given.imbalance,
            context=given.context,
            regather=given.regather,
            depth=depth,
            repeats=given.repeats,
            warmup=given.warmup,
            optimizer=given.optimizer,
            threads=given.threads,
            device=given.device,
            analytical=analytical,
            precision=given.precision,
        )
    if measured is None or analytical is None:
        return workload
    from mpsim.workload.measured_blocks import with_measured_blocks

    return with_measured_blocks(workload, measured, analytical)


def _measured(path: str | None, analytical: DeviceSpec | None) -> Workload | None:
    """Return the trace whose blocks stand for alike ones, before anything is costed."""
    if path is None:
        return None
    if analytical is None:
        raise MpsimError("--blocks-of is of what a roofline costs: give --analytical DEVICE too")
    from mpsim.workload.file import load_workload

    return load_workload(path)


@contextmanager
def _one_line_of_errors() -> Iterator[None]:
    """Hold back what PyTorch logs and prints: of a model that it cannot run it prints pages, we say one line."""
    said = io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(said):
            yield
    except (MpsimError, KeyboardInterrupt):
        said.truncate(0)
        raise
    finally:
        logging.disable(logging.NOTSET)
        sys.stderr.write(said.getvalue())


def _roofline(name: str | None, precision_name: str = "") -> DeviceSpec | None:
    """Return the roofline of a device of the catalog, its products at the rate of a precision."""
    from mpsim.lowering.rescaling import roofline_of

    return None if name is None else roofline_of(name, precision_name)


def _default_name(workload: Workload, device: str | None) -> str:
    """Return ``MODEL.DEVICE.json``: ``cpu``, or the last word of a GPU's name."""
    on_cpu = workload.clock in ("thread-cpu", "wall")
    place = "cpu" if on_cpu else workload.device.split()[-1].lower()
    return f"{re.sub(r'[^A-Za-z0-9=,_-]+', '-', workload.name).strip('-')}.{place}.json"
