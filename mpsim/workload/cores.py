"""Attention cores in a stream of operations: what they take and keep beyond what the rest of a layer needs.

A core is one fused kernel, or what a model writes out: a batched product (the scores), whatever is done to its outcome
with a softmax among it (scale, mask, dropout), and the batched product with the values. What of it is kept for backward
is what selective recomputation frees (https://arxiv.org/abs/2205.05198).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FUSED", "Core", "Cores"]

FUSED = (
    "scaled_dot_product",
    "flash_attention_forward",
    "efficient_attention_forward",
    "flash_attn",
    "flex_attention",
)
_PRODUCTS = ("bmm", "baddbmm", "matmul", "einsum")


@dataclass(slots=True, eq=False)
class Core:
    """One core: its seconds, and the memory that it made and keeps, by number."""

    seconds: Any = 0.0
    kept: dict[int, Any] = field(default_factory=dict)
    softened: bool = False
    done: bool = False


class Cores:
    """Finds attention cores among operations, told of each as it runs; memory is known by a number.

    Examples
    --------
    >>> cores = Cores()
    >>> for name, given, made in (("bmm", (1, 2), (3,)), ("_softmax", (3,), (4,)), ("bmm", (4, 5), (6,))):
    ...     cores.ran(name, given, made)
    ...     cores.took(0.25)
    ...     if made == (4,):
    ...         cores.keep(4, 64)
    >>> [(core.seconds, core.kept) for core in cores.found], cores.seconds
    ([(0.75, {4: 64})], 0.75)
    """

    def __init__(self) -> None:
        self.found: list[Core] = []
        self.seconds: Any = 0.0
        self._part_of: dict[int, Core] = {}
        self._last: Core | None = None

    def ran(self, name: str, given: Iterable[int], made: Sequence[int]) -> None:
        """An operation has read some memory and made some."""
        read = dict.fromkeys(given)
        begun = list(dict.fromkeys(core for one in read if (core := self._part_of.get(one)) and not core.done))
        core, stays = begun[0] if begun else None, True
        if any(part in name for part in FUSED):
            core = Core(done=True)
            self.found.append(core)
        elif name in _PRODUCTS:
            ends = next((one for one in begun if one.softened), None)
            core, stays = ends or Core(), ends is None
            if ends is not None:
                ends.done = True
                self.found.append(ends)
        elif core is not None and "softmax" in name:
            core.softened = True
        self._last = core
        for one in made:
            if core is not None and stays:
                self._part_of[one] = core
            elif one not in read:  # new, where something else was before
                self._part_of.pop(one, None)

    def took(self, seconds: Any) -> None:
        """The last operation took so long."""
        self.seconds += seconds
        if self._last is not None:
            self._last.seconds += seconds

    def keep(self, one: int, count: Any) -> None:
        """Memory of so many bytes is kept for backward, once more if it was before."""
        core = self._part_of.get(one)
        if core is None:
            return
        if one not in core.kept:
            core.kept[one] = count
        elif core.done:
            # The rest of the layer needs it too.
            del core.kept[one]
            del self._part_of[one]

    def as_read(self, read: Callable[[Any], Any]) -> Cores:
        """Return what was found, with each number as `read` gives it."""
        made = Cores()
        made.seconds = read(self.seconds)
        made.found = [
            Core(seconds=read(core.seconds), kept={one: read(count) for one, count in core.kept.items()})
            for core in self.found
        ]
        return made
