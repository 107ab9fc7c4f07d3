"""Calibrate: from measured collectives to a topology that knows what they cost, level by level from the inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpsim.bars import Progress, ShowProgress, progress_of
from mpsim.calibration.between import find_gaps, level_links, middle_of
from mpsim.calibration.fit import Fitted, Known, criterion, fit_regimes
from mpsim.calibration.measurement import Measurement
from mpsim.calibration.parts import Parts, level_link, narrowest_bytes_per_s, parts_of
from mpsim.calls import checked
from mpsim.collectives.choice import can_be, quickest
from mpsim.collectives.protocols import cost_family
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.topology.catalog import is_network
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.topology.edit import replace_bandwidth
from mpsim.topology.levels import find_levels
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["Calibration", "Residual", "calibrate", "geometric_mean_error"]

_LEAST_POINTS = 4  # As many as a regime has parameters.
_LEAST_NVLS_BYTES = 2**16  # Below, NCCL's own estimates never take it.
# Of the ring's kin, where there are nodes to order ranks by.
_RINGS = ("all_reduce", "all_gather", "reduce_scatter")
_DIRECT = ("all_to_all", "gather", "scatter", "send_receive")


class Residual(NamedTuple):
    """What the calibrated topology says of one of the collectives that it was calibrated on."""

    measured: Measurement
    algorithm: str
    modelled_s: float

    @property
    def error_fraction(self) -> float:
        """How far what is modelled lies above what was measured."""
        return self.modelled_s / self.measured.seconds - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A topology with costs, and how well they fit.

    Attributes
    ----------
    topology : Topology
        With the bandwidth that was reached on each calibrated type of link, and the costs of collectives over it.
    residuals : tuple of Residual
        One for each measurement.
    """

    topology: Topology
    residuals: tuple[Residual, ...]


def geometric_mean_error(errors: Sequence[float]) -> float:
    """Return the geometric mean of how far modelled times are off, either way.

    Examples
    --------
    >>> round(geometric_mean_error([1.0, -0.5]), 12)
    1.0
    """
    return math.expm1(math.fsum(abs(math.log1p(error)) for error in errors) / len(errors)) if errors else 0.0


@checked
def calibrate(
    topology: Topology | str | Path, measurements: Sequence[Measurement], *, progress: ShowProgress = None
) -> Calibration:
    """Fit the costs of a topology's links to measured collectives.

    Ranks are taken to be the first devices of the topology. Their outermost level decides over which links a number of
    ranks calibrates; levels are fitted from the inside, with what is known of inner ones held fast. All-reduces are
    fitted as rings, and where a switch reduces as NVLS, from the number of ranks and size on from which that is best;
    all-to-all and the like as direct messages. A level that nothing measured between two that something did gets the
    geometric mean of what it would take as either.

    Parameters
    ----------
    topology : Topology
        Its links need types; costs that it has of the same kinds and links are replaced.
    measurements : sequence of Measurement
        Of any kinds and numbers of ranks.
    progress : callable or bool, optional
        Called with how many curves are fitted, and how many there are; by default a bar, in a terminal or a notebook,
        of what takes more than two seconds. False: none.

    Raises
    ------
    MpsimError
        Nothing measured, more ranks than devices, too few points for a curve.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> points = [Measurement(kind="broadcast", ranks=2, bytes=2**i, seconds=1e-5 + 2**i / 1e9) for i in range(20)]
    >>> found = calibrate(switch(2, link="nvlink4"), points)
    >>> round(found.topology.links[0].bandwidth_bytes_per_s / 1e9, 6)
    1.0
    """
    topology = Topology.of(topology)
    if not measurements:
        raise MpsimError("nothing measured: give logs of nccl-tests")
    routes = Routes(topology)
    devices = len(topology.devices)
    for one in measurements:
        if one.ranks > devices:
            raise MpsimError(
                f"{one.source}: {one.ranks} ranks, topology {topology.name!r} has {devices} devices: calibrate one of"
                f" {one.ranks} or more"
            )
    _check_places(routes, measurements)
    level_of = {n: level_link(routes, range(n)) for n in sorted({one.ranks for one in measurements})}
    redone = {(level_of[one.ranks], one.kind) for one in measurements}
    topology = replace(topology, costs=tuple(c for c in topology.costs if (c.link, c.kind) not in redone))
    points = {link: [one for one in measurements if level_of[one.ranks] == link] for link in level_of.values()}
    with progress_of(progress, "curves") as told:
        topology = _levels(topology, points, _Curves(told))
    provenance = replace(made_now("mpsim.calibrate(topology, measurements)"), source=", ".join(_files(measurements)))
    topology = replace(topology, provenance=provenance)
    return Calibration(topology=topology, residuals=_residuals(topology, measurements))


def _check_places(routes: Routes, measurements: Sequence[Measurement]) -> None:
    """Refuse groups of ranks that cross other links than as many first devices, whose costs they would be taken for."""
    for places, one in {one.places: one for one in reversed(measurements) if one.places}.items():
        if max(places) < len(routes.topology.devices):
            crossed, first = (level_link(routes, ranks) for ranks in (places, range(one.ranks)))
            if crossed != first:
                shown = ", ".join(map(str, places[:3])) + (", ..." if len(places) > 3 else "")
                raise MpsimError(
                    f"{one.source}: ranks {shown} of its group cross {crossed!r}, the first {one.ranks} devices of"
                    f" topology {routes.topology.name!r} only {first!r}: give the {one.ranks} devices of one group as"
                    " --topology, or a log of one group"
                )


class _Curves:
    """Counts curves as they are fitted."""

    def __init__(self, told: Progress) -> None:
        self._told, self._done, self._total = told, 0, 0

    def expect(self, points: Mapping[str, Sequence[Measurement]]) -> None:
        """Say of what curves will be fitted beside those so far."""
        self._total += sum(len({one.kind for one in mine}) for mine in points.values())
        self._told(self._done, self._total)

    def fitted(self) -> None:
        """Say that one is."""
        self._done += 1
        self._told(self._done, self._total)


def _levels(topology: Topology, points: dict[str, list[Measurement]], curves: _Curves) -> Topology:
    """Return the topology with the costs of its levels, also of those that lie unmeasured between measured ones."""
    levels = level_links(Routes(topology))
    gaps = [gap for gap in find_gaps(levels, list(points)) if not any(c.link == gap.link for c in topology.costs)]
    if not gaps:
        return _fitted(topology, points, curves)
    known = _fitted(topology, points, curves)
    middles = {gap: middle_of(known, gap, points) for gap in gaps}
    every = points | {gap.link: made for gap, (made, _) in middles.items() if made}
    found = _fitted(topology, {link: every[link] for link in (*levels, *points) if link in every}, curves)
    errors = {gap.link: error for gap, (_, error) in middles.items()}
    costs = (replace(c, error_fraction=errors[c.link]) if c.link in errors else c for c in found.costs)
    return replace(found, costs=tuple(costs))


def _fitted(topology: Topology, points: dict[str, list[Measurement]], curves: _Curves) -> Topology:
    curves.expect(points)
    for link, mine in points.items():
        topology = _level(topology, link, mine, curves)
    return topology


def _files(measurements: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(one.source.rsplit(":", 1)[0] for one in measurements if one.source))


def _residuals(topology: Topology, measurements: Sequence[Measurement]) -> tuple[Residual, ...]:
    routes = Routes(topology)
    found = []
    for one in measurements:
        found.append(Residual(one, *quickest(routes, one.kind, tuple(range(one.ranks)), one.bytes)))
    return tuple(found)


def _level(topology: Topology, link: str, points: Sequence[Measurement], curves: _Curves) -> Topology:
    """Return the topology with one level's bandwidth and costs."""
    by_kind: dict[str, list[Measurement]] = {}
    for one in points:
        by_kind.setdefault(one.kind, []).append(one)
    for kind, mine in by_kind.items():
        if len({one.bytes for one in mine}) < _LEAST_POINTS:
            raise MpsimError(
                f"{mine[0].source}: {kind} over {link!r} has {len({one.bytes for one in mine})} sizes, a curve has"
                f" {_LEAST_POINTS} parameters: log more sizes"
            )
    parted = {}
    for kind, mine in by_kind.items():
        parted[kind] = _part(topology, link, kind, mine)
        curves.fitted()
    rough = [fit for fits in parted.values() for fit in fits]
    topology = replace_bandwidth(topology, link, max(_reached(topology, link, fit) for fit in rough))
    routes = Routes(topology)
    costs = [_cost(topology, link, _fit(routes, link, fit.kind, fit.algorithm, fit.points)) for fit in rough]
    # An outer level's costs stand behind the inner ones': the last on a path decides.
    return replace(topology, costs=(*topology.costs, *costs))


def _reached(topology: Topology, link: str, fit: _Fit) -> float:
    """Return the bandwidth that large tensors tend to, at most a tenth above what any of them reached."""
    fitted_s = fit.regimes[-1].parameters[2]
    routes = Routes(topology)
    most = 0.0
    for one in fit.points:
        by = fit.algorithm or _usual(routes, fit.kind, one.ranks)
        part = parts_of(routes, fit.kind, by, tuple(range(one.ranks)), link, one.bytes)
        most = max(most, part.bytes_per_byte * one.bytes / one.seconds)
    return min(1 / fitted_s, 1.1 * most) if fitted_s else most


class _Fit(NamedTuple):
    """A curve of one kind by one algorithm, over some numbers of ranks and sizes."""

    kind: str
    algorithm: str
    points: list[Measurement]
    regimes: list[Fitted]
    loss: float


def _part(topology: Topology, link: str, kind: str, points: list[Measurement]) -> list[_Fit]:
    """Return the rough fits of a kind: all by its usual algorithm, or the largest of them by NVLS if that is better.

    A log does not tell which algorithm ran. NCCL takes trees between nodes up to some size, and NVLS from some number
    of ranks and some size on: those that leave the least of all points unexplained.
    """
    routes = Routes(topology)
    known: Known = {}  # From whichever size on: regimes of the same points are the same.

    def rough(by: str, some: list[Measurement]) -> _Fit:
        return _fit(routes, link, kind, by, some, known)

    options = [[rough("", points)]]
    counts, sizes = (sorted({getattr(one, name) for one in points}) for name in ("ranks", "bytes"))
    for first in reversed(counts):
        by = "nvls_tree" if _has_nodes(routes, first) else "nvls"
        if kind != "all_reduce" or not can_be(routes, kind, by, tuple(range(first))):
            continue
        for least in sizes[: 1 - _LEAST_POINTS : 2]:
            if least >= _LEAST_NVLS_BYTES or least == sizes[0]:
                many = [one for one in points if one.ranks >= first and one.bytes >= least]
                few = [one for one in points if one.ranks < first or one.bytes < least]
                fits = [rough("", few)] if few else []
                options.append([*fits, rough(by, many)])
    # As `choose` has it: trees go between nodes, over a network.
    if kind == "all_reduce" and is_network(link) and all(_has_nodes(routes, n) for n in counts):
        large = [by for by in ("", "nvls_tree") if not by or can_be(routes, kind, by, tuple(range(counts[0])))]
        for least in [*sizes[_LEAST_POINTS : 1 - _LEAST_POINTS : 2], math.inf]:
            parts = [[one for one in points if (one.bytes < least) == below] for below in (True, False)]
            for above in large if parts[1] else [""]:
                named = [(by, part) for by, part in zip(("trees", above), parts, strict=True) if part]
                options.append([rough(by, part) for by, part in named])
    # Less than one in likelihood tells nothing: of equals the first, the plainest.
    return min(options, key=lambda fits: round(_worth(fits)))


def _worth(fits: list[_Fit]) -> float:
    """Return what is least for the fits to choose: two curves where one would do cost more."""
    parameters = sum(len(regime.parameters) for fit in fits for regime in fit.regimes)
    return criterion(math.fsum(fit.loss for fit in fits), parameters, sum(len(fit.points) for fit in fits))


def _has_nodes(routes: Routes, n: int) -> bool:
    """Whether so many ranks stand in equal nodes: within one there are no trees."""
    return len(find_levels(routes, range(n))) > 1 and can_be(routes, "all_reduce", "rings", tuple(range(n)))


def _usual(routes: Routes, kind: str, n: int) -> str:
    if kind in _DIRECT:
        return "direct"
    return "rings" if kind in _RINGS and can_be(routes, kind, "rings", tuple(range(n))) else "ring"


def _fit(
    routes: Routes, link: str, kind: str, algorithm: str, points: list[Measurement], rough: Known | None = None
) -> _Fit:
    """Fit one curve, by the usual algorithm if none is named; roughly: with the bandwidth free, to see what it is."""
    found: dict[tuple[int, int], Parts] = {}
    for one in points:
        if (one.ranks, one.bytes) not in found:
            ranks, by = tuple(range(one.ranks)), algorithm or _usual(routes, kind, one.ranks)
            found[one.ranks, one.bytes] = parts_of(routes, kind, by, ranks, link, one.bytes)
    has = [found[one.ranks, one.bytes] for one in points]
    sizes = [float(one.bytes) for one in points]
    parts = np.array(
        [
            (1.0, part.messages, part.bytes_per_byte * size, size / one.ranks)
            for one, part, size in zip(points, has, sizes, strict=True)
        ]
    )
    known_s = [
        part.inner_s + (0 if rough is not None else part.own_s_per_byte * size)
        for part, size in zip(has, sizes, strict=True)
    ]
    regimes, loss = fit_regimes(sizes, parts, np.array(known_s), np.array([one.seconds for one in points]), rough)
    return _Fit(kind, algorithm, points, regimes, loss)


def _cost(topology: Topology, link: str, fit: _Fit) -> CollectiveCost:
    narrowest = narrowest_bytes_per_s(topology, link)
    ranks = {one.ranks for one in fit.points}
    return CollectiveCost(
        link=link,
        kind=fit.kind,
        algorithm=fit.algorithm or cost_family("direct" if fit.kind in _DIRECT else "ring"),
        regimes=tuple(
            Regime(
                least_bytes=one.least,
                most_bytes=one.most,
                launch_s=launch_s,
                step_s=step_s,
                bandwidth_bytes_per_s=1 / (1 / narrowest + byte_s),
                local_bytes_per_s=1 / local_s if local_s else math.inf,
            )
            for one in fit.regimes
            for launch_s, step_s, byte_s, local_s in [one.parameters]
        ),
        least_ranks=min(ranks),
        most_ranks=max(ranks),
        link_bytes_per_s=narrowest,
        error_fraction=math.sqrt(fit.loss / len(fit.points)),
        source=", ".join(_files(fit.points)),
    )
