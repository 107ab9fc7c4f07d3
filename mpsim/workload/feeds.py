"""What a model is fed, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.workload.example import Example

__all__ = ["feed_name", "feeds_of"]


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
            feeds.setdefault(feed_name(path, len(example.inputs)), value)
    return feeds


def feed_name(path: tuple[Any, ...], inputs: int) -> str:
    """Return the name of what stands at a path in (inputs, keywords, target), of so many inputs.

    Examples
    --------
    >>> leaves, _ = pytree.tree_flatten_with_path(((1, [2]), {"mask": 3}, None))
    >>> [feed_name(path, 2) for path, _ in leaves][:3]
    ['input.0', 'input.1.0', 'mask']
    """
    kind, *rest = (getattr(key, "idx", getattr(key, "key", getattr(key, "name", ""))) for key in path)
    words = [str(item) for item in rest]
    if kind == 1:
        return ".".join(words)
    first = "target" if kind == 2 else "input"
    return ".".join([first, *(words if kind == 2 or inputs > 1 or len(words) > 1 else [])])
