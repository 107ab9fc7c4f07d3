"""How long each layer takes on one rank: medians, or what a trial drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpsim.program.draws import Draw
from mpsim.workload.costs import median_s
from mpsim.workload.model import Cost

if TYPE_CHECKING:
    from mpsim.program.lower import Lowering

__all__ = ["RankTimes", "drawn", "medians", "rank_times"]

_Rows = list[list[float]]


class RankTimes:
    """Seconds of each layer of one rank's stage, by kind of pass and micro-batch.

    Parameters
    ----------
    rows : mapping of str to list of list
        For each of F, I, W and B a row of layers for each micro-batch; a single row stands for all of them.
    optimizer_s : float
        The update of all the stage's parameters.
    """

    def __init__(self, rows: dict[str, _Rows], optimizer_s: float) -> None:
        self.optimizer_s = optimizer_s
        self._rows = rows
        self._totals = {kind: [sum(row) for row in table] for kind, table in rows.items()}

    def seconds(self, kind: str, microbatch: int, first: int, last: int) -> float:
        """Return the time of the stage's layers ``first..last-1`` in one pass of a micro-batch."""
        table = self._rows[kind]
        row = microbatch if len(table) > 1 else 0
        if last - first == len(table[row]):
            return self._totals[kind][row]
        return sum(table[row][first:last])


def rank_times(lowering: Lowering, draw: Draw | None, d: int, p: int, t: int) -> RankTimes:
    """Return the layer times of the rank ``(d, p, t)``: medians, or what a trial drew for its device."""
    plan, stage = lowering.plan, lowering.stages[p]
    device = lowering.place[(d * plan.pp + p) * plan.tp + t]
    node = lowering.topology.devices[device]
    costs = lowering.costs.of(node.type)[stage.layers.start : stage.layers.stop]
    if draw is None:
        return medians(costs, node.speed)
    return drawn(
        costs,
        node.speed / draw.slowdown(device),
        draw,
        first_layer=stage.layers.start,
        tp_rank=t,
        replica=d,
        microbatches=plan.microbatches,
    )


def medians(costs: Sequence[Cost], speed: float) -> RankTimes:
    """Return the times of a rank at the median of every layer's samples."""
    forward, inputs, weights, optimizer = zip(*(median_s(cost) for cost in costs), strict=True)
    rows = {"F": forward, "I": inputs, "W": weights, "B": [i + w for i, w in zip(inputs, weights, strict=True)]}
    return RankTimes({kind: [[value / speed for value in row]] for kind, row in rows.items()}, sum(optimizer) / speed)


def drawn(
    costs: Sequence[Cost], speed: float, draw: Draw, *, first_layer: int, tp_rank: int, replica: int, microbatches: int
) -> RankTimes:
    """Return the times of a rank as one trial draws them: of every execution of every layer one of its samples."""
    passes = np.empty((3, microbatches, len(costs)))
    optimizer_s = 0.0
    for i, cost in enumerate(costs):
        quantiles = draw.layer(first_layer + i, tp_rank, replica * microbatches, microbatches)
        samples = cost.samples
        for j, values in enumerate((samples.forward_s, samples.backward_input_s, samples.backward_weight_s)):
            passes[j, :, i] = _pick(values, quantiles[:, j])
        quantile = np.array([draw.optimizer(first_layer + i, tp_rank, replica)])
        optimizer_s += float(_pick(samples.optimizer_s, quantile)[0])
    passes /= speed
    tables = dict(zip("FIW", passes.tolist(), strict=True))
    tables["B"] = (passes[1] + passes[2]).tolist()
    return RankTimes(tables, optimizer_s / speed)


def _pick(values: tuple[float, ...], quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sample at each quantile, in 0 to 1, 1 excluded."""
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    picked: NDArray[np.float64] = ascending[(quantiles * len(ascending)).astype(np.intp)]
    return picked
