"""More models of the kinds of the numbered cases, and of what people train that is in none of them."""

import torch
from torch import nn

from .plain import Case

MORE = {}


def more(least=1, *layers):
    """Register a factory; its trace has at least so many layers, some that begin with each of these names."""

    def add(function):
        MORE[function.__name__] = Case(function, least, layers)
        return function

    return add


def rows(batch, width=16):
    return torch.randn(batch, width)


class Plain(nn.Module):
    """Linears of one width with a tanh between them; `call` says how a layer is called."""

    def __init__(self, width=16, depth=3, call=lambda layer, x: layer(x)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.call = call

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(self.call(layer, x))
        return x


from . import derivatives, kinds, recompute, routes  # noqa: E402, F401  # each registers its own
