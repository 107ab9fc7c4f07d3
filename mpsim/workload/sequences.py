"""The sequences that a model is fed, and the parts of them that ranks get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["check_length", "cut_sequences", "sequence_lengths"]


def sequence_lengths(example: Example) -> frozenset[int]:
    """Return how long the sequences are that a model is fed: tokens [batch, sequence], or features behind these.

    Raises
    ------
    MpsimError
        It is fed none.

    Examples
    --------
    >>> sequence_lengths(Example(model=None, inputs=(torch.ones(2, 6, 4),)))
    frozenset({6})
    """
    leaves = pytree.tree_leaves((tuple(example.inputs), dict(example.keywords)))
    fed = [item for item in leaves if isinstance(item, torch.Tensor)]
    tokens = [item for item in fed if not item.is_floating_point() and item.dim() > 1]
    found = frozenset(item.shape[1] for item in tokens or [item for item in fed if item.dim() == 3][:1])
    if not found:
        raise MpsimError(
            f"{type(example.model).__name__} is fed no sequence that ranks could share: feed it tokens [batch,"
            " sequence] or features [batch, sequence, features], or trace no splits by cp and sequence"
        )
    return found


def check_length(length: int, parts: int, by: str, least: int = 0) -> None:
    """Refuse a sequence that does not divide into so many parts, and say which would that is `least` or longer.

    Examples
    --------
    >>> check_length(10, 4, "4 ranks", least=8)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: a sequence of 10 does not divide by 4 ranks: 8 does
    """
    if length % parts:
        near = max(parts, least, length // parts * parts)
        raise MpsimError(f"a sequence of {length} does not divide by {by}: {near} does")


def cut_sequences(example: Example, part: Callable[[torch.Tensor], torch.Tensor], *, target: bool) -> Example:
    """Return an example with a part of each sequence that it is fed, and of each target's, if `target` says so.

    What is fed as ``labels``, or by another name that begins so or with ``target``, is a target.

    Examples
    --------
    >>> halved = cut_sequences(Example(model=None, inputs=(torch.ones(2, 6, 4),)), lambda x: x[:, :3], target=False)
    >>> halved.inputs[0].shape
    torch.Size([2, 3, 4])
    """
    lengths = sequence_lengths(example)

    parts: dict[int, torch.Tensor] = {}  # what is fed twice, as input and as labels, is cut once

    def cut(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or item.dim() < 2 or item.shape[1] not in lengths:
            return item
        if id(item) not in parts:
            parts[id(item)] = part(item)
        return parts[id(item)]

    return dataclasses.replace(
        example,
        inputs=pytree.tree_map(cut, tuple(example.inputs)),
        keywords={
            name: pytree.tree_map(cut, value) if target or not name.startswith(("label", "target")) else value
            for name, value in example.keywords.items()
        },
        target=pytree.tree_map(cut, example.target) if target else example.target,
    )
