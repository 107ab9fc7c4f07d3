"""A batch in chunks along its first dimension, and what the chunks returned as one again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["batch_size", "chunk_sizes", "cut_leaf", "join", "micro_batches"]


def batch_size(leaves: Sequence[Any]) -> int:
    """Return the first dimension of the first tensor.

    Raises
    ------
    MpsimError
        There is no tensor with samples.

    Examples
    --------
    >>> batch_size([3, torch.ones(5, 2)])
    5
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors or tensors[0].dim() == 0 or tensors[0].shape[0] == 0:
        raise MpsimError("the input has no tensor whose first dimension holds samples: give a batch of 1 or more")
    return int(tensors[0].shape[0])


def chunk_sizes(samples: int, chunks: int | None, parts: int) -> list[int]:
    """Return how many samples each chunk has: equal ones if so many are asked for.

    Parameters
    ----------
    samples : int
        In the batch.
    chunks : int or None
        How many; None for one for each part, the last of which may then be smaller.
    parts : int
        Parts of the model.

    Raises
    ------
    MpsimError
        The batch does not divide.

    Examples
    --------
    >>> chunk_sizes(100, None, 4), chunk_sizes(10, None, 4), chunk_sizes(10, 5, 4)
    ([25, 25, 25, 25], [3, 3, 3, 1], [2, 2, 2, 2, 2])
    """
    if chunks is None:
        size = -(-samples // parts)
        return [min(size, samples - start) for start in range(0, samples, size)]
    if samples % chunks:
        raise MpsimError(
            f"batch of {samples} samples does not divide into {chunks} chunks: give a batch that does, or other chunks"
        )
    return [samples // chunks] * chunks


def cut_leaf(leaf: Any, samples: int, sizes: Sequence[int]) -> list[Any]:
    """Return a leaf of the input for each chunk: its samples, or all of what does not hold one for each.

    Examples
    --------
    >>> [part.tolist() for part in cut_leaf(torch.arange(3), 3, [2, 1])], cut_leaf(True, 3, [2, 1])
    ([[0, 1], [2]], [True, True])
    """
    if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != samples:
        return [leaf] * len(sizes)
    return list(leaf.split(list(sizes)))


def join(name: str, values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return the chunks' values as the whole batch's; gradients go back through it.

    A value with an entry for each sample is put together along its first dimension; a number, such as a loss, is
    averaged over the samples; what is the same in every chunk is taken as it is.

    Raises
    ------
    MpsimError
        A value that is none of these.

    Examples
    --------
    >>> join("y", [torch.ones(2, 1), torch.ones(1, 1)], [2, 1]).shape
    torch.Size([3, 1])
    >>> join("loss", [torch.tensor(1.0), torch.tensor(4.0)], [2, 1])
    tensor(2.)
    """
    first = values[0]
    if len(values) == 1:
        return first
    if all(value.dim() and value.shape[0] == size for value, size in zip(values, sizes, strict=True)):
        return torch.cat(list(values))
    if first.dim() == 0 and first.is_floating_point():
        return torch.stack([value * size for value, size in zip(values, sizes, strict=True)]).sum() / sum(sizes)
    if all(value.shape == first.shape and torch.equal(value, first) for value in values[1:]):
        return first
    raise MpsimError(
        f"output {name} has shape {list(first.shape)} for a chunk of {sizes[0]} samples: it neither holds an entry for"
        " each sample nor is the same for all chunks; split with chunks=1"
    )


def micro_batches(example: Example, replicas: int, count: int) -> list[list[Example]]:
    """Return an example's batch as `count` equal micro-batches for each replica.

    Raises
    ------
    MpsimError
        It does not divide.

    Examples
    --------
    >>> example = Example(model=torch.nn.Linear(1, 1), inputs=(torch.arange(4.0).reshape(4, 1),))
    >>> [[one.inputs[0].flatten().tolist() for one in row] for row in micro_batches(example, 2, 2)]
    [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    pieces = replicas * count
    leaves, structure = pytree.tree_flatten((tuple(example.inputs), dict(example.keywords), example.target))
    samples = batch_size(leaves)
    if samples % pieces:
        raise MpsimError(
            f"batch of {samples} samples does not divide into dp({replicas}) × micro-batches({count})"
            f" = {pieces} equal parts: change one of them"
        )
    columns = [cut_leaf(leaf, samples, [samples // pieces] * pieces) for leaf in leaves]
    cut = [pytree.tree_unflatten([column[i] for column in columns], structure) for i in range(pieces)]
    made = [
        dataclasses.replace(example, inputs=inputs, keywords=keywords, target=target)
        for inputs, keywords, target in cut
    ]
    return [made[d * count : (d + 1) * count] for d in range(replicas)]
