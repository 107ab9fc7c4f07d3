"""How the program ends when it is stopped: by one line, and the exit code by convention, from its first moment on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

__all__ = ["exit_code", "heed", "leave_alone", "stopped", "words"]

# What stops a program and can be heard, and how it is said; SIGHUP: its terminal was closed.
_SAID = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended by SIGHUP"}
_SIGNALS = tuple(getattr(signal, name) for name in _SAID if hasattr(signal, name))
_heard: list[int] = []


def _heed_early() -> None:
    """End at once where this process is the command ``mpsim`` and is stopped while it still imports.

    An interrupt amid an import would be a traceback, or be swallowed and come out as an error of that import.
    """
    if _is_command(sys.argv, sys.orig_argv):
        _set(_leave)


def heed() -> None:
    """Raise KeyboardInterrupt where the process is stopped, and remember why; a second time end at once."""
    _set(_interrupt)
    sys.unraisablehook = _unraisable


def leave_alone() -> None:
    """Do not hear of it any more: all is done, and what is left takes milliseconds."""
    for number in _SIGNALS:
        with suppress(ValueError):  # not the main thread
            signal.signal(number, signal.SIG_IGN)
    # An interrupt amid code that was given as text (a dataclass being made) is remembered by Python 3.11 as unhandled,
    # and ends ``python -m`` by SIGINT whatever its exit code is. Other such code makes it forget.
    eval("0")


def stopped() -> bool:
    """Whether the process was told to end."""
    return bool(_heard)


def words() -> str:
    """Return what stopped the process.

    Examples
    --------
    >>> words()
    'interrupted'
    """
    return _SAID[signal.Signals(_number()).name]


def exit_code() -> int:
    """Return 128 and the number of the signal, as shells have it.

    Examples
    --------
    >>> exit_code()
    130
    """
    return 128 + _number()


def _number() -> int:
    return _heard[0] if _heard else int(signal.SIGINT)


def _is_command(argv: list[str], called: Iterable[str]) -> bool:
    """Return whether the interpreter was started as ``mpsim`` or ``python -m mpsim``.

    Examples
    --------
    >>> _is_command(["/usr/bin/mpsim", "sweep"], []), _is_command(["-m", "sweep"], ["python", "-m", "mpsim", "sweep"])
    (True, True)
    >>> _is_command(["-m"], ["python", "-m", "mpsim.emulate.rank"]), _is_command(["mine.py"], ["python", "mine.py"])
    (False, False)
    """
    first = argv[0] if argv else ""
    if first == "-m":
        words = list(called)
        return "mpsim" in words[words.index("-m") + 1 :][:1] if "-m" in words else False
    return os.path.basename(first) in ("mpsim", "mpsim.exe", "mpsim-script.py")


def _set(handler: Any) -> None:
    """Hear the signals that are not ignored, as background jobs ignore Ctrl-C and nohup the end of a terminal."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # not the main thread: whoever calls has handlers of their own
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _heard:
        _leave(number, frame)
    _heard.append(number)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    _heard.append(number)
    with suppress(OSError):
        os.write(2, f"mpsim: error: {words()}\n".encode())
    os._exit(exit_code())


def _unraisable(found: Any) -> None:
    """End all the same where the interrupt fell into a place that nothing can be raised from."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        _leave(_number(), None)
    sys.__unraisablehook__(found)


_heed_early()
