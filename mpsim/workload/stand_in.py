"""One watched run for many micro-batches: a stand-in size, a prime number, of which what grows with it is a multiple.

Shapes and bytes of such a run are turned into those at any other micro-batch: a dimension of 100,003 · 16 is one of
2 · 16 at two samples. What the run adds up it adds up for all micro-batches at once (:class:`Each`). It holds where the
model does at all of them what it does at the stand-in, which whoever uses it checks by one real run.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from mpsim.errors import MpsimError

__all__ = ["STAND_IN", "Each", "StandIn", "larger", "picked", "summed"]

STAND_IN = 100_003


@dataclass(frozen=True, slots=True)
class Each:
    """A number for each of several micro-batches; a plain number stands for the same at all of them.

    Examples
    --------
    >>> Each((1, 2)) + 1 - Each((0, 3))
    Each(values=(2, 0))
    """

    values: tuple[Any, ...]

    def __add__(self, other: Any) -> Each:
        return self._with(operator.add, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Each:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Each:
        return self._with(lambda mine, theirs: theirs - mine, other)

    def __neg__(self) -> Each:
        return Each(tuple(-value for value in self.values))

    def __bool__(self) -> bool:
        return any(self.values)

    def _with(self, combine: Callable[[Any, Any], Any], other: Any) -> Each:
        return Each(tuple(map(combine, self.values, _spread(other, len(self.values)))))


def _spread(number: Any, count: int) -> tuple[Any, ...]:
    return number.values if isinstance(number, Each) else (number,) * count


def larger(one: Any, other: Any) -> Any:
    """Return the larger of two numbers, at each micro-batch.

    Examples
    --------
    >>> larger(Each((1, 5)), 3), larger(1, 2)
    (Each(values=(3, 5)), 2)
    """
    if isinstance(one, Each):
        return one._with(max, other)
    return other._with(max, one) if isinstance(other, Each) else max(one, other)


def summed(numbers: Sequence[Any]) -> Any:
    """Return the exact sum of some floats, at each micro-batch, rounded once.

    Examples
    --------
    >>> summed([0.5, Each((1.0, 2.0))]), summed([0.1] * 10)
    (Each(values=(1.5, 2.5)), 1.0)
    """
    count = next((len(one.values) for one in numbers if isinstance(one, Each)), 0)
    if not count:
        return math.fsum(numbers)
    return Each(tuple(map(math.fsum, zip(*(_spread(one, count) for one in numbers), strict=True))))


class StandIn:
    """Turns what is seen at the stand-in micro-batch into what is so at others.

    Parameters
    ----------
    sizes : sequence of int
        The micro-batches.
    natural : collection of int
        Dimensions that are the model's own: others that are as large, and no multiple, are refused.

    Examples
    --------
    >>> stand_in = StandIn((1, 4))
    >>> stand_in.number(STAND_IN * 6), stand_in.number(7), stand_in.shape((STAND_IN * 2, 3), 1)
    (Each(values=(6, 24)), 7, (8, 3))
    """

    def __init__(self, sizes: Sequence[int], natural: Collection[int] = ()) -> None:
        self.sizes, self.natural = tuple(sizes), frozenset(natural)

    def number(self, count: int) -> Any:
        """Return a number of bytes at each micro-batch."""
        return Each(tuple(self.at(count, i) for i in range(len(self.sizes)))) if self.grows(count) else count

    def grows(self, count: int) -> bool:
        """Whether a number is a multiple of the stand-in."""
        return count != 0 and count % STAND_IN == 0

    def at(self, count: int, index: int) -> int:
        """Return a number at one of the micro-batches."""
        return count // STAND_IN * self.sizes[index] if self.grows(count) else count

    def shape(self, shape: Sequence[int], index: int) -> tuple[int, ...]:
        """Return a shape at one of the micro-batches.

        Raises
        ------
        MpsimError
            A dimension grows in another way than in proportion.
        """
        for size in shape:
            odd = size > STAND_IN and size % STAND_IN and size not in self.natural
            if odd or (self.grows(size) and self.grows(size // STAND_IN)):
                raise MpsimError(f"a dimension of {size} does not grow in proportion to the micro-batch")
        return tuple(self.at(size, index) for size in shape)

    def scales(self, values: Any) -> bool:
        """Whether a tensor among some arguments grows with the micro-batch."""
        if isinstance(values, torch.Tensor):
            return any(map(self.grows, values.shape)) or self._odd(values)
        return isinstance(values, list | tuple) and any(map(self.scales, values))

    def _odd(self, tensor: Any) -> bool:
        return any(size > STAND_IN and size not in self.natural for size in tensor.shape)

    def given(self, value: Any, index: int) -> Any:
        """Return an argument or a result as it is at one of the micro-batches: tensors without memory."""
        if isinstance(value, torch.Tensor):
            return value if value.layout is not torch.strided else self._tensor(value, index)
        if isinstance(value, list | tuple):
            return type(value)(self.given(item, index) for item in value)
        return self.at(value, index) if type(value) is int else value

    def _tensor(self, value: torch.Tensor, index: int) -> torch.Tensor:
        shape, stride = self.shape(value.shape, index), [self.at(one, index) for one in value.stride()]
        with _disable_current_modes():
            return torch.empty_strided(shape, stride, dtype=value.dtype, device="meta")


def picked(number: Any, index: int) -> Any:
    """Return a number at one of the micro-batches.

    Examples
    --------
    >>> picked(Each((1, 2)), 1), picked(5, 1)
    (2, 5)
    """
    return number.values[index] if isinstance(number, Each) else number
