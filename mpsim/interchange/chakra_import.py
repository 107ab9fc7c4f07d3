"""Chakra execution traces as a program that the engine replays.

A trace that mpsim wrote is replayed exactly (`mpsim.interchange.hints`). Any other runs as in ASTRA-sim: each rank
computes one thing at a time, on its host one beside it, and has so many transfers in flight, whichever is ready first;
data dependencies bind, control dependencies where you say so; a message leaves when its send is ready, whether or not
its receive is, and whoever waits for the receive waits for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.files import parse_json, read_text
from mpsim.interchange import hints
from mpsim.interchange.chakra_file import Node, RankTrace, load_rank, rank_files
from mpsim.interchange.chakra_match import At, Groups, Unit, units_of
from mpsim.interchange.chakra_traffic import TrafficOf
from mpsim.interchange.losses import Losses
from mpsim.program.model import Program, Stream, Task
from mpsim.topology.model import Topology

__all__ = ["from_chakra", "load_chakra"]

# More slots than any program has tasks: any number at once.
_ALL_AT_ONCE = 2**31
_NO_TIME = {
    "INVALID_NODE": "nodes of no valid type: they take no time",
    "MEM_LOAD_NODE": "reads of remote memory: they take no time",
    "MEM_STORE_NODE": "writes to remote memory: they take no time",
}


@checked
def load_chakra(
    paths: Sequence[str | Path],
    topology: Topology | str | Path,
    *,
    in_flight: int = 1,
    algorithm: str = "ring",
    control: bool = False,
    groups: str | Path | None = None,
    copies: int = 1,
) -> tuple[Program, Losses]:
    """Read the files of a Chakra trace; see `from_chakra`.

    Parameters
    ----------
    paths : sequence of path
        ``NAME.0.et``, ``NAME.1.et``, ..., or ``NAME`` alone for all of them.
    topology, in_flight, algorithm, control
        As in `from_chakra`.
    groups : path, optional
        A file of the ranks of process groups, as ASTRA-sim's ``--comm-group-configuration`` takes it.
    copies : int
        With one file: how many ranks do what stands in it.

    Raises
    ------
    MpsimError
        As `from_chakra`, or files that cannot be read; see `load_rank` and `rank_files`.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> load_chakra(["nowhere/step"], ring(4, link="50GB/s@2us"))
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no trace 'nowhere/step': name files such as step.0.et, or what stands before .0.et
    """
    files = rank_files(paths)
    traces = [load_rank(path, rank) for rank, path in enumerate(files)]
    if copies < 1:
        raise MpsimError(f"{copies} copies asked for, expected 1 or more: how many ranks do what the one file says")
    if copies > 1 and len(traces) > 1:
        raise MpsimError(f"{len(traces)} files are read and {copies} copies asked for: copies are made of one file")
    if copies > 1:
        traces = [replace(traces[0], rank=rank) for rank in range(copies)]
    told = _load_groups(groups) if groups is not None else None
    return from_chakra(traces, topology, in_flight=in_flight, algorithm=algorithm, control=control, groups=told)


def _load_groups(path: str | Path) -> dict[str, list[int]]:
    """Read the ranks of process groups, by name."""
    text = read_text(path)
    try:
        found = parse_json(text)
    except ValueError as error:
        raise MpsimError(f"{path} is not whole JSON: {error}") from None
    if not isinstance(found, dict) or not all(
        isinstance(ranks, list) and ranks and all(type(rank) is int for rank in ranks) for ranks in found.values()
    ):
        raise MpsimError(f'{path} is no file of groups: expected their ranks by name, as in {{"1": [0, 2]}}')
    return found


@checked
def from_chakra(
    traces: Sequence[RankTrace],
    topology: Topology | str | Path,
    *,
    in_flight: int = 1,
    algorithm: str = "ring",
    control: bool = False,
    groups: Groups | None = None,
) -> tuple[Program, Losses]:
    """Return the program that Chakra traces make on a topology, and what it could not represent of them.

    Parameters
    ----------
    traces : sequence of RankTrace
        Of ranks 0, 1, ...; rank r runs on the topology's device r.
    topology : Topology
        Whose links carry the transfers.
    in_flight : int
        Collectives and sends that a rank has in flight at once; 1 as in ASTRA-sim, 0 for any number. A trace that
        mpsim wrote says so itself.
    algorithm : str
        Of the collectives, unless mpsim wrote the trace on this topology.
    control : bool
        Whether control dependencies bind as data dependencies do. chakra's own feeder knows the latter alone;
        ASTRA-sim's newer one knows both.
    groups : mapping of str to sequence of int, optional
        The ranks of process groups that the traces name and do not tell.

    Raises
    ------
    MpsimError
        More ranks than devices, sends and receives that do not match, collectives that not all ranks of their group
        make, a dependency on no node, a cycle; the message names the node.

    Examples
    --------
    >>> from mpsim.interchange.chakra_file import Node
    >>> from mpsim.topology.builders import ring
    >>> nodes = (Node(id=0, name="a", type="COMP_NODE", duration_us=3),)
    >>> traces = [RankTrace(rank=rank, nodes=nodes) for rank in range(2)]
    >>> program, losses = from_chakra(traces, ring(2, link="50GB/s@2us"))
    >>> [(task.name, task.duration_s) for task in program.tasks], losses.lines
    ([('a', 3e-06), ('a', 3e-06)], ())
    """
    topology = Topology.of(topology)
    if len(traces) > len(topology.devices):
        raise MpsimError(
            f"the trace has {len(traces)} ranks, topology {topology.name!r} has {len(topology.devices)} devices"
        )
    if not any(trace.nodes for trace in traces):
        raise MpsimError(f"no rank of the {len(traces)} has a node: there is nothing to replay, trace again")
    if in_flight < 0:
        raise MpsimError(f"in_flight is {in_flight}, expected 1 or more, or 0 for any number")
    losses = Losses()
    written = [trace.attributes.get(hints.TOPOLOGY) for trace in traces]
    as_written = set(written) == {hints.fingerprint(topology)}
    if not as_written and any(written):
        losses.add(f"what another topology's links carried: worked out anew, collectives by {algorithm}")
    reader = _Reader(TrafficOf(topology, algorithm, as_written, losses), losses, in_flight or _ALL_AT_ONCE)
    if control:
        traces = [replace(trace, nodes=tuple(map(_bound, trace.nodes))) for trace in traces]
    for unit in units_of(traces, groups):
        reader.add(unit)
    return reader.program(), losses


def _bound(node: Node) -> Node:
    """Return a node whose control dependencies bind."""
    return replace(node, data_deps=tuple(dict.fromkeys((*node.data_deps, *node.ctrl_deps))), ctrl_deps=())


class _Part(NamedTuple):
    """A task to be, and which nodes it waits for, by rank and id."""

    task: Task
    waits: tuple[tuple[int, int], ...]
    buffered: tuple[int, ...] = ()


class _Reader:
    """Turns units into tasks."""

    def __init__(self, traffic: TrafficOf, losses: Losses, in_flight: int) -> None:
        self.traffic, self.losses, self.in_flight = traffic, losses, in_flight
        # By number in the program that mpsim wrote (else -1), rank, name and slots.
        self.streams: dict[tuple[int, int, str, int], int] = {}
        self.parts: list[_Part] = []
        # By rank and id: the task that ends when a node does; and the nodes that must end before it counts as ended.
        self.done: dict[tuple[int, int], int] = {}
        self.written: dict[int, int] = {}  # by id alone, of tasks that mpsim wrote
        self.instead: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}

    def add(self, unit: Unit) -> None:
        """Add a unit's task."""
        first = unit.ends[0]
        for end in unit.ends:
            if end.node.ctrl_deps:
                self.losses.add("control dependencies: they do not bind, as in chakra's own feeder", str(end))
        if all(hints.DEPENDENCY in end.node.attributes for end in unit.ends):
            self._pass_on(unit.ends[-1], first)
        elif all(hints.STREAMS in end.node.attributes for end in unit.ends):
            self._as_written(unit)
        elif unit.kind == "send":
            self._message(unit)
        elif unit.kind != "one":
            self._collective(unit)
        elif first.node.type in ("COMP_NODE", "COMM_SEND_NODE", "COMM_RECV_NODE", "COMM_COLL_NODE"):
            self._computation(first)
        else:
            if first.node.type in _NO_TIME and hints.NOTHING not in first.node.attributes:
                self.losses.add(_NO_TIME[first.node.type], str(first))
            self._pass_on(first, first)

    def program(self) -> Program:
        """Return the program of all units added."""
        tasks = [
            part.task._replace(
                after=self._after(part), after_buffered=tuple(map(self.written.__getitem__, part.buffered))
            )
            for part in self.parts
        ]
        ranks = {number: rank for (_, rank, _, _), number in self.streams.items()}
        _check_cycles([f"{task.name!r} of rank {ranks[task.streams[0]]}" for task in tasks], tasks)
        order = sorted(self.streams, key=lambda key: key[0])
        position = {self.streams[key]: i for i, key in enumerate(order)}
        streams = tuple(Stream(device=device, name=name, slots=slots) for _, device, name, slots in order)
        placed = [task._replace(streams=tuple(position[stream] for stream in task.streams)) for task in tasks]
        return Program(streams=streams, tasks=tuple(_without_order(placed, streams)))

    def _after(self, part: _Part) -> tuple[int, ...]:
        """Return the tasks that a part waits for."""
        found: dict[int, None] = {}
        todo = list(part.waits)
        seen = set(todo)
        for node in todo:
            if node in self.done:
                found[self.done[node]] = None
            more = [other for other in self.instead.get(node, ()) if other not in seen]
            seen.update(more)
            todo += more
        return tuple(found)

    def _pass_on(self, at: At, source: At) -> None:
        """Let whoever waits for one node wait for what another depends on."""
        self.instead[at.rank, at.node.id] = tuple((source.rank, dep) for dep in source.node.data_deps)

    def _stream(self, rank: int, name: str, slots: int, number: int = -1) -> int:
        return self.streams.setdefault((number, rank, name, slots), len(self.streams))

    def _add(self, task: Task, ends: Sequence[At], buffered: tuple[int, ...] = ()) -> None:
        waits = tuple((end.rank, dep) for end in ends for dep in end.node.data_deps)
        for end in ends:
            self.done[end.rank, end.node.id] = len(self.parts)
        self.parts.append(_Part(task, waits, buffered))

    def _computation(self, at: At) -> None:
        host = bool(at.node.attributes.get("is_cpu_op", False))
        if at.node.type != "COMP_NODE":
            self.losses.add("transfers marked as the host's: computations of its", str(at))
        name = "host" if host else "compute"
        self._add(Task(at.node.name, name, (self._stream(at.rank, name, 1),), (), at.node.duration_us / 1e6), (at,))

    def _message(self, unit: Unit) -> None:
        send, receive = unit.ends
        self._note_duration(unit)
        streams = (
            self._stream(send.rank, "communication", self.in_flight),
            self._stream(receive.rank, "receive", _ALL_AT_ONCE),
        )
        self._add(Task(send.node.name, "send", streams, (), 0.0, self.traffic.message(unit)), (send,))
        # Whoever waits for the receive waits for the message, and for what the receive waits for.
        self.done[receive.rank, receive.node.id] = len(self.parts) - 1
        self._pass_on(receive, receive)

    def _collective(self, unit: Unit) -> None:
        self._note_duration(unit)
        streams = tuple(self._stream(rank, "communication", self.in_flight) for rank in unit.ranks)
        traffic = self.traffic.collective(unit)
        self._add(Task(unit.ends[0].node.name, unit.kind, streams, (), 0.0, traffic), unit.ends)

    def _note_duration(self, unit: Unit) -> None:
        if unit.ends[0].node.duration_us:
            what = "measured times of transfers: theirs follow from the topology instead"
            self.losses.add(what, str(unit.ends[0]))

    def _as_written(self, unit: Unit) -> None:
        """Add a task that mpsim wrote, on the streams that it was on."""
        node = unit.ends[0].node
        labels = node.attributes
        seconds = labels.get(hints.DURATION)
        task = Task(
            node.name,
            str(labels.get(hints.KIND, "")),
            tuple(stream for end in unit.ends for stream in self._streams_of(end)),
            (),
            seconds if isinstance(seconds, float) else node.duration_us / 1e6,
            self.traffic.written(unit),
            str(labels.get(hints.AXIS, "")),
            _whole(labels.get(hints.STAGE), -1),
            _whole(labels.get(hints.MICROBATCH), -1),
        )
        buffered = labels.get(hints.AFTER_BUFFERED, ())
        self.written[node.id] = len(self.parts)
        self._add(task, unit.ends, tuple(_whole(one, -1) for one in buffered) if isinstance(buffered, tuple) else ())

    def _streams_of(self, end: At) -> list[int]:
        found = [end.node.attributes.get(name) for name in (hints.STREAMS, hints.STREAM_NAMES, hints.SLOTS)]
        numbers, names, slots = (one if isinstance(one, tuple) else () for one in found)
        if not len(numbers) == len(names) == len(slots) > 0:
            raise MpsimError(f"{end}: its {hints.STREAMS} cannot be read: mpsim did not write it so")
        return [
            self._stream(end.rank, str(name), _whole(slot, 0), _whole(number, 0))
            for number, name, slot in zip(numbers, names, slots, strict=True)
        ]


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _without_order(tasks: Sequence[Task], streams: Sequence[Stream]) -> list[Task]:
    """Leave out of `after` what the order of a stream says already."""
    last: dict[int, int] = {}
    kept = []
    for i, task in enumerate(tasks):
        before = {last.get(stream) for stream in task.streams}
        kept.append(task._replace(after=tuple(j for j in task.after if j not in before)))
        last.update((stream, i) for stream in task.streams if not streams[stream].slots)
    return kept


def _check_cycles(called: Sequence[str], tasks: Sequence[Task]) -> None:
    """Refuse ranks that wait for each other in a circle.

    Raises
    ------
    MpsimError
        Naming the tasks of the circle.
    """
    try:
        TopologicalSorter({i: task.after for i, task in enumerate(tasks)}).prepare()
    except CycleError as error:
        shown = " <- ".join(called[i] for i in error.args[1][:6])
        raise MpsimError(f"a cycle of dependencies between ranks: {shown}: mend the trace") from None
