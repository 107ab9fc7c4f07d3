"""What a value's own methods call in rooms above its own: imported when a method is called, and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mpsim.errors import MpsimError

__all__ = ["above", "needed"]


def above(room: str) -> Any:
    """Return a room that lies above the caller's: that a result draws itself is for its user, and no dependency of it.

    Parameters
    ----------
    room : str
        Its name below ``mpsim``.

    Raises
    ------
    MpsimError
        The room needs a library that is not installed.

    Examples
    --------
    >>> above("errors").MpsimError
    <class 'mpsim.errors.MpsimError'>
    """
    return needed(f"mpsim.{room}")


def needed(library: str) -> Any:
    """Return a library that not everything needs, imported.

    Raises
    ------
    MpsimError
        It is not installed.

    Examples
    --------
    >>> needed("panda")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: this needs panda, which is not installed: pip install panda
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "mpsim"):
            raise
        raise MpsimError(f"this needs {name}, which is not installed: pip install {name}") from None
