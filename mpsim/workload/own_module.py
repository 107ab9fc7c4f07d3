"""A factory of the user's own, by its module and name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mpsim.errors import MpsimError, did_you_mean

__all__ = ["imported_factory", "names_factory"]


def imported_factory(text: str) -> Callable[..., Any]:
    """Return the factory that ``package.module:factory`` names; the module is looked for here first.

    Raises
    ------
    MpsimError
        No such module or factory, or a module that fails when it is imported.

    Examples
    --------
    >>> imported_factory("collections:Counter").__name__
    'Counter'
    """
    module_name, _, attribute = text.partition(":")
    module = _module(module_name, text)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise MpsimError(f"{module_name} has no factory {attribute!r}{did_you_mean(attribute, known)}")
    return factory  # type: ignore[no-any-return]


def _module(name: str, text: str) -> ModuleType:
    """Import a user's module, which may fail in any way."""
    _look_here()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.endswith(".py"):
            remedy = f"; give the module without .py: {text.replace('.py:', ':', 1)}"
        elif error.name == name.partition(".")[0]:
            remedy = "; it is looked for here and where Python looks (PYTHONPATH)"
        else:
            remedy = ""
        raise MpsimError(f"cannot import {name!r} of {text!r}: no module named {error.name!r}{remedy}") from None
    except SystemExit as error:
        raise MpsimError(
            f"importing {name!r} ended the program ({error}): put what it runs below if __name__ == '__main__':"
        ) from None
    except Exception as error:
        from mpsim.workload.refusal import cause_of

        raise MpsimError(f"importing {name!r} failed: {cause_of(error)}") from error


def _look_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def names_factory(text: str) -> bool:
    """Whether a text with a colon names what an importable module has.

    Examples
    --------
    >>> names_factory("collections:Counter"), names_factory("hf:meta-llama/Llama-3-8B")
    (True, False)
    """
    module_name, _, attribute = text.partition(":")
    _look_here()
    return find_spec(module_name) is not None and hasattr(_module(module_name, text), attribute)
