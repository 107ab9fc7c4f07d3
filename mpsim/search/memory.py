"""What the devices of a plan hold at least: of any cut, of the best one, of cuts that are known.

A rank holds at least what it holds throughout, with the gradients it has made and the activations of the micro-batches
that its schedule has under way; those that were computed again for a backward in two parts stay to the end of the
second. On top comes what the pass of a moment takes for a while, in the layer in which it takes most. The fullest of
some ranks holds no less than their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.lowering.model import Lowering
from mpsim.plan.model import Plan
from mpsim.plan.partition import least_most
from mpsim.plan.recompute import parse_recompute
from mpsim.program.allocator import update_copies, workspace_bytes
from mpsim.search.facts import Facts, Moments
from mpsim.search.family import Family, Held, before, tables
from mpsim.search.held import held_at_least, held_in_order

__all__ = ["ByLayer", "MemoryBounds"]

_NEAR = 0.85  # of a memory: what is less is not looked at again
_Row = NDArray[np.float64]
_Cuts = Sequence[tuple[int, ...]]


class ByLayer(NamedTuple):
    """Bytes by layer that a rank of a plan holds at least.

    Attributes
    ----------
    state, gradients : array, shape (layers,)
        What it holds throughout, and once a backward was there.
    kept, again : array, shape (layers,)
        Of each micro-batch from forward to backward, and what is computed again for a backward in two parts.
    copied : array, shape (layers,)
        What the update takes for a while.
    """

    state: _Row
    gradients: _Row
    kept: _Row
    again: _Row
    copied: _Row


class MemoryBounds:
    """What the devices of one plan hold at least.

    Parameters
    ----------
    plan : Plan
    facts : Facts
        Of its schedule.
    family : Family
        What it has in common with others.
    held : Held
        What layers hold on a rank of its split.
    capacities : sequence of int
        Bytes of the smallest memory of each pipeline rank; 0: not known.

    Examples
    --------
    >>> from mpsim.search.study import Study
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=8) for name in "abcd"]
    >>> study = Study(Workload.chain("four", layers), chain(2, link="1GB/s@0"))
    >>> memory = study.bounds.of(Plan(pp=2, microbatches=2)).memory
    >>> memory.in_mean(), memory.at([(1,), (2,)])[0].tolist()
    ((32.0, False), [56.0, 40.0])
    """

    def __init__(self, plan: Plan, facts: Facts, family: Family, held: Held, capacities: Sequence[int]) -> None:
        self._plan, self._facts, self._family, self._held = plan, facts, family, held
        self._what = parse_recompute(plan.sharding.recompute)
        self._capacities = capacities
        self._workspace = workspace_bytes(family.workload)
        # What is at the host, or computed again but for the last micro-batch, is not counted.
        self._counted = not plan.sharding.offload and not self._what.except_last

    def in_mean(self) -> tuple[float, bool]:
        """Return the bytes that the fullest rank holds at least, however layers are cut, and whether it overflows."""
        facts, own = self._facts, self.by_layer
        copies = facts.shape.directions
        once, again = min(facts.held), min(facts.again)
        state, made, kept, *_, copied = (row.sum() * copies for row in own)
        # Of several stages of a rank not all have gradients when it holds most.
        alone = facts.shape.stages == self._plan.pp and again
        return self._mean(state + max(made + copied, once * kept, again * kept + (made if alone else 0.0)))

    def of_any(self, facts: Sequence[Facts]) -> tuple[float, bool]:
        """Return the same of the plans that differ from this one in their schedules, which have these facts."""
        own, once = self.by_layer, min(min(one.held) for one in facts)
        return self._mean(own.state.sum() + max((own.gradients + own.copied).sum(), once * own.kept.sum()))

    def _mean(self, most: float) -> tuple[float, bool]:
        """Return what the mean rank holds of what all hold, with the workspace of each, and if there is no room."""
        pp = self._plan.pp
        room = sum(self._capacities) if all(self._capacities) else np.inf
        return float(most / pp + self._workspace), bool(most + pp * self._workspace > room)

    def by_cuts(self) -> tuple[float, bool]:
        """Return the same of the best cut, where each rank has one stage."""
        own = self.by_layer
        state, made, kept, _, copied = map(tables, own)
        forward, backward, _ = self._inside
        found = []
        for p in range(self._plan.pp):
            once, again = self._facts.held[p], self._facts.again[p]
            # At its end all gradients are there; in a pass what the micro-batches before keep, and what it has made.
            most = np.maximum(state + made + copied, state + once * kept + forward)
            if again:
                most = np.maximum(most, state + made + again * kept + np.maximum(forward, backward))
            found.append(most + self._workspace)
        room = self._capacities
        overflows = all(room) and least_most([table / own for table, own in zip(found, room, strict=True)]) > 1
        return least_most(found), bool(overflows)

    def at(self, cuts: _Cuts) -> tuple[_Row, NDArray[np.bool_]]:
        """Return the bytes that the fullest rank holds at least at each cut, and whether one overflows."""
        shape, n_layers = self._facts.shape, self._family.layers
        edges = np.array([(0, *own, n_layers) for own in cuts], dtype=np.intp)
        totals = (before(row) for row in self.by_layer)
        # Of the shape (stages, cuts), the copies of stages too.
        rows = [np.tile((total[edges[:, 1:]] - total[edges[:, :-1]]).T, (shape.directions, 1)) for total in totals]
        state, made, _, _, copied = rows
        inside = [np.tile(one[edges[:, :-1], edges[:, 1:]].T, (shape.directions, 1)) for one in self._inside]
        most = np.zeros((self._plan.pp, len(cuts)))
        for p in range(self._plan.pp):
            own = [*shape.held_by(p)]
            throughout = state[own].sum(axis=0) + self._workspace
            most[p] = throughout + (made[own] + copied[own]).sum(axis=0)
            if self._facts.moments:
                under_way = _most(self._facts.moments[p], rows, inside)
                most[p] = np.maximum(most[p], throughout + under_way)
        room = np.array(self._capacities, dtype=float)[:, None]
        over = np.any((most > room) & (room > 0), axis=0)
        fullest: _Row = most.max(axis=0)
        return fullest, over

    def lowered(self, lowering: Lowering) -> list[int]:
        """Return the bytes that each pipeline rank holds at least as a plan is cut."""
        return [held_at_least(lowering, p) for p in range(self._plan.pp)]

    def in_order(self, lowering: Lowering, held: Sequence[int]) -> list[int]:
        """Return the same more closely, given that, of a plan with as many micro-batches as its facts are of."""
        if self._plan.sharding.offload or self._what.except_last:
            return list(held)
        return [
            max(own, held_in_order(lowering, p)) if room and own > _NEAR * room else own
            for p, (own, room) in enumerate(zip(held, self._capacities, strict=True))
        ]

    def overflows(self, held: Sequence[int]) -> bool:
        """Return whether one of the pipeline ranks holds more than there is room."""
        return any(0 < room < own for room, own in zip(self._capacities, held, strict=True))

    @cached_property
    def by_layer(self) -> ByLayer:
        """What a rank holds of each layer."""
        held, plan = self._held, self._plan
        zero = plan.sharding.zero if plan.replicas > 1 else 0
        shares = [(plan.sharding.shards or plan.replicas) if zero >= first else 1 for first in (3, 1, 2)]
        if zero == 2 and plan.sharding.accumulate:
            shares[2] = 1
        state = held.parameters / shares[0] + (held.masters + held.optimizer) / shares[1] + held.buffers
        if plan.replicas > 1 and zero < 3:  # buckets of gradients
            state = state + held.reduced
        copied = update_copies(self._family.workload) * held.gradients / shares[1]
        kept, again = self._family.kept(self._what), self._family.made_again(self._what)
        none = np.zeros_like(kept)
        if not self._counted:
            kept = again = none
        elif self._what.what == "selective":  # attention cores are there in the first part alone
            again = none
        return ByLayer(state, held.gradients / shares[2], kept, again, copied)

    @cached_property
    def _inside(self) -> tuple[_Row, _Row, _Row]:
        """What a forward takes at most for a while, a backward, and the first part of one, beyond what is kept.

        Layers ``first..last-1`` at ``[first, last]``. A forward's activations count from its beginning, and those of
        layers behind are not yet there; a backward needs those of layers behind no longer.
        """
        family = self._family
        kept = self.by_layer.kept
        again = family.made_again(self._what) if self._counted else np.zeros_like(kept)
        inside = family.inside()
        behind = before(kept)
        root = self._gathered_throughout()
        found = []
        for top, goes in (
            (inside.forward + again, True),
            (inside.backward + inside.arriving + inside.added + again, True),
            (inside.backward + inside.arriving if not again.any() else np.zeros_like(kept), False),
        ):
            above = top + (behind[1:] if goes else 0.0)
            table = np.zeros((len(top) + 1, len(top) + 1))
            for first in range(len(top)):
                table[first, first + 1 :] = np.maximum.accumulate(above[first:])
            found.append(np.maximum(table - (behind if goes else 0.0), 0.0) + tables(root))
        return found[0], found[1], found[2]

    def _gathered_throughout(self) -> _Row:
        """Return what of each layer replicas gather for the whole of a pass: what is in the root unit."""
        sharding, held = self._plan.sharding, self._held
        units = {"blocks": held.gathered - held.blocks, "model": held.gathered}
        shared = sharding.zero == 3 and self._plan.replicas > 1 and not sharding.gather_dtype
        return units.get(sharding.units, np.zeros_like(held.gathered)) if shared else np.zeros_like(held.gathered)


def _most(moments: Moments, rows: Sequence[_Row], inside: Sequence[_Row]) -> _Row:
    """Return the most that a rank has under way at one of its moments, at each cut."""
    _, made, kept, again, _ = (row[moments.stages] for row in rows)
    found: _Row = moments.kept @ kept + moments.again @ again + moments.made @ made
    for kind, table in enumerate(inside):
        which = moments.known & (moments.kind == kind)
        found[which] += table[moments.stages[moments.at[which]]]
    most: _Row = found.max(axis=0, initial=0.0)
    return most
