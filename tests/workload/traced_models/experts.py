"""A model whose blocks route each row to some of several experts."""

import itertools

import torch
from torch import nn


def mlp(*sizes):
    """Linears with a ReLU between them."""
    pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[one for pair in pairs for one in pair][:-1])


class _Experts(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.gate, self.dense = nn.Linear(32, 4), dense
        self.experts = nn.ModuleList(mlp(32, 64, 32) for _ in range(4))

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            if self.dense:
                out = out + expert(x) * (weight * (chosen == i)).sum(-1, keepdim=True)
            else:
                row, slot = torch.where(chosen == i)
                out.index_add_(0, row, expert(x[row]) * weight[row, slot, None])
        return out


class Routed(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.embed, self.head = nn.Embedding(100, 32), nn.Linear(32, 100)
        self.blocks = nn.ModuleList(_Experts(dense) for _ in range(2))

    def forward(self, ids):
        x = self.embed(ids).flatten(0, 1)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).view(*ids.shape, -1)
