"""Adam for models in which some parameters get sparse gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["AdamOfSparse"]


class AdamOfSparse(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
    """SparseAdam for the parameters that get sparse gradients, and Adam for the others: each takes no other kind.

    PyTorch's users make these two optimizers; which parameters are whose, the first gradients say.

    Examples
    --------
    >>> table = torch.nn.Embedding(3, 2, sparse=True)
    >>> optimizer = AdamOfSparse(table.parameters())
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[table.weight])
    ['exp_avg', 'exp_avg_sq', 'step']
    """

    def __init__(self, parameters: Iterable[Any]) -> None:
        super().__init__(parameters, {})
        self._parts: list[Any] = []

    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for optimizer in self._parts or self._divided():
            optimizer.state = self.state
            optimizer.step()

    def _divided(self) -> list[Any]:
        owned = [item for group in self.param_groups for item in group["params"] if item.grad is not None]
        sparse = [item for item in owned if item.grad.layout != torch.strided]
        dense = [item for item in owned if item.grad.layout == torch.strided]
        self._parts = [torch.optim.Adam(dense, lr=0.0)] if dense else []
        if sparse:
            self._parts.append(torch.optim.SparseAdam(sparse, lr=1.0))
            self._parts[-1].param_groups[0]["lr"] = 0.0  # which it does not take at first
        return self._parts
