"""One measured collective."""

from __future__ import annotations

from dataclasses import dataclass

from mpsim.errors import MpsimError, unknown

__all__ = ["KINDS", "LEAST_S", "MOST_BYTES", "MOST_S", "Measurement"]

KINDS = (
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "gather", "scatter",
    "send_receive",
)  # fmt: skip
# Outside these no clock and no tensor is: a unit was mistaken, or a digit lost.
LEAST_S, MOST_S = 1e-9, 1e6
MOST_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured collective.

    Attributes
    ----------
    kind : str
        As `mpsim.collectives.traffic.collective` names it.
    ranks : int
        That took part: taken to be the first devices of the topology.
    places : tuple of int
        Which ranks they were, if there were others: on a topology with a device for each of those, as many of the first
        devices must stand as they do.
    bytes : int
        The whole tensor.
    seconds : float
        That it took.
    source : str
        Where it stands.

    Raises
    ------
    MpsimError
        An unknown kind, fewer than 2 ranks, no bytes, or a time that is none (not from 1 ns to a million seconds).

    Examples
    --------
    >>> Measurement(kind="all_reduce", ranks=8, bytes=2**20, seconds=float("nan"), source="a.log:9")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: a.log:9: seconds is nan, expected from 1e-09 to 1e+06
    """

    kind: str
    ranks: int
    bytes: int
    seconds: float
    source: str = ""
    places: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        where = f"{self.source}: " if self.source else ""
        if self.kind not in KINDS:
            raise MpsimError(f"{where}{unknown('kind of collective', self.kind, KINDS)}")
        if self.ranks < 2:
            raise MpsimError(f"{where}{self.kind} over {self.ranks} rank: it takes at least 2")
        if not 1 <= self.bytes <= MOST_BYTES:
            raise MpsimError(f"{where}bytes is {self.bytes:.0f}, expected from 1 to {MOST_BYTES}")
        if not LEAST_S <= self.seconds <= MOST_S:
            raise MpsimError(f"{where}seconds is {self.seconds}, expected from {LEAST_S:g} to {MOST_S:g}")
