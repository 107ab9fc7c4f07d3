"""Folding: of ranks that do the same at the same moments, one is simulated and stands for all.

A *line* is the ranks of one replica and one part of its layers, from the first pipeline rank to the last. Lines that do
the same over links that carry the same are one class. Classes are found as colours are in a graph (Weisfeiler and
Leman's refinement, https://en.wikipedia.org/wiki/Weisfeiler_Leman_graph_isomorphism_test): lines begin with the colour
of their devices, links with that of their bandwidth, and each takes on the colours of all the exchanges that it is part
of, over and over, until no class falls apart any more. Then every line of a class exchanges as much, with as many of
each class, over links of the same classes, and each link of a class carries as many transfers of each. As transfers
share links by their shares alone, and all that happens at one moment counts at once, alike ranks stay alike for the
whole step: what is simulated of one is true of all to the last bit. A slow device, a narrow link, a place of its own
makes classes of its own of all that they touch, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from mpsim.collectives.mapping import algorithm_of
from mpsim.collectives.traffic import Laid, lay, message_traffic
from mpsim.lowering.colours import firsts_of_classes
from mpsim.lowering.folding import Folding, Unfolded
from mpsim.lowering.instructions import Collective, Copy, Instructions, Send
from mpsim.lowering.model import Lowering
from mpsim.plan.runtimes import resolve_runtime

__all__ = ["fold"]


def fold(lowering: Lowering, written: Sequence[Instructions]) -> Unfolded:
    """Return the classes of a plan's ranks, by what its pipeline ranks do.

    Gloo's collectives are followed message by message where there are two ranks, each by itself: nothing is folded.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.lowering.passes import instructions_of
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=64)
    >>> lowering = lower(work, parse_topology("nodes:2,per_node=4,nics=4,inside=nvlink4,between=ib_ndr"),
    ...                  Plan(dp=4, pp=2))
    >>> fold(lowering, [instructions_of(lowering, p) for p in range(2)]).stands_for
    {0: 2, 1: 2, 2: 2, 3: 2}
    """
    if lowering.grid.size == lowering.plan.pp or resolve_runtime(lowering.plan.runtime).gloo_collectives:
        return Unfolded(lowering.place)
    graph = _Exchanges(lowering)
    graph.add(written)
    lines, links = graph.classes()
    grid, pp = lowering.grid, range(lowering.plan.pp)
    stand_in = [0] * grid.size
    for line, own in zip(graph.lines, lines, strict=True):
        for p in pp:
            stand_in[line[p]] = graph.lines[own][p]
    return Folding(lowering.place, stand_in, links)


class _Use(NamedTuple):
    """Collectives of a pipeline rank along an axis: among which of the pipeline's ranks, and what."""

    p: int
    axis: str
    ranks: tuple[int, ...]


class _Exchanges:
    """What lines exchange over which links, as a graph of three kinds of nodes: lines, exchanges, links."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering, self._place = lowering, lowering.place
        grid, plan = lowering.grid, lowering.plan
        self.lines = [
            tuple(grid.rank(dp=d, pp=p, cp=c, tp=t) for p in range(plan.pp))
            for d in range(plan.dp)
            for c in range(plan.cp)
            for t in range(plan.tp)
        ]
        self._line_of = {rank: i for i, line in enumerate(self.lines) for rank in line}
        # Edges: the exchange and its line; the exchange, its link and what it puts there.
        self._members: list[tuple[int, int]] = []
        self._carried: list[tuple[int, int, int]] = []
        self._kinds: list[int] = []
        self._number = _Numbers()

    def add(self, written: Sequence[Instructions]) -> None:
        """Add all that pipeline ranks exchange."""
        for i in range(len(self.lines)):
            self._members.append((i, i))
        self._kinds = [0] * len(self.lines)
        uses: dict[_Use, dict[tuple[str, int], None]] = {}
        for p, instructions in enumerate(written):
            sends: dict[tuple[int, int], None] = {}
            copies: dict[bool, None] = {}
            for one in instructions:
                if type(one) is Send:
                    sends[one.peer, one.bytes] = None
                elif type(one) is Collective:
                    uses.setdefault(_Use(p, one.axis, one.group), {})[one.kind, one.bytes] = None
                elif type(one) is Copy:
                    copies[one.away] = None
            self._add_messages(p, sends)
            self._add_copies(p, copies)
        for use, calls in uses.items():
            self._add_collectives(use, list(calls))

    def _add_messages(self, p: int, sends: Mapping[tuple[int, int], None]) -> None:
        """Add the messages of each line from a pipeline rank to others."""
        routes, costs = self._lowering.routes, self._lowering.topology.costs
        for to in dict.fromkeys(peer for peer, _ in sends):
            kind = self._number("message", p, to)
            for i, line in enumerate(self.lines):
                source, target = self._place[line[p]], self._place[line[to]]
                self._carried += [(i, link, kind) for link in routes.path(source, target)]
                if costs:
                    took = [message_traffic(routes, source, target, n).latency_s for peer, n in sends if peer == to]
                    self._kinds[i] = self._number(self._kinds[i], p, to, tuple(took))

    def _add_copies(self, p: int, copies: Mapping[bool, None]) -> None:
        """Add the copies of each line to a pipeline rank's host, or back."""
        for away in copies:
            kind = self._number("copy", p, away)
            for i, line in enumerate(self.lines):
                path = self._lowering.routes.host_path(self._place[line[p]], away)
                self._carried += [(i, link, kind) for link in path]

    def _add_collectives(self, use: _Use, calls: Sequence[tuple[str, int]]) -> None:
        """Add the collectives of every group of a pipeline rank along an axis."""
        for ranks in self._groups(use):
            laid = [self._lay(kind, ranks, count) for kind, count in calls]
            feet = list({id(one.foot): one.foot for one in laid}.values())
            which = {id(foot): i for i, foot in enumerate(feet)}
            exchange = len(self._kinds)
            self._kinds.append(self._number(use, tuple((which[id(one.foot)], *one[1:]) for one in laid)))
            self._members += [(exchange, self._line_of[rank]) for rank in ranks]
            for i, foot in enumerate(feet):
                kinds = {pieces: self._number("pieces", use, i, pieces) for pieces in set(foot.link_pieces)}
                self._carried += [
                    (exchange, link, kinds[pieces]) for link, pieces in zip(foot.links, foot.link_pieces, strict=True)
                ]

    def _groups(self, use: _Use) -> Iterator[tuple[int, ...]]:
        """Yield the ranks of each group of a pipeline rank."""
        grid, seen = self._lowering.grid, set[int]()
        axes = ("dp", "cp") if use.axis == "dp" else (use.axis,)
        for line in self.lines:
            rank = line[use.p]
            if rank not in seen:
                group = tuple(line[p] for p in use.ranks) if use.axis == "pp" else grid.group(rank, *axes)
                seen.update(group)
                yield group

    def _lay(self, kind: str, ranks: Sequence[int], count: int) -> Laid:
        lowering = self._lowering
        devices = tuple(self._place[rank] for rank in ranks)
        return lay(lowering.routes, kind, devices, count, algorithm=algorithm_of(kind, lowering.plan.algorithm))

    def classes(self) -> tuple[list[int], list[int]]:
        """Return for each line, and each link of the topology, the first of its class."""
        topology = self._lowering.topology
        number = _Numbers()

        @cache
        def of_device(device: int) -> int:
            return number(replace(topology.devices[device], name="", host=str(bool(topology.devices[device].host))))

        lines = [number(*(of_device(self._place[rank]) for rank in line)) for line in self.lines]
        members = np.array(self._members, dtype=np.int64).T
        carried = np.array(self._carried, dtype=np.int64).reshape(-1, 3).T
        used, carried[1] = np.unique(carried[1], return_inverse=True)
        wires = (topology.links[link] for link in used)
        links = [number(wire.bandwidth_bytes_per_s, wire.latency_s, wire.type) for wire in wires]
        own_lines, own_links = firsts_of_classes(
            np.array(lines, dtype=np.int64),
            np.array(self._kinds, dtype=np.int64),
            np.array(links, dtype=np.int64),
            members,
            carried,
        )
        own = list(range(len(topology.links)))
        for link, first in zip(used.tolist(), used[own_links].tolist(), strict=True):
            own[link] = first
        return own_lines.tolist(), own


class _Numbers:
    """Numbers whatever it is given: equal things get one number."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def __call__(self, *what: object) -> int:
        return self._known.setdefault(what, len(self._known))
