"""The process that keeps a fabric: makes the namespaces, is the switch between them, and removes them at its end.

It reads its wiring from standard input and says "ready" on standard output. It ends, and takes everything down, when
its input ends or its parent is gone: whatever happens to the launcher, nothing is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
import time
from types import FrameType

from mpsim.emulate.fabric.namespaces import make, name_of, remove
from mpsim.emulate.fabric.switching import Switch
from mpsim.emulate.fabric.wiring import Wiring
from mpsim.errors import MpsimError

__all__ = ["main"]

_PR_SET_TIMERSLACK = 29
_LOOK_ROUND_S = 0.25  # How often to see whether the parent is still there.


class _Ended(Exception):
    """The launcher has ended, or asks for the end."""


def main() -> None:
    """Keep one fabric until the launcher is gone."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, _end)
    names: list[str] = []
    try:
        wiring: Wiring = pickle.load(sys.stdin.buffer)
        names += [name_of(os.getpid(), i) for i in range(len(wiring.hosts))]
        ends = [make(name, host) for name, host in zip(names, wiring.hosts, strict=True)]
        switch = Switch(wiring, ends, sys.stdin.fileno())
        print("ready", _take_precedence(), *names, flush=True)
        while os.getppid() == parent and not switch.run(time.monotonic() + _LOOK_ROUND_S):
            pass
    except (_Ended, EOFError, pickle.UnpicklingError, BrokenPipeError):
        pass
    except (MpsimError, OSError) as error:
        with contextlib.suppress(BrokenPipeError):
            print("failed", error, flush=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for name in names:
            remove(name)


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _take_precedence() -> str:
    """Run before ordinary processes and wake up on time: a link is not slower because the processors are busy."""
    gc.disable()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return "ordinary"
    return "realtime"


if __name__ == "__main__":
    main()
