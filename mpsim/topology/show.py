"""Topologies for people and for programs: a drawing in text, and a dictionary with units in its keys."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from mpsim import documents, units
from mpsim.calls import checked
from mpsim.topology.model import Device, Link, Topology

__all__ = ["draw", "topology_to_dict"]

_WIDTH = 96
_ROWS = 16


@checked
def draw(topology: Topology | str | Path) -> str:
    """Return a drawing where the graph is a small chain, ring, grid or star, and what it is made of in any case.

    Links are counted by what they join: numbers in names become ``*``, and ``⇄`` stands for a link each way.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> print(draw(ring(4, link="50GB/s@2us")))
    ring:4
    4 devices, 8 links
    <BLANKLINE>
      ╭──────────────────╮
      d0 ── d1 ── d2 ── d3
    <BLANKLINE>
    devices
      4 × device (d0 … d3), memory unknown
    links, one direction
      8 × d* ⇄ d*, 50 GB/s, 2 us
    """
    topology = Topology.of(topology)
    parts = [_headline(topology), *_picture(topology), "", "devices", *_device_lines(topology.devices)]
    if topology.links:
        parts += ["links, one direction", *_link_lines(topology)]
    if topology.costs:
        parts += ["collectives as measured", *_cost_lines(topology)]
    return "\n".join(parts)


def topology_to_dict(topology: Topology) -> dict[str, Any]:
    """Return the topology as one JSON object, units in the keys: counts, and every device, switch and link.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> shown = topology_to_dict(ring(2, link="50GB/s@2us"))
    >>> shown["device_count"], shown["links"][0]["bandwidth_bytes_per_s"], shown["devices"][0]["memory_bytes"]
    (2, 50000000000.0, 0)
    """
    return {
        "name": topology.name,
        "device_count": len(topology.devices),
        "switch_count": len(topology.switches),
        "link_count": len(topology.links),
        "memory_bytes": sum(device.memory_bytes for device in topology.devices),
        "devices": [_whole(device) for device in topology.devices],
        "switches": list(topology.switches),
        "links": [_whole(link) for link in topology.links],
        "costs": [documents.encode(cost) for cost in topology.costs],
    }


def _whole(value: Device | Link) -> dict[str, Any]:
    """Return every field of a device or link, those at their default too, as what JSON can hold."""
    return {name: documents.encode(getattr(value, name)) for name in value.__slots__}


def _count(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _headline(topology: Topology) -> str:
    counts = [_count(len(topology.devices), "device")]
    if topology.switches:
        counts.append(_count(len(topology.switches), "switch"))
    return f"{topology.name}\n{', '.join([*counts, _count(len(topology.links), 'link')])}"


def _ends(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"


def _device_lines(devices: Sequence[Device]) -> Iterable[str]:
    """Return one line for each run of like devices, or for each kind where the runs are many."""
    runs = [(kind, [one.name for one in group]) for kind, group in groupby(devices, key=_device_text)]
    if len(runs) > _ROWS:
        kinds = dict.fromkeys(kind for kind, _ in runs)
        runs = [(kind, [one.name for one in devices if _device_text(one) == kind]) for kind in kinds]
    for (kind, about), names in runs:
        yield f"  {len(names)} × {kind} ({_ends(names)}), {about}"


def _device_text(device: Device) -> tuple[str, str]:
    memory = units.format_bytes(device.memory_bytes) if device.memory_bytes else "memory unknown"
    speed = "" if device.speed == 1 else f", speed {device.speed:g}"
    return device.type or "device", memory + speed


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _wire(link: Link) -> tuple[float, float, str]:
    return link.bandwidth_bytes_per_s, link.latency_s, link.type


def _link_lines(topology: Topology) -> Iterable[str]:
    """Return one line for each kind of link, both directions on one line where they are alike."""
    wires = {(link.source, link.target): _wire(link) for link in topology.links}
    pattern = {name: _pattern(name) for name in {name for ends in wires for name in ends}}
    text = {wire: _wire_text(*wire) for wire in set(wires.values())}
    counts: Counter[str] = Counter()
    for link in topology.links:
        ends, wire = (link.source, link.target), wires[link.source, link.target]
        alike = wires.get((link.target, link.source)) == wire
        patterns = [pattern[end] for end in (sorted(ends) if alike else ends)]
        counts[f"{' ⇄ '.join(patterns) if alike else ' → '.join(patterns)}, {text[wire]}"] += 1
    lines = [f"  {count} × {about}" for about, count in counts.items()]
    return lines if len(lines) <= _ROWS else [*lines[:_ROWS], f"  and {len(lines) - _ROWS} more kinds of link"]


def _cost_lines(topology: Topology) -> Iterable[str]:
    """Return one line for each type of link and source: which kinds, on how many ranks."""
    for (link, source), costs in groupby(topology.costs, key=lambda cost: (cost.link, cost.source)):
        found = list(costs)
        kinds = ", ".join(dict.fromkeys(cost.kind for cost in found))
        least, most = min(cost.least_ranks for cost in found), max(cost.most_ranks for cost in found)
        ranks = f"{least} to {most}" if least < most else f"{most}"
        yield f"  {link}: {kinds}, {ranks} ranks ({source or 'no source'})"


def _wire_text(bandwidth_bytes_per_s: float, latency_s: float, kind: str) -> str:
    bandwidth = units.format_bandwidth(bandwidth_bytes_per_s) if bandwidth_bytes_per_s < math.inf else "free"
    return f"{f'{kind} ' if kind else ''}{bandwidth}, {units.format_duration(latency_s)}"


def _picture(topology: Topology) -> list[str]:
    """Return the lines of a picture, none where the graph has no form that fits the page."""
    ends = {(link.source, link.target) for link in topology.links}
    names = [device.name for device in topology.devices]
    if not ends or ends != {(b, a) for a, b in ends} or len(names) > _WIDTH // 3 * _ROWS:
        return []
    lines = _grid(names, ends) if not topology.switches else _star(names, topology.switches, ends)
    return ["", *(f"  {line}" for line in lines)] if lines and len(lines[0]) <= _WIDTH else []


def _star(names: Sequence[str], switches: Sequence[str], ends: set[tuple[str, str]]) -> list[str]:
    hub = switches[0]
    if len(switches) > 1 or ends != {pair for name in names for pair in ((name, hub), (hub, name))}:
        return []
    spokes = "  ".join("│".ljust(len(name)) for name in names).rstrip()
    return ["  ".join(names), spokes, f" {hub} ".center(max(len(spokes), len(hub) + 4), "═")]


def _grid(names: Sequence[str], ends: set[tuple[str, str]]) -> list[str]:
    for cols in (cols for cols in range(len(names), 0, -1) if len(names) % cols == 0):
        rows = [names[i : i + cols] for i in range(0, len(names), cols)]
        columns = list(zip(*rows, strict=True))
        for closed in (False, True):
            steps = {pair for line in (*rows, *columns) for pair in _steps(line, closed)}
            if ends == steps | {(b, a) for a, b in steps}:
                return _drawn(rows, closed)
    return []


def _steps(line: Sequence[str], closed: bool) -> Iterable[tuple[str, str]]:
    return pairwise([*line, line[0]] if closed and len(line) > 2 else line)


def _drawn(rows: Sequence[Sequence[str]], closed: bool) -> list[str]:
    width = max(len(name) for row in rows for name in row)
    bars = "    ".join("│".ljust(width) for _ in rows[0]).rstrip()
    if len(rows) > _ROWS:
        return []
    lines = [" ── ".join(name.ljust(width) for name in row).rstrip() for row in rows]
    if len(rows) == 1:
        return [f"╭{'─' * (len(lines[0]) - 2)}╮", *lines] if closed else lines
    drawn = [text for line in lines for text in (bars, line)][1:]
    return [*drawn, "(every row and column of three or more closes into a ring)"] if closed else drawn
