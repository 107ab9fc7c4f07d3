"""Collectives alone, held against real exchanges: each size several times over, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from mpsim.bars import ShowProgress, each
from mpsim.emulate.run import emulate_collectives
from mpsim.errors import MpsimError
from mpsim.result.model import Result
from mpsim.result.statistics import quantile
from mpsim.simulation import simulate_collectives
from mpsim.validate.agreement import error_fraction, error_in_spreads
from mpsim.validate.cases import LINKS, LOOPBACK, Wire
from mpsim.validate.compare import RUNTIME, paths_of

__all__ = [
    "EXCHANGES",
    "Exchange",
    "Exchanged",
    "compare_exchange",
    "durations",
    "validate_exchanges",
]

KIB, MIB = 2**10, 2**20
SIZES = tuple(KIB * 4**i for i in range(9))  # 1 KiB to 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Collectives of several sizes over one kind of link.

    Attributes
    ----------
    ranks : int
    wire : Wire
    sizes : tuple of int
        Bytes of the whole tensor.
    repeats : int
        How often each size is exchanged.
    kind : str
        Of the collectives.
    """

    ranks: int
    wire: Wire
    sizes: tuple[int, ...]
    repeats: int = 5
    kind: str = "all_reduce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """One row: what a collective of one size was predicted to take, and what it took.

    The fields are those of `mpsim.validate.Comparison`; `bytes` is the whole tensor, and a time is that from the end
    of the collective before to the end of this one.
    """

    kind: str
    wire: str
    processes: int
    bytes: int
    repeats: int
    fabric: str
    latency_s: float
    bandwidth_bytes_per_s: float
    predicted_s: float
    ideal_s: float
    measured_s: float
    measured_p5_s: float
    measured_p95_s: float
    error_fraction: float
    ideal_error_fraction: float
    error_in_spreads: float | None


def _up_to(most: int) -> tuple[int, ...]:
    return tuple(size for size in SIZES if size <= most)


# Sizes of which five take some seconds at most.
_MOST = {"100Mbit/s@0ms": 4 * MIB, "200Mbit/s@1ms": 16 * MIB, "1Gbit/s@0ms": 64 * MIB, "1Gbit/s@1ms": 64 * MIB}
EXCHANGES = {
    "full": tuple(
        Exchange(ranks=ranks, wire=LINKS[wire], sizes=_up_to(most))
        for ranks in (2, 4, 8)
        for wire, most in _MOST.items()
    ),
    "quick": tuple(Exchange(ranks=ranks, wire=LINKS["200Mbit/s@1ms"], sizes=_up_to(4 * MIB)) for ranks in (2, 4)),
}


def compare_exchange(exchange: Exchange, *, fabric: str = "host") -> tuple[Exchanged, ...]:
    """Measure the links, exchange the collectives for real, predict them from those links; a row for each size.

    Parameters
    ----------
    exchange : Exchange
        What is exchanged.
    fabric : str
        As `mpsim.emulate.run.emulate` has it.

    Raises
    ------
    MpsimError
        A process that failed.
    """
    sizes = [size for size in exchange.sizes for _ in range(exchange.repeats)]
    ran = emulate_collectives(
        sizes, exchange.wire.topology(exchange.ranks), kind=exchange.kind, fabric=fabric, progress=False
    )
    if ran.links is None:
        raise MpsimError("no links were measured, so that nothing can be predicted")
    predicted, ideal = (
        durations(simulate_collectives(sizes, ran.links, kind=exchange.kind, runtime=runtime))
        for runtime in (RUNTIME, "ideal")
    )
    times = (predicted, ideal, durations(ran.result))
    return tuple(_row(exchange, i, times, fabric, paths_of(ran.links)) for i in range(len(exchange.sizes)))


def _row(
    exchange: Exchange, i: int, times: Sequence[Sequence[float]], fabric: str, path: tuple[float, float]
) -> Exchanged:
    """Return the row of a size; `times` are predicted, predicted by ``ideal``, and measured."""
    part = slice(i * exchange.repeats, (i + 1) * exchange.repeats)
    predicted, ideal, measured = (median(kind[part]) for kind in times)
    low, high = (quantile(times[2][part], fraction) for fraction in (0.05, 0.95))
    return Exchanged(
        kind=exchange.kind,
        wire=exchange.wire.text,
        processes=exchange.ranks,
        bytes=exchange.sizes[i],
        repeats=exchange.repeats,
        fabric=fabric,
        latency_s=path[0],
        bandwidth_bytes_per_s=path[1],
        predicted_s=predicted,
        ideal_s=ideal,
        measured_s=measured,
        measured_p5_s=low,
        measured_p95_s=high,
        error_fraction=error_fraction(predicted, measured),
        ideal_error_fraction=error_fraction(ideal, measured),
        error_in_spreads=error_in_spreads(predicted, measured, low, high),
    )


def durations(result: Result) -> list[float]:
    """Return for each collective of a list the time from the end of the one before to its own.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> [round(s, 6) for s in durations(simulate_collectives([2000, 1000], ring(2, link="1MB/s@0"), runtime="ideal"))]
    [0.002, 0.001]
    """
    last: dict[str, float] = {}
    for name, end_s in zip(result.spans.name, result.spans.end_s, strict=True):
        last[name] = max(end_s, last.get(name, 0.0))
    ends = sorted(last.values())  # A runtime may have many spans for each.
    return [end - before for before, end in zip([0.0, *ends], ends, strict=False)]


def validate_exchanges(
    exchanges: Sequence[Exchange],
    *,
    fabric: str = "host",
    done: Sequence[Exchanged] = (),
    keep: Callable[[Sequence[Exchanged]], None] = lambda rows: None,
    progress: ShowProgress = None,
) -> tuple[Exchanged, ...]:
    """Compare one exchange after another; those that `done` has are not run again.

    Parameters
    ----------
    exchanges : sequence of Exchange
    fabric, done, keep, progress
        As in `mpsim.validate.run.validate_emulated`.
    """
    there: dict[object, list[Exchanged]] = {}
    for row in done:
        there.setdefault((row.kind, row.wire, row.processes, row.repeats, row.fabric), []).append(row)
    if fabric == "host":  # No link is like the one asked for: each list once, the longest.
        longest = {one.ranks: one for one in sorted(exchanges, key=lambda one: len(one.sizes))}
        exchanges = [replace(one, wire=LOOPBACK) for one in longest.values()]
    rows: list[Exchanged] = []
    for one in each(exchanges, progress, "lists"):
        found = there.get((one.kind, one.wire.text, one.ranks, one.repeats, fabric), [])
        known = tuple(row for row in found if row.bytes in one.sizes)
        rows += known if len(known) == len(one.sizes) else compare_exchange(one, fabric=fabric)
        keep(rows)
    return tuple(rows)
