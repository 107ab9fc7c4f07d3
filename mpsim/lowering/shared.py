"""Gradients that several stages hold: of tied parameters, and of stages of which there are copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mpsim.lowering.instructions import Copies, Tied
from mpsim.lowering.stages import Stage
from mpsim.plan.shape import Shape

__all__ = ["Shared", "shared_gradients"]


class Shared(NamedTuple):
    """A gradient that several stages hold: what it is of, its bytes, those stages, and their pipeline ranks."""

    of: Tied | Copies
    bytes: int
    stages: tuple[int, ...]
    ranks: tuple[int, ...]


def shared_gradients(
    stages: Sequence[Stage], shape: Shape, parts: int = 1, expert_parts: int = 1
) -> tuple[Shared, ...]:
    """Return the gradients that stages on several pipeline ranks share, in the order in which they are reduced.

    Those of copies of a stage come first, all of a stage's together; then, in the order in which they appear, those of
    parameters that layers of several stages share. Stages on one rank add theirs up where they are.
    Of replicas that shard gradients each has one of so many `parts`, of experts' one of so many `expert_parts`.
    """
    found = [*_copies(stages, shape, parts, expert_parts), *_tied(stages, shape, parts, expert_parts)]
    return tuple(one for one in found if len(one.ranks) > 1 and one.bytes)


def _copies(stages: Sequence[Stage], shape: Shape, parts: int, expert_parts: int) -> Iterator[Shared]:
    for s in range(shape.stages if shape.directions > 1 else 0):
        held = tuple(range(s, len(stages), shape.stages))
        made = [gradient for _, gradient in stages[s].gradients]
        common, own = (sum(one.bytes for one in made if one.expert is expert) for expert in (False, True))
        yield _shared(Copies(s), -(-common // parts) - (-own // expert_parts), held, shape)


def _tied(stages: Sequence[Stage], shape: Shape, parts: int, expert_parts: int) -> Iterator[Shared]:
    for first in range(0, len(stages), shape.stages):
        holders: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for s in range(first, first + shape.stages):
            for _, gradient in stages[s].gradients:
                holders.setdefault(gradient.parameter, []).append(s)
                sizes[gradient.parameter] = -(-gradient.bytes // (expert_parts if gradient.expert else parts))
        for name, where in holders.items():
            yield _shared(Tied(name), sizes[name], tuple(where), shape)


def _shared(of: Tied | Copies, count: int, stages: tuple[int, ...], shape: Shape) -> Shared:
    return Shared(of, count, stages, tuple(dict.fromkeys(shape.home[s] for s in stages)))
