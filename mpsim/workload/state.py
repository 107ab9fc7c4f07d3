"""Leave a model as it was found."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["Restore", "from_one_seed", "generators_kept", "put_back"]

_NUMBERS = (bool, int, float, complex, str, bytes)
_CONTAINERS = (list, dict, set, deque)
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")  # a forward may add some, and note that it did
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Restore:
    """Puts a model, and what it is fed, back to how they were when this was made.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    feeds : iterable of torch.Tensor
        What it is fed: a forward may write into it.

    Examples
    --------
    >>> model, batch = nn.BatchNorm1d(2), torch.ones(4, 2)
    >>> restore = Restore(model, [batch])
    >>> _ = model(batch.mul_(3))
    >>> restore()
    >>> model.running_mean.tolist(), int(batch.sum())
    ([0.0, 0.0], 8)
    """

    def __init__(self, model: nn.Module, feeds: Iterable[Any] = ()) -> None:
        modules = [one for one in model.modules() if not isinstance(one, torch.jit.ScriptModule)]
        held = [(module, _attributes(module)) for module in modules if not _has_lazy(module)]
        values = [value for _, attributes in held for value in attributes.values()]
        self._held = held
        self._registered = [(table, dict(table)) for one in modules for table in (one._parameters, one._buffers)]
        hooks = [table for module, _ in held for name, table in vars(module).items() if name.endswith(_HOOKS)]
        self._contents = [(value, value.copy()) for value in (*values, *hooks) if isinstance(value, _CONTAINERS)]
        self._generators = [set_state for value in values for set_state in _generator(value)]
        loose = [value for value in values if isinstance(value, torch.Tensor)]
        self._parameters = _copies(model.parameters())
        self._tensors = _copies((*model.buffers(), *loose, *feeds))
        self._fed = [(tensor, tensor.requires_grad, tensor.grad) for tensor in feeds if tensor.is_leaf]

    def __call__(self) -> None:
        """Put everything back."""
        for table, before in self._registered:
            for name, tensor in before.items():
                if table.get(name) is not tensor and not _is_lazy(tensor):
                    table[name] = tensor
        for container, content in self._contents:
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(content)
        for module, attributes in self._held:
            now = vars(module)
            for name in _attributes(module).keys() - attributes.keys():
                del now[name]
            now.update(attributes)
        self._copy_back(self._parameters)
        self.again()

    def again(self) -> None:
        """Put back what steers a step, so that the next one is like the last; caches stay filled."""
        for module, attributes in self._held:
            now = vars(module)
            now.update({k: v for k, v in attributes.items() if type(v) in _NUMBERS and type(now.get(k)) in _NUMBERS})
        for set_state in self._generators:
            set_state()
        self._copy_back(self._tensors)
        for tensor, required, gradient in self._fed:
            tensor.requires_grad_(required)
            tensor.grad = gradient

    @staticmethod
    def _copy_back(tensors: list[tuple[Any, Any]]) -> None:
        with torch.no_grad():
            for tensor, value in tensors:
                if tensor.layout is not torch.strided or tensor.is_nested:
                    tensor.data = value.clone()
                    continue
                if tensor.shape != value.shape:  # in its own memory: others may share it
                    tensor.data = tensor.data.resize_(value.shape)
                tensor.copy_(value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds that not every module does."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _is_lazy(tensor: Any) -> bool:
    """Whether a parameter has no shape yet: the first forward gives it one, and it stays so."""
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)


def _has_lazy(module: nn.Module) -> bool:
    return any(_is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values()))


def _copies(tensors: Iterable[Any]) -> list[tuple[Any, Any]]:
    return [(one, one.detach().clone()) for one in tensors if not _is_lazy(one) and not _is_expanded(one)]


def _is_expanded(tensor: Any) -> bool:
    """Whether one place in memory stands for several values: PyTorch then lets nobody write into it."""
    return tensor.layout is torch.strided and not tensor.is_nested and torch._debug_has_internal_overlap(tensor) == 1


def _generator(value: Any) -> Iterator[Callable[[], None]]:
    """Yield what sets a generator of random numbers back to its present state, if it is one."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: (value.set_state(state), None)[1]
    elif isinstance(value, random.Random):
        drawn = value.getstate()
        yield lambda: value.setstate(drawn)
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        yield lambda: setattr(value.bit_generator, "state", bits)


@contextlib.contextmanager
def put_back(model: nn.Module, feeds: Iterable[Any] = ()) -> Iterator[Restore]:
    """Give a model back as it was: parameters, buffers, gradients, modes, attributes, generators of numbers.

    Yields what puts it back at once.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2)
    >>> with put_back(model):
    ...     _ = model(torch.randn(4, 2))
    >>> model.running_mean.tolist(), int(model.num_batches_tracked)
    ([0.0, 0.0], 0)
    """
    restore = Restore(model, tuple(feeds))
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    with generators_kept():
        try:
            yield restore
        finally:
            restore()
            for module, training in modes:
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Give the generators of Python, NumPy and PyTorch back as they were.

    Examples
    --------
    >>> with generators_kept():
    ...     first = random.random()
    >>> random.random() == first
    True
    """
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
