"""Type hints, read: whether a value fits one, and what fits it, in words."""

from __future__ import annotations

import numbers
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mpsim.errors import shortened

__all__ = [
    "PLAIN",
    "Names",
    "at_a_glance",
    "fits",
    "in_words",
    "instead",
    "is_tuple",
    "kinds_of",
    "odd_one",
    "read_hint",
    "shown",
]

PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None", None: "None",
}  # fmt: skip
_SEQUENCES = (tuple, list, Sequence)


# What a hint is.


class _Unknown(type):
    """What a hint names that only type checkers import: of ``torch.Tensor`` it has the name, by which it is told."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _unknown(name)

    def fits(cls, value: Any) -> bool:
        """Whether a value is of a class of that name; of a name without a module it is not known what it is."""
        return cls is _Anything or any(one.__name__ == cls.__name__ for one in type(value).__mro__)


@cache
def _unknown(name: str) -> _Unknown:
    return _Unknown(name, (), {})


_Anything = _unknown("something else")


class Names(dict[str, Any]):
    """What names in hints stand for; those that only type checkers import stand for anything."""

    def __missing__(self, name: str) -> Any:
        return Path if name == "Path" else vars(sys.modules["builtins"]).get(name, _Anything)


def read_hint(annotation: Any, names: Names) -> Any:
    """Return the hint that an annotation is, of its text too.

    Examples
    --------
    >>> read_hint("int | None", Names()), read_hint(Parameter.empty, Names())
    (int | None, typing.Any)
    """
    if not isinstance(annotation, str):
        return Any if annotation is Parameter.empty else annotation
    try:
        return eval(annotation, {}, names)  # as `typing.get_type_hints` does, of a module's own source
    except (AttributeError, TypeError):
        return Any


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """Return each of what a hint allows; ``Annotated[float, str]`` is a float that text may stand for.

    Examples
    --------
    >>> kinds_of(int | str), kinds_of(int), kinds_of(Annotated[float, str])
    ((<class 'int'>, <class 'str'>), (<class 'int'>,), (<class 'float'>, <class 'str'>))
    """
    origin = get_origin(hint)
    if origin is Annotated:
        return (hint.__origin__, *hint.__metadata__)
    return get_args(hint) if origin in (Union, types.UnionType) else (hint,)


def is_tuple(hint: Any) -> bool:
    """Whether a hint asks for a tuple."""
    return any(get_origin(one) is tuple for one in kinds_of(hint))


# What fits it.


@cache
def at_a_glance(hint: Any) -> frozenset[type]:
    """Return types of which every value fits a hint."""
    kinds = [one for one in kinds_of(hint) if isinstance(one, type) and get_origin(one) is None]
    return frozenset({*kinds, *({int} if float in kinds else ())})


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a hint: a truth value is no number, a list does for a tuple, what is not known for all.

    Examples
    --------
    >>> fits([1, 2], tuple[int, ...]), fits(True, int), fits(1, float), fits("ab", Sequence[str])
    (True, False, True, False)
    """
    if type(value) in at_a_glance(hint):
        return True
    kinds = kinds_of(hint)
    if len(kinds) > 1:
        return any(fits(value, one) for one in kinds)
    origin = get_origin(hint)
    if origin is not None:
        return _fits_generic(value, origin, get_args(hint))
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_")  # numpy's
    if isinstance(hint, _Unknown):
        return hint.fits(value)
    if hint is None or not isinstance(hint, type) or hint is Any:
        return value is None if hint is None else True
    if getattr(hint, "_is_protocol", False):
        named = {**vars(hint).get("__annotations__", {}), **vars(hint)}
        return all(hasattr(value, name) for name in named if not name.startswith("_"))
    return isinstance(value, os.PathLike if issubclass(hint, os.PathLike) else hint)


def _fits_generic(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    if origin is Literal:
        return value in inside
    if issubclass(origin, Callable):  # type: ignore[arg-type]
        return callable(value)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, inside[0]) and fits(one, inside[1]) for key, one in value.items()
        )
    if not issubclass(origin, _SEQUENCES):
        return isinstance(value, origin)
    if not _is_sequence(value):
        return False
    if origin is tuple and inside[-1] is not Ellipsis:
        return len(value) == len(inside) and all(map(fits, value, inside))
    return set(map(type, value)) <= at_a_glance(inside[0]) or all(fits(one, inside[0]) for one in value)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1


def odd_one(value: Any, hint: Any) -> Any:
    """Return what of a list does not fit its hint, or the value itself, where that is none of its kind.

    Examples
    --------
    >>> odd_one([1, "2"], Sequence[int]), odd_one(5, Sequence[int]), odd_one({"a": None}, Mapping[str, int])
    ('2', 5, None)
    """
    for kind in kinds_of(hint):
        origin, inside = get_origin(kind) or object, get_args(kind)
        if issubclass(origin, Mapping) and isinstance(value, Mapping):
            pairs = [(key, inside[0]) for key in value] + [(one, inside[1]) for one in value.values()]
        elif issubclass(origin, _SEQUENCES) and _is_sequence(value):
            pairs = [(one, inside[0]) for one in value]
        else:
            continue
        return next((one for one, its_hint in pairs if not fits(one, its_hint)), value)
    return value


# How both are said.


def shown(value: object) -> str:
    """Return what was given, for a message: numbers and text as they are written, all else by its type.

    Examples
    --------
    >>> shown("ring:4"), shown([1, 2]), shown(OSError("x")), shown(None), shown(int)
    ("'ring:4'", 'a list of 2', 'an OSError', 'None', 'the class int')
    """
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {len(hex(abs(value))) - 2} hexadecimal digits"
    if isinstance(value, PLAIN):
        return shortened(repr(value), 60)
    if isinstance(value, os.PathLike):
        return shortened(repr(os.fspath(value)), 60)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    length = f" of {len(value)}" if isinstance(value, list | tuple | dict | set | frozenset) else ""
    return _article(type(value).__name__) + length


def in_words(hint: Any, *, texts: bool = False) -> str:
    """Return what fits a hint; `texts` where text is turned into what it stands for.

    Examples
    --------
    >>> in_words(int | None), in_words(Sequence[int] | str), in_words(Mapping[str, float])
    ('a whole number', 'a list of whole numbers or text', 'a mapping of text to numbers')
    """
    words = [*dict.fromkeys(_each(hint, texts))]
    if len(words) > 1 and "None" in words:
        words.remove("None")
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _each(hint: Any, texts: bool) -> Iterator[str]:
    kinds = kinds_of(hint)
    # What text can stand for says itself how it is written.
    written = [one for one in kinds if hasattr(one, "_written") and (texts or str in kinds)]
    yield from (one._written for one in written)
    rest = [one for one in kinds if one not in written and not (written and (one is str or _is_path(one)))]
    yield from map(_word, rest)


def _is_path(hint: Any) -> bool:
    return isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, os.PathLike)


def _word(hint: Any) -> str:
    if _is_path(hint):
        return "a path"
    origin, inside = get_origin(hint), get_args(hint)
    if origin is None:
        return _WORDS.get(hint) or getattr(hint, "_made", "") or _name(hint)
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if issubclass(origin, Callable):  # type: ignore[arg-type]
        return "a function"
    if issubclass(origin, Mapping):
        return f"a mapping of {_many(inside[0])} to {_many(inside[1])}"
    return f"a list of {_many(inside[0])}" if issubclass(origin, _SEQUENCES) else _article(origin.__name__)


def _name(hint: Any) -> str:
    """Return a class by its public name, or what it is called."""
    name = getattr(hint, "__name__", str(hint)).removeprefix("_")
    room = getattr(sys.modules.get("mpsim"), "_ROOMS", {}).get(name, "?")
    public = getattr(hint, "__module__", "").startswith(f"mpsim.{room}")
    return f"mpsim.{name}" if public else _article(name)


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' or noun[:2] == 'Mp' else 'a'} {noun}"


def _many(hint: Any) -> str:
    return " or ".join(dict.fromkeys(map(_plural, map(_word, kinds_of(hint)))))


def _plural(words: str) -> str:
    for one, many in (("a list of ", "lists of "), ("a mapping of ", "mappings of ")):
        if words.startswith(one):
            return words.replace(one, many, 1)
    if words == "an Any":
        return "values"
    if words.startswith("mpsim."):
        return words
    return words if words == "text" else words.removeprefix("a ").removeprefix("an ") + "s"


def instead(value: Any, hint: Any) -> str:
    """Return what to write instead, where it is plain what was meant; else ``""``.

    Examples
    --------
    >>> instead("2", int), instead(2.0, int), instead(4, Sequence[int]), instead("two", int)
    (': write 2', ': write 2', ': write [4]', '')
    """
    kinds = kinds_of(hint)
    if isinstance(value, str | float) and {int, float} & {*kinds}:
        return _number(value, kinds)
    lists = [one for one in kinds if issubclass(get_origin(one) or object, _SEQUENCES)]
    single = isinstance(value, PLAIN) and value is not None
    if single and any(fits(value, inside) for one in lists for inside in get_args(one)[:1]):
        return f": write [{shown(value)}]"
    return ""


def _number(value: str | float, kinds: tuple[Any, ...]) -> str:
    try:
        number = float(value)
    except ValueError:
        return ""
    if int in kinds and number.is_integer() and abs(number) < 1e15:
        return f": write {int(number)}"
    return f": write {number:g}" if float in kinds and abs(number) < float("inf") else ""
