"""What a model is fed, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.workload.example import Example

__all__ = ["feeds_of"]


def feeds_of(example: Example) -> dict[str, Any]:
    """Return the tensors of an example's batch and target: ``input``, ``input.1``, ``target``, or a keyword's own name.

    Examples
    --------
    >>> one = torch.ones(2)
    >>> list(feeds_of(Example(model=None, inputs=(one,), keywords={"mask": one}, target=one)))
    ['input', 'mask', 'target']
    """
    leaves, _ = pytree.tree_flatten_with_path((tuple(example.inputs), dict(example.keywords), example.target))
    feeds: dict[str, Any] = {}
    for path, value in leaves:
        if isinstance(value, torch.Tensor):
            feeds.setdefault(_name(path, len(example.inputs)), value)
    return feeds


def _name(path: tuple[Any, ...], inputs: int) -> str:
    kind, *rest = (getattr(key, "idx", getattr(key, "key", getattr(key, "name", ""))) for key in path)
    words = [str(item) for item in rest]
    if kind == 1:
        return ".".join(words)
    first = "target" if kind == 2 else "input"
    return ".".join([first, *(words if kind == 2 or inputs > 1 or len(words) > 1 else [])])
