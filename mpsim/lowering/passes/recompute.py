"""Recompute: the forward of what was not kept, again, right before its backward."""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.lowering.instructions import Compute, Instructions, Wait
from mpsim.lowering.model import Lowering

__all__ = ["recompute"]


def recompute(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put a second forward before each backward of what is computed again.

    Layer by layer, once the gradient has come that the backward begins with, as torch.utils.checkpoint does; a whole
    stage at once while that gradient is still on its way, as torchgpipe does::

        layers   F0 F1      wait  R1 B1 R0 B0
        stages   F0 F1  R0 R1  wait  B1 B0
    """
    if not any(stage.recomputed for stage in lowering.stages):
        return instructions
    found: Instructions = []
    for one in instructions:
        again = lowering.computed_again(one.stage, one.microbatch) if isinstance(one, Compute) else None
        if again is None or not isinstance(one, Compute) or one.pass_kind not in "BI":
            found.append(one)
        elif again.whole:
            before = len(found) - (bool(found) and isinstance(found[-1], Wait))
            found.insert(before, one._replace(pass_kind="R"))
            found.append(one)
        else:
            found += _layer_by_layer(one, again.layers)
    return found


def _layer_by_layer(one: Compute, layers: frozenset[int]) -> Iterator[Compute]:
    """Yield a backward cut into runs of layers that are kept, and single ones, each behind its second forward."""
    last = one.last
    for layer in reversed(range(one.first, one.last)):
        if layer in layers:
            if layer + 1 < last:
                yield one._replace(first=layer + 1, last=last)
            for kind in ("R", one.pass_kind):
                yield one._replace(pass_kind=kind, first=layer, last=layer + 1)
            last = layer
    if one.first < last:
        yield one._replace(last=last)
