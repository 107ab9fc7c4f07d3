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
import tempfile
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from mpsim.errors import MpsimError, did_you_mean

__all__ = ["Provenance", "decode", "encode", "made_now", "read", "write", "write_text", "writing"]


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


def encode(value: Any) -> Any:
    """Return `value` as what JSON can hold; fields at their default are left out.

    What has an `as_document` says itself what it is there.

    Examples
    --------
    >>> encode(Provenance(command="x"))
    {'command': 'x'}
    """
    if hasattr(value, "as_document"):
        return value.as_document()
    if dataclasses.is_dataclass(value):
        return {
            field.name: encode(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) != field.default
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


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
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), data, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), data, where)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(typing.get_args(kind), data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _decode_enum(kind, data, where)
    return _decode_scalar(kind, data, where)


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return name → (type, required) of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


def _decode_dataclass(kind: type, data: Any, where: str) -> Any:
    prefix = f"{where}: " if where else ""
    if not isinstance(data, dict):
        raise MpsimError(f"{prefix}expected an object with {kind.__name__} fields, found {_show(data)}")
    fields = _fields(kind)
    for name in data:
        if name not in fields:
            raise MpsimError(f"{prefix}unknown field {name!r}{did_you_mean(name, fields)}")
    for name, (_, required) in fields.items():
        if required and name not in data:
            raise MpsimError(f"{prefix}field {name!r} is missing")
    below = f"{where}." if where else ""
    values = {name: decode(fields[name][0], item, below + name) for name, item in data.items()}
    try:
        return kind(**values)
    except MpsimError as error:
        raise MpsimError(f"{prefix}{error}") from None


def _decode_tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise MpsimError(f"{where}: expected a list, found {_show(data)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(arguments) != len(data):
        raise MpsimError(f"{where}: expected {len(arguments)} items, found {len(data)}")
    return tuple(decode(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))


def _decode_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and types.NoneType in arguments:
        return None
    kinds = [a for a in arguments if a is not types.NoneType and typing.get_origin(a) is not Callable]
    # Of several, what the data is: a list is not looked for in text.
    fitting = [a for a in kinds if isinstance(data, list) == (typing.get_origin(a) in (list, tuple))]
    return decode((fitting or kinds)[0], data, where)


def _decode_enum(kind: type[Enum], data: Any, where: str) -> Enum:
    try:
        return kind(data)
    except ValueError:
        known = [str(member.value) for member in kind]
        raise MpsimError(f"{where}: unknown value {data!r}{did_you_mean(str(data), known)}") from None


def _decode_scalar(kind: type, data: Any, where: str) -> Any:
    if kind is float and data == "inf":
        return math.inf
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return _to_float(data, where)
    if kind is int and isinstance(data, float) and data.is_integer():
        return int(data)
    if type(data) is kind:
        return data
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise MpsimError(f"{where}: expected {names.get(kind, kind.__name__)}, found {_show(data)}")


def _to_float(data: int | float, where: str) -> float:
    try:
        return float(data)
    except OverflowError:
        raise MpsimError(f"{where}: a number of {len(str(data))} digits is more than a float holds") from None


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
    body = {"schema": f"mpsim.{noun}/{version}"} | encode(value)
    text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)
    # A list of scalars goes on one line; text holds no raw line break, so nothing inside quotes can match.
    flat = re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r",\n\s*", ", ", m[1]) + "]", text)
    write_text(path, flat + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with writing(path) as file:
        file.write(text.encode())


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once the block ends well; no half of it is ever there.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(folder + "/a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise MpsimError(f"cannot write {str(path)!r}: {error.strerror}; choose another place with -o") from None
    except MpsimError:
        raise
    except ValueError as error:  # Text that is no Unicode, or no path that a file can have.
        raise MpsimError(f"cannot write {str(path)!r}: {error}") from None


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
    body = _load(path)
    found = _version(path, body.pop("schema", None), noun, version)
    for step in range(found, version):
        body = (upgrades or {})[step](body)
    try:
        return decode(kind, body)
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}") from None


def _load(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MpsimError(f"no file {str(path)!r}{_near(Path(path))}") from None
    except OSError as error:
        raise MpsimError(f"cannot read {str(path)!r}: {error.strerror}; name a file that can be read") from None
    except ValueError as error:  # Not text, or no path that a file can have.
        raise MpsimError(f"cannot read {str(path)!r}: {error}; name a file of mpsim's") from None
    try:
        body = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        raise MpsimError(
            f"{path} is not whole JSON (line {error.lineno}: {error.msg}): it was cut or edited; make it again"
        ) from None
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}") from None
    except (RecursionError, ValueError) as error:  # Lists in lists without end, a number of thousands of digits.
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
    names = [item.name for item in folder.iterdir() if item.suffix == path.suffix]
    return did_you_mean(path.name, names) if names else ""


def _version(path: str | Path, schema: Any, noun: str, version: int) -> int:
    match = re.fullmatch(r"mpsim\.([a-z]+)/(\d{1,9})", str(schema))
    if match is None:
        raise MpsimError(f"{path}: schema is {schema!r}, expected 'mpsim.{noun}/{version}': not an mpsim {noun} file")
    if match[1] != noun:
        raise MpsimError(f"{path} is a {match[1]} ({schema}), expected a {noun} (mpsim.{noun}/{version})")
    if not 1 <= int(match[2]) <= version:
        raise MpsimError(f"{path} has schema {schema!r}, this mpsim reads up to mpsim.{noun}/{version}: upgrade mpsim")
    return int(match[2])
