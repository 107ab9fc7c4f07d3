"""The schema of Chakra execution traces, for the protobuf library.

The messages and field numbers are those of ``schema/protobuf/et_def.proto`` in https://github.com/mlcommons/chakra at
commit 21585d8f (package ``ChakraProtoMsg``; the schema that its tools call 0.0.4 and 1.0.0, which differ in nothing).
No package index carries it, so its descriptor is built here, in a pool of its own: whoever has the generated
``et_def_pb2`` loaded too gets no clash.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from mpsim.errors import MpsimError

__all__ = ["COLLECTIVES", "NODE_TYPES", "Messages", "messages"]

NODE_TYPES = (
    "INVALID_NODE", "METADATA_NODE", "MEM_LOAD_NODE", "MEM_STORE_NODE", "COMP_NODE", "COMM_SEND_NODE",
    "COMM_RECV_NODE", "COMM_COLL_NODE",
)  # fmt: skip
# By number: what mpsim calls it. A reduce-scatter by blocks is one whose parts are equal.
COLLECTIVES = (
    "all_reduce", "reduce", "all_gather", "gather", "scatter", "broadcast", "all_to_all", "reduce_scatter",
    "reduce_scatter", "barrier",
)  # fmt: skip
# An attribute's value is one of these, or a list of it: numbers 3 and 4 for the first, 5 and 6 for the next, ...
_KINDS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
    "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
_FIELDS = {
    "GlobalMetadata": (("version", 1, "string", ""), ("attr", 2, "AttributeProto", "*")),
    "IOInfo": (("values", 1, "string", ""), ("shapes", 2, "string", ""), ("types", 3, "string", "")),
    "Node": (
        ("id", 1, "uint64", ""),
        ("name", 2, "string", ""),
        ("type", 3, "NodeType", ""),
        ("ctrl_deps", 4, "uint64", "*"),
        ("data_deps", 5, "uint64", "*"),
        ("start_time_micros", 6, "uint64", ""),
        ("duration_micros", 7, "uint64", ""),
        ("inputs", 8, "IOInfo", ""),
        ("outputs", 9, "IOInfo", ""),
        ("attr", 10, "AttributeProto", "*"),
    ),
}


class Messages(NamedTuple):
    """The classes that the library makes of the schema."""

    metadata: Any
    node: Any
    error: type[Exception]


@cache
def messages() -> Messages:
    """Return the classes of the two messages that a file holds.

    Raises
    ------
    MpsimError
        The protobuf library is not installed.

    Examples
    --------
    >>> messages().node(id=3, name="forward", type=4).SerializeToString()
    b'\\x08\\x03\\x12\\x07forward\\x18\\x04'
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
    except ModuleNotFoundError:
        raise MpsimError(
            "Chakra traces need protobuf, which is not installed: pip install 'mpsim[interchange]'"
        ) from None
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")
    _add_enum(file, "NodeType", NODE_TYPES)
    for kind in _KINDS:
        _add_field(file.message_type.add(name=_list_of(kind)), "values", 1, kind, "*")
    _add_attribute(file.message_type.add(name="AttributeProto"))
    for name, fields in _FIELDS.items():
        one = file.message_type.add(name=name)
        for field in fields:
            _add_field(one, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    metadata, node = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ChakraProtoMsg.{name}"))
        for name in ("GlobalMetadata", "Node")
    )
    return Messages(metadata, node, message.DecodeError)


def _list_of(kind: str) -> str:
    return f"{kind.capitalize()}List"


def _add_enum(file: Any, name: str, values: tuple[str, ...]) -> None:
    enum = file.enum_type.add(name=name)
    for number, value in enumerate(values):
        enum.value.add(name=value, number=number)


def _add_attribute(message: Any) -> None:
    _add_field(message, "name", 1, "string", "")
    _add_field(message, "doc_string", 2, "string", "")
    message.oneof_decl.add(name="value")
    for i, kind in enumerate(_KINDS):
        _add_field(message, f"{kind}_val", 3 + 2 * i, kind, "")
        _add_field(message, f"{kind}_list", 4 + 2 * i, _list_of(kind), "")
    for field in message.field[2:]:
        field.oneof_index = 0


def _add_field(message: Any, name: str, number: int, kind: str, repeated: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if kind in _KINDS:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_ENUM if kind == "NodeType" else field.TYPE_MESSAGE
        field.type_name = f".ChakraProtoMsg.{kind}"
