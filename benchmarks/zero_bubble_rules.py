"""Which choices the automatic zero-bubble scheduler should try first: those that help most on random pipelines.

    python benchmarks/zero_bubble_rules.py

Prints the choices of `mpsim.plan.candidates` one by one, each the one with which, beside those before it, the mean
bubble of the pipelines is smallest. The pipelines are drawn; no published rate takes part.
"""

from __future__ import annotations

import random
from itertools import product

from mpsim.plan.candidates import aheads, grid
from mpsim.plan.flat import zb_h1, zb_h2
from mpsim.plan.greedy import Rules, greedy
from mpsim.plan.placing import Pipeline, Placing, StageTimes, in_order
from mpsim.plan.rounds import rounds

SEED = 3
COUNT = {1: 250, 2: 120}
SHOWN = {1: 6, 2: 4}


def drawn(chunks: int) -> list[Pipeline]:
    """Return pipelines of unlike sizes, six of ten with stages that are alike."""
    rng = random.Random(SEED)
    return [_drawn(rng, chunks) for _ in range(COUNT[chunks])]


def _drawn(rng: random.Random, chunks: int) -> Pipeline:
    ranks = rng.choice((2, 4, 8, 12) if chunks == 1 else (2, 4, 8))
    microbatches = rng.choice((ranks // 2 + 1, ranks, 2 * ranks, 3 * ranks, 4 * ranks))
    spread = 0.0 if rng.random() < 0.6 else 0.2
    mean = (rng.uniform(0.8, 1.2), rng.uniform(0.7, 1.3), rng.uniform(0.3, 1.0))
    kept = rng.choice((0.36, 0.43, 0.7, 1.0))
    stages = tuple(
        StageTimes(*(one * rng.uniform(1 - spread, 1 + spread) for one in mean), held=1.0, kept=kept)
        for _ in range(chunks * ranks)
    )
    home = (*range(ranks), *reversed(range(ranks)))[: len(stages)]
    limit = ranks * chunks * rng.choice((1.0, 1.25, 1.5, 2.0) if chunks == 1 else (0.5, 0.75, 1.0, 1.5))
    return Pipeline(stages, home, microbatches, rng.choice((0.0, 0.02, 0.1)), (limit,) * ranks)


def cost(pipeline: Pipeline, placed: Placing | None) -> float:
    """Return the time between steps over the busiest rank's work; much, if nothing fits."""
    return placed.costs_s()[0] / pipeline.work_s() if placed else 4.0


def published(pipeline: Pipeline) -> float:
    """Return the least cost of the ways that are tried before the greedy ones."""
    ranks = len(pipeline.limits)
    if pipeline.is_flat:
        tried = [in_order(pipeline, handcrafted(ranks, pipeline.microbatches)) for handcrafted in (zb_h1, zb_h2)]
    else:
        tried = [rounds(pipeline, *fills) for fills in product((True, False), repeat=2)]
    return min(cost(pipeline, one) for one in tried)


def main() -> None:
    for chunks in (1, 2):
        pipelines = drawn(chunks)
        best = [published(one) for one in pipelines]
        costs = {}
        for choice in grid(chunks == 1):
            ahead, *others = choice
            costs[choice] = [
                cost(one, greedy(one, Rules(aheads(len(one.limits))[ahead], *others))) for one in pipelines
            ]
        print(f"{chunks} stage(s) a rank, {len(pipelines)} pipelines: mean cost {sum(best) / len(best):.4f} without")
        for _ in range(SHOWN[chunks]):
            choice = min(costs, key=lambda one: sum(map(min, best, costs[one])))
            best = list(map(min, best, costs[choice]))
            print(f"  {choice}: {sum(best) / len(best):.4f}")
        whole = [min(each) for each in zip(best, *costs.values(), strict=True)]
        print(f"  all {len(costs)}: {sum(whole) / len(whole):.4f}", flush=True)


if __name__ == "__main__":
    main()
