"""Where the parts of a ModelSplitter run: devices by name, a part each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from mpsim.emulate.device import Device
from mpsim.errors import MpsimError

__all__ = ["Seat", "fewer", "seats_for"]


class Seat(NamedTuple):
    """A place for a part.

    Attributes
    ----------
    name : str
        As messages have it.
    place : str or None
        A device of PyTorch's; None: where the model is.
    device : Device or None
        Whose memory the part takes up.
    """

    name: str
    place: str | None
    device: Device | None = None

    @property
    def room(self) -> float:
        """Bytes that a part may take."""
        return math.inf if self.device is None else self.device.free_bytes


def seats_for(devices: Sequence[Any] | None, number: int, processes: bool) -> list[Seat]:
    """Return a seat for each part: as given, or on the CUDA devices that there are.

    Examples
    --------
    >>> [seat.name for seat in seats_for(None, 2, True)], [seat.name for seat in seats_for(["cpu"], 1, False)]
    (['0', '1'], ['0 (cpu)'])
    """
    if devices is not None:
        return [_given(i, device) for i, device in enumerate(devices)]
    count = torch.cuda.device_count() if torch.cuda.is_available() and not processes else 0
    places = [f"cuda:{i % count}" for i in range(number)] if count > 1 else [None] * number
    return [Seat(f"{i} ({place})" if place else str(i), place) for i, place in enumerate(places)]


def _given(index: int, device: Any) -> Seat:
    if isinstance(device, Device):
        return Seat(device.id, device.place, device)
    try:
        return Seat(f"{index} ({device})", str(torch.device(device)))
    except RuntimeError:
        raise MpsimError(f"unknown device {str(device)!r}: give 'cpu', 'cuda:1' or an mpsim.emulate.Device") from None


def fewer(seats: Sequence[Seat]) -> Iterator[list[Seat]]:
    """Yield all of the seats, then those with the most room, one less each time.

    Examples
    --------
    >>> seats = [Seat("a", None, Device("a", "1 KiB")), Seat("b", None, Device("b", "2 KiB"))]
    >>> [[seat.name for seat in some] for some in fewer(seats)]
    [['a', 'b'], ['b']]
    """
    by_room = sorted(range(len(seats)), key=lambda i: (-seats[i].room, i))
    for count in range(len(seats), 0, -1):
        yield [seats[i] for i in sorted(by_room[:count])]
