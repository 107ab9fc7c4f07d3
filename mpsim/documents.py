"""Read and write versioned files, whole or not at all.

Every saved file is one JSON object that begins with ``"schema": "mpsim.<noun>/<version>"``.
The codec turns frozen dataclasses into JSON and back by their type hints; what does not fit
is refused with the path of the field. (A library would do, but the tracer must run where
only numpy and torch are installed.)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mpsim.above import above
from mpsim.calls import with_methods
from mpsim.errors import MpsimError, did_you_mean
from mpsim.files import parse_json, read_text, write_text, writing
from mpsim.garbage import collector_paused
from mpsim.hints import shown
from mpsim.reprs import short_repr

__all__ = [
    "Document", "Provenance", "Written", "decode", "encode", "function_of", "in_order", "made_now", "read",
    "write", "write_text", "writing",
]  # fmt: skip

_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a document comes from; every field is free text.

    Examples
    --------
    >>> Provenance(made_by="mpsim 0.1.0", command="mpsim trace gpt2").command
    'mpsim trace gpt2'
    """

    made_by: str = ""
    command: str = ""
    date: str = ""
    machine: str = ""
    software: str = ""
    source: str = ""

    __repr__ = short_repr


def made_now(call: str) -> Provenance:
    """Return the provenance of what is made now, by the command line that runs or by a `call` from Python.

    Examples
    --------
    >>> made_now("mpsim.trace('gpt2')").made_by.split()[0]
    'mpsim'
    """
    from datetime import UTC, datetime
    from importlib import metadata

    called = Path(sys.argv[0]).name if sys.argv else ""
    try:
        version = metadata.version("mpsim")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return Provenance(
        made_by=f"mpsim {version}",
        command=shlex.join(["mpsim", *sys.argv[1:]]) if called == "mpsim" else call,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


@with_methods
class Written:
    """A value that text can stand for wherever it is due.

    What reads the text knows the value, which does not know it back: it stands in a room above, and is named.
    """

    __slots__ = ()
    _reads: ClassVar[str]  # the function that does, as ``room:name``
    _written: ClassVar[str]  # what a value or its text looks like, for messages

    @classmethod
    def of(cls, given: Self | str | Path) -> Self:
        """Return a value as it is, or the one that text stands for.

        Raises
        ------
        MpsimError
            It is neither, or the text says nothing that there is.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str | os.PathLike):
            raise MpsimError(f"{cls.__name__.lower()} is {shown(given)}, expected {cls._written}")
        found: Self = function_of(cls._reads)(given if isinstance(given, str) else str(given))
        return found


@with_methods
class Document(Written):
    """A value that is kept in a file: ``value.save(path)`` writes it, ``Noun.load(path)`` reads it."""

    __slots__ = ()
    _file: ClassVar[str]  # the room of its ``save_noun`` and ``load_noun``, and the noun

    def save(self, path: str | Path, **options: Any) -> None:
        """Write it to a file, whole or not at all; `options` are those of the function ``save_…`` of its kind.

        Raises
        ------
        MpsimError
            The file cannot be written there.
        """
        room, noun = self._file.split(":")
        function_of(f"{room}:save_{noun}")(path, self, **options)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read one from a file of any version ever written.

        Raises
        ------
        MpsimError
            No such file, or it holds something else.
        """
        room, noun = cls._file.split(":")
        found: Self = function_of(f"{room}:load_{noun}")(path)
        return found


def function_of(text: str) -> Callable[..., Any]:
    """Return the function that ``room:name`` names, of a room above.

    Examples
    --------
    >>> function_of("documents:encode") is encode
    True
    """
    room, name = text.split(":")
    found: Callable[..., Any] = getattr(above(room), name)
    return found


def in_order(first: object, second: object, kind: type[_Kind]) -> tuple[str | Path, _Kind]:
    """Return a path and what is saved there, whichever was given first: hours of measuring may hang on it.

    Raises
    ------
    MpsimError
        There is no path among them, or nothing of that kind.

    Examples
    --------
    >>> in_order(Provenance(), "made.json", Provenance)[0]
    'made.json'
    """
    path, value = (second, first) if isinstance(first, kind) else (first, second)
    if not isinstance(value, kind) or not isinstance(path, str | os.PathLike):
        noun = kind.__name__
        raise MpsimError(f"{shown(first)} and {shown(second)} were given, expected a path and a {noun} to write there")
    return Path(path) if not isinstance(path, str) else path, value


def encode(value: Any) -> Any:
    """Return `value` as what JSON can hold; fields at their default are left out, and those that equality ignores.

    What has an `as_document` says itself what it is there.

    Examples
    --------
    >>> encode(Provenance(command="x"))
    {'command': 'x'}
    """
    kind: type = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        kinds = set(map(type, value))
        if kinds <= _PLAIN or (kinds == {float} and not any(map(math.isinf, value))):
            return list(value)
        return [encode(item) for item in value]
    if hasattr(value, "as_document"):
        return value.as_document()
    if dataclasses.is_dataclass(value):
        return {name: encode(item) for name, default in _defaults(kind) if (item := getattr(value, name)) != default}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


_PLAIN = frozenset({int, str, bool, types.NoneType})
_FLAT = _PLAIN | {float}


@cache
def _defaults(kind: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.default) for field in dataclasses.fields(kind) if field.compare]


# Of what is larger, products are no numbers any more.
_MOST: dict[Any, float] = {int: 10**24, float: 1e60}
_MOST_NAMES = 8  # of files that are listed where one is not there


def _within(numbers: list[float], most: float) -> bool:
    return not numbers or -most <= min(numbers) <= max(numbers) <= most


class _Misfit(Exception):
    """What is wrong with some data, and the way to it: the fields and places that lead there, the innermost first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.way: list[str] = []


_Decoder = Callable[[Any], Any]


def decode(kind: Any, data: Any, where: str = "") -> Any:
    """Return `data`, as read from JSON, as a value of type `kind`.

    Raises
    ------
    MpsimError
        A missing or unknown field, or a value of the wrong type; the message has its path.

    Examples
    --------
    >>> decode(Provenance, {"comand": "x"})
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown field 'comand'; did you mean 'command'?
    """
    try:
        return _decoder(kind)(data)
    except _Misfit as misfit:
        place = (where + "".join(reversed(misfit.way))).removeprefix(".")
        raise MpsimError(f"{place}: {misfit}" if place else str(misfit)) from None


@cache
def _decoder(kind: Any) -> _Decoder:
    """Return what makes a value of a type, made once: there may be a million of them in a file."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(typing.cast(type, kind))
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _tuple_decoder(typing.get_args(kind))
    if origin in (types.UnionType, typing.Union):
        return _union_decoder(typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_decoder(kind)
    if kind in _MOST:
        most = _MOST[kind]
        return lambda data: data if type(data) is kind and -most <= data <= most else _decode_scalar(kind, data)
    return lambda data: data if type(data) is kind else _decode_scalar(kind, data)


@cache
def _fields(kind: type) -> tuple[dict[str, _Decoder], list[str]]:
    """Return what decodes each field of a dataclass, and which it needs."""
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.compare]
    missing = dataclasses.MISSING
    needed = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    return {field.name: _decoder(hints[field.name]) for field in fields}, needed


def _dataclass_decoder(kind: type) -> _Decoder:
    def decoded(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _Misfit(f"expected an object with {kind.__name__} fields, found {_show(data)}")
        fields, needed = _fields(kind)
        for name in data:
            if name not in fields:
                raise _Misfit(f"unknown field {name!r}{did_you_mean(name, fields)}")
        for name in needed:
            if name not in data:
                raise _Misfit(f"field {name!r} is missing")
        values = {}
        try:
            for name, item in data.items():
                values[name] = fields[name](item)
        except _Misfit as misfit:
            misfit.way.append(f".{name}")
            raise
        try:
            return kind(**values)
        except MpsimError as error:
            raise _Misfit(str(error)) from None

    return decoded


def _tuple_decoder(arguments: tuple[Any, ...]) -> _Decoder:
    endless = len(arguments) == 2 and arguments[1] is Ellipsis
    plain = {arguments[0]} if endless and arguments[0] in (float, int, str, bool) else set()
    first = arguments[0] if arguments else None
    most = _MOST.get(first)

    def decoded(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise _Misfit(f"expected a list, found {_show(data)}")
        if plain and plain.issuperset(map(type, data)) and (most is None or _within(data, most)):
            return tuple(data)
        if not endless and len(arguments) != len(data):
            raise _Misfit(f"expected {len(arguments)} items, found {len(data)}")
        kinds = repeat(_decoder(first)) if endless else map(_decoder, arguments)
        found: list[Any] = []
        try:
            for one, item in zip(kinds, data, strict=False):
                found.append(one(item))  # how many there are says which one does not fit
        except _Misfit as misfit:
            misfit.way.append(f"[{len(found)}]")
            raise
        return tuple(found)

    return decoded


def _union_decoder(arguments: tuple[Any, ...]) -> _Decoder:
    optional = types.NoneType in arguments
    kinds = [a for a in arguments if a is not types.NoneType and typing.get_origin(a) is not Callable]
    lists = [a for a in kinds if typing.get_origin(a) in (list, tuple)]
    others = [a for a in kinds if a not in lists]

    def decoded(data: Any) -> Any:
        if data is None and optional:
            return None
        # Of several, what the data is: a list is not looked for in text.
        return _decoder(((lists if isinstance(data, list) else others) or kinds)[0])(data)

    return decoded


def _enum_decoder(kind: type[Enum]) -> _Decoder:
    def decoded(data: Any) -> Enum:
        try:
            return kind(data)
        except ValueError:
            known = [str(member.value) for member in kind]
            raise _Misfit(f"unknown value {data!r}{did_you_mean(str(data), known)}") from None

    return decoded


def _decode_scalar(kind: type, data: Any) -> Any:
    """Return data that is not of its kind as it stands as what it stands for."""
    if kind is float and data == "inf":
        return math.inf
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return _to_float(data)
    if kind is int and isinstance(data, float) and data.is_integer():
        data = int(data)
    if kind is int and type(data) is int:
        if abs(data) > _MOST[int]:
            raise _Misfit(f"a number of {len(str(abs(data)))} digits, expected one of at most 24")
        return data
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise _Misfit(f"expected {names.get(kind, kind.__name__)}, found {_show(data)}")


def _to_float(data: int | float) -> float:
    try:
        found = float(data)
    except OverflowError:
        raise _Misfit(f"a number of {len(str(data))} digits is more than a float holds") from None
    if _MOST[float] < abs(found) < math.inf:
        raise _Misfit(f"{found:g} is not a number that was measured: 1e+60 is more than there is of anything")
    return found


def _show(data: Any) -> str:
    text = json.dumps(data)
    return text if len(text) <= 40 else text[:37] + "..."


def write(path: str | Path, noun: str, version: int, value: Any) -> None:
    """Write a dataclass as ``mpsim.<noun>/<version>``, whole or not at all.

    Raises
    ------
    MpsimError
        The file cannot be written there.
    """
    with collector_paused():
        text = _text({"schema": f"mpsim.{noun}/{version}"} | encode(value))
    write_text(path, text + "\n")


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_BRACKETS = frozenset("[]{}")


def _text(value: Any, pad: str = "\n") -> str:
    """Return a value as JSON, indented, a list without lists, objects and brackets in text on one line.

    Python's own encoder is as fast only where it does not indent.
    """
    further = pad + " "
    if value and isinstance(value, dict):
        items = [f"{_json(key)}: {_text(item, further)}" for key, item in value.items()]
        return "{" + further + ("," + further).join(items) + pad + "}"
    if value and isinstance(value, list):
        kinds = set(map(type, value))
        if kinds == {int}:
            return f"[{', '.join(map(repr, value))}]"
        if kinds <= _FLAT:
            line = _json(value)
            if str not in kinds or _BRACKETS.isdisjoint(line[1:-1]):
                return line
        return "[" + further + ("," + further).join([_text(item, further) for item in value]) + pad + "]"
    return repr(value) if type(value) is int else _json(value)


def read(
    path: str | Path,
    noun: str,
    version: int,
    kind: type,
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
) -> Any:
    """Read a document of any version up to `version`.

    Parameters
    ----------
    path : path
        The file.
    noun, version
        What it must be, and the newest version this mpsim knows.
    kind : type
        The dataclass to make of it.
    upgrades : dict
        For each older version, the function that turns its body into the next version's.

    Raises
    ------
    MpsimError
        No such file, not JSON, truncated, another schema, a newer version, or a field that does not fit.
    """
    with collector_paused():
        body = _load(path)
        found = _version(path, body.pop("schema", None), noun, version)
        for step in range(found, version):
            body = (upgrades or {})[step](body)
        try:
            return decode(kind, body)
        except MpsimError as error:
            raise MpsimError(f"{path}: {error}") from None


def _load(path: str | Path) -> dict[str, Any]:
    text = read_text(path, "name a file of mpsim's", missing=lambda: _near(Path(path)))
    try:
        body = parse_json(text, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        raise MpsimError(
            f"{path} is not whole JSON (line {error.lineno}: {error.msg}): it was cut or edited; make it again"
        ) from None
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}") from None
    except ValueError as error:  # Lists in lists without end, a number of thousands of digits.
        raise MpsimError(f"{path} cannot be read: {error}; make it again") from None
    if not isinstance(body, dict):
        raise MpsimError(f"{path}: expected one JSON object, found {_show(body)}")
    return body


def _refuse_constant(name: str) -> float:
    raise MpsimError(f"it holds {name}, which is no measurement: mend the value or make the file again")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MpsimError(f"it gives {twice!r} twice in one object: keep one of them")
    return found


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {str(folder)!r}"
    names = [item.name for item in folder.iterdir() if item.suffix in (path.suffix, ".json") and item.is_file()]
    told = did_you_mean(path.name, names) if names else ""
    return told if len(names) <= _MOST_NAMES or "did you mean" in told else ""


def _version(path: str | Path, schema: Any, noun: str, version: int) -> int:
    match = re.fullmatch(r"mpsim\.([a-z]+)/(\d{1,9})", str(schema))
    if match is None:
        raise MpsimError(f"{path}: schema is {schema!r}, expected 'mpsim.{noun}/{version}': not an mpsim {noun} file")
    if match[1] != noun:
        raise MpsimError(f"{path} is a {match[1]} ({schema}), expected a {noun} (mpsim.{noun}/{version})")
    if not 1 <= int(match[2]) <= version:
        raise MpsimError(f"{path} has schema {schema!r}, this mpsim reads up to mpsim.{noun}/{version}: upgrade mpsim")
    return int(match[2])
