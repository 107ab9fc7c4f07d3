"""Trials of one program: lowered once, its times drawn for many trials at once, to the bits of each by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.lowering.bind import scripts
from mpsim.lowering.draws import Draw
from mpsim.lowering.emit import program_of
from mpsim.lowering.instructions import Compute
from mpsim.lowering.model import Lowering
from mpsim.lowering.recomputation import fraction_again
from mpsim.lowering.stages import update_parts
from mpsim.lowering.times import pick
from mpsim.workload.model import Cost

__all__ = ["Redrawn"]

_Seconds = NDArray[np.float64]
# Kind of pass, first layer and last, counted from the stage's first.
_Slice = tuple[str, int, int]


class Redrawn:
    """The program of a plan, and what its tasks take in each of some trials.

    Hosts launch by what each trial draws in tasks of their own: there it does not apply.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> redrawn = Redrawn(lower(work, parse_topology("chain:1,link=nvlink4"), Plan()))
    >>> redrawn.durations([Draw(seed=0, trial=trial) for trial in range(2)]).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering
        self.program = program_of(lowering)
        compute = {stream.device: i for i, stream in enumerate(self.program.streams) if stream.name == "compute"}
        own: dict[int, list[int]] = {stream: [] for stream in compute.values()}
        for i, task in enumerate(self.program.tasks):
            if task.traffic is None:
                own[task.streams[0]].append(i)
        self._transfers = [i for i, task in enumerate(self.program.tasks) if task.traffic is not None]
        self._ranks = [
            (script.rank, list(zip(own[compute[script.device]], computed, strict=True)))
            for script in scripts(lowering)
            if (computed := [step for step in script.steps if type(step) is Compute])
        ]

    @staticmethod
    def applies(lowering: Lowering) -> bool:
        """Whether only what tasks take differs from trial to trial."""
        return not lowering.launches

    def durations(self, draws: Sequence[Draw]) -> _Seconds:
        """Return the seconds of each computation, shape (tasks, trials); of transfers 0."""
        found = np.zeros((len(self.program.tasks), len(draws)))
        quantiles = _Quantiles(draws)
        for rank, tasks in self._ranks:
            stages: dict[int, _Stage] = {}
            for i, (stage, kind, microbatch, first, last, *_) in tasks:
                times = stages.get(stage)
                if times is None:
                    times = stages[stage] = _Stage(self._lowering, rank, stage, quantiles)
                found[i] = times.update() if kind == "U" else times.seconds(kind, microbatch, first, last)
        return found

    def late(self, draws: Sequence[Draw]) -> _Seconds | None:
        """Return what transfers take longer than their latency, shape (tasks, trials); None where nothing does."""
        if not draws[0].variability.link_jitter_s:
            return None
        found = np.zeros((len(self.program.tasks), len(draws)))
        found[self._transfers] = np.array([draw.lateness(len(self._transfers)) for draw in draws]).T
        return found


class _Quantiles:
    """What some trials draw, each once."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.draws = draws
        self._layers: dict[tuple[int, int], _Seconds] = {}

    def layer(self, layer: int, tp_rank: int, first: int, count: int, most: int) -> _Seconds:
        """Return the quantiles of a layer's passes, shape (3, count, trials): those of `most` draws from `first` on."""
        if (layer, tp_rank) not in self._layers:
            drawn = np.array([draw.layer(layer, tp_rank, 0, most) for draw in self.draws])
            self._layers[layer, tp_rank] = drawn.transpose(2, 1, 0)
        return self._layers[layer, tp_rank][:, first : first + count]

    def optimizer(self, layer: int, tp_rank: int, replica: int) -> _Seconds:
        """Return the quantiles of a layer's update."""
        return np.array([draw.optimizer(layer, tp_rank, replica) for draw in self.draws])

    def slowdown(self, device: int) -> _Seconds:
        """Return by how much a device is slower."""
        return np.array([draw.slowdown(device) for draw in self.draws])


class _Drawn(NamedTuple):
    """A layer's passes, shape (micro-batches, trials) each, and what adding to gradients takes."""

    F: _Seconds
    I: _Seconds  # noqa: E741 - as the kinds of passes are called
    W: _Seconds
    B: _Seconds
    added: _Seconds


class _Stage:
    """The seconds of a stage on one rank in some trials; as `mpsim.lowering.times` has those of one."""

    def __init__(self, lowering: Lowering, rank: int, stage: int, quantiles: _Quantiles) -> None:
        plan, at = lowering.plan, lowering.grid.at(rank)
        self._of, self._quantiles = lowering.stages[stage], quantiles
        device = lowering.place[rank]
        node = lowering.topology.devices[device]
        layers = self._of.layers
        self._costs = lowering.costs.of(node.type)[layers.start : layers.stop]
        self._speed = node.speed / quantiles.slowdown(device)
        self._tp_rank, self._replica = at["cp"] * plan.tp + at["tp"], at["dp"]
        self._count, self._most = plan.microbatches, plan.dp * plan.microbatches
        self._parts = update_parts(self._of, plan)
        row = lowering.rows[at["pp"]]
        self._makes = next(one.microbatch for one in row if one.stage == stage and one.kind in "BW")
        partly = self._of.recomputed is not None and self._of.recomputed.partly
        self._again = [fraction_again(cost, True) for cost in self._costs] if partly else []
        self._layers: dict[int, _Drawn] = {}
        self._sums: dict[_Slice, _Seconds] = {}
        self._adds = any(any(cost.samples.accumulate_s) for cost in self._costs)

    def seconds(self, kind: str, microbatch: int, first: int, last: int) -> _Seconds:
        """Return what layers take in one pass of a micro-batch."""
        if kind in "WB" and microbatch != self._makes and self._adds:
            kind += "+"
        start = self._of.layers.start
        of: _Slice = (kind, first - start, last - start)
        if of not in self._sums:
            self._sums[of] = self._sum(of)
        found: _Seconds = self._sums[of][microbatch]
        return found

    def update(self) -> _Seconds:
        """Return what this rank's part of the update takes."""
        whole: _Seconds | float = 0
        for i, cost in enumerate(self._costs):
            samples = cost.samples.optimizer_s
            if len(set(samples)) == 1:
                whole = whole + np.full(len(self._quantiles.draws), samples[0])
            else:
                layer = self._of.layers.start + i
                whole = whole + pick(samples, self._quantiles.optimizer(layer, self._tp_rank, self._replica))
        found: _Seconds = whole / self._speed / self._parts
        return found

    def _sum(self, of: _Slice) -> _Seconds:
        """Return the seconds of layers one after another, shape (micro-batches, trials)."""
        kind, first, last = of
        parts: Sequence[float] | repeat[None] = self._again[first:last] if kind == "R" and self._again else repeat(None)
        whole: _Seconds | float = 0
        for i, part in zip(range(first, last), parts, strict=False):
            drawn = self._drawn(i)
            own = getattr(drawn, "F" if kind == "R" else kind[0])
            own = own + drawn.added if kind.endswith("+") else own
            whole = whole + (own if part is None else own * part)
        return np.broadcast_to(whole, (self._count, len(self._quantiles.draws)))

    def _drawn(self, i: int) -> _Drawn:
        if i not in self._layers:
            cost, layer = self._costs[i], self._of.layers.start + i
            first = self._replica * self._count
            picked = self._picker(
                cost, lambda: self._quantiles.layer(layer, self._tp_rank, first, self._count, self._most)
            )
            forward, inputs = picked("forward_s", 0), picked("backward_input_s", 1)
            weights, added = picked("backward_weight_s", 2), picked("accumulate_s", 2)
            self._layers[i] = _Drawn(forward, inputs, weights, inputs + weights, added)
        return self._layers[i]

    def _picker(self, cost: Cost, quantiles: Callable[[], _Seconds]) -> Callable[[str, int], _Seconds]:
        shape = (self._count, len(self._quantiles.draws))

        def picked(name: str, which: int) -> _Seconds:
            samples: tuple[float, ...] = getattr(cost.samples, name)
            if len(set(samples)) == 1:  # whatever is drawn
                return np.full(shape, samples[0]) / self._speed
            return pick(samples, quantiles()[which]) / self._speed

        return picked
