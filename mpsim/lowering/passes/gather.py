"""Gather: replicas that shard their parameters gather each unit's before a pass uses them, and scatter its gradients.

When and in which order is PyTorch's (``torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py``: `pre_forward`,
`post_forward`, `pre_backward`, `post_backward`, and the root's final callback in ``_fsdp_state.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Instructions, Key, Unit, Wait, backward_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.units import Unit as Group
from mpsim.plan.runtimes import resolve_runtime

__all__ = ["gather"]

_Name = tuple[int, str]


def gather(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Gather parameters ahead of the computations that use them; reduce-scatter gradients behind those that make them.

    With one unit gathered ahead, each dropped behind its pass, the root unit (r) kept from forward to backward::

        gathers   gr g0 g1  g2        g2  g1  g0
        compute      Fr F0  F1  F2 Fr Br  B2  B1  B0 Br
        scatters                              s2  s1 s0 sr
    """
    if not any(stage.units for stage in lowering.stages):
        return instructions
    around = _Around()
    there: dict[_Name, list[Key]] = {}
    passes = _passes(instructions, lowering)
    last = {(one.stage, unit.path): i for i, one in enumerate(passes) if one.kind != "W" for unit in one.units}
    for i, one in enumerate(passes):
        _gathers(one, there, lowering, around)
        if one.kind in "FBI":
            for use in one.uses:
                if _dropped(use.unit, one.kind, last[one.stage, use.unit.path] == i, lowering):
                    around.drop(use.last, there.pop((one.stage, use.unit.path), []))
        if one.kind in "BW" and _reduces(one, lowering):
            _scatters(one, lowering, around)
    return around.all(instructions)


class _Use(NamedTuple):
    """A unit, and the places of the first and the last computation of a pass that need it."""

    unit: Group
    first: int
    last: int


class _Pass(NamedTuple):
    """One operation of a row, which may have been cut, with the units that it uses, in order."""

    stage: int
    kind: str
    microbatch: int
    uses: tuple[_Use, ...]
    end: int

    @property
    def units(self) -> list[Group]:
        """Those that it needs parameters of."""
        return [use.unit for use in self.uses if use.unit.gathered_bytes]

    def key(self, what: str, unit: Group) -> Key:
        """Return what a collective of a unit is known by."""
        return (what, self.stage, self.kind, self.microbatch, unit.path)


class _Around:
    """What is to be put before and behind instructions."""

    def __init__(self) -> None:
        self.before: dict[int, Instructions] = {}
        self.behind: dict[int, Instructions] = {}

    def drop(self, at: int, keys: list[Key]) -> None:
        """Put drops behind an instruction."""
        self.behind.setdefault(at, []).extend(Drop(key) for key in keys)

    def all(self, instructions: Instructions) -> Instructions:
        """Return the instructions with what is around them."""
        found: Instructions = []
        for at, one in enumerate(instructions):
            found += [*self.before.get(at, []), one, *self.behind.get(at, [])]
        return found


def _passes(instructions: Instructions, lowering: Lowering) -> list[_Pass]:
    """Return the passes of a row, in the order in which they begin."""
    runs: dict[tuple[int, str, int], list[tuple[int, Compute]]] = {}
    for at, one in enumerate(instructions):
        if isinstance(one, Compute) and one.pass_kind != "U":
            kind = backward_of(instructions, at).pass_kind if one.pass_kind == "R" else one.pass_kind
            runs.setdefault((one.stage, kind, one.microbatch), []).append((at, one))
    return [
        _Pass(*of, tuple(sorted(_uses(lowering.stages[of[0]].units, own), key=lambda use: use.first)), own[-1][0])
        for of, own in runs.items()
    ]


def _uses(units: tuple[Group, ...], runs: list[tuple[int, Compute]]) -> Iterator[_Use]:
    """Yield the use of each unit by computations; the root unit is used from the first to the last of them."""
    for unit in units:
        own = [at for at, one in runs if not unit.path or any(one.first <= layer < one.last for layer in unit.layers)]
        if own:
            yield _Use(unit, own[0], own[-1])


def _gathers(one: _Pass, there: dict[_Name, list[Key]], lowering: Lowering, around: _Around) -> None:
    """Gather what a pass uses and is not there: posted before the use so many before its own, awaited before its own.

    What is gathered lies in a buffer that is copied out, and free then; in a forward only once the next is copied out.
    """
    if one.kind == "W":
        return
    ahead = lowering.plan.sharding.gather_ahead
    at_once = resolve_runtime(lowering.plan.runtime).units_at_once
    missing = {
        i for i, use in enumerate(one.uses) if use.unit.gathered_bytes and (one.stage, use.unit.path) not in there
    }
    kept: list[Key] = []
    for i, use in enumerate(one.uses):
        found = around.before.setdefault(use.first, [])
        if i in missing and (i == 0 or ahead == 0):
            found += _posted(one, use.unit, at_once)
        if i in missing:
            buffer, whole = one.key("buffer", use.unit), one.key("whole", use.unit)
            found += [] if at_once else [Wait((one.key("gather", use.unit),))]
            found += [Drop(key) for key in kept]
            found.append(Hold(whole, "gathered", use.unit.gathered_bytes))
            kept = [buffer] if one.kind == "F" else []
            found += [] if kept else [Drop(buffer)]
            there[one.stage, use.unit.path] = [whole]
        for j in range(i + 1 if i == 0 else i + ahead, i + ahead + 1):
            if j in missing and j > i:
                found += _posted(one, one.uses[j].unit, at_once)
    around.drop(one.end, kept)


def _posted(one: _Pass, unit: Group, at_once: bool) -> Instructions:
    """Return the post of a gather, into a buffer of its own."""
    key = one.key("gather", unit)
    call = Collective(key, Unit(unit.path), "all_gather", unit.axis, (), unit.gathered_bytes, one.stage, one.microbatch)
    buffer = Hold(one.key("buffer", unit), "gathered", unit.gathered_bytes)
    return [buffer, call, Wait((key,))] if at_once else [buffer, call]


def _dropped(unit: Group, kind: str, last: bool, lowering: Lowering) -> bool:
    """Whether a unit's parameters are dropped behind a pass."""
    sharding = lowering.plan.sharding
    if sharding.keep_gathered:
        return last
    return (
        kind != "F"
        or sharding.reshard_after_forward == "all"
        or (sharding.reshard_after_forward == "blocks" and not unit.root)
    )


def _reduces(one: _Pass, lowering: Lowering) -> bool:
    """Whether the gradients of a backward are reduced behind it, and not kept for a later one to add to."""
    return not lowering.plan.sharding.accumulate or (one.stage, one.kind, one.microbatch) in lowering.closing


def _scatters(one: _Pass, lowering: Lowering, around: _Around) -> None:
    """Reduce the gradients of each unit behind its backward, the root's last; the pass ends once all are reduced.

    What is reduced is a copy, in a buffer that is free once the next unit's gradients are made.
    """
    at_once = resolve_runtime(lowering.plan.runtime).units_at_once
    keys: list[Key] = []
    held: list[Key] = []
    for use in sorted((use for use in one.uses if use.unit.reduced_bytes), key=lambda use: use.unit.root):
        around.drop(use.last, held)
        held = [one.key("reduced", use.unit)]
        found = around.behind[use.last]
        found.append(Hold(held[0], "gradients", use.unit.reduced_bytes))
        for call in _reductions(one, use.unit, lowering):
            found += [call, *([Wait((call.key,))] if at_once else [])]
            keys.append(call.key)
    if keys:
        if not at_once:
            around.behind.setdefault(one.end, []).append(Wait(tuple(keys)))
        around.drop(one.end, held)


def _reductions(one: _Pass, unit: Group, lowering: Lowering) -> Iterator[Collective]:
    """Yield what reduces a unit's gradients: where replicas are groups that shard, the shards between those too."""
    of, plan = Unit(unit.path), lowering.plan
    first, size = one.key("scatter", unit), unit.reduced_bytes
    yield Collective(first, of, "reduce_scatter", unit.axis, (), size, one.stage, -1)
    if unit.axis == "shard" and plan.replicas > unit.parts:
        key = one.key("replicas", unit)
        yield Collective(key, of, "all_reduce", "replica", (), unit.share_bytes, one.stage, -1, first)
