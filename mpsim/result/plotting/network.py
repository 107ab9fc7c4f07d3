"""A topology's graph: devices below, switches above them, links between as wide as their bandwidth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from mpsim.errors import MpsimError
from mpsim.result.plotting.style import BLUE, CYCLE, ORANGE, axes_for, figure_of, title
from mpsim.units import format_bandwidth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["network"]

_MOST = 600  # More nodes than that are a grey area.
_MOST_LINKS = 20_000  # As many links are too, and take seconds.
_NAMED = 40


class _Node(Protocol):
    @property
    def name(self) -> str: ...


class _Link(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def bandwidth_bytes_per_s(self) -> float: ...
    @property
    def type(self) -> str: ...


class _Graph(Protocol):
    """What is drawn: a `mpsim.Topology`."""

    @property
    def name(self) -> str: ...
    @property
    def devices(self) -> Sequence[_Node]: ...
    @property
    def switches(self) -> Sequence[str]: ...
    @property
    def links(self) -> Sequence[_Link]: ...


_Places = dict[str, tuple[float, float]]


def network(topology: _Graph, *, ax: Axes | None = None) -> Figure:
    """Draw a topology: devices in a row with switches above, or around a circle where there are no switches.

    Parameters
    ----------
    topology : Topology
        What to draw.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        So many nodes or links that nothing could be told from the picture.

    Examples
    --------
    >>> import mpsim
    >>> [len(line.get_xdata()) for line in network(mpsim.parse_topology("ring:4,link=nvlink4")).axes[0].lines]
    [2, 2, 2, 2]
    """
    nodes = len(topology.devices) + len(topology.switches)
    if nodes > _MOST:
        raise MpsimError(f"{topology.name!r} has {nodes:,} nodes, {_MOST} at most are drawn: draw fewer nodes of it")
    if len(topology.links) > _MOST_LINKS:
        links = f"{len(topology.links):,} links, {_MOST_LINKS:,} at most are drawn"
        raise MpsimError(f"{topology.name!r} has {links}: draw a part of it")
    places = _rows(topology) if topology.switches else _circle(topology)
    flat = bool(topology.switches)
    ax = axes_for(ax, max(6.0, min(16.0, 0.5 * len(topology.devices))) if flat else 6.0, 4.0 if flat else 6.0)
    ax.set_axis_off()
    _draw_links(ax, topology, places)
    _draw_nodes(ax, topology, places)
    title(ax, [topology.name, f"{len(topology.devices)} devices, {len(topology.switches)} switches"], 8.0)
    return figure_of(ax)


def _circle(topology: _Graph) -> _Places:
    count = len(topology.devices)
    turns = [2 * math.pi * i / count for i in range(count)]
    return {device.name: (math.sin(turn), math.cos(turn)) for device, turn in zip(topology.devices, turns, strict=True)}


def _rows(topology: _Graph) -> _Places:
    """Put each switch above the nodes that it joins, as many rows up as it is links from a device."""
    neighbours: dict[str, set[str]] = {}
    for link in topology.links:
        neighbours.setdefault(link.source, set()).add(link.target)
        neighbours.setdefault(link.target, set()).add(link.source)
    rows = [[device.name for device in topology.devices]]
    places = {name: (float(i), 0.0) for i, name in enumerate(rows[0])}
    left = list(topology.switches)
    while left and rows[-1]:
        row = [name for name in left if neighbours.get(name, set()) & set(rows[-1])]
        left = [name for name in left if name not in row]
        middles = {name: _middle(neighbours[name] & places.keys(), places) for name in row}
        row.sort(key=middles.__getitem__)
        degree = {name: len(neighbours[name]) for name in row}
        # What joins many stands a little below the cards beside it, whose links go on upwards.
        wide = {name for name in row if degree[name] > 2 * min(degree.values())}
        for part, raised in ((wide, -0.4), (set(row) - wide, 0.0)):
            if part:
                ordered = [name for name in row if name in part]
                places |= _spread(ordered, middles, len(rows[0]), len(rows) + raised)
        rows.append(row)
    return places


def _middle(names: set[str], places: _Places) -> float:
    return sum(places[name][0] for name in names) / len(names)


def _spread(row: Sequence[str], middles: dict[str, float], width: int, height: float) -> _Places:
    """Return where the nodes of a row stand: over their middles, unless two would stand in one place."""
    gaps = [middles[b] - middles[a] for a, b in pairwise(row)]
    if gaps and min(gaps) < 0.3:
        step = width / len(row)
        return {name: ((i + 0.5) * step - 0.5, height) for i, name in enumerate(row)}
    return {name: (middles[name], height) for name in row}


def _draw_links(ax: Axes, topology: _Graph, places: _Places) -> None:
    """Draw each pair of nodes once, a colour for each type of link."""
    finite = [link.bandwidth_bytes_per_s for link in topology.links if link.bandwidth_bytes_per_s < math.inf]
    widest = max(finite, default=1.0)
    kinds = list(dict.fromkeys((link.type, link.bandwidth_bytes_per_s) for link in topology.links))
    colours = {kind: CYCLE[2:][i % len(CYCLE[2:])] for i, kind in enumerate(kinds)}
    drawn: set[frozenset[str]] = set()
    told: set[tuple[str, float]] = set()
    for link in topology.links:
        ends, kind = frozenset((link.source, link.target)), (link.type, link.bandwidth_bytes_per_s)
        if ends in drawn:
            continue
        drawn.add(ends)
        label = None if kind in told or len(kinds) > len(CYCLE[2:]) else _label(kind)
        told.add(kind)
        (x0, y0), (x1, y1) = places[link.source], places[link.target]
        width = 0.5 + 3 * math.sqrt(min(1.0, link.bandwidth_bytes_per_s / widest))
        ax.plot([x0, x1], [y0, y1], color=colours[kind], linewidth=width, zorder=1, label=label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, title="one direction")


def _label(kind: tuple[str, float]) -> str:
    return f"{kind[0] or 'link'}, {format_bandwidth(kind[1])}"


def _draw_nodes(ax: Axes, topology: _Graph, places: _Places) -> None:
    devices = [device.name for device in topology.devices]
    for names, marker, colour in ((devices, "s", BLUE), (list(topology.switches), "o", ORANGE)):
        if not names:
            continue
        xs, ys = zip(*(places[name] for name in names), strict=True)
        size = max(12.0, min(220.0, 3000.0 / len(names)))
        ax.scatter(xs, ys, s=size, marker=marker, color=colour, zorder=2)
        if len(names) <= _NAMED:
            below = -12 if names is devices and topology.switches else 10
            for name, x, y in zip(names, xs, ys, strict=True):
                ax.annotate(
                    name, (x, y), xytext=(0, below), textcoords="offset points", ha="center", fontsize=7,
                    va="top" if below < 0 else "bottom", rotation=90 if below < 0 and len(names) > 12 else 0,
                )  # fmt: skip
    ax.margins(0.08)
