"""What a rank of a plan holds at least, once its stages are cut: that follows from the order of its row alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from mpsim.lowering.held import Held
from mpsim.lowering.instructions import Compute, Drop, Hold
from mpsim.lowering.memory import residents_of, within
from mpsim.lowering.model import Lowering
from mpsim.lowering.passes import instructions_of
from mpsim.lowering.passes.hold import copied_bytes
from mpsim.lowering.stages import Stage, gradient_bytes, share_bytes

__all__ = ["held_at_least", "held_in_order"]


def held_at_least(lowering: Lowering, rank: int) -> int:
    """Return the bytes that a pipeline rank holds at least at its peak; of what is gathered for a while the least."""
    held = {number: lowering.stages[number] for number in lowering.shape.held_by(rank)}
    throughout = sum(one.bytes for one in residents_of(list(held.values()), 0))
    inside: dict[tuple[int, str, bool], int] = {}
    made: frozenset[int] = frozenset()
    gradients = {made: 0}
    now = most = 0
    for one in lowering.rows[rank]:
        stage = held[one.stage]
        again = lowering.computed_again(one.stage, one.microbatch)
        now += stage.kept_bytes(again is not None) if one.kind == "F" else 0
        # What runs again for a backward in two parts stays to the end of the second, attention cores apart.
        beside = sum(again.again) if again is not None and not again.partly else 0
        now += beside if one.kind == "I" else 0
        # Of the first backward of a stage, which makes its gradients, what is there before it.
        known = one.kind == "F" or one.stage in made
        key = (one.stage, one.kind, again is not None)
        if known and key not in inside:
            there = () if one.kind == "F" else tuple(gradient_bytes([stage]))
            pass_ = within(stage, _KINDS[one.kind], there, again is not None)
            inside[key] = max(pass_.most, 0) + (_gathered(stage) if one.kind != "W" else 0)
        most = max(most, now + (inside[key] if known else 0) + gradients[made])
        if one.kind in "BW":
            if one.stage not in made:
                made |= {one.stage}
                gradients[made] = _gradients([held[number] for number in made])
            now -= stage.kept_bytes(again is not None) + (beside if one.kind == "W" else 0)
    copied = copied_bytes(list(held.values()), lowering.plan)
    return throughout + max(most, now + gradients[made] + copied)


def held_in_order(lowering: Lowering, rank: int) -> int:
    """Return the bytes that a pipeline rank holds in the computation in which it holds most.

    Its computations follow one another: what is held from one to another is there in all between. What is held to
    the end of an exchange counts to the last computation before it.
    """
    own = Held(0)
    for at, step in enumerate(instructions_of(lowering, rank)):
        if isinstance(step, Compute):
            own.ran(at)
        elif isinstance(step, Hold | Drop):
            own.note(step)
    change = Counter[int]()
    for one in own.allocations:
        change[one.first] += one.bytes
        change[one.last + 1] -= one.bytes
    residents = residents_of([lowering.stages[number] for number in lowering.shape.held_by(rank)], 0)
    return sum(one.bytes for one in residents) + max(accumulate(change[at] for at in sorted(change)), default=0)


def _gathered(stage: Stage) -> int:
    """Return what of a stage's parameters is gathered at least while one of its layers computes: the root, a unit."""
    by_layer = dict.fromkeys(stage.layers, 0)
    root = 0
    for unit in stage.units:
        root += unit.gathered_bytes if unit.root else 0
        for layer in () if unit.root else unit.layers:
            by_layer[layer] += unit.gathered_bytes
    return root + min(by_layer.values())


_KINDS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


def _gradients(stages: Sequence[Stage]) -> int:
    """Return the bytes of the gradients of a rank's stages, of which replicas may have shares."""
    experts = frozenset().union(*(stage.experts for stage in stages))
    return share_bytes(gradient_bytes(stages), experts, (stages[0].shares, stages[0].expert_shares))
