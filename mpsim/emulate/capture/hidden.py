"""What a forward does that torch.export cannot see, found by running it."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.generators import generators_kept
from mpsim.emulate.capture.refusal import place_in_model
from mpsim.emulate.capture.state import State
from mpsim.workload.example import Example

__all__ = ["hidden_work"]


def hidden_work(example: Example) -> str:
    """Run a forward, put all back, and say in words where it differentiates or writes its parameters.

    Examples
    --------
    >>> class Clipped(torch.nn.Linear):
    ...     def forward(self, x):
    ...         self.weight.data.clamp_(-1e-3, 1e-3)
    ...         return super().forward(x)
    >>> hidden_work(Example(model=Clipped(2, 2), inputs=(torch.ones(1, 2),)))
    'forward writes weight in place, through .data'
    """
    state = State(example.model)
    calls: list[str] = []

    def noting(function: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            calls.append(place_in_model())
            return function(*args, **kwargs)

        return called

    inputs, keywords = pytree.tree_map(_copy, (tuple(example.inputs), dict(example.keywords)))
    with (
        generators_kept(),
        state.kept() as moved,
        torch.enable_grad(),
        mock.patch.object(torch.autograd, "grad", noting(torch.autograd.grad)),
        mock.patch.object(torch.autograd, "backward", noting(torch.autograd.backward)),
    ):
        example.model(*inputs, **keywords)
    if calls:
        return f"forward calls autograd{calls[0]}: a capture holds what runs forward alone"
    for name in moved:
        return f"forward writes {name} in place, through .data{state.written_at.get(name, '')}"
    return ""


def _copy(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value
