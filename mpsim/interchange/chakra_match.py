"""Which nodes of several ranks are one thing: the two ends of a message, the ranks of a collective.

What does not match is refused, with the node named.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.files import parse_json
from mpsim.interchange import hints
from mpsim.interchange.chakra_file import Node, RankTrace
from mpsim.interchange.chakra_schema import COLLECTIVES

__all__ = ["At", "Groups", "Unit", "call", "in_order", "units_of", "whole"]

_COLLECTIVE, _SEND, _RECV = "COMM_COLL_NODE", "COMM_SEND_NODE", "COMM_RECV_NODE"
Groups = Mapping[str, Sequence[int]]
_Groups = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class At:
    """A node and its rank."""

    rank: int
    node: Node

    def __str__(self) -> str:
        return call(self.rank, self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Nodes that are one: a computation's, the two ends of a message (the sender first), a collective's by rank."""

    kind: str
    ends: tuple[At, ...]
    bytes: int = 0
    ranks: tuple[int, ...] = ()


def call(rank: int, node: Node) -> str:
    """Return what messages call a node."""
    return f"node {node.id} ({node.name!r}) of rank {rank}"


def units_of(traces: Sequence[RankTrace], groups: Groups | None = None) -> list[Unit]:
    """Return the units of a trace, by the lowest id of their nodes, then by rank.

    Parameters
    ----------
    traces : sequence of RankTrace
        Of all ranks.
    groups : mapping of str to sequence of int, optional
        The ranks of process groups, besides those that the traces tell.

    Raises
    ------
    MpsimError
        Two nodes of one id, a dependency on no node, a cycle, a message with one end or two sizes, a collective
        that not all of its group's ranks make, or make differently.
    """
    ordered = [[At(trace.rank, node) for node in in_order(trace)] for trace in traces]
    units = [Unit(kind="one", ends=(one,)) for rank in ordered for one in rank if not _is_transfer(one.node)]
    units += _messages(ordered) + _collectives(ordered, [_groups(trace, groups or {}, len(traces)) for trace in traces])
    return sorted(units, key=lambda unit: min((end.node.id, end.rank) for end in unit.ends))


def _is_transfer(node: Node) -> bool:
    # The host's part in starting a transfer is a computation.
    return node.type in (_COLLECTIVE, _SEND, _RECV) and not node.attributes.get("is_cpu_op", False)


def in_order(trace: RankTrace) -> list[Node]:
    """Return a rank's nodes, each behind what it depends on, by id where that leaves a choice.

    Raises
    ------
    MpsimError
        Two nodes of one id, a dependency on no node, a cycle.
    """
    nodes: dict[int, Node] = {}
    for node in trace.nodes:
        if node.id in nodes:
            other = nodes[node.id].name
            raise MpsimError(f"{trace.source}: nodes {other!r} and {node.name!r} both have id {node.id}")
        nodes[node.id] = node
    waiting = {node.id: len(set(node.data_deps)) for node in trace.nodes}
    followers: dict[int, list[int]] = defaultdict(list)
    for node in trace.nodes:
        for dep in set(node.data_deps):
            if dep not in nodes:
                raise MpsimError(
                    f"{trace.source}: {call(trace.rank, node)} depends on node {dep}, which is not in the file"
                )
            followers[dep].append(node.id)
    ready = [number for number, count in waiting.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(nodes[number])
        for follower in followers[number]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    if len(order) < len(nodes):
        _refuse_cycle(trace, nodes, {number for number, count in waiting.items() if count})
    return order


def _refuse_cycle(trace: RankTrace, nodes: dict[int, Node], stuck: set[int]) -> None:
    """Walk back from a node that never runs until one comes round again."""
    path = [min(stuck)]
    while path[-1] not in path[:-1]:
        path.append(next(dep for dep in nodes[path[-1]].data_deps if dep in stuck))
    cycle = path[path.index(path[-1]) :]
    shown = " <- ".join(f"{number} ({nodes[number].name!r})" for number in cycle[:6])
    raise MpsimError(f"{trace.source}: a cycle of dependencies of rank {trace.rank}: node {shown}")


def whole(at: At, name: str, default: int | None = None) -> int:
    """Return an attribute that is a whole number.

    Raises
    ------
    MpsimError
        The node has no such attribute and there is no default, or it is none.
    """
    found = at.node.attributes.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool):
        what = "has no" if found is None else f"has {found!r} as"
        raise MpsimError(f"{at} {what} {name}: a transfer needs it as a whole number")
    return found


def _messages(ordered: Iterable[list[At]]) -> list[Unit]:
    """Pair sends and receives of one source, target and tag, the first with the first."""
    ends: dict[str, dict[tuple[int, int, int], list[At]]] = {_SEND: defaultdict(list), _RECV: defaultdict(list)}
    for rank in ordered:
        for at in rank:
            if _is_transfer(at.node) and at.node.type in ends:
                ends[at.node.type][_address(at)].append(at)
    units = []
    for key in dict.fromkeys((*ends[_SEND], *ends[_RECV])):
        sends, receives = ends[_SEND].get(key, []), ends[_RECV].get(key, [])
        if len(sends) != len(receives):
            alone, lacks = (sends, "receive") if len(sends) > len(receives) else (receives, "send")
            source, target, tag = key
            raise MpsimError(
                f"{alone[min(len(sends), len(receives))]} has no {lacks}: rank {source} sends {len(sends)} messages of"
                f" tag {tag} to rank {target}, which receives {len(receives)}"
            )
        units += [_pair(*both) for both in zip(sends, receives, strict=True)]
    return units


def _address(at: At) -> tuple[int, int, int]:
    sends = at.node.type == _SEND
    source = whole(at, "comm_src", at.rank if sends else None)
    target = whole(at, "comm_dst", None if sends else at.rank)
    if at.rank != (source if sends else target):
        what = "sends from" if sends else "receives at"
        raise MpsimError(f"{at} {what} rank {source if sends else target}: it must stand in that rank's file")
    if source == target:
        raise MpsimError(f"{at} is a message from rank {source} to itself: leave it out")
    return source, target, whole(at, "comm_tag", 0)


def _size(at: At) -> int:
    size = whole(at, "comm_size")
    if size < 0:
        raise MpsimError(f"{at} is of {size} bytes: expected 0 or more, mend the trace")
    return size


def _pair(send: At, receive: At) -> Unit:
    size, expected = _size(send), _size(receive)
    if size != expected:
        raise MpsimError(f"{send} sends {size} bytes and {receive} receives {expected}: give both one size")
    return Unit(kind="send", ends=(send, receive), bytes=size, ranks=(send.rank, receive.rank))


def _collectives(ordered: Sequence[list[At]], told: Sequence[_Groups]) -> list[Unit]:
    """Join the collectives of a group: by tag where it has any, else the first of each rank, the second, ..."""
    n_ranks = len(ordered)
    calls: dict[tuple[str, tuple[int, ...]], dict[int, dict[int, At]]] = defaultdict(lambda: defaultdict(dict))
    for rank, groups in zip(ordered, told, strict=True):
        seen: dict[str, int] = defaultdict(int)
        for at in rank:
            if at.node.type == _COLLECTIVE and _is_transfer(at.node):
                name, members = _group(at, groups, n_ranks)
                key = whole(at, "comm_tag", seen[name])
                seen[name] += 1
                made = calls[name, members][key].setdefault(at.rank, at)
                if made is not at:
                    raise MpsimError(f"{at} and {made} are both collective {key} of group {name!r}: tag them apart")
    return [_join(name, members, ends) for (name, members), made in calls.items() for ends in made.values()]


def _groups(trace: RankTrace, given: Groups, n_ranks: int) -> _Groups:
    """Return the process groups that are given, and those that a rank's file tells."""
    groups = {name: tuple(ranks) for name, ranks in given.items()}
    where = f"{trace.source}: its {hints.GROUPS}"
    try:
        groups |= {
            name: tuple(ranks) for name, ranks in parse_json(str(trace.attributes.get(hints.GROUPS, "{}"))).items()
        }
        for node in trace.nodes:
            if node.type == "METADATA_NODE" and "process_group" in node.name:
                where = call(trace.rank, node)
                # Written by PyTorch's observer: a list in quotes in a list.
                match = re.search(r"\[\s*\{.*\}\s*\]", node.values, re.DOTALL)
                for one in parse_json(match[0]) if match else []:
                    groups[str(one["pg_name"])] = tuple(map(int, one["ranks"])) or tuple(range(n_ranks))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MpsimError(f"{where}: no process groups can be read there: {error}") from None
    return groups


def _group(at: At, groups: _Groups, n_ranks: int) -> tuple[str, tuple[int, ...]]:
    """Return the name of a collective's group, and its ranks; by default it is all there are."""
    dims = at.node.attributes.get("involved_dim", ())
    if isinstance(dims, tuple) and not all(dims):
        raise MpsimError(
            f"{at} is a collective over some dimensions of a network ({list(dims)}): give its ranks as a process group"
        )
    name = str(at.node.attributes.get("pg_name", ""))
    members = groups.get(name, tuple(range(n_ranks)) if name in ("", "0") else None)
    if members is None:
        raise MpsimError(
            f"{at} is of group {name!r}, its file tells the ranks of {', '.join(groups) or 'none'}: give them"
        )
    if at.rank not in members:
        raise MpsimError(f"{at} is of group {name!r}, whose ranks are {list(members)}")
    if max(members) >= n_ranks:
        raise MpsimError(f"{at} is of group {name!r} with rank {max(members)}, there are files for {n_ranks} ranks")
    return name, members


def _join(name: str, members: tuple[int, ...], ends: dict[int, At]) -> Unit:
    first = next(iter(ends.values()))
    missing = [rank for rank in members if rank not in ends]
    if missing:
        raise MpsimError(f"{first} is a collective of group {name!r}, rank {missing[0]} of it makes no such")
    number = whole(first, "comm_type")
    if not 0 <= number < len(COLLECTIVES):
        raise MpsimError(f"{first} is a collective of type {number}, the schema has 0 to {len(COLLECTIVES) - 1}")
    for other in ends.values():
        for what in ("comm_type", "comm_size"):
            if whole(first, what) != whole(other, what):
                said, against = whole(first, what), whole(other, what)
                raise MpsimError(f"{first} has {what} {said}, {other} of the same collective {against}")
    ordered = tuple(ends[rank] for rank in members)
    return Unit(kind=COLLECTIVES[number], ends=ordered, bytes=_size(first), ranks=members)
