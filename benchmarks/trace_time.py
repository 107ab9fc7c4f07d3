"""How long tracing takes, in plain steps of the model: ``python benchmarks/trace_time.py [NAME ...]``.

Each model is traced at one micro-batch, seven repetitions after two that are not kept, and a plain step of it is timed
in the same process; processor time of the process, one compute thread. What is beyond the repetitions' own steps is
building the model, watching one step and judging it. The public calls alone are used, so that the script also runs
against another commit's package.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch

import mpsim
from mpsim.workload.source import resolve_model

MODELS = {
    "lenet5": ({}, 256),
    "mnist-mlp": ({}, 4096),
    "llama": ({"seq": 64}, 2),
    "resnet50": ({}, 1),
    "gpt2": ({"seq": 64}, 1),
    "t5-small": ({"seq": 64, "target_seq": 64}, 1),
    "vit-b16": ({}, 1),
}


def plain_step_s(name: str, repeats: int = 5) -> float:
    """Return the median processor time of a plain step with AdamW."""
    sizes, batch = MODELS[name]
    example = resolve_model(name, sizes).build(batch)
    model = example.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        output = model(*example.inputs, **example.keywords)
        loss = example.loss(output, example.target) if example.loss else output.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - begun)
    return median(seconds[1:])


def main() -> None:
    """Print a line for each model."""
    torch.set_num_threads(1)
    print(f"{'model':12} {'step':>9} {'trace':>9} {'steps':>7} {'wall':>9}")
    for name in sys.argv[1:] or MODELS:
        sizes, batch = MODELS[name]
        step_s = plain_step_s(name)
        begun, wall = time.process_time(), time.perf_counter()
        mpsim.trace(resolve_model(name, sizes), batch, repeats=7, warmup=2)
        cpu_s, wall_s = time.process_time() - begun, time.perf_counter() - wall
        print(f"{name:12} {step_s:8.3f}s {cpu_s:8.2f}s {cpu_s / step_s:7.1f} {wall_s:8.2f}s", flush=True)


if __name__ == "__main__":
    main()
