"""PyTorch's own pipeline schedules over real links, against the prediction of the runtime torch-gloo.

    python benchmarks/torch_schedules.py [-o TABLE.md]

Each case runs ``torch.distributed.pipelining``'s ScheduleGPipe or Schedule1F1B, with its own PipelineStage, on one
process a stage, over namespaces with the links imposed (root) or over loopback; every stage sleeps in forward and
backward for a given time and sends a given number of bytes. The links are measured first; the prediction knows them,
the times and the bytes, and nothing of the run.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import mpsim
from mpsim.emulate.fabric import open_fabric
from mpsim.emulate.links import imposed_topology, pairs_to_measure, topology_from

FORWARD_S, BACKWARD_S = 0.02, 0.04
TRIALS = 5
CASES = [
    (schedule, stages, microbatches, 1000 * kilobytes, wire)
    for wire in ("100Mbit/s@0us", "200Mbit/s@0.5ms", "1Gbit/s@0us", "1Gbit/s@0.5ms")
    for stages, microbatches, kilobytes in ((2, 8, 500), (4, 8, 250))
    for schedule in ("gpipe", "1f1b")
]


def rank(job: Path, index: int) -> None:
    """Be one stage: measure the links with the others, then run the schedule."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    from mpsim.emulate.probing import measure_links

    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(context, value, _):
            until(time.monotonic() + FORWARD_S)
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            until(time.monotonic() + BACKWARD_S)
            return gradient.clone(), None

    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, value):
            return Sleep.apply(value, self.weight) * 1.0

    schedule, stages, microbatches, count, pairs = pickle.loads(job.read_bytes())
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{job}.store", rank=index, world_size=stages, timeout=timedelta(seconds=60)
    )
    paths = measure_links(pairs)
    stage = PipelineStage(Part(), index, stages, torch.device("cpu"))
    kind = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule]
    runner = kind(stage, microbatches, loss_fn=lambda output, target: output.sum())
    batch = torch.zeros(microbatches, count // 4, requires_grad=index == 0)
    steps = []
    for _ in range(TRIALS + 1):
        dist.barrier()
        begin = time.monotonic()
        if index == 0:
            runner.step(batch)
        elif index == stages - 1:
            runner.step(target=batch.detach())
        else:
            runner.step()
        steps.append((begin, time.monotonic()))
    Path(f"{job}.{index}").write_bytes(pickle.dumps((paths, steps[1:])))
    dist.barrier()


def until(end_s: float) -> None:
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(max(left_s - 5e-5, 0))


def run(case, fabric: str) -> tuple[float, float, list[float]]:
    """Return the predicted step with torch-gloo and with ideal, and the measured ones, in seconds."""
    schedule, stages, microbatches, count, wire = case
    topology = mpsim.parse_topology(f"switch:{stages},link={wire}")
    imposed = imposed_topology(fabric, topology)
    ranks = range(stages)
    with tempfile.TemporaryDirectory() as folder, open_fabric(fabric, topology, ranks) as links:
        job = Path(folder) / "job"
        job.write_bytes(pickle.dumps((schedule, stages, microbatches, count, pairs_to_measure(imposed, ranks))))
        processes = [
            subprocess.Popen(
                links.command(i, [sys.executable, __file__, "--rank", str(i), str(job)]),
                env={**os.environ, "GLOO_SOCKET_IFNAME": links.interface(i), "OMP_NUM_THREADS": "1"},
            )
            for i in ranks
        ]
        codes = [process.wait(180) for process in processes]
        if any(codes):
            raise SystemExit("a rank failed: see above")
        told = [pickle.loads(Path(f"{job}.{i}").read_bytes()) for i in ranks]
    measured = [max(steps[k][1] for _, steps in told) - max(steps[k][0] for _, steps in told) for k in range(TRIALS)]
    layers = [mpsim.Layer.given(f"s{i}", forward_s=FORWARD_S, backward_s=BACKWARD_S) for i in ranks]
    work = mpsim.Workload.chain("sleep", layers, activation_bytes=count)
    plans = [
        mpsim.Plan(pp=stages, microbatches=microbatches, schedule=schedule, runtime=name)
        for name in ("torch-gloo", "ideal")
    ]
    found = topology_from(told[0][0], imposed, ranks)
    gloo, ideal = (mpsim.simulate(work, found, plan).step_s for plan in plans)
    return gloo, ideal, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", type=Path)
    parser.add_argument("--rank", type=int, default=-1)
    parser.add_argument("--fabric", default="namespaces")
    parser.add_argument("-o", type=Path)
    arguments = parser.parse_args()
    if arguments.rank >= 0:
        rank(arguments.job, arguments.rank)
        return
    rows = [
        "| schedule | stages | message | link | measured (least to most) | torch-gloo | ideal |",
        "|---|---|---|---|---|---|---|",
    ]  # A path is two such links.
    errors: dict[str, list[float]] = {"torch-gloo": [], "ideal": []}
    for case in CASES:
        gloo, ideal, measured = run(case, arguments.fabric)
        middle = statistics.median(measured)
        for name, value in (("torch-gloo", gloo), ("ideal", ideal)):
            errors[name].append(value / middle - 1)
        schedule, stages, _, count, wire = case
        rows.append(
            f"| {schedule} | {stages} | {count // 1000} kB | {wire} | {1e3 * middle:.0f} ms"
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
