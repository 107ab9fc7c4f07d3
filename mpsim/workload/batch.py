"""The samples of a batch: how many there are, and the same batch with more or fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from mpsim.errors import MpsimError
from mpsim.workload.nested import Done, map_values, parts_of, tensors_in

__all__ = ["resized", "samples_of"]


def samples_of(*arguments: Any, asked: int | None = None) -> int | None:
    """Return how many samples the arguments hold; None if no tensor says and none are asked for.

    That is the first dimension of the first tensor, the number of a packed sequence's rows, or the length of a
    list of tensors that are one a sample. What lies in a sequence counts only if nothing else does. Where a number is
    asked for and one of them is that number, it is meant.

    Examples
    --------
    >>> samples_of(torch.ones(8, 3), [torch.ones(5)]), samples_of({"scale": 2.0})
    (8, None)
    >>> samples_of([torch.ones(3, 8, 8), torch.ones(3, 9, 8)]), samples_of(torch.ones(16), torch.ones(4, 16), asked=4)
    (2, 4)
    """
    counts: list[int] = []
    sequences: list[Sequence[Any]] = []
    waiting, seen = list(reversed(arguments)), {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # an object that holds itself
            continue
        seen[id(value)] = value
        if (rows := _rows(value)) is not None:
            counts.append(rows)
        elif _is_sequence(value) and tensors_in(value):
            sequences.append(value)
        else:
            waiting += reversed(parts_of(value))
    counts += map(_samples_of_sequence, sequences)
    return asked if not counts or asked in (*counts, *map(len, sequences)) else counts[0]


def _samples_of_sequence(items: Sequence[Any]) -> int:
    """One a sample, unless the items agree in a first dimension, which is not the channels of an image."""
    counts = {_rows(tensor) for tensor in tensors_in(items)}
    common = counts.pop() if len(counts) == 1 else None
    if common is None or (common in (1, 3, 4) and all(tensor.dim() == 3 for tensor in tensors_in(items))):
        return len(items)
    return common


def resized(arguments: Sequence[Any], samples: int, size: int) -> list[Any]:
    """Return arguments with `size` of their `samples`, the first ones or all of them again and again.

    Tensors and packed sequences of so many rows change, and sequences of so many items, one a sample; what has
    another length stays. A tensor that is in several arguments stays one.

    Parameters
    ----------
    arguments : sequence
        Those of a forward, and a target.
    samples, size : int
        How many samples there are, and are to be.

    Raises
    ------
    MpsimError
        Nothing is of so many samples, or a kind of tensor cannot be indexed by its rows.

    Examples
    --------
    >>> resized([torch.arange(2), {"sizes": ["a", "b"], "mask": torch.ones(4)}], 2, 3)
    [tensor([0, 1, 0]), {'sizes': ['a', 'b', 'a'], 'mask': tensor([1., 1., 1., 1.])}]
    """
    if size == samples:
        return list(arguments)

    def visit(value: Any) -> Any:
        if _rows(value) == samples:
            return _picked(value, samples, size)
        if _is_one_a_sample(value, samples):
            return type(value)(value[i % samples] for i in range(size))
        return value

    done: Done = {}
    made = [map_values(visit, argument, done) for argument in arguments]
    if all(new is old for new, old in zip(made, arguments, strict=True)):
        raise MpsimError(
            f"nothing in the batch is of {samples} samples, so that it cannot be made {size}: trace at {samples} alone,"
            " or give a factory f(batch_size)"
        )
    return made


def _rows(value: Any) -> int | None:
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, torch.Tensor) and value.dim() > 0:
        return int(value.shape[0])
    return None


def _is_sequence(value: Any) -> bool:
    return type(value) in (list, tuple)


def _is_one_a_sample(value: Any, samples: int) -> bool:
    """Whether a sequence holds an item for each sample, and not for instance two tensors of two samples each."""
    if not _is_sequence(value) or len(value) != samples:
        return False
    tensors = tensors_in(value)
    if tensors:
        return any(_rows(tensor) != samples for tensor in tensors)
    # Without a tensor: texts, or lists that a collate function made; a tuple of numbers is a size.
    return isinstance(value, list) or all(isinstance(item, str | Mapping) for item in value)


def _picked(value: Any, samples: int, size: int) -> Any:
    """Return the first rows, or all of them again and again."""
    try:
        return _packed(value, samples, size) if isinstance(value, PackedSequence) else _tensor(value, samples, size)
    except Exception as error:  # sparse and other layouts have each their own
        layout = getattr(value, "layout", "tensor")
        raise MpsimError(
            f"a {layout} of {samples} samples cannot be made {size} ({type(error).__name__}): trace at {samples} alone,"
            " or give a factory f(batch_size)"
        ) from error


def _tensor(value: torch.Tensor, samples: int, size: int) -> torch.Tensor:
    rows = value.detach()
    if value.is_nested:
        parts = rows.unbind()
        made = torch.nested.as_nested_tensor([parts[i % samples] for i in range(size)], layout=value.layout)
    elif value.layout != torch.strided:
        made = rows.index_select(0, torch.arange(size, device=value.device) % samples)
    elif value.stride(0) == 0:  # one row for all, as expand() gives
        made = rows[:1].expand(size, *value.shape[1:])
    elif size < samples:
        made = rows[:size].clone()  # not a view, which holds the memory of all
    else:
        made = torch.cat([rows] * -(-size // samples))[:size].clone()  # keeps the order of dimensions in memory
    return made.requires_grad_(value.requires_grad)


def _packed(value: PackedSequence, samples: int, size: int) -> PackedSequence:
    rows = unpack_sequence(value)
    sorted_rows = value.sorted_indices is None
    order = sorted(i % samples for i in range(size)) if sorted_rows else [i % samples for i in range(size)]
    return pack_sequence([rows[i] for i in order], enforce_sorted=sorted_rows)
