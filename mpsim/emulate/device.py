"""A device that holds parts of a model, up to its memory."""

from __future__ import annotations

import re
from typing import TypeAlias

import torch
from torch import nn

from mpsim.emulate.parts import Part
from mpsim.errors import MpsimError
from mpsim.units import format_bytes, size

__all__ = ["Device", "Holdable"]

Holdable: TypeAlias = Part | nn.Module


class Device:
    """Memory that parts of a model take up: the bytes of their parameters and buffers.

    Activations, gradients and what an optimizer keeps come on top, and are not counted: `mpsim.simulate` predicts them.

    Parameters
    ----------
    id : str
        Any name. ``"cuda"`` or ``"cuda:1"`` is that CUDA device, and what is allocated is moved there; all others
        stand for this machine's memory.
    memory_capacity : str or int
        Such as ``"80 GiB"``, or bytes.

    Raises
    ------
    MpsimError
        A capacity without a unit, or a CUDA device that is not there.

    Examples
    --------
    >>> device = Device("left", "1 MiB")
    >>> layer = nn.Linear(100, 100)
    >>> device.allocate(layer)
    >>> device.used_bytes, device.free_bytes
    (40400, 1008176)
    >>> device.allocate(nn.Linear(600, 600))
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: device left: Linear takes 1.38 MiB, 985 KiB of 1 MiB are free: release one, or split finer
    >>> device.release(layer)
    >>> device.parts
    ()
    """

    def __init__(self, id: str, memory_capacity: str | int) -> None:
        self.id = str(id)
        self.place = _place(self.id)
        self.memory_capacity = _capacity(memory_capacity, self.id)
        self._parts: list[Holdable] = []

    @property
    def parts(self) -> tuple[Holdable, ...]:
        """What is allocated, in that order."""
        return tuple(self._parts)

    @property
    def used_bytes(self) -> int:
        """Bytes that the parts take up."""
        return sum(_bytes(part) for part in self._parts)

    @property
    def free_bytes(self) -> int:
        """Bytes that are left."""
        return self.memory_capacity - self.used_bytes

    def allocate(self, part: Holdable) -> None:
        """Make room for a part, and move it here if this is a CUDA device.

        Raises
        ------
        MpsimError
            It does not fit, or is here already.
        """
        if self._holds(part):
            raise MpsimError(f"device {self.id} holds {_name(part)} already: release it first")
        if _bytes(part) > self.free_bytes:
            raise MpsimError(
                f"device {self.id}: {_name(part)} takes {format_bytes(_bytes(part))}, {format_bytes(self.free_bytes)}"
                f" of {format_bytes(self.memory_capacity)} are free: release one, or split finer"
            )
        if self.place != "cpu":
            part.to(self.place)
        self._parts.append(part)

    def release(self, part: Holdable) -> None:
        """Free what a part takes up; the part itself stays as it is.

        Raises
        ------
        MpsimError
            It is not here.
        """
        if not self._holds(part):
            held = ", ".join(_name(one) for one in self._parts) or "nothing"
            raise MpsimError(f"device {self.id} does not hold {_name(part)}, it holds {held}")
        self._parts = [one for one in self._parts if one is not part]

    def _holds(self, part: Holdable) -> bool:
        return any(one is part for one in self._parts)

    def __repr__(self) -> str:
        return f"Device({self.id!r}, {format_bytes(self.used_bytes)} of {format_bytes(self.memory_capacity)} used)"


def _place(name: str) -> str:
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise MpsimError(f"device {name} was asked for, PyTorch finds {count} CUDA devices: use another name")
    return f"cuda:{match[1] or 0}"


def _capacity(value: str | int, name: str) -> int:
    found = value if isinstance(value, int) and not isinstance(value, bool) else size(value, f"memory of device {name}")
    if found <= 0:
        raise MpsimError(f"device {name} has a memory of {found} bytes, expected more than 0, such as '80 GiB'")
    return found


def _bytes(part: Holdable) -> int:
    if isinstance(part, Part):
        return part.bytes
    return sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))


def _name(part: Holdable) -> str:
    if isinstance(part, Part):
        return f"the part of layers {part.layers.start} to {part.layers.stop - 1}"
    return type(part).__name__
