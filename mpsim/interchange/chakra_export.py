"""Programs as Chakra execution traces: one for each device, which ASTRA-sim takes.

A computation is a ``COMP_NODE``; a message a ``COMM_SEND_NODE`` and a ``COMM_RECV_NODE`` of one tag; a collective a
``COMM_COLL_NODE`` on each of its ranks, in a process group of theirs. A stream's order and `after` alike become data
dependencies, the only ones that chakra's feeders enforce. Ids are those of the program's tasks, one more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.files import write_text
from mpsim.interchange import hints
from mpsim.interchange.chakra_file import Node, RankTrace, Value, save_rank
from mpsim.interchange.chakra_schema import COLLECTIVES
from mpsim.interchange.chakra_traffic import PER_RANK, traffic_hints
from mpsim.interchange.losses import Losses
from mpsim.program.model import Program, Task
from mpsim.topology.model import Topology

__all__ = ["export_files", "save_chakra", "to_chakra"]

# ASTRA-sim's feeder takes a file without a node for a deadlock, and skips a node of this type.
_NOTHING = Node(id=0, name="nothing", type="INVALID_NODE", attributes={"is_cpu_op": False, hints.NOTHING: True})


@checked
def to_chakra(program: Program, topology: Topology | str | Path) -> tuple[tuple[RankTrace, ...], Losses]:
    """Return a program as Chakra traces, one for each device of its topology, and what they could not represent.

    Parameters
    ----------
    program : Program
        What runs.
    topology : Topology
        That it was lowered on.

    Raises
    ------
    MpsimError
        A transfer between more than two devices that is no collective of the schema.

    Examples
    --------
    >>> from mpsim.program.model import Stream
    >>> from mpsim.topology.model import Device
    >>> one = Topology(name="one", devices=(Device(name="d0"),))
    >>> program = Program(streams=(Stream(device=0, name="compute"),), tasks=(Task("a", "forward", (0,), (), 0.5),))
    >>> [trace] = to_chakra(program, one)[0]
    >>> [(node.name, node.duration_us) for node in trace.nodes]
    [('a', 500000)]
    """
    topology = Topology.of(topology)
    writer = _Writer(program, len(topology.devices))
    for i, task in enumerate(program.tasks):
        writer.write(i, task)
    for what, entries in (("resident", program.residents), ("allocated", program.allocations)):
        for entry in entries:
            writer.losses.add(f"memory {what}: Chakra has no place for it", f"{entry.holder} of device {entry.device}")
    mark = hints.fingerprint(topology)
    traces = [
        RankTrace(
            rank=rank,
            nodes=tuple(nodes) or (_NOTHING,),
            attributes={hints.TOPOLOGY: mark, hints.GROUPS: json.dumps(writer.groups.of(rank))},
            source=f"rank {rank}",
        )
        for rank, nodes in enumerate(writer.nodes)
    ]
    return tuple(traces), writer.losses


@checked
def save_chakra(prefix: str | Path, program: Program, topology: Topology | str | Path) -> Losses:
    """Write ``PREFIX.<rank>.et`` for each device, and the groups of its collectives as ``PREFIX.comm_groups.json``.

    ASTRA-sim takes the prefix as its ``--workload-configuration`` and the groups as ``--comm-group-configuration``.

    Returns
    -------
    Losses
        What the traces could not represent.

    Raises
    ------
    MpsimError
        As `to_chakra`, or a file cannot be written there.
    """
    traces, losses = to_chakra(program, topology)
    targets = export_files(prefix, len(traces))
    _check_targets(targets, Path(f"{prefix}.{len(traces)}.et"))
    for trace, target in zip(traces, targets, strict=False):
        save_rank(target, trace)
    groups: dict[str, list[int]] = {}
    for trace in traces:
        groups |= json.loads(str(trace.attributes[hints.GROUPS]))
    write_text(targets[-1], json.dumps(groups) + "\n")
    return losses


def export_files(prefix: str | Path, ranks: int) -> list[Path]:
    """Return the files that a trace of so many ranks is written to, the groups' last.

    Raises
    ------
    MpsimError
        The prefix is a folder, or no name.

    Examples
    --------
    >>> [str(path) for path in export_files("step", 1)]
    ['step.0.et', 'step.comm_groups.json']
    """
    name = re.split(r"[/\\]", str(prefix))[-1]
    if name in ("", ".", ".."):
        raise MpsimError(
            f"{str(prefix)!r} is a folder: name what stands before .0.et too, as in {Path(prefix) / 'step'}"
        )
    return [*(Path(f"{prefix}.{rank}.et") for rank in range(ranks)), Path(f"{prefix}.comm_groups.json")]


def _check_targets(targets: Sequence[Path], next_rank: Path) -> None:
    """Refuse what would be written in part, or be read together with an earlier trace of more ranks."""
    for target in targets:
        if target.exists() and not target.is_file():
            raise MpsimError(f"cannot write {str(target)!r}: it is no file; choose another prefix")
    if next_rank.exists():
        raise MpsimError(
            f"{str(next_rank)!r} is of an earlier trace of more ranks, which would be read with this one: remove it, or"
            " choose another prefix"
        )


@dataclass(slots=True)
class _Groups:
    """The process groups of collectives: the same ranks on the same streams are one, so that its order is one."""

    numbers: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)

    def call(self, members: tuple[int, ...], names: tuple[str, ...]) -> tuple[int, int]:
        """Return a group's number and which of its collectives this is."""
        # ASTRA-sim keeps 0 for the group of all ranks that no trace names.
        number = self.numbers.setdefault((members, names), len(self.numbers) + 1)
        self.calls[number] = self.calls.get(number, -1) + 1
        return number, self.calls[number]

    def of(self, rank: int) -> dict[str, list[int]]:
        """Return the ranks of each group that a rank is in, by name."""
        return {str(number): list(members) for (members, _), number in self.numbers.items() if rank in members}


class _Writer:
    """Writes the nodes of each rank, task by task."""

    def __init__(self, program: Program, ranks: int) -> None:
        self.program = program
        self.nodes: list[list[Node]] = [[] for _ in range(ranks)]
        self.groups = _Groups()
        self.losses = Losses()
        self.before = self._stream_order()
        self.on = [self.devices_of(task) for task in program.tasks]
        self.extra = len(program.tasks)

    def _stream_order(self) -> list[list[int]]:
        """Return for each task, of each of its streams, the task that stands before it there; -1 for none."""
        last = [-1] * len(self.program.streams)
        before = []
        for i, task in enumerate(self.program.tasks):
            before.append([-1 if self.program.streams[stream].slots else last[stream] for stream in task.streams])
            for stream in task.streams:
                last[stream] = i
        for one in self.program.streams:
            if one.slots:
                what = "streams that serve whoever is ready first: Chakra has none, other tools see no order there"
                self.losses.add(what, f"{one.name!r} of device {one.device}")
        return before

    def devices_of(self, task: Task) -> tuple[int, ...]:
        """Return the devices that a task is on, each once, in the order of its streams."""
        return tuple(dict.fromkeys(self.program.streams[stream].device for stream in task.streams))

    def write(self, i: int, task: Task) -> None:
        """Add a task's nodes."""
        devices = self.on[i]
        crossing = self._crossings(i, task)
        kinds: list[tuple[str, dict[str, Value]]]
        if len(devices) == 1:
            kinds = [("COMP_NODE", self._duration(task))]
        elif task.kind in COLLECTIVES:
            kinds = [("COMM_COLL_NODE", self._collective(task, devices))] * len(devices)
        elif len(devices) == 2:
            kinds = self._message(task, devices, i + 1)
        else:
            raise MpsimError(
                f"task {task.name!r} is a {task.kind!r} between {len(devices)} devices: Chakra has"
                f" {', '.join(dict.fromkeys(COLLECTIVES))}, and messages between two"
            )
        for device, (kind, attributes) in zip(devices, kinds, strict=True):
            node = Node(
                id=i + 1,
                name=task.name,
                type=kind,
                data_deps=(*self._depends(i, task, device), *(crossing if device == devices[0] else ())),
                duration_us=round(task.duration_s * 1e6) if kind == "COMP_NODE" else 0,
                attributes={"is_cpu_op": False} | attributes | self._hints(task, device, device == devices[0]),
            )
            self.nodes[device].append(node)

    def _depends(self, i: int, task: Task, device: int) -> list[int]:
        """Return the ids of what a task waits for on one of its devices."""
        streams = self.program.streams
        found = [j for s, j in zip(task.streams, self.before[i], strict=True) if j >= 0 and streams[s].device == device]
        found += [j for j in task.after if device in self.on[j]]
        return [j + 1 for j in dict.fromkeys(found)]

    def _crossings(self, i: int, task: Task) -> list[int]:
        """Write a message for each dependency on a task that has no rank in common; return the receivers' ids."""
        receivers = []
        for j in dict.fromkeys(task.after):
            if not set(self.on[j]) & set(self.on[i]):
                receivers.append(self._crossing(j, self.on[j][0], self.on[i][0], task.name))
        return receivers

    def _crossing(self, j: int, source: int, target: int, name: str) -> int:
        self.losses.add("dependencies between ranks without a message: written as messages of 1 byte", repr(name))
        self.extra += 1
        number = self.extra
        attributes: dict[str, Value] = {"is_cpu_op": False, hints.DEPENDENCY: True}
        attributes |= {"comm_src": source, "comm_dst": target, "comm_tag": number, "comm_size": 1}
        ends = (source, "COMM_SEND_NODE", (j + 1,)), (target, "COMM_RECV_NODE", ())
        for device, kind, after in ends:
            node = Node(id=number, name=f"before {name}", type=kind, data_deps=after, attributes=attributes)
            self.nodes[device].append(node)
        return number

    def _duration(self, task: Task) -> dict[str, Value]:
        if task.traffic is not None and (task.traffic.latency_s or task.traffic.links):
            self.losses.add("transfers of one device with itself: other tools see no time", repr(task.name))
        if round(task.duration_s * 1e6) / 1e6 == task.duration_s:
            return {}
        self.losses.add("durations that are no whole microseconds: other tools see them rounded", repr(task.name))
        return {hints.DURATION: task.duration_s}

    def _collective(self, task: Task, devices: tuple[int, ...]) -> dict[str, Value]:
        names = tuple(self.program.streams[stream].name for stream in task.streams)
        number, call = self.groups.call(devices, names)
        size = self._size(task, len(devices) if task.kind in PER_RANK else 1)
        return {
            "comm_type": COLLECTIVES.index(task.kind),
            "comm_size": size,
            "pg_name": str(number),
            "comm_tag": call,
        }

    def _message(self, task: Task, devices: tuple[int, ...], tag: int) -> list[tuple[str, dict[str, Value]]]:
        source, target = devices
        if task.kind == "send_receive":
            what = "exchanges of two ranks with each other: other tools see one message, of the first to the second"
            self.losses.add(what, repr(task.name))
        attributes: dict[str, Value] = {"comm_src": source, "comm_dst": target, "comm_tag": tag}
        attributes["comm_size"] = self._size(task, 1)
        return [("COMM_SEND_NODE", attributes), ("COMM_RECV_NODE", attributes)]

    def _size(self, task: Task, parts: int) -> int:
        """Return the bytes that the schema wants to know of a transfer."""
        count = task.traffic.payload_bytes if task.traffic else 0
        if count <= 0:
            # ASTRA-sim stops at a message of no bytes.
            self.losses.add("transfers of no bytes: other tools see 1 byte", repr(task.name))
        elif count % parts:
            self.losses.add("whole tensors that do not divide by their ranks: other tools see more", repr(task.name))
        return max(-(-count // parts), 1)

    def _hints(self, task: Task, device: int, first: bool) -> dict[str, Value]:
        """Return what only mpsim reads: the streams and labels of a task, and once its traffic."""
        mine = [stream for stream in task.streams if self.program.streams[stream].device == device]
        streams = [self.program.streams[stream] for stream in mine]
        found: dict[str, Value] = {
            hints.STREAMS: tuple(mine),
            hints.STREAM_NAMES: tuple(stream.name for stream in streams),
            hints.SLOTS: tuple(stream.slots for stream in streams),
            hints.KIND: task.kind,
        }
        labels = ((hints.AXIS, task.axis, ""), (hints.STAGE, task.stage, -1), (hints.MICROBATCH, task.microbatch, -1))
        found |= {name: value for name, value, nothing in labels if value != nothing}
        if first:
            if task.traffic is not None:
                found |= traffic_hints(task.traffic)
            elif len(self.devices_of(task)) > 1:
                self.losses.add("computations of several devices at once: other tools see no time", repr(task.name))
                found[hints.DURATION] = task.duration_s
            if task.after_buffered:
                what = "waits for a sender to be rid of a message: Chakra has none, other tools do not wait"
                self.losses.add(what, repr(task.name))
                found[hints.AFTER_BUFFERED] = tuple(j + 1 for j in task.after_buffered)
        return found
