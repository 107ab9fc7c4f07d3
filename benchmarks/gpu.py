"""Trace the zoo on this machine's GPU and time plain PyTorch beside it: ``python benchmarks/gpu.py [-o FOLDER]``.

The most important models come first, each trace and each row is written as soon as it is there, and nothing is begun
that would end after the limit: whatever is done is kept if the run is cut off. For each model it leaves

- ``MODEL.GPU.json``, a workload with two clocks;
- a row in ``steps.GPU.json`` for each (micro-batch, tensor shard): the layers' times out of the trace, and plain steps
  of 1, 2, 4 and 8 micro-batches with gradients accumulated and one update: wall time between two synchronizations, back
  to back, the launching thread's time of each phase, memory at its peak; and each of two pipeline stages alone;
- ``gpu.md``, the table of both.

Without a GPU, ``--small`` does the same at small sizes on the CPU: for trying the script, not for its numbers.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mpsim.workload.casting import cast, computing
from mpsim.workload.example import Example, default_loss, flat_inputs, on_device
from mpsim.workload.file import save_workload
from mpsim.workload.model import Workload
from mpsim.workload.precision import precision
from mpsim.workload.source import resolve_model
from mpsim.workload.tensor_parallel import local_shard
from mpsim.workload.trace import build, trace

# name, zoo model, sizes, precision, micro-batches, tensor shards: the most important first.
JOBS: list[tuple[str, str, dict[str, Any], str, tuple[int, ...], tuple[int, ...]]] = [
    ("gpt2", "gpt2", {"seq": 512}, "fp32", (1, 4, 8), (1, 2)),
    ("resnet50", "resnet50", {}, "fp32", (4, 16, 64), (1,)),
    ("llama-1b-bf16", "llama-1b", {"seq": 2048}, "bf16", (1, 2, 4), (1, 2)),
    ("vit-b16", "vit-b16", {}, "fp32", (2, 8, 32), (1, 2)),
    ("mnist-mlp", "mnist-mlp", {}, "fp32", (1024, 8192), (1, 2)),
    ("gpt2-bf16-mixed", "gpt2", {"seq": 1024}, "bf16-mixed", (1, 4, 8), (1,)),
    ("bert-base", "bert-base", {"seq": 512}, "tf32", (2, 8), (1,)),
    ("unet", "unet", {}, "fp32", (1, 4), (1,)),
    ("t5-small", "t5-small", {"seq": 512, "target_seq": 128}, "fp32", (2, 8), (1,)),
    ("vgg16", "vgg16", {}, "fp32", (8, 32), (1,)),
    ("llama-8b-4layers-bf16", "llama-8b", {"n_layer": 4, "seq": 4096}, "bf16", (1, 2), (1,)),
    ("lenet5", "lenet5", {}, "fp32", (64, 512), (1,)),
]
TINY = {"seq": 16, "n_layer": 2, "hidden": 64, "n_head": 4, "ffn": 128, "vocab": 256}
SMALL = [
    ("mnist-mlp", "mnist-mlp", {}, "fp32", (64,), (1, 2)),
    (
        "gpt2-bf16-mixed",
        "gpt2",
        {"seq": 16, "n_layer": 2, "hidden": 64, "n_head": 4, "ffn": 128, "vocab": 256},
        "bf16-mixed",
        (1, 2),
        (1,),
    ),
]
MICROBATCHES = (1, 2, 4, 8)


class Machine:
    """The device, and what is asked of it."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        self.device = "cuda" if self.cuda else "cpu"
        self.name = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.suffix = self.name.split()[-1].lower()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict[str, int]:
        """Return the peaks since `free`, and what lies there now."""
        if not self.cuda:
            return {"peak_bytes": 0, "resident_bytes": 0, "reserved_bytes": 0}
        return {
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "resident_bytes": torch.cuda.memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
        }


def digits(seconds: float) -> float:
    return float(f"{seconds:.5g}")


def plain_steps(example: Example, types: str, count: int, machine: Machine, repeats: int = 7) -> dict[str, Any]:
    """Time plain PyTorch: `count` micro-batches with gradients accumulated, and one AdamW update."""
    model, criterion = example.model, example.loss or default_loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    model.train()

    def step() -> tuple[float, float, float]:
        forward_s = backward_s = 0.0
        for _ in range(count):
            begun = time.perf_counter()
            with computing(precision(types), machine.device):
                loss = criterion(model(*example.inputs, **example.keywords), example.target)
            between = time.perf_counter()
            loss.backward()
            forward_s, backward_s = forward_s + between - begun, backward_s + time.perf_counter() - between
        begun = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return forward_s, backward_s, time.perf_counter() - begun

    for _ in range(2):
        step()
    machine.wait()
    machine.free()
    wall, host = [], []
    for _ in range(repeats):
        machine.wait()
        begun = time.perf_counter()
        host.append(step())
        machine.wait()
        wall.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    for _ in range(repeats):
        step()
    machine.wait()
    several = (time.perf_counter() - begun) / repeats
    phases = ("forward", "backward", "optimizer")
    return {
        "microbatches": count,
        "wall_s": digits(median(wall)),
        "wall_all_s": [digits(one) for one in wall],
        "back_to_back_s": digits(several),
        **{f"host_{phase}_s": digits(median(one[i] for one in host)) for i, phase in enumerate(phases)},
        **machine.memory(),
    }


def stages_alone(example: Example, machine: Machine, repeats: int = 7) -> list[dict[str, Any]]:
    """Time the forward and backward of each of two pipeline stages alone, as a device of its own would run it."""
    from mpsim.emulate.capture.cut import capture
    from mpsim.emulate.parts import make_parts
    from mpsim.emulate.under_way import UnderWay

    cut = capture(example)
    feeds = {name: one for name, one in zip(cut.feeds, flat_inputs(example), strict=True) if name}
    half = (len(cut.units) // 2,)
    received: dict[str, Any] = {}
    rows = []
    for part in make_parts(cut, example.model, half):
        under_way = UnderWay(part)
        seconds = []
        for _ in range(repeats + 2):
            machine.wait()
            begun = time.perf_counter()
            sent = under_way.forward(0, received, feeds).sends
            gradients = {name: torch.ones_like(value) for name, value in sent.items() if value.is_floating_point()}
            under_way.backward(0, gradients)
            machine.wait()
            seconds.append(time.perf_counter() - begun)
            part.drop_gradients()
        layers = part.layers
        rows.append({"first": layers.start, "last": layers.stop, "forward_backward_s": digits(median(seconds[2:]))})
        received = {name: value.detach().requires_grad_(value.is_floating_point()) for name, value in sent.items()}
    return rows


def row_of(workload: Workload, size: int, ranks: int, about: dict[str, Any]) -> dict[str, Any]:
    """Return the layers' times out of a trace in the form of a row of steps: [host seconds, device seconds]."""
    units, update = [], [0.0, 0.0]
    for layer in workload.layers:
        cost = next(c for c in layer.costs if (c.microbatch, c.tensor_parallel) == (size, ranks))
        device, host = cost.samples, cost.host or cost.samples

        def pair(*names: str, of: tuple[Any, Any] = (host, device)) -> list[float]:
            return [digits(sum(median(getattr(one, name)) for name in names)) for one in of]

        shard = layer.shard(ranks)
        units.append(
            {
                "name": layer.name,
                "forward": pair("forward_s"),
                "backward": pair("backward_input_s", "backward_weight_s"),
                "backward_input": pair("backward_input_s"),
                "accumulate": pair("accumulate_s"),
                "optimizer": pair("optimizer_s"),
                "tensors": len(shard.gradients),
                "parameters": shard.parameter_bytes,
                "saved_bytes": cost.saved_bytes,
                "forward_transient_bytes": cost.forward_transient_bytes,
                "backward_transient_bytes": cost.backward_transient_bytes,
                "flops": cost.flops,
            }
        )
        update = [digits(a + b) for a, b in zip(update, pair("optimizer_s"), strict=True)]
    return {**about, "microbatch": size, "tensor_parallel": ranks, "units": units, "optimizer_whole": update}


def examples(job: Any, machine: Machine) -> Iterator[tuple[int, int, Example]]:
    """Yield each point's example, on the device, in its precision."""
    _, model, sizes, types, batches, shards = job
    for ranks in shards:
        for size in batches:
            example = cast(on_device(build(resolve_model(model, sizes), size), machine.device), precision(types))
            yield size, ranks, example if ranks == 1 else local_shard(example, ranks).example
            machine.free()


def do(job: Any, folder: Path, rows: list[dict[str, Any]], machine: Machine, left: Callable[[], float]) -> None:
    """Trace one model, then time plain steps of it."""
    label, model, sizes, types, batches, shards = job
    begun = time.perf_counter()
    workload = trace(
        resolve_model(model, sizes), microbatches=batches, tensor=shards, precision=types, repeats=5, name=label
    )
    save_workload(folder / f"{label}.{machine.suffix}.json", workload)
    for check in workload.checks:
        print(f"  {check.microbatch}, tp={check.tensor_parallel}: layers / step {check.ratio:.3f}", *check.differences)
    print(f"{label}: traced in {time.perf_counter() - begun:.1f} s", flush=True)
    machine.free()
    about = {"model": label, "sizes": sizes, "precision": types, "device": machine.name, "torch": torch.__version__}
    for size, ranks, example in examples(job, machine):
        if left() < 0:
            print("time is up", flush=True)
            return
        row = row_of(workload, size, ranks, about)
        row["steps"] = [plain_steps(example, types, count, machine) for count in MICROBATCHES]
        if ranks == 1 and size == batches[-1] and not types.endswith("mixed"):  # a part would run without autocast
            try:
                row["stages"] = stages_alone(example, machine)
            except Exception as error:  # what cannot be split still has its steps
                row["stages_failed"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
        save(folder, rows, machine)
        one = row["steps"][0]
        print(
            f"  {size}, tp={ranks}: step {one['wall_s'] * 1e3:.2f} ms, {one['peak_bytes'] / 2**30:.2f} GiB", flush=True
        )


def save(folder: Path, rows: list[dict[str, Any]], machine: Machine) -> None:
    """Write what is there so far."""
    about = "Made by benchmarks/gpu.py: units are medians of the trace's samples, [host_s, device_s] of each layer."
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    (folder / f"steps.{machine.suffix}.json").write_text(text, encoding="utf-8")
    (folder / "gpu.md").write_text(table(rows, machine), encoding="utf-8")


def table(rows: list[dict[str, Any]], machine: Machine) -> str:
    """Return the steps beside what the layers' device and host times add up to."""
    lines = [
        f"# Plain steps on one {machine.name}, and the layers of its traces",
        "",
        "Made by `python benchmarks/gpu.py`. Milliseconds; *device* and *host* are the sums of the layers' two clocks.",
        "",
        "| model | micro-batch | tp | step | back to back | device | host | 4 micro-batches | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        host, device = (
            1e3 * (sum(u[k][i] for u in row["units"] for k in ("forward", "backward")) + row["optimizer_whole"][i])
            for i in (0, 1)
        )
        steps = {one["microbatches"]: one for one in row["steps"]}
        lines.append(
            f"| {row['model']} | {row['microbatch']} | {row['tensor_parallel']} | {1e3 * steps[1]['wall_s']:.2f}"
            f" | {1e3 * steps[1]['back_to_back_s']:.2f} | {device:.2f} | {host:.2f} | {1e3 * steps[4]['wall_s']:.2f}"
            f" | {steps[1]['peak_bytes'] / 2**30:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do all jobs that fit the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("workloads"), help="folder")
    parser.add_argument("--limit", type=float, default=450.0, help="seconds after which nothing new is begun")
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script without a GPU")
    options = parser.parse_args()
    machine, begun, rows = Machine(), time.perf_counter(), []
    if not machine.cuda and not options.small:
        parser.error("there is no CUDA device here: --small tries the script on the CPU")
    options.output.mkdir(parents=True, exist_ok=True)

    def left() -> float:
        return float(options.limit - (time.perf_counter() - begun))

    for job in SMALL if options.small else JOBS:
        if (options.only and job[0] not in options.only) or left() < 0:
            continue
        try:
            do(job, options.output, rows, machine, left)
        except Exception:  # one model that fails must not cost the others
            print(f"{job[0]} failed:", traceback.format_exc(limit=3), flush=True)
        machine.free()
    print(f"{len(rows)} rows in {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
