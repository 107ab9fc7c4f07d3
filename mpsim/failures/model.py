"""What fails and how often, how a run is saved, and what is done about a failure: given by hand, never assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from mpsim.calls import checked
from mpsim.errors import MpsimError, unknown
from mpsim.reprs import short_repr
from mpsim.units import duration

__all__ = ["KINDS", "Checkpoints", "Event", "Failures", "Recovery", "Stragglers", "check_time"]

Seconds = Annotated[float, str]
"""Seconds, which text such as ``"3 min"`` may stand for."""
KINDS = ("sharded", "whole", "async")
_MOST_SPARES = 100_000
_MOST_S = 3e9  # A century: what is longer is no time that a run takes, and sums of it would not be exact.


def check_time(what: str, seconds: float, *, least: str = "0 or more", endless: bool = False) -> None:
    """Refuse what is no time, below 0 or 0 where it must be `more than 0`, or longer than a century.

    Raises
    ------
    MpsimError
        With what was expected.

    Examples
    --------
    >>> check_time("detection", -1.0)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: detection is -1 s, expected 0 or more
    """
    low = seconds >= 0 if least == "0 or more" else seconds > 0
    if not (low and (endless or seconds <= _MOST_S)):
        raise MpsimError(f"{what} is {seconds:g} s, expected {least if not low else 'at most a century'}")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One failure at a known time, or a device that is slow from then on for a while.

    Attributes
    ----------
    at_s : float
        Since the start of the run; text such as ``"3 h"`` does too, here and below.
    what : str
        A device by name, ``node:3``, or a link ``a->b``; of a slow one a device.
    factor : float
        A slow device computes this many times as long; 1: it fails.
    lasting_s : float
        How long it is slow.

    Examples
    --------
    >>> Event(at_s=3600.0, what="d3").slow
    False
    """

    at_s: Seconds
    what: str
    factor: float = 1.0
    lasting_s: Seconds = 0.0

    __repr__ = short_repr

    def __post_init__(self) -> None:
        _into_seconds(self, at_s=f"time of {self.what!r}", lasting_s=f"how long {self.what!r} is slow")
        check_time(f"time of {self.what!r}", self.at_s)
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise MpsimError(f"factor of {self.what!r} is {self.factor:g}, expected 1 (it fails) or more (it is slow)")
        if self.slow:
            check_time(f"how long {self.what!r} is slow", self.lasting_s, least="more than 0")
        elif self.lasting_s:
            raise MpsimError(f"{self.what!r} lasts {self.lasting_s:g} s but has no factor: say how slow it is, as 1.5")

    @property
    def slow(self) -> bool:
        """Whether the device is slow, and does not fail."""
        return self.factor > 1


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often what a plan uses fails. Times are mean times between failures of one device, node or link.

    Attributes
    ----------
    mtbf_s, node_mtbf_s, link_mtbf_s : float or str
        Seconds, or text such as ``"50000h"``; ``inf``: never.
    by_type, link_by_type : mapping of str to float or str
        Of devices and links of a type, instead.
    shape : float
        Of the Weibull distribution of each one's times between failures, all new at the start; 1: exponential.
    listed : tuple of Event
        Failures at known times, beside the random ones; the same in every trial.

    Raises
    ------
    MpsimError
        A time that is not more than 0, or a shape outside 0.2 to 10.

    Examples
    --------
    >>> Failures(mtbf_s="50000h").mtbf_s
    180000000.0
    """

    mtbf_s: float | str = math.inf
    node_mtbf_s: float | str = math.inf
    link_mtbf_s: float | str = math.inf
    by_type: Mapping[str, float | str] = field(default_factory=dict)
    link_by_type: Mapping[str, float | str] = field(default_factory=dict)
    shape: float = 1.0
    listed: tuple[Event, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("mtbf_s", "node_mtbf_s", "link_mtbf_s"):
            object.__setattr__(self, name, _mean_s(name.removesuffix("_s"), getattr(self, name)))
        for name in ("by_type", "link_by_type"):
            found = {kind: _mean_s(f"mtbf of {kind!r}", value) for kind, value in getattr(self, name).items()}
            object.__setattr__(self, name, found)
        if not 0.2 <= self.shape <= 10:
            raise MpsimError(
                f"shape is {self.shape:g}, expected 0.2 to 10: 1 is exponential, below 1 the new fail most"
            )

    @property
    def random(self) -> bool:
        """Whether anything fails at random."""
        means = (self.mtbf_s, self.node_mtbf_s, self.link_mtbf_s, *self.by_type.values(), *self.link_by_type.values())
        return any(float(mean) < math.inf for mean in means)


def _mean_s(what: str, value: float | str) -> float:
    seconds = seconds_of(value, what)
    if not seconds > 0:
        raise MpsimError(f"{what} is {seconds:g} s, expected more than 0, as in '50000h'")
    return seconds


def seconds_of(value: object, what: str) -> float:
    """Return seconds, of text with a unit too; `inf` is no end.

    Raises
    ------
    MpsimError
        Neither a number nor such text.
    """
    if isinstance(value, str) and value.strip() != "inf":
        return duration(value, what)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise MpsimError(f"{what} is {value!r}, expected seconds, or text such as '3 min'")
    return float(value)


def _into_seconds(value: object, **names: str) -> None:
    """Make seconds of fields of a frozen value that may be text."""
    for name, what in names.items():
        if getattr(value, name) is not None:
            object.__setattr__(value, name, seconds_of(getattr(value, name), what))


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """Devices that are slow for a while, at random; what that does to a step is replayed.

    Attributes
    ----------
    every_s : float or str
        Mean time between a device's slow spells, exponential.
    factor : float
        How many times as long it computes meanwhile.
    lasting_s : float or str
        How long each lasts.

    Examples
    --------
    >>> Stragglers(every_s="1000h", factor=1.5, lasting_s="10min").lasting_s
    600.0
    """

    every_s: float | str
    factor: float
    lasting_s: float | str

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("every_s", "lasting_s"):
            what = f"{name.removesuffix('_s')} of stragglers"
            object.__setattr__(self, name, seconds := seconds_of(getattr(self, name), what))
            check_time(what, seconds, least="more than 0")
        if not (math.isfinite(self.factor) and self.factor > 1):
            raise MpsimError(f"factor of stragglers is {self.factor:g}, expected more than 1")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """How a run is saved: when, by whom, over what.

    Attributes
    ----------
    every_s : float or str or None
        Between checkpoints, rounded to whole steps of the undisturbed plan; None: the best, by search.
    kind : str
        ``sharded``: each rank writes what it alone holds, what replicas hold alike the first of them. ``whole``: one
        rank is sent it all and writes it. ``async``: as sharded, from copies that ranks make at their hosts; steps go
        on while those are written, and a checkpoint counts once it is. The next one waits for it.
    storage_bytes_per_s : float
        Of each node's link to storage.
    total_bytes_per_s : float
        Of the storage, over all nodes.
    copy_bytes_per_s : float
        Of ``async``, from a device to its host; 0: as the topology's links to hosts.
    write_s, copy_s : float or None
        How long writing and copying take, in seconds or as text, instead of bytes over links; then reading back is part
        of a restart's time.

    Raises
    ------
    MpsimError
        An unknown kind, or what a kind has no use for.

    Examples
    --------
    >>> Checkpoints(every_s="5min", storage_bytes_per_s=25e9).every_s
    300.0
    """

    every_s: float | str | None = None
    kind: str = "sharded"
    storage_bytes_per_s: float = 0.0
    total_bytes_per_s: float = math.inf
    copy_bytes_per_s: float = 0.0
    write_s: Seconds | None = None
    copy_s: Seconds | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of checkpoint", self.kind, KINDS)
        if self.every_s is not None:
            object.__setattr__(self, "every_s", seconds := seconds_of(self.every_s, "time between checkpoints"))
            check_time("time between checkpoints", seconds, least="more than 0")
        _into_seconds(self, write_s="write of a checkpoint", copy_s="copy of a checkpoint")
        for name in ("write_s", "copy_s"):
            if (seconds_given := getattr(self, name)) is not None:
                check_time(name.replace("_s", " of a checkpoint"), seconds_given)
        if self.kind != "async" and (self.copy_bytes_per_s or self.copy_s is not None):
            raise MpsimError(f"a {self.kind} checkpoint makes no copies at hosts: leave the copy out, or say async")
        given = self.storage_bytes_per_s or self.total_bytes_per_s < math.inf or self.copy_bytes_per_s
        if self.write_s is not None and given:
            raise MpsimError("a checkpoint's time and its bandwidths are both given: leave one out")
        if self.write_s is None and self.copy_s is not None:
            raise MpsimError("how long copying takes is given, writing is not: give both times, or bandwidths")
        if self.write_s is None and not self.storage_bytes_per_s > 0:
            raise MpsimError(
                "nothing says what a checkpoint takes: give a node's bandwidth to storage, as 25 GB/s, or a time"
            )
        if not (self.total_bytes_per_s > 0 and self.copy_bytes_per_s >= 0):
            raise MpsimError("bandwidths of checkpoints are below 0: give what storage and copies reach")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What is done about a failure; times are seconds, or text such as ``"3 min"``.

    Attributes
    ----------
    detect_s : float
        Until it is noticed.
    restart_s : float
        Of a restart, beside reading the checkpoint back.
    spares : int
        Nodes (devices, where the topology has no nodes) that stand by; one whose node was repaired is a spare again.
    swap_s : float
        To put a node, a spare or a repaired one, in its place.
    repair_s : float
        Of what failed, from its failure on; `inf`: nobody repairs it. 0: there is always another at once.
    smaller : bool
        Where no spare is left, go on without the replicas that have lost a device, from the last checkpoint, until
        theirs is back; then all restart from the last checkpoint again, as torchrun does
        (https://docs.pytorch.org/docs/stable/elastic/run.html).

    Examples
    --------
    >>> Recovery(restart_s="3 min", spares=2, repair_s="1 day").restart_s
    180.0
    """

    detect_s: Seconds = 0.0
    restart_s: Seconds = 0.0
    spares: int = 0
    swap_s: Seconds = 0.0
    repair_s: Seconds = 0.0
    smaller: bool = False

    __repr__ = short_repr

    def __post_init__(self) -> None:
        _into_seconds(self, detect_s="detect", restart_s="restart", swap_s="swap", repair_s="repair")
        for name in ("detect_s", "restart_s", "swap_s"):
            check_time(name.removesuffix("_s"), getattr(self, name))
        check_time("repair", self.repair_s, endless=True)
        if isinstance(self.spares, bool) or not 0 <= self.spares <= _MOST_SPARES:
            raise MpsimError(f"spares is {self.spares}, expected 0 to {_MOST_SPARES:,}")
        if (self.spares or self.smaller) and not self.repair_s:
            what = f"{self.spares} spares stand by" if self.spares else "a smaller plan goes on"
            raise MpsimError(f"{what} while failed nodes are repaired in 0 s: say how long that takes, inf for never")
