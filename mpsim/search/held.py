"""What a rank of a plan holds at least, once its stages are cut: that follows from the order of its row alone."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.lowering.memory import residents_of, within
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import Stage, gradient_bytes, share_bytes

__all__ = ["held_at_least"]


def held_at_least(lowering: Lowering, rank: int) -> int:
    """Return the bytes that a pipeline rank holds at least at its peak; what is gathered for a while left out."""
    held = {number: lowering.stages[number] for number in lowering.shape.held_by(rank)}
    throughout = sum(one.bytes for one in residents_of(list(held.values()), 0))
    inside: dict[tuple[int, str, bool], int] = {}
    made: frozenset[int] = frozenset()
    gradients = {made: 0}
    now = most = 0
    for one in lowering.rows[rank]:
        stage = held[one.stage]
        again = lowering.computed_again(one.stage, one.microbatch) is not None
        now += stage.kept_bytes(again) if one.kind == "F" else 0
        # Of the first backward of a stage, which makes its gradients, what is there before it.
        known = one.kind == "F" or one.stage in made
        key = (one.stage, one.kind, again)
        if known and key not in inside:
            there = () if one.kind == "F" else tuple(gradient_bytes([stage]))
            inside[key] = max(within(stage, _KINDS[one.kind], there, again).most, 0)
        most = max(most, now + (inside[key] if known else 0) + gradients[made])
        if one.kind in "BW":
            if one.stage not in made:
                made |= {one.stage}
                gradients[made] = _gradients([held[number] for number in made])
            now -= stage.kept_bytes(again)
    return throughout + max(most, now + gradients[made])


_KINDS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


def _gradients(stages: Sequence[Stage]) -> int:
    """Return the bytes of the gradients of a rank's stages, of which replicas may have shares."""
    experts = frozenset().union(*(stage.experts for stage in stages))
    return share_bytes(gradient_bytes(stages), experts, (stages[0].shares, stages[0].expert_shares))
