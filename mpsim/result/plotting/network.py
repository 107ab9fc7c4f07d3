"""A topology's graph: devices below, switches above them, links between as wide as their bandwidth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mpsim.errors import MpsimError
from mpsim.reprs import brief
from mpsim.result.plotting.alike import Folded, Graph, Link, fold
from mpsim.result.plotting.lattice import lattice
from mpsim.result.plotting.style import BLUE, CYCLE, ORANGE, axes_for, figure_of, title
from mpsim.units import format_bandwidth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["network"]

_MOST = 600  # More nodes than that are a grey area.
_MOST_LINKS = 20_000  # As many links are too, and take seconds.
_NAMED = 40  # Of more nodes alike parts are folded, and of more in a kind none are named.
_MOST_THICK = 200  # More links than that are drawn thinner.
_MOST_FOLDED = 20_000  # To find which of more are alike takes minutes.
_COLUMNS = 1.6  # So many devices wide is what stands for parts that are not drawn.


_Places = dict[str, tuple[float, float]]


def network(topology: Graph, *, ax: Axes | None = None) -> Figure:
    """Draw a topology: devices in a row with switches above, or around a circle where there are no switches.

    Of more than 40 nodes those parts that are alike, such as the nodes of a cluster, are drawn at their first and their
    last, with how many lie between.

    Parameters
    ----------
    topology : Topology
        What to draw.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a new figure.

    Raises
    ------
    MpsimError
        So many nodes or links, that no others are like, that nothing could be told from the picture.

    Examples
    --------
    >>> import mpsim
    >>> [len(line.get_xdata()) for line in network(mpsim.parse_topology("ring:4,link=nvlink4")).axes[0].lines]
    [2, 2, 2, 2]
    >>> [text.get_text() for text in network(mpsim.parse_topology("switch:64,link=nvlink4")).axes[0].texts]
    ['× 62', 'd0', 'd63', 'switch']
    """
    if not all(hasattr(topology, name) for name in ("devices", "switches", "links")):
        raise MpsimError(f"expected a topology, as mpsim.parse_topology makes of text, got {brief(topology)}")
    drawn = _drawn(topology)
    flat = bool(drawn.switches)
    places, ends = ({}, set()) if flat else lattice(drawn.devices, drawn.links)
    places = places or (_rows(drawn) if flat else _circle(drawn))
    columns = len(drawn.devices) + _COLUMNS * len(drawn.hidden)
    ax = axes_for(ax, max(6.0, min(16.0, 0.5 * columns)) if flat else 6.0, 4.2 if flat else 6.0)
    ax.set_axis_off()
    _draw_links(ax, drawn, places, ends)
    for name, count in drawn.hidden.items():
        x = places[name][0] + (1 + _COLUMNS) / 2
        ax.text(x, 0.0, f"× {count:,}", fontsize="large", ha="center", va="center")
    _draw_nodes(ax, drawn, places)
    counts = f"{_count(len(topology.devices), 'device')}, {_count(len(topology.switches), 'switch')}"
    notes = ["× n: so many more, like those at both sides"] if drawn.hidden else []
    title(ax, [topology.name, counts, *notes], 8.0)
    return figure_of(ax)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("es" if noun.endswith("h") else "s") * (count != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What is drawn of a topology: names of nodes, and links between them."""

    devices: Sequence[str]
    switches: Sequence[str]
    links: Sequence[Link]
    hidden: Mapping[str, int]


def _drawn(topology: Graph) -> _Drawn:
    """Return what is drawn, or refuse what would be a grey area."""
    nodes, folded = len(topology.devices) + len(topology.switches), Folded()
    if _NAMED < nodes <= _MOST_FOLDED and topology.switches:
        folded = fold(topology)
    if not folded.hidden:
        folded.kept = {*(device.name for device in topology.devices), *topology.switches}
    links = [link for link in topology.links if {link.source, link.target} <= folded.kept]
    if len(folded.kept) > _MOST:
        raise MpsimError(
            f"{topology.name!r} has {nodes:,} nodes, {_MOST} at most are drawn that no others are like: draw fewer"
            " nodes of it"
        )
    if len(links) > _MOST_LINKS:
        found = f"{len(links):,} links, {_MOST_LINKS:,} at most are drawn"
        raise MpsimError(f"{topology.name!r} has {found}: draw a part of it")
    return _Drawn(
        devices=[device.name for device in topology.devices if device.name in folded.kept],
        switches=[name for name in topology.switches if name in folded.kept],
        links=links,
        hidden=folded.hidden,
    )


def _columns(drawn: _Drawn) -> list[float]:
    """Return where each device stands in its row, with room for what stands for those that are not drawn."""
    at, found = 0.0, []
    for name in drawn.devices:
        found.append(at)
        at += 1.0 + (_COLUMNS if name in drawn.hidden else 0.0)
    return found


def _circle(drawn: _Drawn) -> _Places:
    count = len(drawn.devices)
    turns = [2 * math.pi * i / count for i in range(count)]
    return {name: (math.sin(turn), math.cos(turn)) for name, turn in zip(drawn.devices, turns, strict=True)}


def _rows(drawn: _Drawn) -> _Places:
    """Put each switch above the nodes that it joins, as many rows up as it is links from a device."""
    neighbours: dict[str, set[str]] = {}
    for link in drawn.links:
        neighbours.setdefault(link.source, set()).add(link.target)
        neighbours.setdefault(link.target, set()).add(link.source)
    rows, columns = [list(drawn.devices)], _columns(drawn)
    places = {name: (x, 0.0) for name, x in zip(rows[0], columns, strict=True)}
    left = list(drawn.switches)
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
                places |= _spread(ordered, middles, columns[-1] + 1, len(rows) + raised)
        rows.append(row)
    return places


def _middle(names: set[str], places: _Places) -> float:
    return sum(places[name][0] for name in names) / len(names)


def _spread(row: Sequence[str], middles: dict[str, float], width: float, height: float) -> _Places:
    """Return where the nodes of a row stand: over their middles, unless two would stand in one place."""
    gaps = [middles[b] - middles[a] for a, b in pairwise(row)]
    if gaps and min(gaps) < 0.3:
        step = width / len(row)
        return {name: ((i + 0.5) * step - 0.5, height) for i, name in enumerate(row)}
    return {name: (middles[name], height) for name in row}


def _draw_links(ax: Axes, topology: _Drawn, places: _Places, around: set[frozenset[str]]) -> None:
    """Draw each pair of nodes once, a colour for each type of link."""
    finite = [link.bandwidth_bytes_per_s for link in topology.links if link.bandwidth_bytes_per_s < math.inf]
    widest = max(finite, default=1.0)
    kinds = list(dict.fromkeys((link.type, link.bandwidth_bytes_per_s) for link in topology.links))
    colours = {kind: CYCLE[2:][i % len(CYCLE[2:])] for i, kind in enumerate(kinds)}
    thin = min(1.0, math.sqrt(_MOST_THICK / max(len(topology.links), 1)))
    drawn: set[frozenset[str]] = set()
    told: set[tuple[str, float]] = set()
    for link in topology.links:
        ends, kind = frozenset((link.source, link.target)), (link.type, link.bandwidth_bytes_per_s)
        if ends in drawn:
            continue
        drawn.add(ends)
        label = None if kind in told or len(kinds) > len(CYCLE[2:]) else _label(kind)
        told.add(kind)
        (x0, y0), (x1, y1) = sorted((places[link.source], places[link.target]))
        bent = ends in around or (bool(topology.switches) and y0 == y1)
        xs, ys = _bow(x0, y0, x1, y1) if bent else ([x0, x1], [y0, y1])
        width = (0.5 + 3 * math.sqrt(min(1.0, link.bandwidth_bytes_per_s / widest))) * (0.4 if bent else 1.0) * thin
        ax.plot(xs, ys, color=colours[kind], linewidth=width, zorder=1, label=label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, title="one direction")


def _bow(x0: float, y0: float, x1: float, y1: float) -> tuple[list[float], list[float]]:
    """Return the points of half an ellipse from one point to another: straight, others would stand in its way."""
    long = math.hypot(x1 - x0, y1 - y0)
    high = 0.25 * long**0.5 / long
    found = []
    for i in range(17):
        along, across = (1 - math.cos(math.pi * i / 16)) / 2, high * math.sin(math.pi * i / 16)
        found.append((x0 + along * (x1 - x0) - across * (y1 - y0), y0 + along * (y1 - y0) + across * (x1 - x0)))
    return [x for x, _ in found], [y for _, y in found]


def _label(kind: tuple[str, float]) -> str:
    return f"{kind[0] or 'link'}, {format_bandwidth(kind[1])}"


def _draw_nodes(ax: Axes, topology: _Drawn, places: _Places) -> None:
    devices = topology.devices
    for names, marker, colour in ((devices, "s", BLUE), (list(topology.switches), "o", ORANGE)):
        if not names:
            continue
        xs, ys = zip(*(places[name] for name in names), strict=True)
        size = max(12.0, min(220.0, 3000.0 / len(names)))
        ax.scatter(xs, ys, s=size, marker=marker, color=colour, zorder=2)
        if len(names) <= _NAMED:
            _write_names(ax, {name: places[name] for name in names}, below=names is devices and bool(topology.switches))
    ax.margins(0.06, 0.14)


def _write_names(ax: Axes, places: _Places, *, below: bool) -> None:
    """Write names above their nodes, or below them; of many in a row so that they do not run into each other."""
    rows = Counter(y for _, y in places.values())
    for name, (x, y) in places.items():
        many = rows[y] > 12 and len(rows) < len(places)
        turned = (90 if below else 30) if many else 0
        ax.annotate(
            name, (x, y), xytext=(0, -12 if below else 10), textcoords="offset points", fontsize=7, rotation=turned,
            rotation_mode="anchor" if turned == 30 else "default", ha="left" if turned == 30 else "center",
            va="top" if below else "bottom", zorder=3,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
