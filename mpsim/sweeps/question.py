"""What a sweep asks, as digests: of all that its rows depend on, mpsim itself included."""

from __future__ import annotations

import platform
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from mpsim.collectives.algorithms import ALGORITHMS
from mpsim.errors import MpsimError
from mpsim.plan.operations import format_rows
from mpsim.plan.runtimes import RUNTIMES
from mpsim.plan.schedules import SCHEDULES, resolve_schedule, rows_for
from mpsim.sweeps.grid import Candidate

__all__ = ["Question", "ask", "cell_text", "code_digest", "digest", "setting_of"]

_DIGITS = 12  # of each part of a question in a file: what is told apart there are a user's own questions
_OTHER = {
    "code": "another mpsim, Python, numpy or simpy",
    "workload": "another workload",
    "topology": "another topology",
    "options": "other options",
    "batch": "another batch or baseline",
    "grid": "another grid of plans",
}
_CODE = (".py", ".csv", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that the rows of a sweep depend on, each part a digest of 64 hexadecimal digits.

    Attributes
    ----------
    code : str
        mpsim's files, and what it computes with.
    workload, topology : str
    options : str
        What else plans share, whatever their batch.
    batch : str
        Samples in a step, and what speedups compare with.
    grid : str
        The plans.
    """

    code: str
    workload: str
    topology: str
    options: str
    batch: str
    grid: str

    @property
    def text(self) -> str:
        """The question as it stands in each row of a file.

        Examples
        --------
        >>> Question(code="a" * 64, workload="b" * 64, topology="c" * 64, options="d", batch="e", grid="f").text
        'aaaaaaaaaaaa-bbbbbbbbbbbb-cccccccccccc-d-e-f'
        """
        return "-".join(part[:_DIGITS] for part in self._parts.values())

    @property
    def shared(self) -> str:
        """The digest of all but the grid: what a row of any grid depends on besides its own plan."""
        return digest(tuple(part for name, part in self._parts.items() if name != "grid"))

    @property
    def _parts(self) -> dict[str, str]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def differs(self, text: str) -> str:
        """Say what is other in another question, the first such part; "" if nothing.

        Examples
        --------
        >>> asked = Question(code="a", workload="b", topology="cc", options="d", batch="e", grid="f")
        >>> asked.differs(asked.text), asked.differs(asked.text.replace("cc", "ff"))
        ('', 'another topology')
        """
        theirs = text.split("-")
        if len(theirs) != len(self._parts):
            return "another form"
        ours = zip(self._parts.items(), theirs, strict=True)
        return next((_OTHER[name] for (name, part), their in ours if part[:_DIGITS] != their), "")


def setting_of(text: str | None) -> str:
    """Return what rows share whatever their batch and the other plans of their sweep, of the text of their question.

    "" where nothing is known of it.

    Examples
    --------
    >>> asked = Question(code="a", workload="b", topology="c", options="d", batch="e", grid="f")
    >>> setting_of(f"{asked.text}:17"), setting_of(None)
    ('a-b-c-d', '')
    """
    parts = (text or "").partition(":")[0].split("-")
    return "-".join(parts[:-2]) if len(parts) == len(fields(Question)) else ""


def ask(*, workload: Any, topology: Any, options: Any, batch: Any, grid: Sequence[Candidate]) -> Question:
    """Return the question of a sweep of one workload and batch.

    Parameters
    ----------
    workload, topology, options, batch
        Values that `digest` takes; `batch` and `options` are all else that a row depends on.
    grid : sequence of Candidate
        The plans, in their order.
    """
    return Question(
        code=code_digest(),
        workload=digest(workload),
        topology=digest(topology),
        options=digest((options, list(_registered()))),
        batch=digest(batch),
        grid=digest([cell_text(candidate) for candidate in grid]),
    )


def cell_text(candidate: Candidate) -> str:
    """Return all that a row depends on besides what the plans of a sweep share.

    A schedule that is not mpsim's own counts by its rows, whatever it is called.

    Examples
    --------
    >>> cell_text(Candidate(dp=2, pp=4, tp=1, microbatches=8, schedule="gpipe"))
    'dp=2 pp=4 tp=1 micro-batches=8 gpipe'
    """
    one = candidate
    words = f"dp={one.dp} pp={one.pp} tp={one.tp} micro-batches={one.microbatches}"
    return words if one.schedule is None else f"{words} {_schedule(one)}"


def _schedule(one: Candidate) -> str:
    assert one.schedule is not None
    function = resolve_schedule(one.schedule)
    name = one.schedule if isinstance(one.schedule, str) else getattr(function, "__name__", "custom")
    if _is_ours(function):
        return name
    if not hasattr(function, "__code__"):
        return f"{name} {uuid4().hex}"  # an object may answer differently each time: like no other
    try:
        rows = format_rows(rows_for(function, one.pp, one.microbatches))
    except MpsimError as error:
        rows = str(error)
    return f"{name} {digest(rows)}"


def _is_ours(function: Any) -> bool:
    """Return whether a function, or the class of an object, is mpsim's own."""
    where = getattr(function, "__module__", None) or type(function).__module__
    return where == "mpsim" or where.startswith("mpsim.")


def _registered() -> Iterator[str]:
    """Yield what a user registered and a name can lead to: what it does is not known, so that it is like no other."""
    yield from (f"{name} {digest(runtime)}" for name, runtime in RUNTIMES.items())
    for name, function in ALGORITHMS.items():
        if not _is_ours(function):
            yield f"{name} {uuid4().hex}"
    ours = {name: function for name, function in SCHEDULES.items() if _is_ours(function)}
    yield from (f"{name} {_name_of(function)}" for name, function in ours.items())


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


@cache
def code_digest() -> str:
    """Return the digest of mpsim's files, of Python and of the libraries that it computes with."""
    root = Path(__file__).parents[1]
    found = sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in _CODE):
        found.update(f"{path.relative_to(root)}\0".encode())
        found.update(sha256(path.read_bytes()).digest())
    versions = [f"{name} {metadata.version(name)}" for name in ("numpy", "simpy")]
    found.update("\0".join([sys.version, platform.machine(), *versions]).encode())
    return found.hexdigest()


def digest(value: Any) -> str:
    """Return a digest of plain values: text, numbers, sequences, mappings, dataclasses of those.

    Equal values have equal digests in every process. What is none of them, a function of a user's own say, is like
    nothing else.

    Examples
    --------
    >>> digest([1.0, 2.0]) == digest((1.0, 2.0)), digest([1.0]) == digest([1]), digest("1") == digest(1)
    (True, False, False)
    """
    found = sha256()
    _feed(found.update, value)
    return found.hexdigest()


def _feed(add: Callable[[bytes], None], value: Any) -> None:
    """Add a value as bytes, each part with its kind and length before it, so that no two values look alike."""
    kind = type(value)
    if kind is float:
        add(b"f" + struct.pack("<d", value))
    elif kind in (str, int, bool, type(None)):
        add(_text(kind.__name__[0], str(value)))
    elif kind in (tuple, list):
        _feed_sequence(add, value)
    elif is_dataclass(kind):
        add(_text("o", kind.__qualname__))
        for name in _names(kind):
            _feed(add, getattr(value, name))
    else:
        _feed_other(add, value)


def _feed_sequence(add: Callable[[bytes], None], value: Sequence[Any]) -> None:
    add(_text("l", str(len(value))))
    if value and set(map(type, value)) == {float}:
        add(b"F" + array("d", value).tobytes())
    else:
        for item in value:
            _feed(add, item)


def _feed_other(add: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Enum):
        add(b"e")
        _feed(add, (type(value).__qualname__, value.value))
    elif isinstance(value, Mapping):
        add(b"m")
        _feed(add, [item for pair in value.items() for item in pair])
    elif isinstance(value, set | frozenset):
        add(b"s")
        _feed(add, sorted(digest(item) for item in value))
    elif callable(value) and _is_ours(value):
        add(_text("c", f"{value.__module__}.{_name_of(value)}"))
    else:
        add(_text("u", uuid4().hex))


def _text(kind: str, text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return f"{kind}{len(data)}:".encode() + data


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
