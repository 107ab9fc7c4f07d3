"""The backward passes of a model's own making: classes of ``torch.autograd.Function`` in its autograd graph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.autograd.function import BackwardCFunction

__all__ = ["Functions", "name_of"]


class Functions:
    """What stands between outputs and the tensors that they depend on.

    Parameters
    ----------
    outputs : iterable of torch.Tensor
        Whose graph is walked.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1, requires_grad=True)
    >>> Functions([x * 2]).classes()
    []
    """

    def __init__(self, outputs: Iterable[Any]) -> None:
        self._readers: dict[Any, list[Any]] = {}
        self._leaves: dict[int, Any] = {}
        waiting = [value.grad_fn for value in outputs if value.grad_fn is not None]
        self._nodes = dict.fromkeys(waiting)
        while waiting:
            node = waiting.pop()
            if (leaf := getattr(node, "variable", None)) is not None:
                self._leaves[id(leaf)] = node
            for below, _ in node.next_functions:
                if below is None:
                    continue
                self._readers.setdefault(below, []).append(node)
                if below not in self._nodes:
                    self._nodes[below] = None
                    waiting.append(below)

    def classes(self, leaf: Any = None) -> list[type]:
        """Return the classes of functions, or those alone that a leaf's gradient passes through."""
        nodes: Iterable[Any] = self._nodes
        if leaf is not None:
            nodes = self._above(self._leaves.get(id(leaf)))
        return list(dict.fromkeys(type(node)._forward_cls for node in nodes if isinstance(node, BackwardCFunction)))

    def _above(self, node: Any) -> Iterable[Any]:
        found = {node: None}
        waiting = [node]
        while waiting:
            for reader in self._readers.get(waiting.pop(), []):
                if reader not in found:
                    found[reader] = None
                    waiting.append(reader)
        return found


def name_of(kind: type) -> str:
    """Return a function's name with the place of its backward.

    Examples
    --------
    >>> name_of(type("Sign", (), {}))
    'Sign'
    """
    code = getattr(getattr(kind, "backward", None), "__code__", None)
    return kind.__name__ + (f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code is not None else "")
