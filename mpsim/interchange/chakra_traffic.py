"""The traffic of a trace's transfers: as mpsim wrote it, or worked out on a topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mpsim.collectives.traffic import collective, message_traffic
from mpsim.errors import MpsimError
from mpsim.interchange import hints
from mpsim.interchange.chakra_file import Value
from mpsim.interchange.chakra_match import Unit
from mpsim.interchange.losses import Losses
from mpsim.program.model import Traffic
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes

__all__ = ["PER_RANK", "TrafficOf", "traffic_hints"]

# Their size in a trace is what one rank puts in, as ASTRA-sim reads it; mpsim counts the whole tensor.
PER_RANK = ("all_gather", "gather")


def traffic_hints(traffic: Traffic) -> dict[str, Value]:
    """Return a traffic as attributes.

    Examples
    --------
    >>> traffic_hints(Traffic(latency_s=0.5))["mpsim_latency_s"]
    0.5
    """
    return {
        hints.LATENCY: float(traffic.latency_s),
        hints.LINKS: tuple(traffic.links),
        hints.LINK_BYTES: tuple(map(float, traffic.bytes)),
        hints.ROUNDS: traffic.rounds,
        hints.BYTES: traffic.payload_bytes,
        hints.BUFFERED: float(traffic.buffered_bytes),
    }


def _as_written(found: Mapping[str, Value], unit: Unit) -> Traffic:
    """Return the traffic that attributes stand for."""
    latency, links, counts = (found.get(name) for name in (hints.LATENCY, hints.LINKS, hints.LINK_BYTES))
    rounds, payload, buffered = (found.get(name) for name in (hints.ROUNDS, hints.BYTES, hints.BUFFERED))
    if not (
        isinstance(latency, float)
        and isinstance(buffered, float)
        and isinstance(links, tuple)
        and isinstance(counts, tuple)
        and isinstance(rounds, int)
        and isinstance(payload, int)
    ):
        raise MpsimError(f"{unit.ends[0]}: its {hints.LINKS} cannot be read: mpsim did not write it so")
    return Traffic(
        latency_s=latency,
        links=tuple(int(link) for link in links),
        bytes=tuple(float(count) for count in counts),
        payload_bytes=payload,
        rounds=rounds,
        buffered_bytes=buffered,
    )


class TrafficOf:
    """Finds the traffic of a trace's transfers, once for all that are alike.

    Parameters
    ----------
    topology : Topology
        Whose links carry them.
    algorithm : str
        Of collectives that are worked out.
    as_written : bool
        Whether what mpsim wrote of links is of this topology.
    losses : Losses
        Where to note what costs nothing for want of something.
    """

    def __init__(self, topology: Topology, algorithm: str, as_written: bool, losses: Losses) -> None:
        self._routes = Routes(topology)
        self._algorithm, self._is_written, self._losses = algorithm, as_written, losses
        self._known: dict[object, Traffic] = {}

    def written(self, unit: Unit) -> Traffic | None:
        """Return the traffic of a unit that mpsim wrote."""
        found = unit.ends[0].node.attributes
        if hints.LATENCY not in found:
            return None
        if not self._is_written and unit.kind != "one":
            if found.get(hints.KIND) == "send_receive":
                return self.collective(replace(unit, kind="send_receive"))
            return self.message(unit) if unit.kind == "send" else self.collective(unit)
        names = (hints.LATENCY, hints.LINKS, hints.LINK_BYTES, hints.ROUNDS, hints.BYTES, hints.BUFFERED)
        key = tuple(found.get(name) for name in names)
        if key not in self._known:
            self._known[key] = _as_written(found, unit)
        return self._known[key]

    def message(self, unit: Unit) -> Traffic:
        """Return the traffic of a message, worked out."""
        (source, target), size = unit.ranks, _bytes(unit)
        key = ("send", source, target, size)
        if key not in self._known:
            self._known[key] = message_traffic(self._routes, source, target, max(size, 0))
        return self._known[key]

    def collective(self, unit: Unit) -> Traffic | None:
        """Return the traffic of a collective, worked out; None where it has one rank."""
        ranks, kind, size = unit.ranks, unit.kind, _bytes(unit)
        if len(ranks) == 1:
            self._losses.add("collectives over 1 rank: they take no time", str(unit.ends[0]))
            return None
        if size <= 0:
            self._losses.add("collectives of no bytes: their ranks wait for each other, no more", str(unit.ends[0]))
            return self._known.setdefault("barrier", Traffic(rounds=0))
        key = (kind, ranks, size)
        if key not in self._known:
            try:
                self._known[key] = collective(self._routes, kind, ranks, size, algorithm=self._algorithm)
            except MpsimError as error:
                raise MpsimError(f"{unit.ends[0]}: {error}") from None
        return self._known[key]


def _bytes(unit: Unit) -> int:
    """Return the bytes of a message, or of a collective's whole tensor."""
    exact = unit.ends[0].node.attributes.get(hints.BYTES)
    if isinstance(exact, int):
        return exact
    return unit.bytes * (len(unit.ranks) if unit.kind in PER_RANK else 1)
