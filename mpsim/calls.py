"""What a public call is given, held against its signature before anything is done with it.

A type hint says what an argument may be, so that it need be said nowhere else: `checked` refuses what does not fit it
in one line that names the argument, what was given and what is expected. Values stay for the call itself to check.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar, cast

from mpsim.errors import MpsimError, did_you_mean
from mpsim.hints import (
    PLAIN,
    Names,
    at_a_glance,
    fits,
    in_words,
    instead,
    is_tuple,
    kinds_of,
    odd_one,
    read_hint,
    shown,
)

__all__ = ["checked", "with_methods"]

_EMPTY: tuple[()] = ()  # there is one of it, and it fits any tuple
_Called = TypeVar("_Called", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


def checked(called: _Called) -> _Called:
    """Return a function, or a class, that refuses what its signature does not take.

    Of a class it is the arguments of ``__init__`` and of public methods. In a field a list becomes the tuple that it
    holds, and text the value that it stands for.

    Examples
    --------
    >>> @checked
    ... def wait(seconds: float, times: int = 1) -> float:
    ...     return seconds * times
    >>> wait(2, times=3)
    6
    >>> wait("2")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: wait: seconds is '2', expected a number: write 2
    >>> wait(2, time=3)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: wait takes no 'time'; did you mean 'times'?
    """
    return cast(_Called, _checked_class(called) if isinstance(called, type) else _checked_function(called))


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    own = int(next(iter(inspect.signature(function).parameters), "") in ("self", "cls"))
    *_, name = function.__qualname__.removesuffix(".__init__").split(".")
    expected = _Expected(function, name, own)

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        expected.check(given[own:], named)
        return function(*given, **named)

    return call


def _checked_class(made: type) -> type:
    init: Callable[..., None] = made.__init__  # type: ignore[misc]
    expected = _Expected(init, made.__name__, own=1, texts=True)

    @wraps(init)
    def call(self: Any, *given: Any, **named: Any) -> None:
        # There may be half a million devices: most is seen at a glance.
        glance = expected.at_a_glance
        odd = [name for name, value in named.items() if (name, type(value)) not in glance]
        if odd:
            named |= expected.converted(odd, named)
        try:
            init(self, *given, **named)
        except MpsimError:  # which knows more of its own
            raise
        except Exception:
            expected.check(given, named)
            raise
        if given or not expected.fit(odd, named):
            expected.check(given, named)

    made.__init__ = call  # type: ignore[misc]
    return with_methods(made)


def with_methods(made: _Class) -> _Class:
    """Return a class whose own public methods say of what they fail on that it is none of theirs.

    Many are called often, and are held against their signatures only once they have failed.
    """
    for name, held in [*vars(made).items()]:
        method = held.__func__ if isinstance(held, classmethod) else held
        if isinstance(method, FunctionType) and name[0] != "_" and not hasattr(method, "__wrapped__"):
            told = _told(method, f"{made.__name__}.{name}")
            setattr(made, name, classmethod(told) if isinstance(held, classmethod) else told)
    return made


def _told(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    expected = _Expected(method, name, own=1)

    @wraps(method)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return method(*given, **named)
        except MpsimError:
            raise
        except Exception:
            expected.check(given[1:], named)
            raise

    return call


class _Expected:
    """What a function's arguments may be; found out when it is first called, as hints may name what comes later."""

    def __init__(self, function: Callable[..., Any], name: str, own: int = 0, *, texts: bool = False) -> None:
        self._function, self._name = function, name
        self._texts = texts  # whether fields hold what text stands for
        signature = inspect.signature(function)
        self._signature = signature.replace(parameters=[*signature.parameters.values()][own:])
        parameters = self._signature.parameters
        self._needed = {one.name for one in parameters.values() if one.default is one.empty and not _is_rest(one)}
        self._hints: dict[str, Any] = {}
        self.at_a_glance: frozenset[tuple[str, type]] = frozenset()
        self._tuples: set[str] = set()
        self._readers: dict[str, Any] = {}

    def check(self, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit.

        Raises
        ------
        MpsimError
            With the first of them.
        """
        hints = self._read()
        try:
            arguments = self._signature.bind(*given, **named).arguments
        except TypeError:
            raise self._unbound(given, named) from None
        for name, value in arguments.items():
            if name in hints and not fits(value, hints[name]):
                raise self._misfit(name, arguments)

    def fit(self, names: Iterable[str], named: Mapping[str, Any]) -> bool:
        """Whether arguments of some names that the signature has fit."""
        filled = (name for name in names if named[name] is not _EMPTY or name not in self._tuples)
        return all(fits(named[name], self._hints[name]) for name in filled)

    def converted(self, names: Iterable[str], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return those that a field holds otherwise than it is given: a list as a tuple, text as what it stands for."""
        self._read()
        found = {}
        for name in names:
            value = named[name]
            if name in self._tuples and type(value) is list:
                found[name] = tuple(value)
            elif name in self._readers and isinstance(value, str | os.PathLike):
                found[name] = self._readers[name].of(value)
        return found

    def _read(self) -> dict[str, Any]:
        if not self._hints:
            names = Names(vars(sys.modules[self._function.__module__]) | self._function.__globals__)
            parameters = [one for one in self._signature.parameters.values() if not _is_rest(one)]
            self._hints = {one.name: read_hint(one.annotation, names) for one in parameters}
            pairs = ((name, kind) for name, hint in self._hints.items() for kind in at_a_glance(hint))
            self.at_a_glance = frozenset(pairs)
            self._tuples = {name for name, hint in self._hints.items() if is_tuple(hint)}
            self._readers = {name: kind for name, hint in self._hints.items() if (kind := _stood_for(hint)) is not None}
        return self._hints

    def _unbound(self, given: Sequence[Any], named: Mapping[str, Any]) -> MpsimError:
        """Return why arguments do not go with the signature: a name it has not, too many by place, or one missing."""
        parameters = self._signature.parameters.values()
        known = [one.name for one in parameters if not _is_rest(one)]
        for name in named:
            if name not in known and not any(one.kind is one.VAR_KEYWORD for one in parameters):
                return MpsimError(f"{self._name} takes no {name!r}{did_you_mean(name, known)}")
        places = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if len(given) > len(places):
            by_place = dict(zip(places, given, strict=False))
            if odd := [name for name, value in by_place.items() if not fits(value, self._hints[name])]:
                return self._misfit(odd[0], by_place)
            others = [name for name in known if name not in places]
            hint = f": give the others by name, as {others[0]}=…" if others else ""
            count = f"{len(given)} value{'s are' if len(given) > 1 else ' is'}"
            return MpsimError(f"{self._name}: {count} given by place, it takes {len(places) or 'none'}{hint}")
        for name in places[: len(given)]:
            if name in named:
                return MpsimError(f"{self._name}: {name} is given twice, by place and by name: leave one out")
        missing = next(name for name in known if name in self._needed.difference(places[: len(given)], named))
        hint = self._hints[missing]
        expected = f"expected {in_words(hint, texts=self._texts)}{_found(hint)}"
        return MpsimError(f"{self._name}: no {missing} is given, {expected}")

    def _misfit(self, name: str, arguments: Mapping[str, Any]) -> MpsimError:
        """Return what is wrong with one argument, and whether it is what another one takes."""
        value, hint = arguments[name], self._hints[name]
        odd = odd_one(value, hint)
        said = f"{self._name}: {name} {'is' if odd is value else 'holds'} {shown(odd)}"
        line = f"{said}, expected {in_words(hint, texts=self._texts)}"
        if not isinstance(value, PLAIN):
            for other, its_hint in self._hints.items():
                if other != name and type(value) in at_a_glance(its_hint):
                    return MpsimError(f"{line}; it is what {other} takes: {self._order(name, other)}")
        return MpsimError(line + (_found(hint) if value is None else instead(value, hint)))

    def _order(self, *names: str) -> str:
        first, then = sorted(names, key=[*self._hints].index)
        return f"give {first} before {then}, or each by its name"


def _is_rest(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _stood_for(hint: Any) -> Any:
    """Return the kind of value that text stands for in a field that holds no text."""
    kinds = kinds_of(hint)
    return None if str in kinds else next((one for one in kinds if hasattr(one, "_written")), None)


def _found(hint: Any) -> str:
    """Return where one is found that nobody has."""
    return next((f": {one._found}" for one in kinds_of(hint) if hasattr(one, "_found")), "")
