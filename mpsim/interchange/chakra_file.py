"""Chakra trace files: one rank's nodes, each behind its length, as chakra's own tools write and read them.

A file is the schema's ``GlobalMetadata``, then its ``Node`` messages; before each stands its length as a varint
(https://protobuf.dev/programming-guides/encoding/#varints). It may be compressed by gzip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.files import read_bytes, writing
from mpsim.interchange.chakra_schema import NODE_TYPES, messages

__all__ = ["VERSIONS", "Node", "RankTrace", "Value", "load_rank", "rank_files", "save_rank", "spread"]

# What the schema of this layout has been called.
VERSIONS = ("0.0.4", "1.0.0")
_WRITES = "0.0.4"  # the version that ASTRA-sim's own examples carry

Value = (
    bool
    | int
    | float
    | str
    | bytes
    | tuple[bool, ...]
    | tuple[int, ...]
    | tuple[float, ...]
    | tuple[str, ...]
    | tuple[bytes, ...]
)
# Which of the schema's values an attribute is written as: what chakra's feeders read them from.
_WRITTEN_AS: dict[object, str] = {
    "comm_src": "int32_val", "comm_dst": "int32_val", "comm_tag": "int32_val", bool: "bool_val", int: "int64_val",
    float: "double_val", str: "string_val", bytes: "bytes_val",
}  # fmt: skip
_LISTS: dict[object, str] = {
    bool: "bool_list",
    int: "int64_list",
    float: "double_list",
    str: "string_list",
    bytes: "bytes_list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a trace, as the file has it.

    Attributes
    ----------
    id : int
        Unique in the file.
    name, type : str
        `type` is a name of the schema's, such as ``COMP_NODE``.
    data_deps, ctrl_deps : tuple of int
        Ids of the nodes that it depends on.
    duration_us : int
        Microseconds.
    attributes : mapping
        By name.
    values : str
        What the node's inputs are; a process group's ranks stand here.
    """

    id: int
    name: str
    type: str
    data_deps: tuple[int, ...] = ()
    ctrl_deps: tuple[int, ...] = ()
    duration_us: int = 0
    attributes: Mapping[str, Value] = field(default_factory=dict)
    values: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTrace:
    """One rank's trace; `source` says where it is from, for messages."""

    rank: int
    nodes: tuple[Node, ...]
    attributes: Mapping[str, Value] = field(default_factory=dict)
    source: str = ""


def rank_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files of all ranks, in the order of ranks, of some files or of the part of a name before ``.0.et``.

    Raises
    ------
    MpsimError
        No such file, a name without a rank, a rank that is missing or given twice.

    Examples
    --------
    >>> rank_files(["nowhere/step"])
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no trace 'nowhere/step': name files such as step.0.et, or what stands before .0.et
    """
    found: dict[int, Path] = {}
    for path in spread(paths):
        match = re.search(r"\.(\d+)\.et(\.gz)?$", path.name)
        if match is None:
            raise MpsimError(f"{path}: no rank in its name: a trace's files are called NAME.0.et, NAME.1.et, ...")
        rank = int(match[1])
        if rank in found:
            raise MpsimError(f"{found[rank]} and {path} are both rank {rank}: give the files of one trace")
        found[rank] = path
    missing = next((rank for rank in range(len(found)) if rank not in found), None)
    if missing is not None:
        raise MpsimError(f"rank {missing} is missing among {len(found)} files up to rank {max(found)}: give them all")
    return [found[rank] for rank in sorted(found)]


def spread(paths: Sequence[str | Path]) -> Iterator[Path]:
    """Yield files as they are, and those that a part of a name stands for, in the order of names.

    Raises
    ------
    MpsimError
        There is no such file.
    """
    for path in map(Path, paths):
        if path.is_file():
            yield path
            continue
        files = sorted(path.parent.glob(f"{path.name}.*.et")) if path.parent.is_dir() else []
        if not files:
            raise MpsimError(f"no trace {str(path)!r}: name files such as step.0.et, or what stands before .0.et")
        yield from files


def load_rank(path: str | Path, rank: int) -> RankTrace:
    """Read one rank's file.

    Raises
    ------
    MpsimError
        The file cannot be read, was cut, is no Chakra trace, or is of a schema version that is not known.
    """
    types = messages()
    parts = _parts(read_bytes(path), str(path))
    head = _parse(types.metadata, next(parts, b""), f"{path}: its head", types.error)
    attributes = _attributes(head.attr)
    _check_version(head.version, attributes, str(path))
    nodes: list[Node] = []
    for number, part in enumerate(parts):
        last = f"node number {number}, after {nodes[-1].name!r}" if nodes else "its first node"
        nodes.append(_node(_parse(types.node, part, f"{path}: {last}", types.error), str(path)))
    return RankTrace(rank=rank, nodes=tuple(nodes), attributes=attributes, source=str(path))


def save_rank(path: str | Path, trace: RankTrace) -> None:
    """Write one rank's file, whole or not at all.

    Raises
    ------
    MpsimError
        The file cannot be written there.
    """
    types = messages()
    head = types.metadata(version=_WRITES)
    _write_attributes(head, trace.attributes)
    with writing(path) as file:
        for message in (head, *map(_message, trace.nodes)):
            body = message.SerializeToString()
            file.write(_varint(len(body)) + body)


def _check_version(version: str, attributes: Mapping[str, Value], path: str) -> None:
    """Refuse a schema that is not known; converters write its version as an attribute, behind PyTorch's own."""
    schema = str(attributes.get("schema", ""))
    match = re.fullmatch(r"1\.\d+\.\d+(?:-chakra\.(\d+\.\d+\.\d+))?", schema)
    found = version or (match[1] or VERSIONS[0] if match else schema)
    if not found:
        raise MpsimError(f"{path} has no schema version: it is no Chakra trace, or older than {VERSIONS[0]}")
    if found not in VERSIONS:
        raise MpsimError(f"{path} is of schema version {found!r}, mpsim reads {' and '.join(VERSIONS)}")


def _parts(data: bytes, path: str) -> Iterator[bytes]:
    """Yield the messages of a file."""
    at = 0
    while at < len(data):
        begin, size, shift = at, 0, 0
        while True:
            if at >= len(data) or shift > 63:
                raise MpsimError(f"{path} was cut, or is no Chakra trace: no length of a message at byte {begin}")
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                break
        if at + size > len(data):
            left = len(data) - at
            raise MpsimError(
                f"{path} was cut, or is no Chakra trace: the message at byte {begin} has {size} bytes, {left} are left"
            )
        yield data[at : at + size]
        at += size


def _varint(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _parse(kind: Any, part: bytes, where: str, error: type[Exception]) -> Any:
    message = kind()
    try:
        message.ParseFromString(part)
    except error as problem:
        raise MpsimError(f"{where} cannot be read ({problem}): it was cut or is no Chakra trace") from None
    return message


def _node(message: Any, path: str) -> Node:
    what = f"{path}: node {message.id} ({message.name!r})"
    if not 0 <= message.type < len(NODE_TYPES):
        raise MpsimError(f"{what} is of type {message.type}, the schema has 0 to {len(NODE_TYPES) - 1}: mend the trace")
    if message.duration_micros >= 2**63:
        raise MpsimError(f"{what} lasts {message.duration_micros - 2**64} us, expected 0 or more: mend the trace")
    return Node(
        id=message.id,
        name=message.name,
        type=NODE_TYPES[message.type],
        data_deps=tuple(message.data_deps),
        ctrl_deps=tuple(message.ctrl_deps),
        duration_us=message.duration_micros,
        attributes=_attributes(message.attr),
        values=message.inputs.values,
    )


def _attributes(found: Any) -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    for one in found:
        which = one.WhichOneof("value")
        if which is not None:
            value = getattr(one, which)
            attributes[one.name] = tuple(value.values) if which.endswith("_list") else value
    return attributes


def _message(node: Node) -> Any:
    message = messages().node(
        id=node.id,
        name=node.name,
        type=NODE_TYPES.index(node.type),
        data_deps=node.data_deps,
        ctrl_deps=node.ctrl_deps,
        duration_micros=node.duration_us,
    )
    if node.values:
        message.inputs.values = node.values
    _write_attributes(message, node.attributes)
    return message


def _write_attributes(message: Any, attributes: Mapping[str, Value]) -> None:
    for name, value in attributes.items():
        one = message.attr.add(name=name)
        if isinstance(value, tuple):
            kind = _LISTS[type(value[0]) if value else int]
            values = getattr(one, kind)
            values.SetInParent()  # an empty list is one too
            values.values.extend(value)
        else:
            setattr(one, _WRITTEN_AS.get(name) or _WRITTEN_AS[type(value)], value)
