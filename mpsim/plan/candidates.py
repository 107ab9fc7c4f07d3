"""Ways to place a pipeline's operations, of which the automatic scheduler keeps the best."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import inf

from mpsim.plan.flat import zb_h1, zb_h2
from mpsim.plan.greedy import Rules, greedy
from mpsim.plan.placing import Pipeline, Placing, in_order
from mpsim.plan.rounds import rounds

__all__ = ["FLAT", "Choice", "V", "aheads", "best_placed", "grid"]

Choice = tuple[str, float, float, bool]
"""How far ranks run ahead, by name, and the rest of `Rules`."""

_MOST_OPERATIONS = 300_000  # placed in all, a few seconds; for large pipelines that is not every choice
_EQUAL = 1e-9  # relative: times that differ by less are sums of the same numbers in another order

# Tried first: on random pipelines those with which the mean bubble fell fastest (benchmarks/zero_bubble_rules.py).
FLAT: tuple[Choice, ...] = (
    ("memory", 0.5, 0.5, True),
    ("memory", 0.75, 1.0, True),
    ("memory", 0.5, 0.0, True),
    ("zb-h2", 0.25, 1.0, False),
    ("memory", 1.0, 0.5, True),
    ("zb-h2", 0.75, 1.0, True),
)
V: tuple[Choice, ...] = (
    ("ranks", 0.25, 1.0, True),
    ("memory", 0.75, 1.0, False),
    ("ranks", 0.5, 0.5, False),
    ("ranks", 0.75, 1.0, True),
)


def best_placed(pipeline: Pipeline, barrier: bool) -> Placing | None:
    """Return the best of what fits: handcrafted or published ways, then greedy ones by ever more choices.

    Choices that are near the best so far come first; large pipelines get fewer of them.

    Parameters
    ----------
    pipeline : Pipeline
        With one stage a rank, or two that lie as a V.
    barrier : bool
        Whether the time until all is done is made small before the longest that a rank takes, or after it.
    """
    search = _Search(pipeline, barrier)
    most = _MOST_OPERATIONS // (3 * len(pipeline.stages) * pipeline.microbatches)
    for placed in _published(pipeline, most):
        search.offer(placed)
    first = FLAT if pipeline.is_flat else V
    for choice in first:
        search.try_greedy(choice)
    rest = set(grid(pipeline.is_flat)) - set(first)
    for _ in range(min(most - len(first), len(rest))):
        choice = min(rest, key=lambda one: (_distance(one, search.nearest), one))
        rest.remove(choice)
        search.try_greedy(choice)
    return search.best


class _Search:
    """The best placing so far, and the choice of the best greedy one."""

    def __init__(self, pipeline: Pipeline, barrier: bool) -> None:
        self.pipeline, self.barrier = pipeline, barrier
        self.best: Placing | None = None
        self.nearest: Choice = (FLAT if pipeline.is_flat else V)[0]
        self.least_s = pipeline.work_s() * (1 + _EQUAL)

    def costs_s(self, placed: Placing) -> tuple[float, ...]:
        """Return what is made small, the first number before the other; no first one is below what a rank works."""
        return placed.costs_s()[::-1] if self.barrier else placed.costs_s()

    def offer(self, placed: Placing | None) -> bool:
        """Keep a placing that is better than the best so far; whether it is."""
        if placed is None or (self.best and not _is_less(self.costs_s(placed), self.costs_s(self.best))):
            return False
        self.best = placed
        return True

    def try_greedy(self, choice: Choice) -> None:
        """Offer what greedy ranks place, if there is a bubble left."""
        if self.best and self.costs_s(self.best)[0] <= self.least_s:
            return
        ahead, weights, forward, in_turn = choice
        rules = Rules(aheads(len(self.pipeline.limits))[ahead], weights, forward, in_turn)
        if self.offer(greedy(self.pipeline, rules, self._within_s())):
            self.nearest = choice

    def _within_s(self) -> tuple[float, float]:
        """Return what a placing that is better can cost at most."""
        if self.best is None:
            return inf, inf
        most_s = self.costs_s(self.best)[0] * (1 + 2 * _EQUAL)
        return (inf, most_s) if self.barrier else (most_s, inf)


def _published(pipeline: Pipeline, most: int) -> Iterator[Placing | None]:
    if pipeline.is_flat:
        for handcrafted in (zb_h1, zb_h2):
            yield in_order(pipeline, handcrafted(len(pipeline.limits), pipeline.microbatches))
        return
    for fills in [*product((True, False), repeat=2)][: max(1, most // 3)]:  # about three tries each
        yield rounds(pipeline, *fills)


def grid(is_flat: bool) -> Iterator[Choice]:
    """Return every choice, for one stage a rank or for a V."""
    ways = ("zb-h2", "memory", "1f1b") if is_flat else ("ranks", "memory", "twice")
    return product(ways, (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 1.0), (False, True))


def _distance(choice: Choice, other: Choice) -> float:
    """Return how many steps of the grid lie between two choices."""
    steps = (choice[0] != other[0]) + 4 * abs(choice[1] - other[1]) + 2 * abs(choice[2] - other[2])
    return steps + (choice[3] != other[3])


def _is_less(costs_s: tuple[float, ...], than_s: tuple[float, ...]) -> bool:
    for cost_s, other_s in zip(costs_s, than_s, strict=True):
        if abs(cost_s - other_s) > _EQUAL * other_s:
            return cost_s < other_s
    return False


def aheads(ranks: int) -> dict[str, tuple[float, ...]]:
    """Return ways in which ranks can run ahead: the most micro-batches with F done and I not, of each rank."""
    left = [float(ranks - rank) for rank in range(ranks)]
    return {
        "1f1b": tuple(left),
        "zb-h2": tuple(2 * one - 1 for one in left),
        "ranks": (float(ranks),) * ranks,
        "twice": (2.0 * ranks,) * ranks,
        "memory": (float("inf"),) * ranks,
    }
