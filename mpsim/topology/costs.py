"""What collectives cost over one kind of link, as measured: launch, latency a message, bandwidth by size.

A collective library does not move every size the same way. NCCL has three protocols (LL: a flag beside every word, low
latency; LL128: a flag beside every 120 bytes; Simple: whole chunks between barriers, the full bandwidth) and uses more
channels the larger the tensor (https://github.com/NVIDIA/nccl, src/graph/tuning.cc). So what it costs is a curve of a
few pieces, each with its own latencies and bandwidth: a `Regime` here. Which protocol ran in which of them a log does
not say; the smallest sizes' regime is LL's, the largest's Simple's.

These latencies are effective ones, of a message with its software; they replace the latencies of the links they stand
for, and are never added to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.reprs import short_repr

__all__ = ["NOT_MEASURED", "CollectiveCost", "Regime", "relative_width"]

NOT_MEASURED = "not measured: "  # How the source of such a cost begins.


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What a collective costs between two sizes.

    Attributes
    ----------
    least_bytes, most_bytes : float
        The sizes of tensor that it was fitted on.
    launch_s : float
        Once: the call, the kernel, the rendezvous of all ranks.
    step_s : float
        For each message that waits for another: over this kind of link, software included.
    bandwidth_bytes_per_s : float
        What a link carries.
    local_bytes_per_s : float
        At which a rank passes its own part of the tensor, an n-th, through its memory.
    """

    least_bytes: float
    most_bytes: float
    launch_s: float = 0.0
    step_s: float = 0.0
    bandwidth_bytes_per_s: float = math.inf
    local_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.least_bytes <= self.most_bytes < math.inf:
            raise MpsimError(
                f"regime from {self.least_bytes:g} to {self.most_bytes:g} bytes: give the lesser size first"
            )
        for name in ("launch_s", "step_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MpsimError(f"regime: {name} is {getattr(self, name)}, expected 0 or more")
        for name in ("bandwidth_bytes_per_s", "local_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise MpsimError(f"regime: {name} is {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCost:
    """The regimes of one kind of collective over one type of link, by size.

    Attributes
    ----------
    link : str
        The type of the links that the collective's slowest messages cross.
    kind : str
        Such as ``all_reduce``.
    algorithm : str
        ``ring`` (any in which ranks pass pieces on), ``trees``, ``direct``, ``nvls``, ``nvls_tree`` or
        ``collnet``.
    regimes : tuple of Regime
        The smaller sizes first.
    least_ranks, most_ranks : int
        The numbers of ranks that it was fitted on.
    link_bytes_per_s : float
        The bandwidth of the links that the regimes' bandwidths are of, the narrowest of their type: wider and narrower
        ones carry as much more or less. 0: all links of the type carry what the regimes say.
    error_fraction : float
        Geometric mean of how far the fit lies from its own points.
    source : str
        The logs; or that it was not measured, and what was put in its place.
    """

    link: str
    kind: str
    algorithm: str
    regimes: tuple[Regime, ...]
    least_ranks: int = 2
    most_ranks: int = 2
    link_bytes_per_s: float = 0.0
    error_fraction: float = 0.0
    source: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        what = f"cost of {self.kind} over {self.link!r}"
        if not self.regimes:
            raise MpsimError(f"{what} has no regimes: give one at least")
        ends = [size for regime in self.regimes for size in (regime.least_bytes, regime.most_bytes)]
        if ends != sorted(ends):
            raise MpsimError(f"{what}: regimes overlap or are out of order: give the smaller sizes first")
        if not 2 <= self.least_ranks <= self.most_ranks:
            raise MpsimError(f"{what}: fitted on {self.least_ranks} to {self.most_ranks} ranks, expected 2 or more")

    @property
    def unmeasured(self) -> str:
        """What was put in place of a measurement; empty for what was measured."""
        return self.source if self.source.startswith(NOT_MEASURED) else ""

    def covers(self, ranks: int, bytes: float) -> bool:
        """Whether so many ranks and bytes lie within what was measured.

        Examples
        --------
        >>> regime = Regime(least_bytes=1, most_bytes=8)
        >>> CollectiveCost(link="a", kind="all_reduce", algorithm="ring", regimes=(regime,)).covers(2, 9)
        False
        """
        sizes = self.regimes[0].least_bytes, self.regimes[-1].most_bytes
        # Of what was not measured no number of ranks is nearer than another.
        near = bool(self.unmeasured) or self.least_ranks <= ranks <= self.most_ranks
        return near and sizes[0] <= bytes <= sizes[1]


def relative_width(bandwidth_bytes_per_s: float, reference_bytes_per_s: float) -> float:
    """Return how many times as wide a link is as those that a cost was fitted on; 1 where that is not known.

    Examples
    --------
    >>> relative_width(4e10, 2e10), relative_width(4e10, 0.0)
    (2.0, 1.0)
    """
    if bandwidth_bytes_per_s == reference_bytes_per_s or not reference_bytes_per_s:
        return 1.0
    return bandwidth_bytes_per_s / reference_bytes_per_s
