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
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpsim import Plan, Workload
    from mpsim.workload.layers import Samples

Work = Callable[[], object]


class Case(NamedTuple):
    """Some work, what makes it ready at a size, and the sizes with the seconds that each may take (0: no goal)."""

    work: str
    prepare: Callable[[int], Work]
    goals: dict[int, float]


GPT3_FLOPS = {"attention": 8 * 2048 * 12288**2 + 4 * 2048**2 * 12288, "mlp": 16 * 2048 * 12288**2}


def gpt3(layers: int = 96, spread: tuple[float, ...] = (1.0,)) -> Workload:
    """Return a GPT-3 175B in halves of layers, by hand: 156 TFLOP/s, one all-reduce a half and pass among 8 ranks.

    Times have a sample for each of `spread`.
    """
    from mpsim import Layer, Workload

    halves = []
    for i in range(2 * layers):
        kind = "mlp" if i % 2 else "attention"
        whole_s, weights = GPT3_FLOPS[kind] / 156e12, (8 if i % 2 else 4) * 12288**2
        alone, shared = (
            {"forward_s": whole_s / tp, "backward_s": 2 * whole_s / tp, "parameter_bytes": 2 * weights // tp,
             "saved_bytes": 17 * 2048 * 12288 // tp}
            for tp in (1, 8)
        )  # fmt: skip
        calls = [("all_reduce", 2 * 2048 * 12288)]
        half = Layer.given(f"{kind}{i // 2}", **alone, optimizer_s=1e-4, shards={8: shared | {"collectives": calls}})
        costs = tuple(replace(cost, samples=spread_out(cost.samples, spread)) for cost in half.costs)
        halves.append(replace(half, costs=costs))
    return Workload.chain("gpt3", halves, activation_bytes=2 * 2048 * 12288, sends="whole")


def spread_out(samples: Samples, spread: tuple[float, ...]) -> Samples:
    """Return samples with one for each factor."""
    names = ("forward_s", "backward_input_s", "backward_weight_s")
    return replace(samples, **{name: tuple(getattr(samples, name)[0] * one for one in spread) for name in names})


def dgx(devices: int) -> str:
    """Return nodes of eight devices, as text."""
    return f"nodes:{devices // 8},per_node=8,nics=8,inside=nvlink4,between=ib_ndr"


def gpt3_step(devices: int) -> Work:
    """Predict GPT-3's step, from the topology's text to the whole result: tp 8, pp 4, 8 micro-batches."""
    from mpsim import Plan, parse_topology, simulate

    workload, plan = gpt3(), Plan(dp=devices // 32, tp=8, pp=4, microbatches=8)
    return lambda: simulate(workload, parse_topology(dgx(devices)), plan)


def gpt3_plan(devices: int) -> Work:
    """Predict one plan of GPT-3: dp 8, pp 8, tp 8, 64 micro-batches."""
    from mpsim import Plan, parse_topology, simulate

    workload, plan = gpt3(), Plan(dp=devices // 64, tp=8, pp=8, microbatches=64)
    return lambda: simulate(workload, parse_topology(dgx(devices)), plan, spans=False)


def pipeline(microbatches: int) -> Work:
    """Lower 1F1B of 64 stages and replay it, on its links and on free ones."""
    from mpsim import Layer, Plan, Workload, parse_topology
    from mpsim.engine.replay import replay
    from mpsim.lowering.emit import program_of
    from mpsim.lowering.lower import lower

    layers = [Layer.given(f"layer{i}", forward_s=2**-10, backward_s=2**-9) for i in range(64)]
    workload = Workload.chain("chain", layers, activation_bytes=2**20)
    topology = parse_topology("chain:64,bandwidth=16GB/s,latency=2us")

    def run() -> object:
        program = program_of(lower(workload, topology, Plan(pp=64, microbatches=microbatches)))
        return replay(program, topology), replay(program, topology, free=True)

    return run


def bare_simpy(microbatches: int) -> Work:
    """Run the same 1F1B in SimPy alone: an event for each operation and each message, and what waits for it."""
    import simpy

    from mpsim.plan.schedules import rows_for

    rows = rows_for("1f1b", 64, microbatches)

    def run() -> object:
        env, there = simpy.Environment(), {}

        def event(*key: object) -> simpy.Event:
            return there.setdefault(key, env.event())

        def rank(p: int) -> object:
            for one in rows[p]:
                near = p - 1 if one.kind == "F" else p + 1
                if 0 <= near < 64:
                    yield event(near, one.kind, one.microbatch)
                yield env.timeout(2**-10 if one.kind == "F" else 2**-9)
                done = event(p, one.kind, one.microbatch)
                env.timeout(2**-16).callbacks.append(lambda _, done=done: done.succeed())

        for p in range(64):
            env.process(rank(p))
        env.run()
        return env.now

    return run


def trials(count: int) -> Work:
    """Replay so many trials of a plan of 15,424 tasks, every layer's time drawn from three."""
    from mpsim import Plan, parse_topology, simulate

    workload = gpt3(24, (0.97, 1.0, 1.04))
    plan = Plan(dp=2, pp=4, tp=8, microbatches=8, boundaries=(12, 24, 36))
    return lambda: simulate(workload, parse_topology(dgx(64)), plan, trials=count, spans=False)


def swept(devices: int) -> Work:
    """Rank the plans of 96 layers on eight devices, by data, pipeline and tensor parallelism."""
    from mpsim import parse_topology, sweep

    workload, topology = gpt3(48), parse_topology(dgx(devices))
    return lambda: sweep(workload, topology, batch=64, tensor=[1, 8])


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


def hybrid(count: int, devices: int) -> tuple[Workload, Plan]:
    """Return so many layers that eight ranks share, and a plan of dp 1/32, tp 8, pp 4."""
    from mpsim import Layer, Plan, Workload

    times = {"forward_s": 2**-10, "backward_s": 2**-9}
    shards = {8: {**times, "parameter_bytes": 2**23, "collectives": [("all_reduce", 2**22)]}}
    layers = [Layer.given(f"layer{i}", **times, parameter_bytes=2**26, shards=shards) for i in range(count)]
    workload = Workload.chain("chain", layers, activation_bytes=2**20, sends="whole")
    return workload, Plan(dp=devices // 32, tp=8, pp=4, microbatches=8, schedule="1f1b")


def contended_ring(devices: int) -> Work:
    """Replay the gradients of 32 groups all round a ring, among the messages of what tp and pp share on it."""
    from mpsim import parse_topology
    from mpsim.engine.replay import replay
    from mpsim.lowering.emit import program_of
    from mpsim.lowering.lower import lower

    workload, plan = hybrid(8, devices)
    topology = parse_topology(f"ring:{devices},bandwidth=16GB/s,latency=0us")
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
    from mpsim import parse_topology
    from mpsim.lowering.lower import lower

    workload, plan = hybrid(96, devices)
    topology = parse_topology(dgx(devices))
    return lambda: lower(workload, topology, plan)


def automatic(devices: int) -> Work:
    """Choose the algorithms of 16 groups of 64 ranks, each on a node of its own."""
    from mpsim.collectives.traffic import collective
    from mpsim.topology.builders import nodes
    from mpsim.topology.routes import Routes

    topology = nodes(devices // 8, per_node=8, nics=8, inside="nvlink4", between="ib_ndr")
    routes, stride = Routes(topology), devices // 64
    groups = [range(group, devices, stride) for group in range(16)]
    return lambda: [collective(routes, "all_reduce", ranks, 2**24, algorithm="auto") for ranks in groups]


def ring_all_reduce(devices: int) -> Work:
    """Predict a 1 GiB all-reduce around a ring."""
    from mpsim.simulation import simulate_collectives
    from mpsim.topology.builders import ring

    topology = ring(devices, link="50GB/s@500ns")
    return lambda: simulate_collectives([2**30], topology)


def result_file(form: str) -> Callable[[int], Work]:
    """Return a case: a result of so many tasks saved, loaded or exported."""

    def prepare(tasks: int) -> Work:
        from mpsim import Layer, Plan, Workload, load_result, parse_topology, save_perfetto, save_result, simulate

        layers = [Layer.given(f"layer{i}", forward_s=2**-10 / 3, backward_s=2**-9 / 3) for i in range(64)]
        workload = Workload.chain("chain", layers, activation_bytes=2**20)
        plan = Plan(pp=64, microbatches=tasks // 254, schedule="1f1b")
        result = simulate(workload, parse_topology("chain:64,bandwidth=16GB/s,latency=2us"), plan)
        path = Path(tempfile.mkdtemp(), "result.json")
        save_result(path, result)
        return {
            "save": lambda: save_result(path, result),
            "load": lambda: load_result(path),
            "perfetto": lambda: save_perfetto(path, result),
        }[form]

    return prepare


def workload_file(layers: int) -> Work:
    """Load a workload of so many layers, each measured at three sizes: a kilobyte a layer."""
    from mpsim import Layer, Workload, load_workload, save_workload

    times = {1: 2**-10 / 3, 2: 2**-9 / 3, 4: 2**-8 / 7}
    made = [Layer.given(f"layer{i}", forward_s=times, backward_s=times, parameter_bytes=2**20) for i in range(layers)]
    path = Path(tempfile.mkdtemp(), "workload.json")
    save_workload(path, Workload.chain("chain", made, activation_bytes=2**20))
    return lambda: load_workload(path)


def command(*words: str) -> Callable[[int], Work]:
    """Return a case: a command line from a cold start, the interpreter's own included."""

    def prepare(layers: int) -> Work:
        from mpsim import Layer, Workload, save_workload

        made = [Layer.given(f"layer{i}", forward_s=2**-10, backward_s=2**-9) for i in range(layers)]
        path = Path(tempfile.mkdtemp(), "chain.json")
        save_workload(path, Workload.chain("chain", made, activation_bytes=2**20))
        line = [word.replace("FILE", str(path)) for word in words]
        code = f"import sys; from mpsim.cli import main; sys.argv = ['mpsim', *{line!r}]; main()"
        return lambda: subprocess.check_output([sys.executable, "-c", code])

    return prepare


_SIMULATE = ("simulate", "FILE", "chain:4,bandwidth=16GB/s,latency=2us", "--pp", "4", "--microbatches", "8", "--json")

CASES = [
    Case("step of GPT-3, tp 8, pp 4, on devices", gpt3_step, {64: 0.3, 256: 0.4, 1024: 0.6, 4096: 1.0, 32768: 3.0}),
    Case("one plan of GPT-3, pp 8, tp 8, 64 micro-batches, on devices", gpt3_plan, {512: 1.0}),
    Case("1F1B of 64 stages lowered and replayed twice, micro-batches", pipeline, {256: 0, 1024: 0}),
    Case("the same in bare SimPy, once, micro-batches", bare_simpy, {256: 0, 1024: 0}),
    Case("trials of 15,424 tasks", trials, {100: 0, 1000: 10.0}),
    Case("sweep of the plans of 96 layers on devices", swept, {8: 3.0}),
    Case("all-reduces of 64 ranks at once, on fat trees of this arity (52: 512)", all_reduces, {26: 0, 52: 3.0}),
    Case("replay of dp 1/32, tp 8, pp 4 on a contended ring of devices", contended_ring, {1024: 0, 4096: 0}),
    Case("auto for 16 new groups of 64 ranks, among devices", automatic, {4096: 0, 32768: 0}),
    Case("boundaries of 16 stages for layers", boundaries, {96: 0, 192: 0.01}),
    Case("lowering of 96 layers to the cut, dp 1/32, tp 8, pp 4, devices", balanced, {4096: 0, 32768: 0}),
    Case("1 GiB ring all-reduce over devices", ring_all_reduce, {1024: 0.003, 16384: 0.03}),
    Case("result saved, of tasks", result_file("save"), {11500: 0, 115000: 0.5}),
    Case("result loaded, of tasks", result_file("load"), {11500: 0, 115000: 0.5}),
    Case("result written for Perfetto, of tasks", result_file("perfetto"), {11500: 0, 115000: 0.5}),
    Case("workload file loaded, kB", workload_file, {1600: 0, 16000: 0.5}),
    Case("mpsim --help, cold", command("--help"), {24: 0.08}),
    Case("mpsim simulate, cold, of layers", command(*_SIMULATE), {24: 0.25}),
]


def measure(case: Case, size: int) -> dict[str, float]:
    """Run a case in a process of its own."""
    command = [sys.executable, __file__, "--one", str(CASES.index(case)), str(size)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def one(case: Case, size: int) -> None:
    """Run a case in this process and print its figures."""
    run = case.prepare(size)
    before_s, _ = used()
    run()
    cpu_s, peak_bytes = used()
    print(json.dumps({"cpu_s": cpu_s - before_s, "peak_mb": peak_bytes / 2**20}))


def used() -> tuple[float, int]:
    """Return the CPU seconds and the most memory of this process and of those that it started."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both), max(one.ru_maxrss for one in both) * 1024


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
