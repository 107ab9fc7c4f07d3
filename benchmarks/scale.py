"""How the cost of an answer grows: CPU seconds and peak memory of large work, each size in a process of its own.

    python benchmarks/scale.py [--repeats 3] [WORD ...]

prints the cases whose work has one of these words (all of them, without any). Seconds are the median of the repeats'
CPU time, user and system, without imports and what `prepare` does; memory is the most that the process ever held,
imports and preparation included. Growth is the power of the size by which the seconds grow between the last two sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

Work = Callable[[], object]


class Case(NamedTuple):
    """Some work, what makes it ready at a size, and the sizes with the seconds that each may take (0: no goal)."""

    work: str
    prepare: Callable[[int], Work]
    goals: dict[int, float]


def all_reduces(arity: int) -> Work:
    """Replay as many all-reduces at once as there are groups of 64 devices, no two of a group on one switch."""
    from mpsim.collectives.traffic import collective
    from mpsim.engine.replay import replay
    from mpsim.program.model import Program, Stream, Task
    from mpsim.topology.builders import fat_tree
    from mpsim.topology.routes import Routes

    topology = fat_tree(arity, link="50GB/s@2us")
    groups = 2 ** int(math.log2(len(topology.devices) // 64))

    def run() -> object:
        routes, tasks, streams = Routes(topology), [], []
        for group in range(groups):
            ranks = range(group, groups * 64, groups)
            traffic = collective(routes, "all_reduce", ranks, 2**30)
            tasks.append(Task("", "all_reduce", tuple(range(64 * group, 64 * group + 64)), traffic=traffic))
            streams += [Stream(device=rank, name="collectives") for rank in ranks]
        return replay(Program(streams=tuple(streams), tasks=tuple(tasks)), topology)

    return run


def contended_ring(devices: int) -> Work:
    """Replay the gradients of 32 groups all round a ring, among the messages of what tp and pp share on it."""
    from mpsim import Layer, Plan, Workload, parse_topology
    from mpsim.engine.replay import replay
    from mpsim.lowering.emit import program_of
    from mpsim.lowering.lower import lower

    times = {"forward_s": 2**-10, "backward_s": 2**-9}
    shards = {8: {**times, "parameter_bytes": 2**23, "collectives": [("all_reduce", 2**22)]}}
    layers = [Layer.given(f"layer{i}", **times, parameter_bytes=2**26, shards=shards) for i in range(8)]
    workload = Workload.chain("chain", layers, activation_bytes=2**20, sends="whole")
    topology = parse_topology(f"ring:{devices},bandwidth=16GB/s,latency=0us")
    plan = Plan(dp=devices // 32, tp=8, pp=4, microbatches=8, schedule="1f1b")
    program = program_of(lower(workload, topology, plan))
    return lambda: replay(program, topology)


def boundaries(layers: int) -> Work:
    """Cut layers of two sizes into 16 unlike stages."""
    import numpy as np

    from mpsim.plan.partition import balance

    total = np.cumsum([0.0, *([1.0, 1.8, 1.8] * layers)[:layers]])
    tables = [total - total[:, None] + 0.1 * stage for stage in range(16)]
    return lambda: balance(tables)


def balanced(devices: int) -> Work:
    """Cut 96 layers into 4 stages of devices / 4, ranks of each weighed with what they exchange."""
    from mpsim import Layer, Plan, Workload, parse_topology
    from mpsim.lowering.lower import lower

    times = {"forward_s": 2**-10, "backward_s": 2**-9}
    shards = {8: {**times, "parameter_bytes": 2**23, "collectives": [("all_reduce", 2**22)]}}
    layers = [Layer.given(f"layer{i}", **times, parameter_bytes=2**26, shards=shards) for i in range(96)]
    workload = Workload.chain("chain", layers, activation_bytes=2**20, sends="whole")
    topology = parse_topology(f"nodes:{devices // 8},per_node=8,inside=nvlink4,between=ib_ndr")
    plan = Plan(dp=devices // 32, tp=8, pp=4, microbatches=8, schedule="1f1b")
    return lambda: lower(workload, topology, plan)


def automatic(devices: int) -> Work:
    """Choose the algorithms of 16 groups of 64 ranks, each on a node of its own."""
    from mpsim.collectives.traffic import collective
    from mpsim.topology.builders import nodes
    from mpsim.topology.routes import Routes

    topology = nodes(devices // 8, per_node=8, inside="nvlink4", between="ib_ndr")
    routes, stride = Routes(topology), devices // 64
    groups = [range(group, devices, stride) for group in range(16)]
    return lambda: [collective(routes, "all_reduce", ranks, 2**24, algorithm="auto") for ranks in groups]


CASES = [
    Case("all-reduces of 64 ranks at once, on fat trees of this arity (52: 512)", all_reduces, {26: 0, 52: 3.0}),
    Case("replay of dp 1/32, tp 8, pp 4 on a contended ring of devices", contended_ring, {1024: 0, 4096: 0}),
    Case("auto for 16 new groups of 64 ranks, among devices", automatic, {4096: 0, 32768: 0}),
    Case("boundaries of 16 stages for layers", boundaries, {96: 0, 192: 0.01}),
    Case("lowering of 96 layers to the cut, dp 1/32, tp 8, pp 4, devices", balanced, {4096: 0, 32768: 0}),
]


def measure(case: Case, size: int) -> dict[str, float]:
    """Run a case in a process of its own."""
    command = [sys.executable, __file__, "--one", str(CASES.index(case)), str(size)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def one(case: Case, size: int) -> None:
    """Run a case in this process and print its figures."""
    run = case.prepare(size)
    start = time.process_time()
    run()
    cpu_s = time.process_time() - start
    print(json.dumps({"cpu_s": cpu_s, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def report(case: Case, repeats: int) -> None:
    """Print a line for each size of a case."""
    before: tuple[int, float] | None = None
    for size, goal_s in case.goals.items():
        runs = [measure(case, size) for _ in range(repeats)]
        cpu_s, peak_mb = (statistics.median(run[key] for run in runs) for key in ("cpu_s", "peak_mb"))
        growth = f"n^{math.log(cpu_s / before[1]) / math.log(size / before[0]):.2f}" if before else "-"
        goal = f"{goal_s:g}" if goal_s else "-"
        work = f"{case.work}: {size:,}"
        print(f"{work:<84} {cpu_s:>9.3f} {peak_mb:>8.0f} {growth:>7} {goal:>7}", flush=True)
        before = size, cpu_s


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(CASES[options.one[0]], options.one[1])
        return
    print(f"{'work':<84} {'CPU s':>9} {'MB':>8} {'growth':>7} {'goal s':>7}")
    for case in CASES:
        if not options.words or any(word in case.work for word in options.words):
            report(case, options.repeats)


if __name__ == "__main__":
    main()
