"""Does a faster part ever make a default plan slower: ``python benchmarks/faster_parts.py [--cases N] [--seed S]``.

Each case is a random model, topology and plan whose stages are left open. One or all of its links get twice the
bandwidth, or half the latency, or one or all of its devices twice the speed; the plan is cut anew, and should not take
longer. In-order streams on shared links have scheduling anomalies (Graham, https://doi.org/10.1137/0117039): with the
very same stages, a faster part can delay another one. A case that takes longer is *explained* where the stages of the
slower setting, kept as they are, take longer too on the faster one, and by no less; all others are faults of the search
for the cut.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from mpsim import Layer, Plan, Topology, Workload, parse_topology
from mpsim.engine.replay import replay
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.simulation.cutting import fastest_cut
from mpsim.workload.layers import Gradient, Parameter, Shard
from mpsim.workload.tensors import Tensor

NOTICEABLE = 1 + 1e-9
CHANGES = ("link twice as fast", "half the latency", "device twice as fast")
NOT_SLOWER, EXPLAINED, BY_CUT = VERDICTS = ("not slower", "slower, as with the same stages", "slower, by its cut")


class Case(NamedTuple):
    """A model, where it runs, and how."""

    workload: Workload
    topology: Topology
    plan: Plan


def random_workload(rng: random.Random) -> Workload:
    """Return a model of unlike layers, some with a tensor that skips others."""
    n = rng.randint(4, 16)
    base = 10 ** rng.uniform(-4, -2)
    layers = []
    for i in range(n):
        seconds, count = base * rng.choice([1, 1, 1, 2, 4]) * rng.uniform(0.5, 1.5), int(10 ** rng.uniform(3, 7))
        layer = Layer.given(f"layer{i}", forward_s=seconds, backward_s=rng.uniform(1, 3) * seconds)
        held = (Parameter(name=f"w{i}", shape=(count,), dtype="uint8"),)
        made = (Gradient(parameter=f"w{i}", bytes=count),)
        layers.append(replace(layer, shards=(Shard(parameters=held, gradients=made),)))
    work = Workload.chain("random", layers, activation_bytes=[int(10 ** rng.uniform(3, 7)) for _ in layers])
    first, last = sorted(rng.sample(range(n), 2))
    if rng.random() < 0.3 and last - first > 1:
        skip = Tensor(
            name="skip", producer=f"layer{first}", consumers=(f"layer{last}",), dtype="uint8",
            shape=(1, int(10 ** rng.uniform(3, 7))),
        )  # fmt: skip
        work = replace(work, tensors=(*work.tensors, skip))
    return work


def random_case(rng: random.Random) -> Case:
    """Return a model, a topology of at most ten devices, a third of them unlike, and a plan without boundaries."""
    work = random_workload(rng)
    dp, pp = rng.choice([1, 1, 1, 2]), rng.randint(2, min(5, len(work.layers)))
    kind = rng.choice(["chain:{}", "ring:{}", "switch:{}", "fully_connected:{}", "torus:2x{}"])
    count = dp * pp if kind != "torus:2x{}" else (dp * pp + 1) // 2
    if count < 2:
        kind, count = "chain:{}", dp * pp
    wire = f"{10 ** rng.uniform(1.5, 4):.3g}MB/s@{rng.choice([0, 5, 50, 500])}us"
    topology = parse_topology(f"{kind.format(count)},link={wire}")
    if rng.random() < 1 / 3:
        devices = tuple(replace(device, speed=rng.choice([1.0, 1.0, 2.0, 4.0])) for device in topology.devices)
        links = tuple(
            replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * rng.choice([0.25, 1.0, 1.0, 4.0]))
            for link in topology.links
        )
        topology = replace(topology, devices=devices, links=links)
    plan = Plan(
        dp=dp,
        pp=pp,
        microbatches=rng.choice([1, 2, 4, 8]),
        schedule=rng.choice(["naive", "gpipe", "1f1b"]),
        runtime=rng.choice(["ideal", "ideal", "blocking", "torch-gloo"]),
    )
    return Case(work, topology, plan)


def faster(rng: random.Random, topology: Topology, what: str) -> Topology:
    """Return the topology with one or all of its parts twice as good."""

    def some(parts: tuple, change: Callable) -> tuple:  # type: ignore[type-arg]
        chosen = range(len(parts)) if rng.random() < 0.5 else {rng.randrange(len(parts))}
        return tuple(change(part) if i in chosen else part for i, part in enumerate(parts))

    if what == "device twice as fast":
        return replace(topology, devices=some(topology.devices, lambda one: replace(one, speed=2 * one.speed)))
    if what == "half the latency":
        return replace(topology, links=some(topology.links, lambda one: replace(one, latency_s=one.latency_s / 2)))
    doubled = some(topology.links, lambda one: replace(one, bandwidth_bytes_per_s=2 * one.bandwidth_bytes_per_s))
    return replace(topology, links=doubled)


def step_s(lowering: Lowering) -> float:
    """Return the predicted step."""
    return replay(program_of(lowering), lowering.topology).step_s


def cut(workload: Workload, topology: Topology, plan: Plan) -> Lowering:
    """Return a plan as `mpsim.simulate` would cut it."""
    return fastest_cut(lower(workload, topology, plan))


def judge(case: Case, better: Topology) -> tuple[str, float, float]:
    """Return the verdict, the ratio of the default plans' steps, and that of the slower setting's stages kept."""
    before = cut(*case)
    slow_s, fast_s = step_s(before), step_s(cut(case.workload, better, case.plan))
    if fast_s <= slow_s * NOTICEABLE:
        return NOT_SLOWER, fast_s / slow_s, 0.0
    kept_s = step_s(cut(case.workload, better, replace(case.plan, boundaries=before.boundaries)))
    return EXPLAINED if kept_s >= fast_s / NOTICEABLE else BY_CUT, fast_s / slow_s, kept_s / slow_s


def main() -> None:
    """Run the comparisons and print how many came out how."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts: Counter[tuple[str, str]] = Counter()
    slower = []
    for i in range(options.cases):
        case, what = random_case(rng), CHANGES[i % 3]
        verdict, ratio, kept = judge(case, faster(rng, case.topology, what))
        counts[what, verdict] += 1
        if verdict != NOT_SLOWER:
            slower.append((ratio, kept, what, verdict, case.topology.name, case.plan.text, case.plan.runtime))
    print("| change | comparisons | " + " | ".join(VERDICTS) + " |\n|---|---|---|---|---|")
    for what in CHANGES:
        each = [counts[what, verdict] for verdict in VERDICTS]
        print(f"| {what} | {sum(each)} | " + " | ".join(map(str, each)) + " |")
    print("\nThose that were slower, the worst first: step over the slower setting's, the same with its stages kept.\n")
    for ratio, kept, *words in sorted(slower, reverse=True):
        print(f"{ratio:.4f} {kept:.4f}  {'; '.join(words)}")


if __name__ == "__main__":
    main()
