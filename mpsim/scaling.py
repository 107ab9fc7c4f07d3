"""By what costs were scaled that stand for another device than the one they were measured on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mpsim.errors import MpsimError

__all__ = ["Scaling", "plain_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a device's times were multiplied by to stand for another device's.

    Attributes
    ----------
    source, target : str
        The device that they were measured on, and the type that they stand for; ``""``: devices without a type.
    by : str
        ``roofline``: each pass of each layer by the ratio of both devices' rooflines; ``speed``: all by one factor.
    low, median, high : float
        Of the factors of all passes that take time.

    Examples
    --------
    >>> Scaling(source="T4", target="L4", by="speed", low=0.5, median=0.5, high=0.5).text
    'scaled from T4 to L4 by speed: times × 0.5'
    """

    source: str
    target: str
    by: str
    low: float
    median: float
    high: float

    def __post_init__(self) -> None:
        for value in (self.low, self.median, self.high):
            if not (math.isfinite(value) and value > 0):
                raise MpsimError(f"scaling from {self.source!r} to {self.target!r}: a factor is {value}, expected > 0")

    @property
    def text(self) -> str:
        """The scaling in one phrase."""
        to = f" to {self.target}" if self.target else ""
        spread = "" if self.low == self.high else f", {self.low:.3g} to {self.high:.3g}"
        middle = f"{self.median:.3g} in the median" if spread else f"{self.median:.3g}"
        return f"scaled from {self.source}{to} by {self.by}: times × {middle}{spread}"


_BRANDS = re.compile(r"\b(nvidia|amd|instinct|tesla|geforce|google|cloud)\b")


def plain_name(device: str) -> str:
    """Return a device's name without its brand and what stands between its letters and digits.

    Examples
    --------
    >>> plain_name("NVIDIA A100-SXM4-80GB"), plain_name("a100 sxm4 80gb")
    ('a100sxm480gb', 'a100sxm480gb')
    """
    return re.sub(r"[^a-z0-9]", "", _BRANDS.sub("", device.lower()))
