"""The one error of mpsim, and the words that its messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["MpsimError", "at", "did_you_mean", "unknown"]


class MpsimError(ValueError):
    """Say in one line what is wrong, both values, and what to do about it.

    What needs a picture has it in a note (`add_note`), which stands below the line wherever the error is shown.

    Examples
    --------
    >>> raise MpsimError("plan needs 16 devices, topology has 8: lower dp, pp or tp")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: plan needs 16 devices, topology has 8: lower dp, pp or tp
    """


def at(where: str, error: MpsimError) -> MpsimError:
    """Return the error with a word before it of where that was; its notes are kept.

    Examples
    --------
    >>> str(at("mine.csv", MpsimError("schedule: 0F0 is missing")))
    'mine.csv: schedule: 0F0 is missing'
    """
    found = MpsimError(f"{where}: {error}")
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    return found


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
