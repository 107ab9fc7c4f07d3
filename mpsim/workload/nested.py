"""Values nested in containers: what of a batch, a target or an output is a tensor, wherever it lies."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

__all__ = ["map_tensors", "map_values", "parts_of", "tensors_in"]

# What stands for itself: nothing that it holds is part of a batch.
_WHOLE = (torch.Tensor, torch.nn.Module, torch.Generator, type, types.ModuleType, str, bytes)


Done = dict[
    int, tuple[Any, Any]
]  # a value by identity -> itself, which keeps that identity its own, and what it became


def map_values(visit: Callable[[Any], Any], tree: Any, done: Done | None = None) -> Any:
    """Return the tree with every value replaced that `visit` gives another one for.

    Parameters
    ----------
    visit : callable
        Called with each value, containers before what is in them; what it replaces is not entered.
    tree : object
        Tensors in tuples, lists, dicts and other mappings, named tuples, dataclasses, packed sequences, objects with
        attributes, and in whatever is registered with PyTorch's pytrees; nested in any way.
    done : dict
        What was visited before, by identity: given to several calls, a value that they share is replaced once.

    Returns
    -------
    object
        Of the same types. What holds nothing that was replaced is the same object; the tree itself is not changed.

    Examples
    --------
    >>> map_values(lambda value: value + 1 if isinstance(value, int) else value, {"a": (1, "text"), "b": [2]})
    {'a': (2, 'text'), 'b': [3]}
    """
    done = {} if done is None else done
    if id(tree) not in done:
        done[id(tree)] = tree, tree  # for an object that holds itself
        found = visit(tree)
        done[id(tree)] = tree, _inside(visit, tree, done) if found is tree else found
    return done[id(tree)][1]


def _inside(visit: Callable[[Any], Any], tree: Any, done: Done) -> Any:
    apart = _taken_apart(tree)
    if apart is None:
        return tree
    before, together = apart
    after = [map_values(visit, item, done) for item in before]
    return tree if all(new is old for new, old in zip(after, before, strict=True)) else together(after)


def map_tensors(change: Callable[[torch.Tensor], Any], tree: Any, done: Done | None = None) -> Any:
    """Return the tree with every tensor changed, each once; what is no tensor stays.

    Examples
    --------
    >>> x = torch.ones(2)
    >>> changed = map_tensors(lambda tensor: 2 * tensor, {"a": x, "b": (x, 3, None)})
    >>> changed["b"][1:], changed["a"] is changed["b"][0]
    ((3, None), True)
    """
    return map_values(lambda value: change(value) if isinstance(value, torch.Tensor) else value, tree, done)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of a tree in their order, each once.

    Examples
    --------
    >>> [x.shape[0] for x in tensors_in({"a": torch.ones(1), "b": [torch.ones(2), "text"]})]
    [1, 2]
    """
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, tree)
    return found


def parts_of(value: Any) -> list[Any]:
    """Return what a container holds, in its order; nothing for what is no container.

    Examples
    --------
    >>> parts_of({"a": 1, "b": (2, 3)}), parts_of(torch.ones(2))
    ([1, (2, 3)], [])
    """
    apart = _taken_apart(value)
    return list(apart[0]) if apart else []


def _taken_apart(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]] | None:
    """Return what a container holds, and what puts it together again; None for what is no container."""
    if isinstance(value, _WHOLE) or callable(value):
        return None
    if isinstance(value, PackedSequence):  # its batch sizes stay as they are, and on the CPU
        held = [value.data, value.sorted_indices, value.unsorted_indices]
        return held, lambda new: type(value)(new[0], value.batch_sizes, *new[1:])
    if not pytree.tree_is_leaf(value):
        held, kind = pytree.tree_flatten(value, is_leaf=lambda item: item is not value)
        return held, lambda new: pytree.tree_unflatten(new, kind)
    if isinstance(value, Mapping):
        names = list(value)
        return [value[name] for name in names], lambda new: _mapping(value, dict(zip(names, new, strict=True)))
    attributes = _attributes(value)
    if not attributes:
        return None
    return list(attributes.values()), lambda new: _object(value, dict(zip(attributes, new, strict=True)))


def _mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return a mapping of the same type; one that takes no items becomes a dict."""
    try:
        made = copy.copy(value)
        for name, item in items.items():
            made[name] = item  # type: ignore[index]  # most can be changed
    except TypeError:
        return items
    return made


def _object(value: Any, attributes: dict[str, Any]) -> Any:
    """Return a copy with other attributes, set as a frozen dataclass lets them be set too."""
    made = copy.copy(value)
    for name, item in attributes.items():
        object.__setattr__(made, name, item)
    return made


def _attributes(value: Any) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def _slots(kind: type) -> tuple[str, ...]:
    names = kind.__dict__.get("__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in names if not name.startswith("__"))
