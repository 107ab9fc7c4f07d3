"""Text with units into SI floats at the edges, and back into text for people.

GB is 1e9 bytes, GiB is 2**30, a bit is an eighth of a byte; a bare number where a
unit is due is an error, 0 aside.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
import sys

from mpsim.errors import MpsimError
from mpsim.hints import shown

__all__ = [
    "bandwidth",
    "duration",
    "format_bandwidth",
    "format_bytes",
    "format_duration",
    "real",
    "size",
    "whole",
]

_DECIMAL = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_PREFIX = _DECIMAL | _BINARY
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0, "days": 86400.0}
# Dividing rounds once, where multiplying by 1e-6 would round twice: 25 us is 2.5e-05.
_PER_SECOND = {"ms": 1e3, "us": 1e6, "µs": 1e6, "μs": 1e6, "ns": 1e9}
# Seconds of the universe, bytes of all discs: of more, products are no numbers any more.
_MOST = 1e30
# Ethernet by its speed, and the one spelling in small letters that nobody takes for another.
_NAMED = {"GbE": "Gbit/s", "gbe": "Gbit/s", "mbps": "Mbit/s", "gbps": "Gbit/s", "gbit/s": "Gbit/s"}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf)\s*(.*?)\s*")


def _split(text: str | float, what: str, example: str) -> tuple[float, str]:
    """Return the number and the unit of `text`; a bare number other than 0 has none."""
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise MpsimError(f"{what} {text!r} is not a number with a unit: write {example!r}")
    number, unit = float(match[1]), match[2]
    if not unit and number != 0 and not math.isinf(number):
        raise MpsimError(f"{what} {text!r} has no unit: write {example!r}")
    if number < 0:
        raise MpsimError(f"{what} {text!r} is negative: write {example!r}")
    if _MOST < number < math.inf or 0 < number < 1 / _MOST:
        raise MpsimError(f"{what} {text!r} is nothing that there is: write {example!r}")
    return number, unit


def _bytes_of(unit: str) -> float | None:
    """Return the bytes in one `unit` such as ``"MiB"`` or ``"Gbit"``, None if it is not one."""
    match = re.fullmatch(r"([kKMGTP]i?|)(B|bytes?|bits?|b)", unit)
    if match is None or match[1] not in _PREFIX:
        return None
    return _PREFIX[match[1]] * (1.0 if match[2][0] == "B" or match[2].startswith("byte") else 0.125)


def size(text: str | float, what: str = "size") -> int:
    """Parse a number of bytes.

    Parameters
    ----------
    text : str
        Such as ``"80 GiB"``, ``"25 MB"``, ``"512 B"`` or ``0``.
    what : str
        The name of the quantity, for the error message.

    Returns
    -------
    int
        Bytes, rounded to whole ones.

    Raises
    ------
    MpsimError
        No unit, an unknown one, or a negative number.

    Examples
    --------
    >>> size("80 GiB"), size("25MB"), size(0)
    (85899345920, 25000000, 0)
    """
    number, unit = _split(text, what, "25 MiB")
    if number == 0:
        return 0
    scale = _bytes_of(unit)
    if scale is None or math.isinf(number):
        raise MpsimError(f"{what} {text!r} is not a number of bytes: write '25 MiB' or '1 GB'")
    return round(number * scale)


def bandwidth(text: str | float, what: str = "bandwidth") -> float:
    """Parse bytes per second, one direction: as bytes, as bits, or as the name of an Ethernet (``25GbE``).

    Returns
    -------
    float
        Bytes per second; ``inf`` for ``"inf"``.

    Raises
    ------
    MpsimError
        No unit, an unknown one, zero or a negative number.

    Examples
    --------
    >>> bandwidth("50 GB/s"), bandwidth("400 Gbit/s"), bandwidth("10Gbps"), bandwidth("25GbE")
    (50000000000.0, 50000000000.0, 1250000000.0, 3125000000.0)
    """
    number, unit = _split(text, what, "50 GB/s")
    if number == 0:
        raise MpsimError(f"{what} {text!r} carries nothing: write '50 GB/s', or leave the link out")
    if math.isinf(number):
        return math.inf
    per_second = re.fullmatch(r"(.*)(?:/s|ps)", _NAMED.get(unit, unit))
    scale = _bytes_of(per_second[1]) if per_second else None
    if scale is None:
        raise MpsimError(f"{what} {text!r} is not bytes per second: write '50 GB/s', '400 Gbit/s' or '25GbE'")
    return number * scale


def duration(text: str | float, what: str = "duration") -> float:
    """Parse seconds.

    Raises
    ------
    MpsimError
        No unit, an unknown one, or a negative number.

    Examples
    --------
    >>> duration("25 us"), duration("1.5ms"), duration(0), duration("90 days")
    (2.5e-05, 0.0015, 0.0, 7776000.0)
    """
    number, unit = _split(text, what, "2 us")
    if number == 0:
        return 0.0
    if math.isinf(number) or unit not in _SECONDS | _PER_SECOND:
        raise MpsimError(f"{what} {text!r} is not a time: write '2 us' or '1.5 ms'")
    return number / _PER_SECOND[unit] if unit in _PER_SECOND else number * _SECONDS[unit]


def whole(value: object, what: str, least: int | None = 0) -> int:
    """Return a whole number that a caller gave: no text, fraction, or truth value, which counts as 1 by accident.

    Raises
    ------
    MpsimError
        It is none, or below `least`.

    Examples
    --------
    >>> whole(True, "dp")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: dp is True, expected a whole number of 0 or more
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None:
        expected = f"expected a whole number{'' if least is None else f' of {least} or more'}"
        raise MpsimError(f"{what} is {shown(value)}, {expected}{_write(value)}")
    if least is not None and found < least:
        raise MpsimError(f"{what} is {found}, expected {least} or more")
    return found


def _write(value: object) -> str:
    """Return which whole number to write instead, where text or a fraction of none says one."""
    match = re.fullmatch(r"\s*([+-]?[0-9]{1,15})(?:\.0*)?\s*", str(value)) if isinstance(value, str | float) else None
    return f": write {int(match[1])}" if match else ""


def real(value: object, what: str) -> float:
    """Return a number of zero or more that a caller gave.

    Raises
    ------
    MpsimError
        It is none, negative, or not finite.

    Examples
    --------
    >>> real("1 ms", "forward_s")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: forward_s is '1 ms', expected a number of 0 or more
    """
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return float(value)
    raise MpsimError(f"{what} is {shown(value)}, expected a number of 0 or more")


def format_duration(seconds: float) -> str:
    """Write seconds for people, three significant digits.

    Examples
    --------
    >>> format_duration(0.00123), format_duration(0), format_duration(75)
    ('1.23 ms', '0 s', '75 s')
    """
    if seconds == 0:
        return "0 s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if abs(seconds) >= scale * 0.9995 or unit == "ns":
            return f"{_three_digits(seconds / scale)} {unit}"
    raise AssertionError


def format_long_duration(seconds: float) -> str:
    """Write seconds for people, from two minutes on in minutes, hours or days.

    Examples
    --------
    >>> format_long_duration(75), format_long_duration(5400), format_long_duration(180e6)
    ('75 s', '90 min', '2,083 days')
    """
    for unit, scale, least in (("days", 86400.0, 3 * 86400.0), ("h", 3600.0, 7200.0), ("min", 60.0, 120.0)):
        if least <= seconds < math.inf:
            count = seconds / scale
            return f"{count:,.0f} {unit}" if count >= 100 else f"{_three_digits(count)} {unit}"
    return format_duration(seconds)


def format_bytes(count: float) -> str:
    """Write bytes for people in binary units, three significant digits.

    Examples
    --------
    >>> format_bytes(803840), format_bytes(85899345920), format_bytes(12)
    ('785 KiB', '80 GiB', '12 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1023.5 or unit == "TiB":
            return f"{_three_digits(count)} {unit}"
        count /= 1024
    raise AssertionError


def format_bandwidth(bytes_per_s: float) -> str:
    """Write bytes per second for people in decimal units.

    Examples
    --------
    >>> format_bandwidth(50e9), format_bandwidth(1.25e8)
    ('50 GB/s', '125 MB/s')
    """
    for unit in ("B/s", "kB/s", "MB/s", "GB/s", "TB/s"):
        if abs(bytes_per_s) < 999.5 or unit == "TB/s":
            return f"{_three_digits(bytes_per_s)} {unit}"
        bytes_per_s /= 1000
    raise AssertionError


def _three_digits(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.3g}"
