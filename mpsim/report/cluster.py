"""The cluster: nodes with their devices, those of a run of alike nodes once, and where the best plan's stages stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from mpsim.plan.model import Plan
from mpsim.report.looks import look_of_stage, swatch
from mpsim.report.markup import element, picture
from mpsim.topology.levels import find_levels, outer_link
from mpsim.topology.model import Link, Topology
from mpsim.topology.routes import Routes
from mpsim.units import format_bandwidth, format_bytes, format_duration

__all__ = ["Cluster", "cluster"]

_WIDTH, _CELL, _ROW, _PAD, _HEAD, _FOOT = 960.0, 46.0, 34.0, 10.0, 40.0, 22.0
_BUS = 34.0
_MOST_NODES, _MOST_CELLS, _MOST_LEGEND = 8, 32, 16
_RING = 16  # devices that are drawn around a circle, with each link


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A picture, its legend, and what it is made of in words."""

    picture: Markup
    legend: tuple[tuple[Markup, str], ...]
    facts: tuple[str, ...]


class _Node(NamedTuple):
    """Devices that stand together, and how many nodes are as this one."""

    devices: tuple[int, ...]
    alike: int = 1


def cluster(topology: Topology, plan: Plan | None = None) -> Cluster:
    """Return the picture of a topology, each device in the colour of the pipeline rank that a plan has there."""
    routes = Routes(topology)
    every = tuple(range(len(topology.devices)))
    levels = find_levels(routes, every)
    stages = _stages(plan, len(every))
    groups = levels[0] if len(levels) > 1 else (every,)
    nodes, left_out = _folded(topology, groups, stages)
    direct = [link for link in topology.links if not {link.source, link.target} & {*topology.switches}]
    if len(groups) == 1 and direct and len(every) <= _RING:
        parts, height = _around(topology, direct, stages)
    else:
        parts, height = _boxes(topology, nodes, left_out, stages)
    links = [*_link_facts(routes, levels, groups, direct)]
    facts = [*_device_facts(topology), *links]
    if len(levels) > 1:
        parts += _joined(height, links[-1])
        height += _BUS
    return Cluster(
        picture=picture(_WIDTH, height, f"The cluster {topology.name}: {'; '.join(facts)}", parts),
        legend=_legend(plan, {*stages}),
        facts=tuple(facts),
    )


def _stages(plan: Plan | None, n_devices: int) -> list[int]:
    """Return the pipeline rank that each device has; -1: none."""
    found = [-1] * n_devices
    if plan is not None:
        inner = plan.cp * plan.tp
        for rank, device in enumerate(plan.place(n_devices)):
            found[device] = rank // inner % plan.pp
    return found


def _folded(topology: Topology, groups: Sequence[Sequence[int]], stages: Sequence[int]) -> tuple[list[_Node], int]:
    """Return the nodes that are drawn, those alike that follow one another as one, and how many are left out."""

    def look(group: Sequence[int]) -> list[tuple[object, ...]]:
        nodes = [topology.devices[device] for device in group]
        return [
            (one.type, one.memory_bytes, one.speed, stages[device]) for one, device in zip(nodes, group, strict=True)
        ]

    runs = [list(run) for _, run in groupby(groups, key=look)]
    nodes = [_Node(tuple(run[0]), len(run)) for run in runs]
    if len(nodes) <= _MOST_NODES:
        return nodes, 0
    kept = [*nodes[: _MOST_NODES - 2], nodes[-1]]
    return kept, len(groups) - sum(node.alike for node in kept)


def _boxes(
    topology: Topology, nodes: Sequence[_Node], left_out: int, stages: Sequence[int]
) -> tuple[list[Markup], float]:
    """Return nodes as boxes, from left to right in lines, and how high that is."""
    parts: list[Markup] = []
    x, y, tallest = 0.0, 4.0, 0.0
    for number, node in enumerate(nodes):
        cells = min(len(node.devices), _MOST_CELLS)
        columns = min(max(math.ceil(math.sqrt(2 * cells)), 1), 16)
        width = max(columns * _CELL + 2 * _PAD, 150.0)
        height = math.ceil(cells / columns) * _ROW + _HEAD + _PAD
        gap = left_out and number == len(nodes) - 1
        if x + width + (130 if gap else 0) > _WIDTH and x:
            x, y, tallest = 0.0, y + tallest + _FOOT, 0.0
        if gap:
            parts.append(element("text", f"… {left_out:,} more …", x=x + 60, y=y + height / 2, class_="tick"))
            x += 130
        parts.append(element("rect", x=x + 1, y=y, width=width - 2, height=height, rx=8, class_="node"))
        parts.append(element("text", _node_name(topology, node), x=x + _PAD, y=y + 24, class_="name"))
        parts += _cells(topology, node, stages, (x + _PAD, y + _HEAD), columns)
        x, tallest = x + width + 12, max(tallest, height)
    return parts, y + tallest + 8


def _joined(y: float, text: str) -> list[Markup]:
    """Return what joins the nodes, a bar below them all."""
    bar = element("rect", x=1, y=y, width=_WIDTH - 2, height=_BUS - 8, rx=8, class_="node")
    return [bar, element("text", text, x=_WIDTH / 2, y=y + 18, class_="tick")]


def _node_name(topology: Topology, node: _Node) -> str:
    names = [topology.devices[device].name for device in (node.devices[0], node.devices[-1])]
    text = _short(names[0], 14) if len(node.devices) == 1 else f"{_short(names[0], 8)} … {_short(names[1], 8)}"
    return f"{text}, × {node.alike:,} nodes" if node.alike > 1 else text


def _cells(
    topology: Topology, node: _Node, stages: Sequence[int], corner: tuple[float, float], columns: int
) -> Iterable[Markup]:
    shown = node.devices if len(node.devices) <= _MOST_CELLS else node.devices[: _MOST_CELLS - 1]
    for i, device in enumerate(shown):
        x, y = corner[0] + i % columns * _CELL, corner[1] + i // columns * _ROW
        yield _cell(topology, device, stages[device], x, y)
    if len(shown) < len(node.devices):
        i = len(shown)
        x, y = corner[0] + i % columns * _CELL, corner[1] + i // columns * _ROW
        yield element("text", f"+{len(node.devices) - i:,}", x=x + 20, y=y + 18, class_="tick")


def _cell(topology: Topology, device: int, stage: int, x: float, y: float) -> Markup:
    one = topology.devices[device]
    told = f"{one.name}: {one.type or 'device'}"
    told += f", stage {stage} of the best plan" if stage >= 0 else ""
    square = element("rect", x=x, y=y, width=_CELL - 6, height=_ROW - 8, rx=4, class_=look_of_stage(stage))
    name = one.name.rpartition(".")[2]
    text = element("text", _short(name, 6), x=x + (_CELL - 6) / 2, y=y + 17, class_="cell" if stage >= 0 else "tick")
    return element("g", element("title", told), square, text)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _around(topology: Topology, links: Sequence[Link], stages: Sequence[int]) -> tuple[list[Markup], float]:
    """Return devices around a circle, with the links between them."""
    count = len(topology.devices)
    radius = 60.0 + 8 * count
    places = {}
    for i, device in enumerate(topology.devices):
        turn = 2 * math.pi * i / count
        places[device.name] = (_WIDTH / 2 + math.sin(turn) * radius * 1.6, radius + 24 - math.cos(turn) * radius)
    pairs = dict.fromkeys(tuple(sorted((link.source, link.target))) for link in links)
    parts = []
    for a, b in pairs:
        (x1, y1), (x2, y2) = places[a], places[b]
        parts.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="wire"))
    for i, device in enumerate(topology.devices):
        x, y = places[device.name]
        parts.append(_cell(topology, i, stages[i], x - (_CELL - 6) / 2, y - (_ROW - 8) / 2))
    return parts, 2 * radius + 48


def _device_facts(topology: Topology) -> Iterable[str]:
    kinds: dict[str, int] = {}
    for device in topology.devices:
        memory = format_bytes(device.memory_bytes) if device.memory_bytes else "memory unknown"
        speed = "" if device.speed == 1 else f", speed {device.speed:g}"
        kind = f"{device.type or 'device'}, {memory}{speed}"
        kinds[kind] = kinds.get(kind, 0) + 1
    shown = [*kinds.items()][:4]
    yield from (f"{count:,} × {kind}" for kind, count in shown)
    if len(kinds) > len(shown):
        yield f"and {len(kinds) - len(shown):,} more kinds of device"


def _link_facts(
    routes: Routes, levels: Sequence[Sequence[Sequence[int]]], groups: Sequence[Sequence[int]], direct: Sequence[Link]
) -> Iterable[str]:
    """Say what joins the devices of a node, and the nodes."""
    links = routes.topology.links
    pair = next((group for group in groups if len(group) > 1), None)
    if pair is not None and len(groups) > 1:
        path = routes.path(pair[0], pair[1])
        narrowest = min((links[i] for i in path), key=lambda one: one.bandwidth_bytes_per_s)
        yield f"within a node {_wire(narrowest, routes.latency_s(path))}"
    if len(levels) > 1:
        every = range(len(routes.topology.devices))
        outer = outer_link(routes, every, [tuple(map(tuple, level)) for level in levels])
        path = routes.path(0, next(device for device in every if device not in groups[0]))
        yield f"between nodes {_wire(outer, routes.latency_s(path))}"
    elif links:
        kinds = [*dict.fromkeys(_wire(link, link.latency_s) for link in direct or links)]
        more = f" and {len(kinds) - 2} more kinds" if len(kinds) > 2 else ""
        how = "from device to device" if direct else "through switches"
        yield f"{how} {', '.join(kinds[:2])}{more}"


def _wire(link: Link, latency_s: float) -> str:
    free = math.isinf(link.bandwidth_bytes_per_s)
    bandwidth = "no limit" if free else format_bandwidth(link.bandwidth_bytes_per_s)
    return f"{link.type or 'links'} of {bandwidth} and {format_duration(latency_s)} one way"


def _legend(plan: Plan | None, stages: set[int]) -> tuple[tuple[Markup, str], ...]:
    if plan is None:
        return ()
    found = [(swatch(look_of_stage(i)), f"pipeline rank {i}") for i in range(min(plan.pp, _MOST_LEGEND))]
    if plan.pp == 1:
        found = [(swatch(look_of_stage(0)), "in the best plan")]
    elif plan.pp > 8:
        found = [*found[:8], (Markup(""), f"and so on to {plan.pp - 1}: colours come round again")]
    if -1 in stages:
        found.append((swatch(look_of_stage(-1)), "not in the best plan"))
    return tuple(found)
