"""What the options hold: lists of whole numbers, sizes and times with units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mpsim import units
from mpsim.errors import MpsimError

__all__ = ["BANDWIDTH", "BYTES", "NUMBERS", "SECONDS", "Sizes", "depth_of"]


_DEEPEST = 1000  # As deep as Python's own modules may lie in each other.
_MOST_BYTES = 2**63 - 1
_DIGITS = len(str(_MOST_BYTES))  # What is longer is no size,
_LONGEST = 4300  # and what is longer than this no int of Python's.


class _Quantity(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit."""

    def __init__(self, name: str, parse: Callable[[str, str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number in SI units."""
        return self._parse(value, _option(param)) if isinstance(value, str) else value


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers with commas between."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdecimal() and len(part) <= _LONGEST for part in parts):
            raise MpsimError(f"{_option(param)} {value[:40]!r} is not whole numbers with commas between: write 1,2,4")
        return tuple(map(int, parts))


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Bytes with commas between; a whole number is bytes, since a list of gradients is given so."""

    name = "BYTES,BYTES,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the bytes."""
        if isinstance(value, tuple):
            return value
        what = _option(param)
        parts = [part.strip() for part in value.split(",")]
        found = tuple(int(part) if _is_whole(part) else units.size(part, what) for part in parts)
        if max(found) > _MOST_BYTES:
            raise MpsimError(f"{what} {value[:40]!r} has more than {_MOST_BYTES} bytes: ask for fewer")
        return found


def depth_of(text: str) -> int | str:
    """Return what ``--depth`` says.

    Raises
    ------
    MpsimError
        Neither ``auto`` nor a whole number that a model's depth can be.

    Examples
    --------
    >>> depth_of("auto"), depth_of("3")
    ('auto', 3)
    """
    if text == "auto":
        return text
    if not (_is_whole(text) and 1 <= int(text) <= _DEEPEST):
        raise MpsimError(f"--depth {text!r} is neither 'auto' nor a whole number from 1 to {_DEEPEST}")
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def _option(param: click.Parameter | None) -> str:
    return param.opts[0] if param is not None else "value"


BYTES = _Quantity("SIZE", units.size)
BANDWIDTH = _Quantity("BANDWIDTH", units.bandwidth)
SECONDS = _Quantity("TIME", units.duration)
NUMBERS = _Numbers()
