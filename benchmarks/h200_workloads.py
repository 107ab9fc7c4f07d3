"""Make workloads/<model>.h200.json from what was measured on an H200: ``python benchmarks/h200_workloads.py FOLDER``.

FOLDER holds the graphs of the models as mpsim's tracer found them there, one ``<model>.json`` of format 1 each. Their
times include the gaps between kernels and are dropped; the host's and the device's times of each unit come from the
committed file of measured steps, at the micro-batches and shards that it has. The Llama has no such graph: its layers,
parameters and the tensors between them follow from its configuration (Llama 3.2 1B).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from mpsim.documents import Provenance
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.model import Device, Topology
from mpsim.validate.steps_file import MeasuredRow, MeasuredStep, load_steps
from mpsim.validate.steps_workload import clocks, precision_of, step_of_one
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.model import (
    Cost,
    Fidelity,
    Gradient,
    Layer,
    Parameter,
    Shard,
    StepCheck,
    Tensor,
    Workload,
)

ROOT = Path(__file__).parents[1]
GRAPHS = ("mnist-mlp", "gpt2", "resnet50", "vit-b16")
NOTES = (
    "device times: each unit's kernels, queued while the device slept, so that there are no gaps between them",
    "host times: of the units one by one, scaled in each phase to what the plain step took the host; where that waited"
    " for the device, to that of the smallest micro-batch",
    "adding to gradients was not measured: three passes over them at what a copy moves in this memory",
    "transients inside layers were not measured, but for the loss's: the outputs, and two gradients of their size",
    "medians of 5 repetitions: trials have nothing to draw from",
)
LLAMA = "llama-1b-bf16"
# https://huggingface.co/meta-llama/Llama-3.2-1B, config.json
HIDDEN, FFN, HEADS_BYTES_PART, VOCAB, SEQ, BLOCKS = 2048, 8192, 512, 128256, 2048, 16


def main(folder: str) -> None:
    rows = load_steps()
    for name in (*GRAPHS, LLAMA):
        own = [row for row in rows if row.model == name]
        graph = load_workload(Path(folder) / f"{name}.json") if name in GRAPHS else llama(own)
        path = ROOT / "workloads" / f"{name}.h200.json"
        save_workload(path, checked(made(graph, own), own))
        print(path)


def made(graph: Workload, rows: Sequence[MeasuredRow]) -> Workload:
    """Return a graph with the costs of some rows."""
    for row in rows:
        assert [unit.name for unit in row.units] == [layer.name for layer in graph.layers], row.name
    costs = [[] for _ in graph.layers]  # type: list[list[Cost]]
    for row in rows:
        for i, cost in enumerate(_costs(graph, row, rows)):
            costs[i].append(cost)
    shards = {row.tensor_parallel for row in rows}
    layers = [
        replace(layer, costs=tuple(own), shards=tuple(one for one in layer.shards if one.tensor_parallel in shards))
        for layer, own in zip(graph.layers, costs, strict=True)
    ]
    return replace(
        graph,
        layers=tuple(layers),
        device=rows[0].device,
        clock="cuda-kernel",
        optimizer="adamw",
        precision=precision_of(rows[0]),
        notes=(*graph.notes, *NOTES),
        provenance=Provenance(
            made_by="benchmarks/h200_workloads.py",
            command="python benchmarks/h200_workloads.py FOLDER",
            date="2026-11-27",
            machine=graph.provenance.machine or "Linux x86_64, 16 virtual cores with slow launching, NVIDIA H200",
            software=f"python 3.12.3, torch {rows[0].torch}, transformers 5.17.0",
            source="mpsim/validate/h200_steps.json (units by two clocks)"
            + ("; the graph traced on the same machine" if rows[0].model in GRAPHS else "; the graph from its config"),
        ),
    )


def _costs(graph: Workload, row: MeasuredRow, rows: Sequence[MeasuredRow]) -> list[Cost]:
    host = _host(row, [one for one in rows if one.tensor_parallel == row.tensor_parallel])
    gradients = [layer.shard(row.tensor_parallel).gradient_bytes for layer in graph.layers]
    found = []
    for i, (device, of_host) in enumerate(clocks(row, host, gradients)):
        unit, layer = row.units[i], graph.layers[i]
        known = [c for c in layer.costs if (c.microbatch, c.tensor_parallel) == (row.microbatch, row.tensor_parallel)]
        last = i == len(row.units) - 1
        found.append(
            Cost(
                microbatch=row.microbatch,
                tensor_parallel=row.tensor_parallel,
                samples=device,
                host=of_host,
                fidelity=Fidelity.MEASURED,
                saved_bytes=unit.saved_bytes,
                flops=unit.flops,
                forward_transient_bytes=_outputs(graph, row) if last else 0,
                backward_transient_bytes=max(0, 2 * _outputs(graph, row) - _own_gradients(graph, row)) if last else 0,
                collectives=known[0].collectives if known else (),
            )
        )
    return found


def _host(row: MeasuredRow, alike: Sequence[MeasuredRow]) -> MeasuredStep:
    """Return the step whose host times hold for a row: its own, unless that host waited for a full queue.

    What a host launches does not hang on the micro-batch. Where the device is slower, the lesser of the row's own and
    of the smallest micro-batch counts.
    """
    own, smallest = step_of_one(row), step_of_one(min(alike, key=lambda one: one.microbatch))
    device_s = sum(unit.forward[1] + unit.backward[1] for unit in row.units) + row.optimizer_whole[1]
    return own if _host_s(own) > device_s else min(own, smallest, key=_host_s)


def _host_s(step: MeasuredStep) -> float:
    return step.host_forward_s + step.host_backward_s + step.host_optimizer_s


def _outputs(graph: Workload, row: MeasuredRow) -> int:
    """Return the bytes of what the model puts out at a row's micro-batch."""
    outputs = [tensor for tensor in graph.tensors if tensor.role == "output"]
    return sum(tensor.bytes(row.tensor_parallel) for tensor in outputs) * row.microbatch // graph.microbatch


def _own_gradients(graph: Workload, row: MeasuredRow) -> int:
    """Return the bytes of the last layer's gradients that no other layer adds to."""
    *before, last = (layer.shard(row.tensor_parallel) for layer in graph.layers)
    others = {gradient.parameter for shard in before for gradient in shard.gradients}
    return sum(gradient.bytes for gradient in last.gradients if gradient.parameter not in others)


def checked(work: Workload, rows: Sequence[MeasuredRow]) -> Workload:
    """Return a workload with the step that its two clocks make beside the measured one, at each of its points."""
    checks = []
    for row in rows:
        costs = [
            next(c for c in layer.costs if (c.microbatch, c.tensor_parallel) == (row.microbatch, row.tensor_parallel))
            for layer in work.layers
        ]
        alone = Workload(
            name=row.name,
            layers=tuple(
                Layer(name=layer.name, costs=(replace(cost, tensor_parallel=1, collectives=()),))
                for layer, cost in zip(work.layers, costs, strict=True)
            ),
            microbatch=row.microbatch,
        )
        step = step_of_one(row)
        two = simulate(alone, Topology(name="one", devices=(Device(name="gpu"),)), Plan(), spans=False).step_s
        checks.append(
            StepCheck(
                microbatch=row.microbatch,
                tensor_parallel=row.tensor_parallel,
                whole_s=step.wall_all_s,
                layers_s=(two,) * len(step.wall_all_s),
            )
        )
    return replace(work, checks=tuple(checks))


def llama(rows: Sequence[MeasuredRow]) -> Workload:
    """Return the graph of Llama 3.2 1B in bfloat16: a chain, with the embedding's parameter read by the head too."""
    units = rows[0].units
    kept = {"embed": "model.embed_tokens.weight"}
    layers = []
    for unit in units:
        shapes = _shapes(unit.name, kept["embed"])
        parameters = tuple(Parameter(name=name, shape=shape, dtype="bfloat16") for name, shape in shapes)
        owned = sum(one.bytes for one in parameters) if unit.parameters else 0
        assert owned == 2 * unit.parameters, (unit.name, owned, unit.parameters)
        gradients = tuple(Gradient(parameter=one.name, bytes=one.bytes) for one in reversed(parameters))
        shard = Shard(parameters=parameters, gradients=gradients, optimizer_bytes=2 * owned + 4 * unit.tensors)
        blank = Cost(
            microbatch=rows[0].microbatch, samples=clocks(rows[0], step_of_one(rows[0]), [0] * len(units))[0][0]
        )
        layers.append(
            Layer(name=unit.name, kind=_KINDS.get(unit.name, "LlamaDecoderLayer"), shards=(shard,), costs=(blank,))
        )
    return Workload(
        name="llama-1b[seq=2048]",
        layers=tuple(layers),
        tensors=_chain([unit.name for unit in units], rows[0].microbatch),
        microbatch=rows[0].microbatch,
        notes=(
            "the graph is a chain after the model's configuration: the rotary embedding, which every block reads, is"
            " made anew on each stage",
        ),
    )


_KINDS = {"model.embed_tokens": "Embedding", "model.norm": "LlamaRMSNorm", "lm_head": "Linear"}


def _shapes(unit: str, embedding: str) -> list[tuple[str, tuple[int, ...]]]:
    if unit in ("model.embed_tokens", "lm_head"):
        return [(embedding, (VOCAB, HIDDEN))]
    if unit == "model.norm":
        return [(f"{unit}.weight", (HIDDEN,))]
    inside = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HEADS_BYTES_PART, HIDDEN),
        "self_attn.v_proj": (HEADS_BYTES_PART, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    return [(f"{unit}.{name}.weight", shape) for name, shape in inside.items()]


def _chain(names: Sequence[str], size: int) -> tuple[Tensor, ...]:
    hidden = [
        Tensor(
            name=f"{one}.output",
            producer=one,
            consumers=(following,),
            shape=(size, SEQ, HIDDEN),
            dtype="bfloat16",
            needs_gradient=True,
            saved_by=following,
        )
        for one, following in pairwise(names)
    ]
    first, last = names[0], names[-1]
    return (
        Tensor(
            name="input",
            producer="",
            consumers=(first,),
            shape=(size, SEQ),
            dtype="int64",
            role="input",
            saved_by=first,
        ),
        Tensor(
            name="target",
            producer="",
            consumers=(last,),
            shape=(size, SEQ),
            dtype="int64",
            role="target",
            saved_by=last,
        ),
        *hidden,
        Tensor(name=f"{last}.logits", producer=last, shape=(size, SEQ, VOCAB), dtype="bfloat16", role="output"),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
