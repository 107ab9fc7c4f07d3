"""The search for the best plan: is its answer that of simulating every plan, and what does it cost?

``python benchmarks/search.py exhaustive`` searches spaces of more than 1,000 plans, simulates every plan of each too,
and holds the two answers against one another: the best of each number of devices, and the ten fastest.
``python benchmarks/search.py large`` searches the spaces of language models on clusters: how many plans there are, what
became of them, wall and CPU time of all processes, and memory. Times are of this machine at this moment; give it
both of its cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpsim.cli.model import read_model
from mpsim.search.found import Found
from mpsim.search.run import best
from mpsim.search.space import Axes
from mpsim.search.study import Study
from mpsim.topology.spec import parse_topology
from mpsim.workload.file import load_workload
from mpsim.workload.model import Workload

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"


@dataclass(frozen=True, kw_only=True)
class Space:
    """A question: a workload, or what makes it, on a topology."""

    workload: str
    topology: str
    batch: int
    axes: Axes = Axes()
    slow: int = 0  # devices of half the speed, the last ones
    seq: int = 0
    tp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    microbatches: tuple[int, ...] = ()

    def study(self) -> Study:
        topology = parse_topology(self.topology)
        at = len(topology.devices) - self.slow
        slow = [replace(device, speed=device.speed / 2) for device in topology.devices[at:]]
        topology = replace(topology, devices=(*topology.devices[:at], *slow))
        by_type: dict[str, Workload] = {}
        if (path := WORKLOADS / f"{self.workload}.json").exists():
            workload = load_workload(path)
        else:
            workload, by_type = read_model(
                self.workload, topology, seq=self.seq or None, microbatches=self.microbatches or None,
                tp=self.tp or None, ep=self.ep or None,
            )  # fmt: skip
        return Study(workload, topology, by_type=by_type, unchecked=True)


EXHAUSTIVE = {
    "CNN (ResNet-50), 8 H200": Space(workload="resnet50.h200", topology="dgx_h200", batch=256),
    "U-Net, 8 devices, two of half the speed": Space(
        workload="unet.cpu",
        topology="switch:8,link=eth_100g,memory=16GiB",
        batch=64,
        slow=2,
        axes=Axes(devices=(2, 4, 8), recompute=("",), schedules=("1f1b", "interleaved-1f1b")),
    ),
    "GPT-2, 8 H200": Space(workload="gpt2.h200", topology="dgx_h200", batch=64),
    "Llama-3 8B, 8 H100": Space(
        workload="llama3-8b", topology="dgx_h100", batch=32, seq=8192, tp=(1, 2, 8), microbatches=(1, 2)
    ),
    "MoE (Mixtral 8x7B), 8 H200": Space(
        workload="mixtral-8x7b", topology="dgx_h200", batch=16, seq=4096, tp=(1, 4), ep=(1, 2, 8), microbatches=(1,)
    ),
}
LARGE = {
    "Llama-3 70B, 64 H100": Space(workload="llama3-70b", topology="dgx_h100:8", batch=512, seq=8192),
    "Llama-3 70B, 512 H100": Space(workload="llama3-70b", topology="dgx_h100:64", batch=512, seq=8192),
    "GPT-3 175B, 512 A100": Space(workload="gpt3-175b", topology="dgx_a100:64", batch=1536, seq=2048),
}


@dataclass(frozen=True)
class Cost:
    """What a call took: seconds by the clock and of all processes' CPUs, and the most that one process held."""

    wall_s: float
    cpu_s: float
    gib: float


def measured(study: Study, space: Space, processes: int, *, prune: bool = True) -> tuple[Found, Cost]:
    """Search, and measure it with the processes that it starts."""
    began_s, before_s = time.monotonic(), cpu_s()
    found = best(study, batch=space.batch, axes=space.axes, processes=processes, prune=prune)
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return found, Cost(time.monotonic() - began_s, cpu_s() - before_s, most / 2**20)


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def answer(found: Found) -> list[tuple[object, ...]]:
    """Return the best of each number of devices, and the fastest of all."""
    rows = [*found.by_devices, *found.sweep.ranked]
    return [(row["plan"], row["n_devices"], row["step_s"], row["fits"]) for row in rows]


def exhaustive(spaces: Sequence[str], processes: int) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| space | plans | simulated by the search | CPU s | simulating all, CPU s | same answer |"
    yield "|---|---:|---:|---:|---:|---|"
    for name in spaces:
        space = EXHAUSTIVE[name]
        few, cost = measured(space.study(), space, processes)
        every, whole = measured(space.study(), space, processes, prune=False)
        same = "yes" if answer(few) == answer(every) else "NO"
        yield (
            f"| {name} | {few.planned:,} | {few.simulated:,} | {cost.cpu_s:.1f} | {whole.cpu_s:.1f}"
            f" ({every.simulated:,} simulated) | {same} |"
        )


def large(spaces: Sequence[str], processes: int) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| space | plans | bounded | too large | cannot be run | simulated | wall s | CPU s | GiB | best |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for name in spaces:
        space = LARGE[name]
        found, cost = measured(space.study(), space, processes)
        counts = [found.counts.get(what, 0) for what in ("bounded", "too large", "impossible", "simulated")]
        first = found.best
        yield (
            f"| {name} | {found.planned:,} | {' | '.join(f'{count:,}' for count in counts)} | {cost.wall_s:.0f}"
            f" | {cost.cpu_s:.0f} | {cost.gib:.1f} | {first['plan']}: {first['step_s']:.3f} s |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("exhaustive", "large"))
    parser.add_argument("--only", action="append", metavar="WORDS", help="spaces whose names have these words")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    spaces, table = (EXHAUSTIVE, exhaustive) if given.what == "exhaustive" else (LARGE, large)
    asked = [name for name in spaces if not given.only or any(words in name for words in given.only)]
    for line in table(asked, given.processes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
