"""What a model holds beside the values of its tensors: which they are, and the numbers and lists of its modules."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["counts", "put_back"]


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Leave every module's attributes as they were, its dictionaries and lists too: a forward may move any of them.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> with put_back(model):
    ...     model.calls, model.weight = 1, nn.Parameter(model.weight * 2)
    >>> hasattr(model, "calls")
    False
    """
    saved = [(module, dict(vars(module)), _contents(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, contents in saved:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
            for holder, items in contents:
                _refill(holder, items)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    return [(value, value.copy()) for value in vars(module).values() if isinstance(value, dict | list | set | deque)]


def _refill(holder: Any, items: Any) -> None:
    if len(holder) == len(items) and all(a is b for a, b in zip(_listed(holder), _listed(items), strict=True)):
        return
    holder.clear()
    if isinstance(holder, dict | set):
        holder.update(items)
    else:
        holder.extend(items)


def _listed(holder: Any) -> list[Any]:
    return [item for pair in holder.items() for item in pair] if isinstance(holder, dict) else list(holder)


def counts(model: nn.Module) -> dict[str, Any]:
    """Return each module's numbers, and what each list and dictionary holds how many of: what counts its calls.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.calls, model.seen = 3, [1, 2]
    >>> counts(model)["calls"], counts(model)["seen"]
    (3, 2)
    """
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            full = f"{path}.{name}" if path else name
            if isinstance(value, deque):
                found[full] = [id(item) for item in value]  # a queue turns at one length
            elif isinstance(value, dict | list | set):
                found[full] = len(value)
            elif isinstance(value, int | float):
                found[full] = value
    return found
