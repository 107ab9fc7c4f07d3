"""The one error of mpsim, and the words that its messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["MpsimError", "did_you_mean", "unknown"]


class MpsimError(ValueError):
    """Say in one line what is wrong, both values, and what to do about it.

    Examples
    --------
    >>> raise MpsimError("plan needs 16 devices, topology has 8: lower dp, pp or tp")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: plan needs 16 devices, topology has 8: lower dp, pp or tp
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the known names.

    Examples
    --------
    >>> did_you_mean("gpipes", ["gpipe", "1f1b"])
    "; did you mean 'gpipe'?"
    >>> did_you_mean("zzz", ["gpipe", "1f1b"])
    '; known: 1f1b, gpipe'
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    # A name may come from a file, and hold anything.
    return f"; known: {', '.join(one if one.isprintable() else repr(one) for one in known)}"


def unknown(what: str, name: str, known: Iterable[str]) -> MpsimError:
    """Return the error for a name that is not among the known ones.

    Examples
    --------
    >>> str(unknown("schedule", "gpip", ["gpipe", "1f1b"]))
    "unknown schedule 'gpip'; did you mean 'gpipe'?"
    """
    return MpsimError(f"unknown {what} {name!r}{did_you_mean(name, known)}")
