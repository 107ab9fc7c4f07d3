"""What recomputation takes and holds, predicted and by PyTorch's own checkpointing on this CPU.

    python benchmarks/recomputation.py

Each model is traced, and a step of it run with ``torch.utils.checkpoint`` around its blocks: once as PyTorch does it
unasked, where a second forward ends with the last tensor that backward needs, and once to its end. Times are by the
thread's clock, forward and backward without an update, medians of `ROUNDS` rounds in which the kinds take turns.
Printed is by how much each takes longer than the step that keeps all. What a step holds is compared in
``tests/simulation/test_recompute_memory.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from mpsim import Plan, Workload, parse_topology, simulate, trace
from mpsim.plan.sharding import Sharding
from mpsim.workload.example import Example, default_loss
from mpsim.workload.source import resolve_model

ROUNDS = 9
ONE = parse_topology("chain:1,link=1GB/s@0")
MODELS: dict[str, tuple[Mapping[str, Any], str, int]] = {
    "gpt2": ({"n_layer": 4, "hidden": 256, "n_head": 4, "ffn": 1024, "vocab": 500, "seq": 128}, "transformer.h.*", 4),
    "llama": (
        {"n_layer": 4, "hidden": 256, "n_head": 4, "n_kv_head": 4, "ffn": 688, "vocab": 500, "seq": 128},
        "model.layers.*",
        4,
    ),
    "resnet50": ({"image": 128, "width": 64}, "layer*", 8),
}


def predicted(workload: Workload, what: str) -> float:
    """Return a step's forward and backward, in seconds."""
    bare = [
        replace(layer, costs=tuple(replace(cost, samples=replace(cost.samples, optimizer_s=(0.0,)))
                                   for cost in layer.costs))
        for layer in workload.layers
    ]  # fmt: skip
    plan = Plan(sharding=Sharding(recompute=what))
    return simulate(replace(workload, layers=tuple(bare)), ONE, plan, unchecked=True).step_s


def checkpointed(example: Example, names: Sequence[str], early: bool) -> Example:
    """Let these modules of a model run their forward again."""
    modules = dict(example.model.named_modules())
    for name in names:
        module = modules[name]
        module.forward = partial(checkpoint, module.forward, use_reentrant=False, early_stop=early)
    return example


def step_s(example: Example) -> float:
    """Run forward and backward once and return the seconds that they take."""
    start = time.thread_time()
    loss = (example.loss or default_loss)(example.model(*example.inputs, **example.keywords), example.target)
    loss.backward()
    seconds = time.thread_time() - start
    example.model.zero_grad()
    return seconds


def main() -> None:
    """Print a line for each model."""
    torch.set_num_threads(1)
    print("model     keeps all   recomputing blocks takes longer by")
    print("          ms          predicted   torch   torch, to the end")
    for name, (sizes, pattern, batch) in MODELS.items():
        source = resolve_model(name, sizes)
        workload = trace(source, microbatches=(batch,), optimizer="sgd", progress=False)
        blocks = [layer.name for layer in workload.layers if fnmatchcase(layer.name, pattern)]
        runs = {
            "all": source.build(batch),
            "early": checkpointed(source.build(batch), blocks, True),
            "whole": checkpointed(source.build(batch), blocks, False),
        }
        found: dict[str, list[float]] = {kind: [] for kind in runs}
        for _ in range(ROUNDS):
            for kind, example in runs.items():
                found[kind].append(step_s(example))
        all_s, early_s, whole_s = (statistics.median(found[kind][1:]) for kind in runs)
        more = predicted(workload, pattern) / predicted(workload, "") - 1
        print(
            f"{name:9} {all_s * 1e3:7.1f} {more:14.1%} {early_s / all_s - 1:9.1%} {whole_s / all_s - 1:9.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
