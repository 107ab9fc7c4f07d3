"""What goes over the pipe to the process of a device and back: tensors, and the graphs of a part, as bytes.

PyTorch's own way of pickling for other processes passes tensors in shared memory, of which a container has little, and
that of graphs traces them again. Here a tensor is its bytes, in the order in which they lie in memory, so that who
receives it computes the same bits; a graph is its code.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph_module import _format_import_block, _forward_from_src
from torch.package import sys_importer

__all__ = ["Body", "receive", "send"]

_LENGTH = struct.Struct("<Q")
_PIECE = 1 << 20


def send(line: socket.socket, value: Any) -> None:
    """Send a value; the other end gets it from `receive`."""
    buffer = io.BytesIO()
    buffer.write(_LENGTH.pack(0))
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    view = buffer.getbuffer()
    _LENGTH.pack_into(view, 0, len(view) - _LENGTH.size)
    line.sendall(view)


def receive(line: socket.socket) -> Any:
    """Wait for a value.

    Raises
    ------
    EOFError
        The other end is gone.

    Examples
    --------
    >>> one, other = socket.socketpair()
    >>> send(one, {"x": torch.ones(2, 3).t()})
    >>> receive(other)["x"].stride()
    (1, 3)
    """
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    return pickle.loads(_exactly(line, length))


def _exactly(line: socket.socket, length: int) -> bytearray:
    found = bytearray(length)
    view, at = memoryview(found), 0
    while at < length:
        count = line.recv_into(view[at : at + _PIECE])
        if count == 0:
            raise EOFError
        at += count
    return found


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, fx.GraphModule):
            return _body, _code_of(value)
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized:
            return _tensor, _bytes_of(value)
        return NotImplemented


def _bytes_of(value: Any) -> tuple[Any, ...]:
    """Return a tensor's bytes as they lie in memory, where they lie without gaps, and how to read them."""
    flat = value.detach().cpu().resolve_conj().resolve_neg()
    order = sorted(range(flat.dim()), key=lambda dim: (-flat.stride(dim), dim))
    if not flat.permute(order).is_contiguous():
        order = list(range(flat.dim()))
    laid = flat.permute(order).contiguous()
    raw = laid.reshape(-1).view(torch.uint8).numpy()
    return raw, value.dtype, tuple(laid.shape), order, value.requires_grad, isinstance(value, nn.Parameter)


def _tensor(
    raw: Any, dtype: torch.dtype, shape: tuple[int, ...], order: list[int], trained: bool, parameter: bool
) -> Any:
    # Cloned to where PyTorch's allocator aligns it: what a matrix product rounds to depends on that.
    laid = torch.from_numpy(raw).clone().view(dtype).reshape(shape)
    value = laid.permute([order.index(dim) for dim in range(len(order))])
    return nn.Parameter(value, requires_grad=trained) if parameter else value.requires_grad_(trained)


class Body:
    """A graph that runs, without the graph: what a unit's module is in the process of a device.

    Parameters
    ----------
    source : str
        Of its ``forward``.
    attributes : mapping of str to object
        By dotted path.

    Examples
    --------
    >>> Body("def forward(self, x):\\n    return x + self.inner.one", {"inner.one": 1}).forward(2)
    3
    """

    def __init__(self, source: str, attributes: Mapping[str, Any]) -> None:
        for path, value in attributes.items():
            *outer, name = path.split(".")
            at: Any = self
            for step in outer:
                at = vars(at).setdefault(step, types.SimpleNamespace())
            setattr(at, name, value)
        self.forward = types.MethodType(_forward_from_src(source, {}), self)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run it; see `forward`."""
        return self.forward(*arguments, **keywords)


def _code_of(module: Any) -> tuple[str, dict[str, Any]]:
    code = module.graph.python_code(root_module="self")
    imports = _format_import_block(code.globals, sys_importer)
    paths = dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module"))
    return imports + code.src, {path: _at(module, path) for path in paths}


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _body(source: str, attributes: dict[str, Any]) -> Body:
    return Body(source, attributes)
