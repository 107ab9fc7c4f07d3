"""The wire: bandwidth and latency of a link before it is known what it joins."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.topology.model import Link

__all__ = ["Wire"]


@dataclass(frozen=True, slots=True)
class Wire:
    """What a builder lays between two nodes, in both directions.

    Attributes
    ----------
    bandwidth_bytes_per_s : float
        One direction; ``inf`` is allowed.
    latency_s : float
        Of each link, so that a path through a switch has it twice; or of a whole message.
    type : str
        A name of the catalog, or any other.
    per_message : bool
        Whether `latency_s` is what a message takes from device to device, software included (the catalog's effective
        latency). Half of it is then charged where the message leaves its device and half where it enters the other,
        and none between switches: a switch does not double what was measured through it.

    Raises
    ------
    MpsimError
        A bandwidth that is not more than 0, or a latency that is negative or not finite.

    Examples
    --------
    >>> Wire(50e9, 2e-6).link("d0", "d1").latency_s
    2e-06
    >>> Wire(50e9, 10e-6, "nvlink4", per_message=True).laid("d0", "switch", {"switch"}).latency_s
    5e-06
    """

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    type: str = ""
    per_message: bool = False

    def __post_init__(self) -> None:
        if not self.bandwidth_bytes_per_s > 0:
            raise MpsimError(f"wire: bandwidth is {self.bandwidth_bytes_per_s} bytes/s, expected more than 0")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise MpsimError(f"wire: latency is {self.latency_s} s, expected 0 or more")

    def end(self) -> Wire:
        """Return this wire as it joins a device to a switch: half of a per-message latency."""
        share = 0.5 if self.per_message else 1.0
        return Wire(self.bandwidth_bytes_per_s, self.latency_s * share, self.type)

    def trunk(self) -> Wire:
        """Return this wire as it joins two switches: none of a per-message latency."""
        return Wire(self.bandwidth_bytes_per_s, 0.0 if self.per_message else self.latency_s, self.type)

    def link(self, source: str, target: str) -> Link:
        """Return one direction of this wire between two named nodes."""
        return Link(
            source=source,
            target=target,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            latency_s=self.latency_s,
            type=self.type,
        )

    def laid(self, source: str, target: str, switches: Container[str]) -> Link:
        """Return one direction of this wire between two named nodes, a per-message latency in its share."""
        ends = (source in switches) + (target in switches)
        return (self, self.end(), self.trunk())[ends].link(source, target)

    def pair(self, a: str, b: str) -> tuple[Link, Link]:
        """Return both directions of this wire between two named nodes."""
        return self.link(a, b), self.link(b, a)
