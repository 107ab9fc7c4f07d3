"""Costs of links that nobody measured, borrowed from the nearest that somebody did, rescaled by latency and bandwidth.

Latencies go as the catalog's effective ones do, bandwidths as those of the links: a `CollectiveCost` knows how wide the
links are that it was fitted on. Of three rules (bandwidth in proportion, what a protocol adds to a link's kept, all
kept) the first was the best on one node of H100 by the costs of A100 and the other way around: 41 and 38 % off, for 76
and 79 % without costs (``docs/nccl-validation.md``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mpsim.topology.catalog import alike, link, link_names
from mpsim.topology.costs import NOT_MEASURED, CollectiveCost
from mpsim.topology.model import Topology

__all__ = ["with_borrowed"]


def with_borrowed(topology: Topology, measured: Sequence[CollectiveCost]) -> Iterator[CollectiveCost]:
    """Yield the costs that a topology's links have or can borrow, in the order of those that were measured.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.costs import Regime
    >>> one = Regime(least_bytes=1, most_bytes=2**30, launch_s=5e-6)
    >>> cost = CollectiveCost(
    ...     link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(one,), link_bytes_per_s=4e11
    ... )
    >>> [cost.source for cost in with_borrowed(switch(8, link="nvlink5"), [cost])]
    ['not measured: nvlink5 as nvlink4, latencies x 1, bandwidths x 1.71']
    """
    known = {cost.link for cost in measured}
    widths: dict[str, float] = {}
    for one in topology.links:
        widths[one.type] = min(one.bandwidth_bytes_per_s, widths.get(one.type, math.inf))
    in_catalog = set(link_names())
    wanting = [name for name in widths if name not in known and name in in_catalog]
    donors = {
        (name, cost.kind, cost.algorithm): _nearest(name, cost, measured) for name in wanting for cost in measured
    }
    for cost in measured:
        if cost.link in widths:
            yield cost
        for name in wanting:
            if donors[name, cost.kind, cost.algorithm] == cost.link:
                yield _rescaled(cost, name, widths[name])


def _nearest(name: str, cost: CollectiveCost, measured: Sequence[CollectiveCost]) -> str:
    """Return the measured link of a link's kind, with costs of a collective by an algorithm, that is most like it."""
    same = [one.link for one in measured if (one.kind, one.algorithm) == (cost.kind, cost.algorithm)]
    found = [other for other in dict.fromkeys(same) if alike(name, other)]
    mine = link(name)

    def apart(other: str) -> tuple[bool, float, float]:
        its = link(other)
        latency, width = (
            abs(math.log(getattr(mine, field) / getattr(its, field)))
            for field in ("effective_latency_s", "bandwidth_bytes_per_s")
        )
        return mine.family != its.family, latency, width

    return min(found, key=apart, default="")


def _rescaled(cost: CollectiveCost, name: str, narrowest_bytes_per_s: float) -> CollectiveCost:
    slower = link(name).effective_latency_s / link(cost.link).effective_latency_s
    wider = narrowest_bytes_per_s / cost.link_bytes_per_s if cost.link_bytes_per_s else 1.0
    regimes = tuple(replace(one, launch_s=one.launch_s * slower, step_s=one.step_s * slower) for one in cost.regimes)
    source = f"{NOT_MEASURED}{name} as {cost.link}, latencies x {slower:.3g}, bandwidths x {wider:.3g}"
    return replace(cost, link=name, regimes=regimes, source=source)
