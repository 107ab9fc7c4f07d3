"""What was given on the command line as values whose fields have types: the one place where names become fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

__all__ = ["options_of"]

T = TypeVar("T")


def options_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """Return a command's options as a value: each field what has its name, a field that is a group its own fields.

    Parameters
    ----------
    kind : type
        A dataclass of one field for each option; a field whose type is such a dataclass has those of a group.
    given : mapping of str to object
        What click calls a command with.

    Raises
    ------
    TypeError
        An option that no field has, or a field that no option is: an error of this program, not of its user.

    Examples
    --------
    >>> from mpsim.cli.scaling import ScalingOptions
    >>> options_of(ScalingOptions, {"speed": 2.0, "rescale": None, "costs": ()})
    ScalingOptions(costs=(), rescale=None, speed=2.0)
    """
    left = dict(given)
    made: T = _filled(kind, left)
    if left:
        raise TypeError(f"{kind.__name__} has no field for {', '.join(left)}")
    return made


def _filled(kind: type[T], left: dict[str, Any]) -> T:
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):  # type: ignore[arg-type]
        group = hints[field.name]
        if is_dataclass(group):
            found[field.name] = _filled(group, left)  # type: ignore[arg-type]
        elif field.name in left:
            found[field.name] = left.pop(field.name)
        else:
            raise TypeError(f"{kind.__name__}.{field.name} is no option")
    return kind(**found)
