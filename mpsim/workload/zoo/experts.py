"""The experts of a mixture as two grouped products, in the type that autocast computes in."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mpsim.workload.exchanged import as_autocast

__all__ = ["EXPERTS"]

EXPERTS = "mpsim_grouped"
"""Each token's chosen experts by grouped matrix products (https://arxiv.org/abs/2211.15841): no token is dropped.

The work is that of `top_k` experts a token, however the router spreads them. Transformers' own function leaves
autocast aside and would multiply a float32 model's experts in float32, where its other layers multiply in bfloat16.
"""


def _grouped(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return rows [n, in] times the weights [experts, out, in] of the expert in whose span each row lies."""
    left, right = as_autocast(rows), as_autocast(weights).transpose(-2, -1)
    narrow = left.dtype == torch.bfloat16  # PyTorch exports its own in bfloat16 alone, and has none in float64
    if left.dtype == torch.float64 or (torch.compiler.is_exporting() and not narrow):
        return torch.ops.transformers.grouped_mm_fallback(left, right, offs=ends)
    return F.grouped_mm(left, right, offs=ends)


def _experts(self: Any, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the sum of each token's `chosen` experts, by their `shares`: [tokens, hidden]."""
    tokens, top_k = chosen.shape
    expert, order = chosen.flatten().sort()
    ends = torch.searchsorted(expert, torch.arange(1, self.num_experts + 1, device=expert.device), out_int32=True)
    gate, up = _grouped(hidden[order // top_k], self.gate_up_proj, ends).chunk(2, dim=-1)
    outputs = _grouped(self.act_fn(gate) * up, self.down_proj, ends) * shares.flatten()[order].unsqueeze(-1)
    return outputs[order.argsort()].view(tokens, top_k, -1).sum(1).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts)
