"""Which device stands where: the placements of a plan's ranks that a sweep tries on a topology of unlike parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, permutations

from mpsim.topology.model import Link, Topology
from mpsim.topology.routes import Routes

__all__ = ["placements"]

_Block = tuple[int, ...]
# By kind, the groups of devices that can be one rank of a pipeline each, the tensor-parallel ones together.
_Blocks = dict[tuple[int, ...], list[_Block]]
_Kind = tuple[int, ...]
_FEW = 64
_MOST_ORDERED = 3
# Behind a switch, and behind its node's: further off a slow link no longer tells one device from another.
_ROUNDS = 3


def placements(topology: Topology, dp: int, pp: int, tp: int) -> list[tuple[int, ...]]:
    """Return the placements worth trying, as `Plan.devices` has them; the first is ``()``, the topology's order.

    Where all devices and all links between them are alike there is no other. Otherwise devices fall into kinds (see
    `kinds`), and tensor-parallel groups are made of devices that follow one another within a kind. Which kind each
    stage of each replica gets is tried

    - in full where there are no more than 64 ways, replicas counting as alike;
    - in any case kind by kind: used and laid in every order of the kinds (of more than three: fastest first, slowest
      first, and the topology's order), stage by stage, so that a stage's replicas are alike, and replica by replica,
      so that a pipeline's stages are.

    Devices of one kind are used in the topology's order, once along the stages of a replica and once along the
    replicas of a stage: on nodes that are alike it is this that decides what goes between them.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.model import Device
    >>> devices = [Device(name="", speed=speed) for speed in (1.0, 1.0, 4.0)]
    >>> placements(switch(3, link="1GB/s@0", devices=devices), dp=1, pp=2, tp=1)
    [(), (0, 2), (2, 0)]
    >>> placements(switch(3, link="1GB/s@0"), dp=1, pp=2, tp=1)
    [()]
    """
    if _alike(topology):
        return [()]
    blocks = _blocks(kinds(topology), tp)
    cells = dp * pp
    arranged = list(_by_kind(topology, blocks, dp, pp))
    every = list(islice(_all(Counter({kind: len(found) for kind, found in blocks.items()}), dp, pp), _FEW + 1))
    if len(every) <= _FEW:
        arranged += every
    ways = ((kind_of, across) for kind_of in dict.fromkeys(arranged) for across in (False, True))
    found = (_laid(blocks, kind_of, dp, pp, across) for kind_of, across in ways)
    order = tuple(range(cells * tp))
    return [(), *(place for place in dict.fromkeys(found) if place != order)]


def kinds(topology: Topology) -> list[int]:
    """Return the kind of each device: devices of one kind are alike, and so is what they are joined to.

    Colours are refined over the links: at first by what a device is, then by the links that leave it and the colours
    that they lead to, three times. How many such links there are does not count: the ends of a chain are like its
    middle.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> kinds(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr"))
    [0, 0, 0, 0]
    """
    colours: dict[str, object] = {device.name: replace(device, name="") for device in topology.devices}
    colours |= dict.fromkeys(topology.switches, "switch")
    number: dict[str, int] = _numbered(colours)
    for _ in range(_ROUNDS):
        seen: dict[str, set[object]] = {name: set() for name in number}
        for link in topology.links:
            wire = (link.bandwidth_bytes_per_s, link.latency_s, link.type)
            seen[link.source].add(("to", wire, number[link.target]))
            seen[link.target].add(("from", wire, number[link.source]))
        number = _numbered({name: (own, frozenset(seen[name])) for name, own in number.items()})
    return [number[device.name] for device in topology.devices]


def _numbered(colours: dict[str, object]) -> dict[str, int]:
    """Number the colours in the order in which they appear."""
    numbers: dict[object, int] = {}
    return {name: numbers.setdefault(colour, len(numbers)) for name, colour in colours.items()}


def _alike(topology: Topology) -> bool:
    """Whether devices are alike, and so are the links between them: a node's network cards lead to no other device."""
    if len({replace(device, name="", host="") for device in topology.devices}) > 1:
        return False
    if len(_wires(topology.links)) <= 1:
        return True
    return 1 < len(topology.devices) <= _FEW and len(_wires(_between(topology))) == 1


def _wires(links: Iterable[Link]) -> set[tuple[float, float, str]]:
    return {(link.bandwidth_bytes_per_s, link.latency_s, link.type) for link in links}


def _between(topology: Topology) -> list[Link]:
    """Return the links on the way from any device to any other."""
    routes = Routes(topology)
    pairs = permutations(range(len(topology.devices)), 2)
    return [topology.links[i] for i in {link for pair in pairs for link in routes.path(*pair)}]


def _blocks(kind_of: Sequence[int], tp: int) -> _Blocks:
    """Return groups of `tp` devices of one kind each, and of what is left over."""
    members: dict[int, list[int]] = {}
    for device, kind in enumerate(kind_of):
        members.setdefault(kind, []).append(device)
    whole = [found[i : i + tp] for found in members.values() for i in range(0, len(found) - tp + 1, tp)]
    left = sorted(chain.from_iterable(found[len(found) - len(found) % tp :] for found in members.values()))
    whole += [left[i : i + tp] for i in range(0, len(left) - tp + 1, tp)]
    blocks: _Blocks = {}
    for block in sorted(whole):
        blocks.setdefault(tuple(sorted(kind_of[device] for device in block)), []).append(tuple(block))
    return blocks


def _by_kind(topology: Topology, blocks: _Blocks, dp: int, pp: int) -> Iterator[tuple[_Kind, ...]]:
    """Yield the kind of each cell, replica by replica: kinds used in one order, and laid in one."""
    orders = _orders(topology, blocks)
    for used in orders:
        chosen = Counter([kind for kind in used for _ in blocks[kind]][: dp * pp])
        for laid in orders:
            row = [kind for kind in laid for _ in range(chosen[kind])]
            yield tuple(row)
            yield tuple(row[s * dp + d] for d in range(dp) for s in range(pp))


def _orders(topology: Topology, blocks: _Blocks) -> list[tuple[_Kind, ...]]:
    if len(blocks) <= _MOST_ORDERED:
        return list(permutations(blocks))
    speed = {kind: topology.devices[found[0][0]].speed for kind, found in blocks.items()}
    fastest = sorted(blocks, key=lambda kind: -speed[kind])
    return [tuple(blocks), tuple(fastest), tuple(reversed(fastest))]


def _all(left: Counter[_Kind], dp: int, pp: int, least: tuple[_Kind, ...] = ()) -> Iterator[tuple[_Kind, ...]]:
    """Yield the kind of each cell in every way; replicas ascend, as their order changes nothing."""
    if dp == 0:
        yield ()
        return
    for replica in _pipelines(left, pp):
        if replica >= least:
            for others in _all(left - Counter(replica), dp - 1, pp, replica):
                yield replica + others


def _pipelines(left: Counter[_Kind], pp: int) -> Iterator[tuple[_Kind, ...]]:
    """Yield the kinds of the stages of one replica, in every way."""
    if pp == 0:
        yield ()
        return
    for kind in sorted(kind for kind, count in left.items() if count):
        for behind in _pipelines(left - Counter((kind,)), pp - 1):
            yield (kind, *behind)


def _laid(blocks: _Blocks, kind_of: Sequence[_Kind], dp: int, pp: int, across: bool) -> tuple[int, ...]:
    """Return the devices: those of a kind in order along each replica's stages, or `across` the replicas."""
    free = {kind: iter(found) for kind, found in blocks.items()}
    cells: Iterable[int] = range(dp * pp)
    if across:
        cells = [d * pp + s for s in range(pp) for d in range(dp)]
    taken = {cell: next(free[kind_of[cell]]) for cell in cells}
    return tuple(chain.from_iterable(taken[cell] for cell in range(dp * pp)))
