"""Tokens of a mixture of experts sent to the ranks that have their experts, and back.

::

    route ── permute ── all-to-all ── sort ── experts ── unsort ── all-to-all ── unpermute, add up
             by expert  dispatch                                   combine

As the token dispatchers of torchtitan and of Megatron-LM do it: no token is dropped, and ranks first tell each other
how many rows will come for each expert. Backward goes through both all-to-alls once more.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single

from mpsim.workload.exchanged import as_autocast, waited

__all__ = ["Dispatched"]


class Dispatched(nn.Module):  # type: ignore[misc]
    """The experts of one rank: a class to put before that of a module of experts, which runs what the rank receives.

    What is received is as much as is sent, or `imbalance` times as much on the rank that is computed: rows for each of
    its experts alike, from every rank alike.

    Attributes
    ----------
    ranks : int
        That share the experts.
    held : int
        Experts of this rank.
    imbalance : float
        What the busiest rank receives and computes, in means.
    group : ProcessGroup or None
        Of those ranks; None: nothing is exchanged, and rows of its own stand for those that a rank would receive.

    Examples
    --------
    >>> class Scale(nn.Module):
    ...     def forward(self, tokens, chosen, shares):
    ...         return 2 * tokens * shares
    >>> module = Scale()
    >>> module.__class__ = type("Scale", (Dispatched, Scale), {})
    >>> module.ranks, module.held, module.imbalance, module.group = 2, 2, 1.5, None
    >>> module(torch.ones(3, 1), torch.tensor([[0, 1], [2, 3], [0, 3]]), torch.full((3, 2), 0.25)).flatten()
    tensor([1., 1., 1.])
    """

    ranks: int
    held: int
    imbalance: float
    group: Any

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Return the sum of each token's `chosen` experts, by their `shares`, in the shape of `hidden`."""
        if chosen.shape != shares.shape:
            raise ValueError(f"shares {tuple(shares.shape)} are not one for each chosen expert {tuple(chosen.shape)}")
        top_k = chosen.shape[-1]
        tokens = chosen.numel() // top_k
        expert, order = chosen.flatten().sort()
        starts = torch.arange(self.ranks * self.held + 1, device=expert.device)
        waited(self._exchange(torch.searchsorted(expert, starts).diff()))  # how many rows go to each expert
        rows = as_autocast(hidden.reshape(tokens, -1)[order // top_k])
        received = self._exchange(_Resized.apply(rows, _ceil(len(rows) * self.imbalance)))
        ones = torch.ones(len(received), 1, dtype=shares.dtype, device=shares.device)
        outputs = super().forward(received, self._experts_of(received).unsqueeze(1), ones)
        returned = _Resized.apply(self._exchange(outputs), len(rows)) * shares.flatten()[order].unsqueeze(1)
        return returned[order.argsort()].view(tokens, top_k, -1).sum(1).to(hidden.dtype).view(hidden.shape)

    def _exchange(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what comes for what is sent: as many rows from each rank."""
        if self.group is None:
            return rows
        parts = [len(rows) // self.ranks + (i < len(rows) % self.ranks) for i in range(self.ranks)]
        return all_to_all_single(rows, parts, parts, self.group)

    def _experts_of(self, received: torch.Tensor) -> torch.Tensor:
        """Return the expert of each row: from each rank come those of the first, then those of the next."""
        of_rank = -(-len(received) // self.ranks)
        return torch.arange(len(received), device=received.device) % of_rank * self.held // of_rank


def _ceil(rows: float) -> int:
    return math.ceil(round(rows, 6))  # 10 rows of 1.1 are 11


class _Resized(torch.autograd.Function):  # type: ignore[misc]
    """Rows made more, where a rank receives more than it sends, or fewer; nothing is done where they are as many."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, count: int) -> torch.Tensor:
        ctx.count = len(rows)
        return _resized(rows, count)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _resized(gradient, ctx.count), None


def _resized(rows: torch.Tensor, count: int) -> torch.Tensor:
    if len(rows) >= count:
        return rows[:count]
    repeated = [rows] * (count // max(1, len(rows)))
    return torch.cat([*repeated, rows[: count - len(repeated) * len(rows)]])
