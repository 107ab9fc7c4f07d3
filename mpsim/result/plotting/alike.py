"""Which parts of a network are alike: each kind is drawn at its first and its last, with how many lie between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Folded", "Graph", "fold"]

_LEAST = 4  # So many alike parts are folded: fewer take no more room than what stands for them.
_LARGE = 12  # A part of more devices is folded inside too.


class Node(Protocol):
    """A device."""

    @property
    def name(self) -> str:
        """Unique in its graph."""


class Link(Protocol):
    """One direction of a wire."""

    @property
    def source(self) -> str:
        """Where it begins."""

    @property
    def target(self) -> str:
        """Where it ends."""

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What it reaches."""

    @property
    def type(self) -> str:
        """Of a catalog."""


class Graph(Protocol):
    """What is drawn: a `mpsim.Topology`."""

    @property
    def name(self) -> str:
        """Unique in its graph."""

    @property
    def devices(self) -> Sequence[Node]:
        """What computes."""

    @property
    def switches(self) -> Sequence[str]:
        """What does not."""

    @property
    def links(self) -> Sequence[Link]:
        """In both directions."""


@dataclass(slots=True, kw_only=True)
class Folded:
    """What is left of a graph to draw.

    Attributes
    ----------
    kept : set of str
        Nodes that are drawn.
    hidden : dict of str to int
        How many parts are not drawn that are like one that is, by the last device of that one.
    """

    kept: set[str] = field(default_factory=set)
    hidden: dict[str, int] = field(default_factory=dict)


class _Known:
    """A graph's nodes: what they are like by themselves, and what they are joined to, how."""

    def __init__(self, graph: Graph) -> None:
        self.order = {name: i for i, name in enumerate([*(one.name for one in graph.devices), *graph.switches])}
        self.devices = {one.name for one in graph.devices}
        self.like: dict[str, Hashable] = dict.fromkeys(graph.switches, "switch")
        self.like |= {one.name: _without_name(one) for one in graph.devices}
        self.joined: dict[str, list[tuple[str, Hashable]]] = {name: [] for name in self.order}
        for link in graph.links:
            wire = (link.type, link.bandwidth_bytes_per_s, getattr(link, "latency_s", 0.0))
            self.joined[link.source].append((link.target, ("to", wire)))
            self.joined[link.target].append((link.source, ("from", wire)))


def _without_name(device: Any) -> Hashable:
    names = ("type", "memory_bytes", "speed", "overlap_slowdown")
    return ("device", *(getattr(device, name, None) for name in names))


def fold(graph: Graph) -> Folded:
    """Return which nodes to draw, of parts that are alike the first and the last.

    Parts are what falls apart without the switches of the core. They are alike where no walk through them, and out of
    them into the core, tells one from another, as colours of a graph are refined
    (https://en.wikipedia.org/wiki/Weisfeiler_Leman_graph_isomorphism_test).

    Examples
    --------
    >>> import mpsim
    >>> folded = fold(mpsim.parse_topology("switch:8,link=nvlink4"))
    >>> sorted(folded.kept), folded.hidden
    (['d0', 'd7', 'switch'], {'d0': 6})
    """
    known = _Known(graph)
    found = Folded()
    _fold(known, set(known.order), found, {})
    return found


def _fold(known: _Known, nodes: set[str], found: Folded, outside: Mapping[str, Hashable]) -> None:
    """Fold a part: add what is drawn of it to what was found."""
    core, classes = _split(known, nodes, outside)
    found.kept |= core
    for alike in classes:
        shown, devices = alike, alike[0] & known.devices
        if len(alike) >= _LEAST and devices:
            shown = [alike[0], alike[-1]]
            found.hidden[max(devices, key=known.order.__getitem__)] = len(alike) - 2
        for part in shown:
            if len(part & known.devices) > _LARGE:
                _fold(known, part, found, dict(outside) | {name: name for name in core})
            else:
                found.kept |= part


def _split(known: _Known, nodes: set[str], outside: Mapping[str, Hashable]) -> tuple[set[str], list[list[set[str]]]]:
    """Return the core without which most falls into alike parts, and the parts, those together that are alike."""
    best: tuple[set[str], list[list[set[str]]]] = (nodes, [])
    least = len(nodes)
    for core in _cores(known, nodes):
        at = dict(outside) | {name: name for name in core}
        classes = _classes(known, _parts(known, nodes - core), at)
        drawn = len(core)
        for alike in classes:
            # What is large is folded inside too, if there is anything alike in it.
            size = min(len(alike[0]), 2 * _LARGE) if len(alike[0] & known.devices) > _LARGE else len(alike[0])
            drawn += size * (2 if len(alike) >= _LEAST else len(alike))
        if drawn < least:
            best, least = (core, classes), drawn
    return best


def _cores(known: _Known, nodes: set[str]) -> Iterator[set[str]]:
    """Yield the switches furthest from devices, then those joined to most."""
    switches = nodes - known.devices
    if not switches:
        return
    seen = row = nodes & known.devices
    while True:
        further = {other for name in row for other, _ in known.joined[name] if other in nodes} - seen
        if not further:
            break
        row, seen = further, seen | further
    yield row & switches
    degrees = {name: sum(other in nodes for other, _ in known.joined[name]) for name in switches}
    yield {name for name, degree in degrees.items() if degree == max(degrees.values())}


def _parts(known: _Known, nodes: set[str]) -> list[set[str]]:
    """Return what hangs together, in the order of the devices."""
    parts, left = [], set(nodes)
    for name in sorted(nodes, key=known.order.__getitem__):
        if name not in left:
            continue
        part, edge = {name}, [name]
        while edge:
            for other, _ in known.joined[edge.pop()]:
                if other in left and other not in part:
                    part.add(other)
                    edge.append(other)
        left -= part
        parts.append(part)
    return parts


def _classes(known: _Known, parts: Sequence[set[str]], outside: Mapping[str, Hashable]) -> list[list[set[str]]]:
    """Return the parts in classes of alike ones."""
    colours: dict[str, Hashable] = {name: known.like[name] for part in parts for name in part} | dict(outside)
    count = 0
    while True:
        refined = {
            name: (colours[name], _sorted((wire, colours.get(other)) for other, wire in known.joined[name]))
            for part in parts
            for name in part
        }
        numbers: dict[Hashable, int] = {}
        for name, colour in refined.items():
            colours[name] = numbers.setdefault(colour, len(numbers))
        if len(numbers) == count:
            break
        count = len(numbers)
    found: dict[Hashable, list[set[str]]] = defaultdict(list)
    for part in parts:
        found[_sorted(colours[name] for name in part)].append(part)
    return list(found.values())


def _sorted(values: Iterable[Hashable]) -> tuple[Hashable, ...]:
    return tuple(sorted(values, key=repr))
