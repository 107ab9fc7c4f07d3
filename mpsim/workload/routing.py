"""How evenly a measured model's routers spread its tokens over experts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mpsim.workload.partial_styles import holds_experts

__all__ = ["routing_noted"]


@contextlib.contextmanager
def routing_noted(model: nn.Module, notes: list[str]) -> Iterator[None]:
    """Add to `notes` the least and most that an expert got of an equal share of the tokens, in each layer's first call.

    A mixture's experts are known by what they hold and by the choices [tokens, k] that they are given second.

    Examples
    --------
    >>> notes = []
    >>> with routing_noted(nn.Linear(1, 1), notes):
    ...     pass
    >>> notes
    []
    """
    chosen: dict[nn.Module, torch.Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module not in chosen and len(inputs) > 1:
            chosen[module] = inputs[1].detach().clone()

    mixtures = [module for module in model.modules() if holds_experts(module) and hasattr(module, "num_experts")]
    handles = [module.register_forward_pre_hook(watch) for module in mixtures]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if chosen:
        shares = torch.cat([_shares(numbers, module.num_experts) for module, numbers in chosen.items()])
        notes.append(
            f"experts got {shares.min():.2g} to {shares.max():.2g} of an equal share of the tokens, as the weights at"
            " hand route"
        )


def _shares(chosen: torch.Tensor, experts: int) -> torch.Tensor:
    """Return how many tokens each expert got, in those of an equal share."""
    counts = torch.bincount(chosen.flatten(), minlength=experts).float()
    return counts / counts.mean()
