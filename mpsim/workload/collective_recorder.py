"""Record the collectives that a sharded module makes, each with the module and the phase that it belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CollectiveRecorder", "RecordedCollective", "placed", "watch_modules"]

_KINDS = {
    "all_reduce": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_to_all_single": "all_to_all",
    "shard_dim_alltoall": "all_to_all",
}
_NO_SCHEMA = SimpleNamespace(name="")
_NAMESPACES = ("_c10d_functional", "_c10d_functional_autograd", "_dtensor")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCollective:
    """A collective that one rank took part in.

    Attributes
    ----------
    module : str
        The path of the innermost module whose forward or backward it belongs to; ``""`` for the model itself.
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``send_receive`` (each to the next).
    bytes : int
        The whole tensor: of an all-gather the gathered result, of the others the input.
    phase : str
        ``forward`` or ``backward``.
    axis : str
        Along which axis its ranks are: ``tp``, ``cp`` or ``ep``.
    when : str
        ``before`` the layer computes, ``beside`` or ``behind`` it.

    Examples
    --------
    >>> RecordedCollective(module="fc2", kind="all_reduce", bytes=4096, phase="forward").kind
    'all_reduce'
    """

    module: str
    kind: str
    bytes: int
    phase: str
    axis: str = "tp"
    when: str = "behind"


_PLACED: ContextVar[str] = ContextVar("placed", default="")


@contextlib.contextmanager
def placed(when: str) -> Iterator[None]:
    """Say of the collectives made within that they are ``before``, ``beside`` or ``behind`` what their layer computes.

    Of others, what an all-gather makes is computed on, and what others take has been computed.

    Examples
    --------
    >>> with placed("beside"):
    ...     pass
    """
    token = _PLACED.set(when)
    try:
        yield
    finally:
        _PLACED.reset(token)


@dataclass(slots=True)
class _Call:
    """One call of a module: the autograd nodes that it made are those numbered from `first` up to `last`."""

    module: str
    first: int
    last: int | None = None


class CollectiveRecorder(TorchDispatchMode):  # type: ignore[misc]
    """While active, note every functional collective.

    A backward collective belongs to the innermost module call that made the autograd node under which it
    runs. Nodes are numbered as they are made, in forward; so a call owns a range of numbers. A collective
    outside of every module, in the loss, belongs to the module called last.

    Parameters
    ----------
    axes : mapping of str to str
        The axis of each process group, by the group's name; of others it is ``tp``.

    Examples
    --------
    >>> with CollectiveRecorder() as recorder:
    ...     _ = torch.ones(1) + 1
    >>> recorder.collectives
    []
    """

    def __init__(self, axes: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self.axes = axes
        self.collectives: list[RecordedCollective] = []
        self._calls: list[_Call] = []
        self._open: list[_Call] = []

    def enter(self, module: str) -> None:
        """Note that a call of `module` begins."""
        call = _Call(module, torch.autograd._get_sequence_nr())
        self._calls.append(call)
        self._open.append(call)

    def leave(self) -> None:
        """Note that the innermost call ends."""
        self._open.pop().last = torch.autograd._get_sequence_nr()

    @property
    def inside(self) -> str:
        """The path of the innermost module whose call goes on; empty outside of all."""
        return self._open[-1].module if self._open else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        space, _, name = getattr(func, "_schema", _NO_SCHEMA).name.partition("::")
        if space in _NAMESPACES and name.rstrip("_") in _KINDS:
            kind = "send_receive" if _is_shift(args) else _KINDS[name.rstrip("_")]
            axis = next((self.axes[item] for item in args if isinstance(item, str) and item in self.axes), "tp")
            self._note(kind, result if kind == "all_gather" else args[0], axis)
        return result

    def _note(self, kind: str, tensor: torch.Tensor, axis: str) -> None:
        node = torch._C._current_autograd_node()
        self.collectives.append(
            RecordedCollective(
                module=self._module(node),
                kind=kind,
                bytes=tensor.numel() * tensor.element_size(),
                phase="forward" if node is None else "backward",
                axis=axis,
                when=_PLACED.get() or ("before" if kind == "all_gather" else "behind"),
            )
        )

    def _module(self, node: Any) -> str:
        inside = self._open
        if node is not None:
            number = node._sequence_nr()
            inside = [call for call in self._calls if call.last is not None and call.first <= number < call.last]
        return (inside or self._calls)[-1].module


def _is_shift(args: Any) -> bool:
    """Whether an exchange sends all to one rank: the sizes that it was told are nothing but for one."""
    sizes = args[2] if len(args) > 2 and isinstance(args[2], list | tuple) else ()
    return len(sizes) > 1 and sum(map(bool, sizes)) == 1


@contextlib.contextmanager
def watch_modules(model: nn.Module, recorder: CollectiveRecorder) -> Iterator[None]:
    """Tell `recorder` of every call of a module of `model`, the hooks that shard it included.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> with watch_modules(model, CollectiveRecorder()):
    ...     _ = model(torch.ones(1, 1))
    """
    handles = []
    for path, module in model.named_modules():
        enter = lambda *_, path=path: recorder.enter(path)  # noqa: E731
        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(lambda *_: recorder.leave(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
