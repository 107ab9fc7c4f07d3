"""Hold where replicas shard parameters: what a rank keeps between units, run by run of its passes.

Gradients of a unit are whole from the layer that makes them until they are scattered, and then a share of them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Instructions, Key, Unit
from mpsim.lowering.model import Lowering
from mpsim.workload.model import Cost

__all__ = ["hold_units"]


def hold_units(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put holds and drops around the runs of each pass, and around what scatters gradients.

    Activations of each layer from its forward to its backward, gradients as they are made, and what a run takes for a
    while; the root unit's gradients until the pass ends, those of others until their unit's backward does; or, where
    they accumulate, until the last micro-batch's.
    """
    rank = _Rank(lowering)
    last = max(
        (i for i, one in enumerate(instructions) if isinstance(one, Compute) and one.pass_kind == "U"), default=-1
    )
    found: Instructions = []
    for at, one in enumerate(instructions):
        if isinstance(one, Compute) and one.pass_kind != "U":
            before, behind = rank.run(one)
            found += [*before, one, *behind]
        elif isinstance(one, Collective) and one.kind == "reduce_scatter" and isinstance(one.of, Unit):
            found += [*rank.scattered(one.stage, one.of.path), one]
            found += rank.kept(one.stage, one.of.path)
        else:
            found.append(one)
            if at == last:
                found += rank.updated()
    return found


class _Rank:
    """What a pipeline rank holds of gradients and activations."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        # Whole gradients that are there, by stage and parameter, and shares of them by parameter.
        self.whole: dict[int, dict[str, Key]] = {}
        self.shares: dict[str, Key] = {}

    def run(self, one: Compute) -> tuple[Instructions, Instructions]:
        """Return what is held from a run's beginning, and what is put behind it."""
        stage = self.lowering.stages[one.stage]
        costs = {i: stage.costs[i - stage.layers.start] for i in range(one.first, one.last)}
        again = self.lowering.computed_again(one.stage, one.microbatch)
        kept = dict(zip(stage.layers, stage.kept(again is not None), strict=True))
        more = dict(zip(stage.layers, again.again if again else [0] * len(kept), strict=True))
        received = {stage.layers.start: stage.received_bytes}
        keys = [(holder, one.stage, one.microbatch, i) for holder in ("activations", "recomputation") for i in costs]
        before: Instructions = []
        behind: Instructions = []
        if one.pass_kind == "F":
            taken = max(_forward(costs, kept, more), key=sum)
            before = [Hold(key, key[0], kept[i] + received.get(i, 0)) for key, i in zip(keys, costs, strict=False)]
        elif one.pass_kind == "R":
            taken = max(_forward(costs, more, dict.fromkeys(more, 0)), key=sum)
            taken = (taken[0], taken[1] + taken[2], 0)
            before = [Hold(key, key[0], more[i]) for key, i in zip(keys[len(costs) :], costs, strict=True)]
        else:
            made = self._made(one) if one.pass_kind in "BW" else {}
            taken = max(self._backward(one, costs, made, kept), key=sum)
            behind = [Drop(key) for key in (keys if again else keys[: len(costs)])] if one.pass_kind in "BW" else []
            behind += self._keep(one.stage, made)
        holders = ("gradients", "transients", "activations")
        names = [(holder, one.stage, one.pass_kind, one.microbatch, one.first) for holder in holders]
        before += [Hold(name, name[0], count) for name, count in zip(names, taken, strict=True) if count]
        return before, [*(Drop(name) for name, count in zip(names, taken, strict=True) if count), *behind]

    def _made(self, one: Compute) -> dict[str, int]:
        """Return the gradients that a run is the first to make."""
        own = self.whole.setdefault(one.stage, {})
        layers = (self.lowering.workload.layers[i] for i in reversed(range(one.first, one.last)))
        of = (gradient for layer in layers for gradient in layer.shard(self.lowering.plan.split).gradients)
        return {gradient.parameter: gradient.bytes for gradient in of if gradient.parameter not in own}

    def _backward(
        self, one: Compute, costs: Mapping[int, Cost], new: Mapping[str, int], kept: Mapping[int, int]
    ) -> Iterator[tuple[int, int, int]]:
        """Yield what each layer of a run takes, the last one first: gradients, transients, less what is released."""
        made = released = 0
        seen: set[str] = set()
        stage = self.lowering.stages[one.stage]
        for i in reversed(range(one.first, one.last)):
            own = (
                self.lowering.workload.layers[i].shard(self.lowering.plan.split).gradients
                if one.pass_kind in "BW"
                else ()
            )
            first = [gradient for gradient in own if gradient.parameter in new and gradient.parameter not in seen]
            made += sum(gradient.bytes for gradient in first)
            seen |= {gradient.parameter for gradient in first}
            added = max((gradient.bytes for gradient in own if gradient not in first), default=0)
            inside = costs[i].backward_transient_bytes + stage.arriving[i - stage.layers.start]
            transients = 0 if one.pass_kind == "W" else inside
            yield made + added, transients, -released
            released += kept[i] if one.pass_kind in "BW" else 0

    def _keep(self, stage: int, made: Mapping[str, int]) -> Instructions:
        """Return the holds of gradients that are whole from now on."""
        keys = {name: ("whole", stage, name) for name in made}
        self.whole.setdefault(stage, {}).update(keys)
        return [Hold(key, "gradients", made[name]) for name, key in keys.items()]

    def scattered(self, stage: int, path: str) -> Instructions:
        """Return the drops of a unit's whole gradients."""
        own = self.whole.setdefault(stage, {})
        return [Drop(own.pop(name)) for name in self._names(stage, path) if name in own]

    def kept(self, stage: int, path: str) -> Instructions:
        """Return the hold of the shares of a unit's gradients, unless they are added to some that are there."""
        unit = next(unit for unit in self.lowering.stages[stage].units if unit.path == path)
        new = [name for name in sorted(unit.names) if name not in self.shares]
        if not new:
            return []
        key = ("shares", stage, path)
        self.shares |= dict.fromkeys(new, key)
        share = -(-unit.kept_bytes // unit.parts)
        return [Hold(key, "gradients", share * len(new) // len(unit.names))]

    def _names(self, stage: int, path: str) -> Sequence[str]:
        return next(sorted(unit.names) for unit in self.lowering.stages[stage].units if unit.path == path)

    def updated(self) -> Instructions:
        """Return the drops of all shares, and of what no unit shards, as experts of one rank alone: they are used."""
        keys = dict.fromkeys(self.shares.values())
        keys |= dict.fromkeys(key for own in self.whole.values() for key in own.values())
        self.shares.clear()
        self.whole.clear()
        return [Drop(key) for key in keys]


def _forward(
    costs: Mapping[int, Cost], kept: Mapping[int, int], more: Mapping[int, int]
) -> Iterator[tuple[int, int, int]]:
    """Yield what each layer of a run takes: transients, less the activations that layers behind it have yet to keep.

    What it makes and does not keep, for it is computed again, is there to its end.
    """
    behind = sum(kept[i] for i in costs)
    for i, cost in costs.items():
        behind -= kept[i]
        yield 0, cost.forward_transient_bytes + more[i], -behind
