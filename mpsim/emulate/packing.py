"""Messages between stages as runs of bytes: what of a model crosses a boundary, packed and unpacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mpsim.emulate.parts import CrossingTensor

__all__ = ["Packing"]


class Packing:
    """Packs tensors by name into one run of bytes, those of wide elements first, so that each begins where it may.

    Parameters
    ----------
    crossing : mapping of str to CrossingTensor
        What each looks like.

    Examples
    --------
    >>> seen = CrossingTensor(shape=(2,), dtype=torch.float32, needs_gradient=True)
    >>> packing = Packing({"x": seen, "y": seen})
    >>> packed = packing.pack({"y": torch.ones(2)}, ["x", "y"])
    >>> packing.bytes(["x", "y"]), packing.unpack(packed, ["x", "y"])["y"]
    (16, tensor([1., 1.]))
    """

    def __init__(self, crossing: Mapping[str, CrossingTensor]) -> None:
        self.crossing = crossing

    def pack(self, values: Mapping[str, Any], names: Sequence[str]) -> Any:
        """Return the tensors of these names; zeros where there is none."""
        flat = []
        for name in self._ordered(names):
            value = values.get(name)
            if value is None:
                seen = self.crossing[name]
                value = torch.zeros(seen.shape, dtype=seen.dtype)
            flat.append(value.detach().contiguous().reshape(-1).view(torch.uint8))
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def unpack(self, packed: Any, names: Sequence[str]) -> dict[str, Any]:
        """Return the tensors of these names, as views."""
        found, at = {}, 0
        for name in self._ordered(names):
            seen = self.crossing[name]
            size = _bytes_of(seen)
            found[name] = packed[at : at + size].view(seen.dtype).view(seen.shape)
            at += size
        return found

    def bytes(self, names: Sequence[str]) -> int:
        """Return how many a message of these names has."""
        return sum(_bytes_of(self.crossing[name]) for name in names)

    def differentiable(self, names: Sequence[str]) -> list[str]:
        """Return those of the names for which a gradient comes back."""
        return [name for name in names if self.crossing[name].needs_gradient]

    def _ordered(self, names: Sequence[str]) -> list[str]:
        return sorted(names, key=lambda name: -self.crossing[name].dtype.itemsize)


def _bytes_of(seen: CrossingTensor) -> int:
    count: int = torch.Size(seen.shape).numel() * seen.dtype.itemsize
    return count
