"""Leave a model as it was found."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["from_one_seed", "put_back"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[Any]:
    """Give a model back as it was: parameters, buffers, gradients, modes, plain attributes, generators of numbers.

    Yields what puts its parameters and buffers back at once.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2)
    >>> with put_back(model):
    ...     _ = model(torch.randn(4, 2))
    >>> model.running_mean.tolist(), int(model.num_batches_tracked)
    ([0.0, 0.0], 0)
    """
    modes = [(module, module.training) for module in model.modules()]
    named = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    plain = [(module, {k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)}) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    values = [(tensor, _copy(tensor)) for tensor in (*model.parameters(), *model.buffers()) if not _is_lazy(tensor)]

    def restore() -> None:
        for module, parameters, buffers in named:
            for held, before in ((module._parameters, parameters), (module._buffers, buffers)):
                for name, tensor in before.items():
                    if held.get(name) is not tensor and not (tensor is not None and _is_lazy(tensor)):
                        held[name] = tensor
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        for module, attributes in plain:
            vars(module).update(attributes)

    for parameter, _ in gradients:
        parameter.grad = None
    with _generators():
        try:
            yield restore
        finally:
            restore()
            for module, training in modes:
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _is_lazy(tensor: Any) -> bool:
    """Whether a parameter has no shape yet: the first forward gives it one, and it stays so."""
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)


def _copy(tensor: Any) -> Any:
    return tensor.detach().clone()


@contextlib.contextmanager
def _generators() -> Iterator[None]:
    drawn, state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(state)


def from_one_seed() -> None:
    """Let every generator that a model may draw from begin anew: each step then takes the same path.

    Examples
    --------
    >>> from_one_seed()
    >>> first = torch.rand(1)
    >>> from_one_seed()
    >>> bool(first == torch.rand(1))
    True
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
