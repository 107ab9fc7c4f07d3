"""The form of a model's output: its tensors apart from what holds them, and together again."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mpsim.workload.example import fields_of

__all__ = ["Form", "take_apart"]

_PLAIN = (torch.Tensor, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the leaves of an output make it up.

    Attributes
    ----------
    structure : torch.utils._pytree.TreeSpec
        Of PyTorch's own kinds of container.
    records : tuple of (class, Form) or None
        For each leaf of the structure: the record that stands there, None for a leaf that is a value.
    dropped : tuple of str
        Classes of what is no output to send or train on, such as a cache; None stands in its place.

    Examples
    --------
    >>> leaves, form = take_apart({"scores": torch.ones(1), "cache": object()})
    >>> form.dropped, form.rebuild(leaves)
    (('object',), {'scores': tensor([1.]), 'cache': None})
    """

    structure: Any = None
    records: tuple[tuple[type, Form] | None, ...] = ()
    dropped: tuple[str, ...] = ()

    def rebuild(self, leaves: Any) -> Any:
        """Return the output that has these leaves."""
        return self._rebuild(iter(leaves))

    def _rebuild(self, leaves: Iterator[Any]) -> Any:
        items = []
        for record in self.records:
            items.append(next(leaves) if record is None else _record(record[0], record[1]._rebuild(leaves)))
        return pytree.tree_unflatten(items, self.structure)


def take_apart(output: Any, *, outermost: bool = True) -> tuple[list[Any], Form]:
    """Return the leaves of an output, and its form.

    Examples
    --------
    >>> import types
    >>> leaves, form = take_apart(types.SimpleNamespace(loss=1.0, hidden=(2, 3)))
    >>> leaves, form.rebuild([1.0, 4, 5])
    ([1.0, 2, 3], namespace(loss=1.0, hidden=(4, 5)))
    """
    items, structure = pytree.tree_flatten(output)
    leaves: list[Any] = []
    records: list[tuple[type, Form] | None] = []
    dropped: list[str] = []
    for item in items:
        fields = None if isinstance(item, _PLAIN) else fields_of(item, outermost=outermost and item is output)
        if fields is not None:
            inner, form = take_apart(fields, outermost=False)
            leaves += inner
            records.append((type(item), form))
            dropped += form.dropped
            continue
        if not isinstance(item, _PLAIN):
            dropped.append(type(item).__name__)
            item = None
        leaves.append(item)
        records.append(None)
    return leaves, Form(structure=structure, records=tuple(records), dropped=tuple(dict.fromkeys(dropped)))


def _record(kind: type, fields: dict[str, Any]) -> Any:
    """Return a record without running its `__init__`, which may do more than to hold what it is given."""
    made: Any = (types.SimpleNamespace if issubclass(kind, types.SimpleNamespace) else object).__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
