"""The one error of mpsim, and the words that its messages share."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

__all__ = ["MpsimError", "at", "did_you_mean", "known_name", "printable", "shortened", "unknown"]

# Controls (escape sequences of terminals begin with one) but for line ends and tabs, marks that reorder or hide what
# stands beside them, line ends that not all take for such, and halves of characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_LONGEST, _LONG_WORD = 1000, re.compile(r"\S{400,}")


def printable(text: str) -> str:
    r"""Return text from a stranger as a terminal can show it: what would command the terminal is escaped, as in JSON.

    Examples
    --------
    >>> print(printable("\x1b[31mred\x1b[0m, \u202eneddih"))
    \u001b[31mred\u001b[0m, \u202eneddih
    """
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def shortened(text: str, most: int = _LONGEST) -> str:
    """Return text of at most `most` characters, the middle left out of a longer one.

    Examples
    --------
    >>> shortened("a" * 50 + "z", most=21)
    'aaaaaaaaa … aaaaaaaaz'
    """
    if len(text) <= most:
        return text
    behind = (most - 3) // 2
    return f"{text[: most - 3 - behind]} … {text[-behind:]}"


class MpsimError(ValueError):
    """Say in one line what is wrong, both values, and what to do about it.

    What needs a picture has it in a note (`add_note`), which stands below the line wherever the error is shown. The
    line is printable and has a longest length, whatever names from files stand in it.

    Examples
    --------
    >>> raise MpsimError("plan needs 16 devices, topology has 8: lower dp, pp or tp")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: plan needs 16 devices, topology has 8: lower dp, pp or tp
    """

    def __init__(self, message: object = "") -> None:
        line = " ".join(printable(str(message)).splitlines())
        # Long words first: what is wrong with them, and what to do, is said beside them.
        super().__init__(shortened(_LONG_WORD.sub(lambda word: shortened(word[0], 150), line)))


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


def known_name(name: str, known: Collection[str]) -> str:
    """Return the known name that is written so but for capitals, and ``_`` for ``-``; else `name` itself.

    Examples
    --------
    >>> known_name("ZB_V", ["1f1b", "zb-v"]), known_name("mine", ["1f1b"])
    ('zb-v', 'mine')
    """
    if not name or name in known:
        return name
    plain = name.lower().replace("_", "-")
    return next((one for one in known if one.lower().replace("_", "-") == plain), name)


def unknown(what: str, name: str, known: Iterable[str]) -> MpsimError:
    """Return the error for a name that is not among the known ones.

    Examples
    --------
    >>> str(unknown("schedule", "gpip", ["gpipe", "1f1b"]))
    "unknown schedule 'gpip'; did you mean 'gpipe'?"
    """
    return MpsimError(f"unknown {what} {name!r}{did_you_mean(name, known)}")
