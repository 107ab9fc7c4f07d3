"""PyTorch's own FSDP over real links, against the prediction: ``python benchmarks/real_fsdp.py`` writes the page.

    python benchmarks/real_fsdp.py [--fabric namespaces] [--only hybrid] [--wire 200Mbit/s@1ms] [-o PAGE.md]

Each case is ``fully_shard`` of each block and of the model, of hybrids after ``parallelize_module`` of each block, on
one process a rank over gloo, on namespaces with the links imposed (root) or over loopback. Every block sleeps in
forward and in backward for a given time; what it sends are torch's own collectives of its parameters, gradients and
activations. The links are measured first; the prediction knows them, the times and the shapes, and nothing of the run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch_ranks import Steps, be_rank, timed, until

import mpsim
from mpsim.documents import write_text
from mpsim.plan.sharding import Sharding
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective

PAGE = Path(__file__).parents[1] / "docs" / "real-fsdp.md"
BLOCKS, FORWARD_S, BACKWARD_S, TRIALS = 4, 0.06, 0.12, 3
# Rows and columns of each block's weight, and of the embedding's and the head's, which are half as large.
ROWS, COLUMNS = 2048, 1024
# Of the two linear layers that ranks share: small, for they compute for real, beside activations that are not.
TOKENS, WIDTH, INNER = 512, 256, 64
WIRES = ("200Mbit/s@0.1ms", "100Mbit/s@0.1ms")
RESHARDED = {"blocks": None, "all": True, "none": False}


class Case(NamedTuple):
    """Replicas that shard, ranks that share layers, what is kept, and micro-batches, reduced once or each."""

    dp: int
    tp: int = 1
    reshard: str = "blocks"
    microbatches: int = 1
    accumulate: bool = False

    @property
    def name(self) -> str:
        """In words."""
        kept = "" if self.reshard == "blocks" else f", reshard {self.reshard}"
        several = f", {self.microbatches} micro-batches" if self.microbatches > 1 else ""
        return f"{'hybrid' if self.tp > 1 else 'FSDP'}{kept}{several}{', accumulated' if self.accumulate else ''}"


CASES = (
    Case(2), Case(4), Case(4, reshard="none"), Case(2, microbatches=2, accumulate=True), Case(2, 2),
    Case(2, 2, "none", 2),
)  # fmt: skip
HEAD = """# FSDP that was run

Made by `python benchmarks/real_fsdp.py`. PyTorch's own `fully_shard` (torch 2.13) of each of 4 blocks and of the model,
one process a rank, joined by gloo, each in a network namespace of its own, on links of the bandwidth and latency
stated. A block has 8 MiB of parameters and sleeps 60 ms in forward and 120 ms in backward; embedding and head, of 4 MiB
each, are in the root unit. *Hybrids* are 2 × 2: `parallelize_module` of two linear layers a block, column-wise and
row-wise, and FSDP between replicas. Every byte is sent by torch's own collectives: on a CPU its gathers and reductions
are synchronous, and gloo makes a reduce-scatter of an all-reduce of the whole. Before each run the links were measured,
and what a step takes one rank whose others do not exist (torch's fake process group), which copies parameters and
gradients in and out of buffers; the prediction is made from these by the runtime `torch-gloo`, and nothing is fitted to
these rows. *Error* is predicted over measured less one, measured being the median of 3 steps after one that is not
counted; *ideal* is that of a replay that knows nothing of the runtime.
"""
TAIL = """**What it took.** Gloo's all-gather posts its send before its receive. Between two ranks the notice of whoever
comes later by more than a latency then stands behind its own data, and the two directions, which could go at once, go
one after another by half: 1.5 times as long. On links whose latency is below what two processes are ever apart that is
the rule, and the prediction takes it so; where the latency is a few milliseconds either may happen, and what does
decides until the next reduction. All-reduces post their receive first and are spared. This was learnt from earlier runs
of the first of these cases, on other links; it is in gloo's source, and the one number that those runs gave is that two
processes come up to some milliseconds apart: below a latency of one, one of them is taken to be late. That copies in
and out of buffers take a rank some 4 % of its step was learnt there too, and is now measured apart.

**The machine** had two cores, both busy with other work throughout (load 7 to 15) at a lower priority than the ranks.
"""


def steps_of(case: Case, index: int) -> Steps:
    """Return when the steps of a rank begin and end."""
    import torch
    import torch.distributed as dist

    model = sharded(case)
    tokens = torch.zeros(TOKENS, WIDTH)
    steps = []
    for _ in range(TRIALS + 1):
        # A barrier lets one rank go a latency before another: begin at one moment of the clock that all share.
        begin = torch.tensor([time.monotonic() + 0.2], dtype=torch.float64)
        dist.broadcast(begin, 0)
        begin = begin.item()
        until(begin)
        train(case, model, tokens)
        steps.append((begin, time.monotonic()))
    return steps


def alone(case: Case) -> float:
    """Return what a step takes one rank whose others do not exist: computing, and copying in and out of buffers."""
    command = [sys.executable, __file__, "--alone", str(CASES.index(case))]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(found.stdout.split()[-1])


def step_alone(case: Case) -> float:
    """Be that rank."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.dp * case.tp)
    model, tokens, steps = sharded(case), torch.zeros(TOKENS, WIDTH), []
    for _ in range(TRIALS + 1):
        steps.append(-time.monotonic())
        train(case, model, tokens)
        steps[-1] += time.monotonic()
    return statistics.median(steps[1:])


def train(case: Case, model, tokens) -> None:
    """Run the micro-batches of a step."""
    for i in range(case.microbatches):
        model.set_requires_gradient_sync(not case.accumulate or i == case.microbatches - 1)
        model(tokens).backward()
    model.zero_grad()


def sharded(case: Case):
    """Return the model of a case as one rank holds it."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(context, value, weight, forward_s, backward_s):
            context.shape, context.seconds = weight.shape, backward_s
            until(time.monotonic() + forward_s)
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            until(time.monotonic() + context.seconds)
            return gradient.clone(), torch.ones(context.shape), None, None

    class Layer(torch.nn.Module):
        def __init__(self, rows, forward_s, backward_s, shared):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(rows, COLUMNS))
            self.seconds = forward_s, backward_s
            self.up = torch.nn.Linear(WIDTH, INNER, bias=False) if shared else None
            self.down = torch.nn.Linear(INNER, WIDTH, bias=False) if shared else None

        def forward(self, value):
            value = Sleep.apply(value, self.weight, *self.seconds)
            return value if self.up is None else self.down(self.up(value))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = (Layer(ROWS // 2, 0.0, 0.0, False) for _ in range(2))
            self.blocks = torch.nn.ModuleList(Layer(ROWS, FORWARD_S, BACKWARD_S, case.tp > 1) for _ in range(BLOCKS))

        def forward(self, value):
            value = self.embed(value)
            for block in self.blocks:
                value = block(value)
            return self.head(value).sum()

    mesh = init_device_mesh("cpu", (case.dp, case.tp), mesh_dim_names=("dp", "tp"))
    model = Model()
    for block in model.blocks:
        if case.tp > 1:
            parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["dp"], reshard_after_forward=RESHARDED[case.reshard])
    return fully_shard(model, mesh=mesh["dp"], reshard_after_forward=RESHARDED[case.reshard])


def workload(case: Case, alone_s: float) -> mpsim.Workload:
    """Return what mpsim knows of the model, whose steps take a rank so long that is alone.

    What that is beyond sleeping belongs to the blocks, and to backward: there most is copied.
    """
    beyond_s = max(0.0, alone_s / case.microbatches - BLOCKS * (FORWARD_S + BACKWARD_S))
    seconds = FORWARD_S, BACKWARD_S + beyond_s / BLOCKS
    blocks = [_layer(f"blocks.{i}", ROWS, *seconds, case.tp) for i in range(BLOCKS)]
    layers = [_layer("embed", ROWS // 2, 0.0, 0.0, 1), *blocks, _layer("head", ROWS // 2, 0.0, 0.0, 1)]
    if case.tp > 1:
        layers = [_at(layer, case.tp) for layer in layers]
    return mpsim.Workload(name="slept", layers=tuple(layers))


def _layer(name: str, rows: int, forward_s: float, backward_s: float, tp: int) -> Layer:
    shapes = {"weight": (rows, COLUMNS)}
    if tp > 1:
        shapes |= {"up.weight": (INNER // tp, WIDTH), "down.weight": (WIDTH, INNER // tp)}
    parameters = tuple(Parameter(name=f"{name}.{what}", shape=shape) for what, shape in shapes.items())
    gradients = tuple(Gradient(parameter=one.name, bytes=one.bytes) for one in parameters)
    samples = Samples(forward_s=(forward_s,), backward_input_s=(backward_s / 2,), backward_weight_s=(backward_s / 2,))
    calls = [
        ShardCollective(kind="all_reduce", bytes=4 * TOKENS * WIDTH, phase=phase) for phase in ("forward", "backward")
    ]
    cost = Cost(microbatch=1, tensor_parallel=tp, samples=samples, collectives=tuple(calls) if tp > 1 else ())
    return Layer(
        name=name, shards=(Shard(tensor_parallel=tp, parameters=parameters, gradients=gradients),), costs=(cost,)
    )


def _at(layer: Layer, tp: int) -> Layer:
    """Return a layer as it is at one size of tensor-parallel groups."""
    return replace(
        layer,
        shards=tuple(replace(one, tensor_parallel=tp) for one in layer.shards),
        costs=tuple(replace(one, tensor_parallel=tp) for one in layer.costs),
    )


def predicted_s(case: Case, found, runtime: str, alone_s: float = 0.0) -> float:
    """Return the predicted step."""
    sharding = Sharding(zero=3, reshard_after_forward=case.reshard, accumulate=case.accumulate)
    plan = mpsim.Plan(dp=case.dp, tp=case.tp, microbatches=case.microbatches, sharding=sharding, runtime=runtime)
    return mpsim.simulate(workload(case, alone_s), found, plan).step_s


def run(case: Case, wire: str, fabric: str) -> tuple[float, float, list[float]]:
    """Return the predicted step with torch-gloo and with ideal, and the measured ones, in seconds."""
    alone_s = alone(case)
    topology = mpsim.parse_topology(f"switch:{case.dp * case.tp},link={wire}")
    found, measured = timed(__file__, case, topology, fabric)
    gloo, ideal = (predicted_s(case, found, name, alone_s) for name in ("torch-gloo", "ideal"))
    return gloo, ideal, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", type=Path)
    parser.add_argument("--rank", type=int, default=-1)
    parser.add_argument("--alone", type=int, default=-1)
    parser.add_argument("--fabric", default="namespaces")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--wire", choices=WIRES, nargs="+", default=list(WIRES), help="over these links")
    parser.add_argument("-o", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.rank >= 0:
        be_rank(arguments.job, arguments.rank, steps_of)
        return
    if arguments.alone >= 0:
        print(step_alone(CASES[arguments.alone]))
        return
    rows = [
        "| case | ranks | link | measured (least to most) | predicted | error | ideal |",
        "|---|---|---|---|---|---|---|",
    ]  # A path is two such links.
    errors: dict[tuple[str, str], list[float]] = {}
    for case, wire in (
        (case, wire) for wire in arguments.wire for case in CASES if case.name.startswith(arguments.only)
    ):
        gloo, ideal, measured = run(case, wire, arguments.fabric)
        middle = statistics.median(measured)
        for name, value in (("torch-gloo", gloo), ("ideal", ideal)):
            errors.setdefault((wire, name), []).append(value / middle - 1)
        rows.append(
            f"| {case.name} | {case.dp} × {case.tp} | {wire} | {middle:.3f} s ({min(measured):.3f} to"
            f" {max(measured):.3f}) | {gloo:.3f} s | {gloo / middle - 1:+.1%} | {ideal / middle - 1:+.1%} |"
        )
        print(rows[-1], flush=True)
    lines = []
    for (wire, name), found in errors.items():
        sizes = [abs(error) for error in found]
        lines.append(
            f"- {wire}, {name}: mean error {statistics.mean(sizes):.1%}, worst {max(sizes):.1%}, {len(sizes)} cases."
        )
        print(lines[-1])
    write_text(arguments.o, "\n".join([HEAD, *rows, "", *lines, "", TAIL]))


if __name__ == "__main__":
    main()
