"""What a step of a model does to its state: which tensors it moves, where in the code, and all put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mpsim.emulate.capture.attributes import put_back
from mpsim.emulate.capture.refusal import place_in_model
from mpsim.workload.operators import written_by

__all__ = ["State"]


class State:
    """The tensors of a model at one moment.

    Buffers, and tensors that are plain attributes, are copied; a parameter is copied when a step is about to write it,
    so that a model costs no second one.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Attributes
    ----------
    plain : frozenset of str
        Names of the tensors that are plain attributes.
    written_at : dict of str to str
        What was written in place, and where in the model's code first (empty: elsewhere).

    Examples
    --------
    >>> model = nn.BatchNorm1d(2, affine=False)
    >>> state = State(model)
    >>> with state.kept() as moved:
    ...     _ = model(torch.ones(3, 2))
    >>> sorted(moved), int(model.num_batches_tracked)
    (['num_batches_tracked', 'running_mean', 'running_var'], 0)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.plain = frozenset(_attributes(model))
        self.written_at: dict[str, str] = {}
        self._tensors = _tensors(model)
        # An alias costs nothing, and still has the old values when `.data` is set to another tensor.
        self._aliases = {name: tensor.detach() for name, tensor in self._tensors.items()}
        self._copies = {name: a.clone() for name, a in self._aliases.items() if not _is_parameter(self._tensors[name])}

    @contextlib.contextmanager
    def kept(self) -> Iterator[dict[str, Any]]:
        """Put everything back after a step; what it moved is then in the dictionary, by name, with its new value."""
        moved: dict[str, Any] = {}
        with put_back(self.model):
            try:
                with _Watch(self):
                    yield moved
                moved |= self._moved()
            finally:
                self.restore_tensors()

    def about_to_write(self, storage: int) -> None:
        """Copy the parameter that has a storage; note who writes."""
        for name, alias in self._aliases.items():
            if alias.untyped_storage()._cdata != storage:
                continue
            self._copies.setdefault(name, alias.clone())
            self.written_at.setdefault(name, place_in_model())

    def before(self, name: str) -> Any:
        """Return a tensor as it stood in the model, whatever stands there now."""
        return self._aliases[name]

    @property
    def storages(self) -> set[int]:
        """Of all tensors."""
        return {alias.untyped_storage()._cdata for alias in self._aliases.values()}

    def _moved(self) -> dict[str, Any]:
        found = {}
        now = _tensors(self.model)
        for name, alias in self._aliases.items():
            value, before = now.get(name), self._copies.get(name, alias)
            if value is not None and not _is_same(value, before):
                found[name] = value.detach().clone()
        return found

    def restore_tensors(self) -> None:
        """Put the values of all tensors back."""
        with torch.no_grad():
            for name, alias in self._aliases.items():
                tensor = self._tensors[name]
                if tensor.data_ptr() != alias.data_ptr():
                    tensor.data = alias
                if name in self._copies and not _is_same(alias, self._copies[name]):
                    alias.copy_(self._copies[name])


class _Watch(TorchDispatchMode):  # type: ignore[misc]
    """Tell a state of every operation that writes one of its tensors."""

    supports_higher_order_operators = True

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state, self._storages = state, state.storages

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in written_by(function, args, kwargs):
            if tensor.layout is torch.strided and tensor.untyped_storage()._cdata in self._storages:
                self._state.about_to_write(tensor.untyped_storage()._cdata)
        return function(*args, **kwargs)


def _tensors(model: nn.Module) -> dict[str, Any]:
    return dict(model.named_parameters()) | dict(model.named_buffers()) | _attributes(model)


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Return the tensors that are plain attributes of modules."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }


def _is_parameter(tensor: Any) -> bool:
    return isinstance(tensor, nn.Parameter)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two tensors have the same values, nan being nan; the same storage is not looked at."""
    if a.data_ptr() == b.data_ptr() and a.shape == b.shape:
        return True
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
