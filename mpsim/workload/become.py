"""A class put before that of a module, whose name it keeps: the module does as before, and something around it."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["become"]


def become(module: nn.Module, kind: type, **own: Any) -> None:
    """Let a module be of a class too, with attributes of that class as `own` has them.

    Examples
    --------
    >>> class Twice:
    ...     times = 2
    ...     def forward(self, x):
    ...         return self.times * super().forward(x)
    >>> module = nn.Identity()
    >>> become(module, Twice, times=3)
    >>> module(2), type(module).__name__, nn.Identity()(2)
    (6, 'Identity', 2)
    """
    before = type(module)
    module.__class__ = type(before.__name__, (kind, before), {**own, "__module__": before.__module__})
