"""What a collective takes on a topology whose costs were measured: the regimes of `mpsim.topology.costs`, put to use.

Bytes on links stay what they are, so that transfers share links as before; whatever the measured curve takes longer
than those bytes take on an idle network is latency. Between two regimes' sizes times are interpolated on log scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from mpsim.collectives.footprint import Footprint, Pace, work_out
from mpsim.collectives.mapping import laid_rounds
from mpsim.topology.catalog import is_network
from mpsim.topology.costs import CollectiveCost, Regime, relative_width

if TYPE_CHECKING:
    from mpsim.topology.model import Link
    from mpsim.topology.routes import Routes

__all__ = ["Costed", "cost_family", "costed", "costs_for", "nearest_regime"]

_APART = ("direct", "nvls", "nvls_tree", "collnet")
_TREES = ("trees", "double_binary_tree", "binary_tree")


class Costed(NamedTuple):
    """How long a collective takes alone, whether sizes or ranks are beyond those measured, and what was not at all."""

    seconds: float
    beyond: bool
    unmeasured: str = ""


_Picked = tuple[tuple[CollectiveCost, Regime], ...]
_Key = tuple[str, str, tuple[int, ...], tuple[Regime, ...]]
_KNOWN: WeakKeyDictionary[Routes, dict[_Key, Footprint]] = WeakKeyDictionary()
_BYTES: WeakKeyDictionary[Routes, dict[_Picked, list[float]]] = WeakKeyDictionary()


def cost_family(algorithm: str) -> str:
    """Return the algorithm under which costs of this one are kept.

    Examples
    --------
    >>> cost_family("hierarchical:8"), cost_family("nvls")
    ('ring', 'nvls')
    """
    if algorithm in _TREES:
        return "trees"
    return algorithm if algorithm in _APART else "ring"


def costs_for(routes: Routes, kind: str, algorithm: str) -> tuple[CollectiveCost, ...]:
    """Return the topology's costs of this kind and family of algorithm, in the order in which they stand.

    NVLS inside nodes costs what it does in one, whatever goes on between them; and a tree's chain inside a node what a
    ring's messages do, where no cost of trees is of those links.
    """
    family = cost_family(algorithm)
    inside = {"nvls_tree": "nvls", "trees": "ring"}.get(family, family)
    of_kind = [cost for cost in routes.topology.costs if cost.kind == kind]
    own = {cost.link for cost in of_kind if cost.algorithm == family}
    return tuple(
        cost
        for cost in of_kind
        if cost.algorithm == family or (cost.algorithm == inside and cost.link not in own and not is_network(cost.link))
    )


def costed(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...], bytes: float) -> Costed | None:
    """Return how long a collective takes alone by the topology's costs; None where they do not tell.

    The levels of a topology are told apart by the types of their links; a message costs what the last of the costs on
    its path says, and the whole is launched as on the last of all.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> regime = Regime(least_bytes=1, most_bytes=1e9, launch_s=8e-6, step_s=1e-6)
    >>> cost = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(regime,), most_ranks=8)
    >>> routes = Routes(replace(switch(4, link="nvlink4"), costs=(cost,)))
    >>> round(costed(routes, "all_reduce", "ring", (0, 1, 2, 3), 8).seconds * 1e6, 3)
    14.0
    """
    costs = _met(routes, costs_for(routes, kind, algorithm), ranks)
    if not costs:
        return None
    outer = costs[-1]
    # Each to the next: a message is one however many ranks send theirs beside it.
    counted = max(len(ranks), outer.least_ranks) if kind == "send_receive" else len(ranks)
    beyond = not outer.covers(counted, bytes)
    # Levels below are met by fewer ranks than all: only their sizes can be beyond.
    low, high = _around(outer, bytes)
    inner = tuple((cost, nearest_regime(cost, bytes)) for cost in costs[:-1])
    unmeasured = "; ".join(dict.fromkeys(cost.unmeasured for cost in costs if cost.unmeasured))
    if low is high:
        return Costed(_seconds(routes, kind, algorithm, ranks, (*inner, (outer, low)), bytes), beyond, unmeasured)
    ends = (low.most_bytes, high.least_bytes)
    at = [
        _seconds(routes, kind, algorithm, ranks, (*inner, (outer, regime)), end)
        for regime, end in zip((low, high), ends, strict=True)
    ]
    way = math.log(bytes / ends[0]) / math.log(ends[1] / ends[0])
    return Costed(math.exp((1 - way) * math.log(at[0]) + way * math.log(at[1])), beyond, unmeasured)


def _met(routes: Routes, costs: Sequence[CollectiveCost], ranks: tuple[int, ...]) -> list[CollectiveCost]:
    """Return those of `costs` whose links lie between these ranks."""
    if not costs:
        return []
    links = routes.topology.links
    first = ranks[0]
    types = {links[i].type for rank in ranks[1:] for i in (*routes.path(first, rank), *routes.path(rank, first))}
    return [cost for cost in costs if cost.link in types]


def _around(cost: CollectiveCost, bytes: float) -> tuple[Regime, Regime]:
    """Return the regimes on both sides of a size; twice the same where it lies in one, or beyond all."""
    for low, high in zip(cost.regimes, cost.regimes[1:], strict=False):
        if bytes <= low.most_bytes:
            return low, low
        if bytes < high.least_bytes:
            return low, high
    return cost.regimes[-1], cost.regimes[-1]


def nearest_regime(cost: CollectiveCost, bytes: float) -> Regime:
    """Return the regime whose sizes are nearest to one."""
    low, high = _around(cost, bytes)
    return low if low is high or bytes / low.most_bytes < high.least_bytes / bytes else high


def _seconds(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...], picked: _Picked, bytes: float) -> float:
    foot = _paced(routes, kind, algorithm, ranks, picked)
    outer = picked[-1][1]
    local_s = bytes / len(ranks) / outer.local_bytes_per_s
    return outer.launch_s + foot.latency_s + bytes * foot.s_per_byte + local_s


def _paced(routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...], picked: _Picked) -> Footprint:
    known = _KNOWN.setdefault(routes, {})
    key = (kind, algorithm, ranks, tuple(regime for _, regime in picked))
    if key not in known:
        rounds, order = laid_rounds(routes, kind, algorithm, ranks)
        known[key] = work_out(routes, rounds, order, _pace(routes, picked))
    return known[key]


def _pace(routes: Routes, picked: _Picked) -> Pace:
    links = routes.topology.links
    regimes = {cost.link: regime for cost, regime in picked}
    outermost = [cost.link for cost, _ in reversed(picked)]

    def message_s(path: Sequence[int]) -> float:
        types = {links[i].type for i in path}
        level = next((level for level in outermost if level in types), None)
        return routes.latency_s(path) if level is None else regimes[level].step_s

    known = _BYTES.setdefault(routes, {})
    if picked not in known:
        known[picked] = _byte_s(links, picked)
    return Pace(message_s, known[picked], one_by_one=True)


def _byte_s(links: Sequence[Link], picked: _Picked) -> list[float]:
    """Return the seconds that a byte takes on each link."""
    of_type = {cost.link: (cost, regime) for cost, regime in picked}
    found = []
    for link in links:
        width = link.bandwidth_bytes_per_s
        if link.type in of_type:
            cost, regime = of_type[link.type]
            width = min(width, regime.bandwidth_bytes_per_s * relative_width(width, cost.link_bytes_per_s))
        found.append(1 / width)
    return found
