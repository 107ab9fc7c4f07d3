"""Short forms of values for a prompt: what a value is and how large, never all that it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from mpsim.errors import printable, shortened

__all__ = ["brief", "short_repr"]

_MOST_ITEMS, _MOST_TEXT, _MOST_FIELD, _MOST = 8, 60, 160, 1000


def short_repr(value: Any, **also: Any) -> str:
    """Return a dataclass as it is called, its fields at their default left out and long ones by what they hold.

    What follows from its fields and must not be missed is said after them, by name.

    It is the ``__repr__`` of classes that may hold thousands of values.

    Examples
    --------
    >>> from mpsim.documents import Provenance
    >>> short_repr(Provenance(command="mpsim trace gpt2", software="x" * 1000))
    "Provenance(command='mpsim trace gpt2', software='xxxxxxxxxxxxxxxxxxxxxxxxxxxxx … xxxxxxxxxxxxxxxxxxxxxxxxxxxx')"
    """
    told = {one.name: getattr(value, one.name) for one in fields(value) if _tells(value, one)} | also
    said = (f"{name}={brief(what)}" for name, what in told.items())
    return shortened(f"{type(value).__name__}({', '.join(said)})", _MOST)


def _tells(value: Any, field: Any) -> bool:
    """Whether a field is shown, and at no default."""
    if not field.repr:
        return False
    made = field.default if field.default_factory is MISSING else field.default_factory()
    found = getattr(value, field.name)
    # Of a float 1 is 1.0; of what compares in a way of its own, an array say, nothing is asked.
    return type(found) is not type(made) or bool(found != made)


def brief(value: Any) -> str:
    """Return any value in few words.

    Examples
    --------
    >>> brief((0.25,) * 1000), brief((1, 2)), brief({"a": (1,) * 9})
    ('<1,000 floats>', '(1, 2)', "{'a': <9 ints>}")
    """
    if isinstance(value, str):
        return repr(shortened(printable(value), _MOST_TEXT))
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, Mapping):
        items = [f"{brief(key)}: {brief(item)}" for key, item in value.items()] if len(value) <= _MOST_ITEMS else None
        return _bounded(items, "{", "}", f"<{len(value):,} items>")
    if isinstance(value, tuple | list | set | frozenset):
        return _sequence([*value], "()" if isinstance(value, tuple) else "[]")
    if is_dataclass(value) and not isinstance(value, type):
        text = repr(value)
        return text if len(text) <= _MOST_FIELD else f"{_name(value)}(…)"
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return str(getattr(value, "__name__", type(value).__name__))
    return shortened(printable(repr(value)), _MOST_TEXT)


def _sequence(items: Sequence[Any], brackets: str) -> str:
    counted = f"<{', '.join(_counted(name, count) for name, count in Counter(map(_name, items)).most_common(3))}>"
    shown = [brief(item) for item in items] if len(items) <= _MOST_ITEMS else None
    if shown and any(one.endswith("(…)") for one in shown):
        shown = None  # how many of them there are says as much
    if shown and len(items) == 1 and brackets == "()":
        shown[0] += ","
    return _bounded(shown, brackets[0], brackets[1], counted)


def _bounded(items: Sequence[str] | None, left: str, right: str, otherwise: str) -> str:
    """Return items between brackets, or what is said instead where there are too many, or they are too long."""
    text = otherwise if items is None else f"{left}{', '.join(items)}{right}"
    return text if len(text) <= _MOST_FIELD else otherwise


def _name(item: Any) -> str:
    return type(item).__name__


def _counted(name: str, count: int) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"
