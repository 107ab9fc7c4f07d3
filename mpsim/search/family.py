"""What plans have in common that share a split and a micro-batch size: times and bytes, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.lowering.balancing import Clock
from mpsim.lowering.costs import Costs
from mpsim.lowering.crossings import crossings
from mpsim.lowering.recomputation import recomputed, recomputed_layers
from mpsim.lowering.stages import microbatch_size
from mpsim.lowering.units import Unit, communicated, is_numbered, path_of
from mpsim.plan.model import Plan
from mpsim.plan.recompute import Recompute
from mpsim.plan.sharding import Sharding
from mpsim.topology.routes import Routes
from mpsim.workload.costs import median_s
from mpsim.workload.model import DTYPE_BYTES, Workload
from mpsim.workload.split import Split

__all__ = ["Family", "Held", "Inside", "before", "held_of", "tables"]

_Row = NDArray[np.float64]


class Held(NamedTuple):
    """Bytes by layer, on a rank of a split: what it holds, makes and sends. Tied parameters are their first layer's."""

    parameters: _Row
    masters: _Row
    optimizer: _Row
    gradients: _Row
    buffers: _Row
    gathered: _Row
    reduced: _Row
    blocks: _Row  # gathered again for backward


class Inside(NamedTuple):
    """Bytes that each layer takes for a while: in its forward, in its backward, and beside that.

    Beside a backward there is what arrives from the layers behind, and a gradient until it is added to what is there.
    """

    forward: _Row
    backward: _Row
    arriving: _Row
    added: _Row


class Family:
    """What plans have in common that share a split and a micro-batch size."""

    def __init__(self, workload: Workload, by_type: Mapping[str, Workload], routes: Routes, plan: Plan) -> None:
        self.workload, self.split = workload, plan.split
        self.microbatch = microbatch_size(workload, plan)
        self.costs = Costs(workload, by_type, self.microbatch, plan.split)
        self._routes, self._algorithm = routes, plan.algorithm
        self._clocks: dict[bool, Clock] = {}
        self._kept: dict[Recompute, tuple[_Row, _Row]] = {}
        self._inside: Inside | None = None
        self._again: dict[Recompute, _Row] = {}
        self._fastest: dict[frozenset[tuple[str, float]], _Row] = {}
        self._launching: dict[frozenset[str], _Row | None] = {}
        self.units: dict[tuple[int, int, Sharding], dict[range, tuple[Unit, ...]]] = {}

    def clock(self, partly: bool) -> Clock:
        """Return what times layers, of which attention cores alone or whole ones run again."""
        if partly not in self._clocks:
            self._clocks[partly] = Clock(self.costs, self._routes, self._algorithm, partly)
        return self._clocks[partly]

    def again(self, what: Recompute) -> _Row:
        """Return 1 for each layer that is computed again, 0 for others."""
        if what not in self._again:
            own = recomputed_layers(self.workload, self.costs.of(""), what) if what.what else frozenset()
            self._again[what] = np.array([float(i in own) for i in range(len(self.workload.layers))])
        return self._again[what]

    def kept(self, what: Recompute) -> _Row:
        """Return what each layer keeps of a micro-batch for its backward."""
        return self._recomputed(what)[0]

    def made_again(self, what: Recompute) -> _Row:
        """Return what each layer makes when it is computed again."""
        return self._recomputed(what)[1]

    def _recomputed(self, what: Recompute) -> tuple[_Row, _Row]:
        if what not in self._kept:
            costs, everywhere = self.costs.of(""), range(len(self.workload.layers))
            found = recomputed(self.workload, everywhere, costs, self.microbatch, self.split, what)
            none = [0] * len(costs)
            kept, again = (found.kept, found.again) if found else ([cost.saved_bytes for cost in costs], none)
            # Of a stage that is computed again whole only what it reads is kept, which hangs on the cut.
            rows = (none, none) if what.what == "stages" else (kept, again)
            self._kept[what] = (np.array(rows[0], dtype=float), np.array(rows[1], dtype=float))
        return self._kept[what]

    def fastest(self, paces: frozenset[tuple[str, float]]) -> _Row:
        """Return the median seconds of each layer on the fastest of some types and speeds: a row for each of `TIMES`.

        Updates are of the whole, not of a share.
        """
        if paces not in self._fastest:
            each = [np.array([median_s(cost.samples) for cost in self.costs.of(kind)]).T / s for kind, s in paces]
            self._fastest[paces] = np.min(each, axis=0)
        return self._fastest[paces]

    def launching(self, kinds: frozenset[str]) -> _Row | None:
        """Return likewise what hosts take to launch that; None where no trace says it."""
        if kinds not in self._launching:
            hosts = [[cost.host for cost in self.costs.of(kind)] for kind in kinds]
            known = all(host is not None for own in hosts for host in own)
            each = [np.array([median_s(host) for host in own if host is not None]).T for own in hosts]
            self._launching[kinds] = np.min(each, axis=0) if known else None
        return self._launching[kinds]

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.workload.layers)

    def inside(self) -> Inside:
        """Return what each layer takes for a while."""
        if self._inside is None:
            costs, layers = self.costs.of(""), self.workload.layers
            gradients = [layer.shard(self.split).gradients for layer in layers]
            first: dict[str, int] = {}
            for i, made in enumerate(gradients):
                for one in made:
                    first.setdefault(one.parameter, i)
            # What a layer begins and another completes may count as a gradient, and not as the layer's.
            begun = [sum(one.bytes for one in made if first[one.parameter] < i) for i, made in enumerate(gradients)]
            added = [
                max((one.bytes for one in made if first[one.parameter] == i), default=0)
                for i, made in enumerate(gradients)
            ]
            cuts = crossings(self.workload, self.microbatch, self.split)
            self._inside = Inside(
                forward=np.array([cost.forward_transient_bytes for cost in costs], dtype=float),
                backward=np.array(
                    [max(cost.backward_transient_bytes - own, 0) for cost, own in zip(costs, begun, strict=True)],
                    dtype=float,
                ),
                arriving=np.array([*(cut.backward_bytes for cut in cuts), 0], dtype=float),
                added=np.array(added, dtype=float),
            )
        return self._inside


def before(row: _Row) -> _Row:
    """Return the sum of what stands before each layer, and of all.

    Examples
    --------
    >>> before(np.array([1.0, 2.0])).tolist()
    [0.0, 1.0, 3.0]
    """
    return np.concatenate([[0.0], np.cumsum(row)])


def tables(row: _Row) -> _Row:
    """Return the sums of the layers ``first..last-1`` at ``[first, last]``.

    Examples
    --------
    >>> tables(np.array([1.0, 2.0]))[0].tolist()
    [0.0, 1.0, 3.0]
    """
    total = before(row)
    found: _Row = total - total[:, None]
    return found


def held_of(workload: Workload, split: Split) -> Held:
    """Return what layers hold on a rank of a split.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=8) for name in "ab"]
    >>> held_of(Workload.chain("two", layers), Split()).gradients.tolist()
    [8.0, 8.0]
    """
    seen: set[str] = set()
    trained: set[str] = set()
    rows: dict[str, list[float]] = {name: [] for name in Held._fields}
    updated = {one.parameter for layer in workload.layers for one in layer.shard(split).gradients}
    numbered = is_numbered(layer.name for layer in workload.layers)
    for layer in workload.layers:
        shard = layer.shard(split)
        new = [one for one in shard.parameters if one.name not in seen]
        made = [one for one in shard.gradients if one.parameter not in trained]
        seen |= {one.name for one in new}
        trained |= {one.parameter for one in made}
        experts = {one.parameter for one in made if one.expert}
        size = {one.name: one.bytes // DTYPE_BYTES[one.dtype] for one in shard.parameters}
        master = DTYPE_BYTES[workload.precision.master] if workload.precision.master else 0
        sent = {
            one.name: size[one.name] * DTYPE_BYTES[communicated(one.dtype, workload.precision, Sharding(zero=3))]
            for one in new if one.name not in experts
        }  # fmt: skip
        rows["parameters"].append(sum(one.bytes for one in new))
        rows["masters"].append(
            sum(
                master * size[one.name] for one in new if one.name in updated and one.dtype != workload.precision.master
            )
            if master
            else 0
        )
        rows["optimizer"].append(shard.optimizer_bytes)
        rows["gradients"].append(sum(one.bytes for one in made))
        rows["buffers"].append(shard.buffer_bytes)
        rows["gathered"].append(sum(sent.values()))
        rows["reduced"].append(sum(min(one.bytes, sent.get(one.parameter, 0)) for one in made if not one.expert))
        rows["blocks"].append(sum(sent.values()) if path_of(layer.name, "blocks", numbered) else 0)
    return Held(**{name: np.array(row, dtype=float) for name, row in rows.items()})
