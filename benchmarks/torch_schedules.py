"""PyTorch's own pipeline schedules over real links, against the prediction of the runtime torch-gloo.

    python benchmarks/torch_schedules.py [-o TABLE.md] [--only zb-v] [--wire 1Gbit/s@0us]

Each case runs a class of ``torch.distributed.pipelining``, with its own PipelineStage for each stage, on one process a
rank, over namespaces with the links imposed (root) or over loopback; every stage sleeps in forward and in both halves
of backward for a given time and sends a given number of bytes. The links are measured first; the prediction knows
them, the times and the bytes, and nothing of the run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from torch_ranks import Steps, be_rank, timed, until

import mpsim
from mpsim.plan.schedules import rows_for
from mpsim.plan.shape import shape_of

# Of a rank's layers; each half of backward takes as long as forward.
FORWARD_S = 0.02
TRIALS = 5
CLASSES = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved-1f1b": "ScheduleInterleaved1F1B",
    "looped-bfs": "ScheduleLoopedBFS",
    "interleaved-zb": "ScheduleInterleavedZeroBubble",
    "zb-v": "ScheduleZBVZeroBubble",
}
WIRES = ("100Mbit/s@0us", "200Mbit/s@0.5ms", "1Gbit/s@0us", "1Gbit/s@0.5ms")
CASES = [
    (schedule, ranks, microbatches, 1000 * kilobytes, wire)
    for wire in WIRES
    for ranks, microbatches, kilobytes in ((2, 8, 500), (4, 8, 250))
    for schedule in CLASSES
]


def steps_of(case, index: int) -> Steps:
    """Return when the steps of a rank of the schedule begin and end."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, schedules

    name, homes, microbatches, count = case
    own = [stage for stage, home in enumerate(homes) if home == index]
    seconds = FORWARD_S / len(own)
    stages = [PipelineStage(sleeping(seconds), stage, len(homes), torch.device("cpu")) for stage in own]
    kind = getattr(schedules, CLASSES[name])
    several = issubclass(kind, schedules.PipelineScheduleMulti)
    runner = kind(stages if several else stages[0], microbatches, loss_fn=lambda output, target: output.sum())
    batch = torch.zeros(microbatches, count // 4, requires_grad=own[0] == 0)
    inputs = (batch,) if own[0] == 0 else ()
    target = {"target": batch.detach()} if own[-1] == len(homes) - 1 else {}
    steps = []
    for _ in range(TRIALS + 1):
        dist.barrier()
        begin = time.monotonic()
        runner.step(*inputs, **target, return_outputs=False)
        steps.append((begin, time.monotonic()))
    return steps


def sleeping(seconds: float):
    """Return a module that sleeps so long in forward, and in its gradient for what it is fed, and for its weight."""
    import torch

    class Fed(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            until(time.monotonic() + seconds)
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            until(time.monotonic() + seconds)
            return gradient.clone()

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(context, weight):
            return weight.clone()

        @staticmethod
        def backward(context, gradient):
            until(time.monotonic() + seconds)
            return gradient.clone()

    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, value):
            return Fed.apply(value) + Held.apply(self.weight)

    return Part()


def run(case, fabric: str) -> tuple[float, float, list[float]]:
    """Return the predicted step with torch-gloo and with ideal, and the measured ones, in seconds."""
    schedule, count, microbatches, size, wire = case
    homes = shape_of(rows_for(schedule, count, microbatches)).home
    topology = mpsim.parse_topology(f"switch:{count},link={wire}")
    found, measured = timed(__file__, (schedule, homes, microbatches, size), topology, fabric)
    gloo, ideal = (predicted_s(schedule, homes, microbatches, size, found, name) for name in ("torch-gloo", "ideal"))
    return gloo, ideal, measured


def predicted_s(schedule, homes, microbatches: int, size: int, found, runtime: str) -> float:
    """Return the predicted step of stages that take equal times."""
    ranks, seconds = max(homes) + 1, FORWARD_S * (max(homes) + 1) / len(homes)
    # Of the first stage torch runs both halves of backward in W: nobody waits for a gradient of what it is fed.
    weights = [2 * seconds, *[seconds] * (len(homes) - 1)]
    layers = [
        mpsim.Layer.given(f"s{i}", forward_s=seconds, backward_s=2 * seconds, backward_weight_s=weight)
        for i, weight in enumerate(weights)
    ]
    work = mpsim.Workload.chain("sleep", layers, activation_bytes=size)
    plan = mpsim.Plan(pp=ranks, microbatches=microbatches, schedule=schedule, runtime=runtime)
    return mpsim.simulate(work, found, plan).step_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", type=Path)
    parser.add_argument("--rank", type=int, default=-1)
    parser.add_argument("--fabric", default="namespaces")
    parser.add_argument("--only", choices=CLASSES, nargs="+", default=list(CLASSES), help="these schedules")
    parser.add_argument("--wire", choices=WIRES, nargs="+", default=list(WIRES), help="over these links")
    parser.add_argument("-o", type=Path)
    arguments = parser.parse_args()
    if arguments.rank >= 0:
        be_rank(arguments.job, arguments.rank, steps_of)
        return
    rows = [
        "| schedule | ranks | message | link | measured (least to most) | torch-gloo | ideal |",
        "|---|---|---|---|---|---|---|",
    ]  # A path is two such links.
    errors: dict[str, list[float]] = {"torch-gloo": [], "ideal": []}
    for case in [case for case in CASES if case[0] in arguments.only and case[-1] in arguments.wire]:
        gloo, ideal, measured = run(case, arguments.fabric)
        middle = statistics.median(measured)
        for name, value in (("torch-gloo", gloo), ("ideal", ideal)):
            errors[name].append(value / middle - 1)
        schedule, ranks, _, count, wire = case
        rows.append(
            f"| {schedule} | {ranks} | {count // 1000} kB | {wire} | {1e3 * middle:.0f} ms"
            f" ({1e3 * min(measured):.0f} to {1e3 * max(measured):.0f}) | {gloo / middle - 1:+.1%} |"
            f" {ideal / middle - 1:+.1%} |"
        )
        print(rows[-1], flush=True)
    for name, found in errors.items():
        sizes = [abs(error) for error in found]
        rows.append(f"\n{name}: mean error {statistics.mean(sizes):.1%}, worst {max(sizes):.1%}, {len(sizes)} cases.")
        print(rows[-1].strip())
    if arguments.o:
        arguments.o.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
