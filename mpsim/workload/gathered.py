"""A Linear whose outputs the ranks gather, or of whose inputs each takes its part: what one of them does alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["LocalGathered", "LocalSplit"]


class _Widened(torch.autograd.Function):  # type: ignore[misc]
    """A rank's outputs in the place of all ranks': the gradient is that of its own."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, ranks: int) -> torch.Tensor:
        ctx.width = own.shape[-1]
        return own.repeat(*[1] * (own.dim() - 1), ranks)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient[..., : ctx.width].contiguous(), None


class LocalGathered(nn.Linear):  # type: ignore[misc]
    """Some outputs of a Linear, with the memory of all ranks' outputs behind them.

    Examples
    --------
    >>> part = LocalGathered(3, 2)
    >>> part.ranks = 4
    >>> part(torch.ones(5, 3)).shape
    torch.Size([5, 8])
    """

    ranks: int = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., ranks · outputs], of which the rank's own are the first."""
        whole: torch.Tensor = _Widened.apply(super().forward(x), self.ranks)
        return whole


class LocalSplit(nn.Linear):  # type: ignore[misc]
    """Some inputs of a Linear, taken out of all, from input `first` on.

    Examples
    --------
    >>> part = LocalSplit(2, 3)
    >>> part.first = 4
    >>> part(torch.ones(5, 8)).shape
    torch.Size([5, 3])
    """

    first: int = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs] of [..., all inputs]."""
        return super().forward(x[..., self.first : self.first + self.weight.shape[1]])
