"""Processes that end with the one that started them, however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, process
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

__all__ = ["end_with", "end_workers", "handlers_kept", "held_back", "worker_pool"]

_PR_SET_PDEATHSIG = 1
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def end_with(parent: int) -> None:
    """End this process at once when its parent has ended, by SIGKILL or in any other way.

    On Linux the kernel sees to it. Elsewhere a thread of a `multiprocessing` process waits for the pipe that only its
    parent holds.

    Parameters
    ----------
    parent : int
        The process id of the parent, as that process knows it: it may have ended before this is called.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    elif (starter := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_watch, args=(starter.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def worker_pool(
    processes: int, start: Callable[..., None] | None = None, *shared: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose workers end with this process, and at once where the block is left by an exception.

    Workers leave Ctrl-C and the like, which a terminal sends to all processes, to this one. On Linux they are forked:
    they need no ``if __name__ == "__main__"`` in the caller's script, and know its own schedules.

    Parameters
    ----------
    processes : int
        Workers.
    start : callable, optional
        What each calls first, with `shared`.

    Examples
    --------
    >>> with worker_pool(2) as pool:
    ...     list(pool.map(abs, [-1, -2]))
    [1, 2]
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    first = (os.getpid(), start, shared)
    pool = _Pool(processes, mp_context=context, initializer=_begin, initargs=first)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        end_workers(pool)
        raise


class _Pool(ProcessPoolExecutor):
    """Starts its workers with signals held back, until they have said what to do about them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call, and the workers with the first of them."""
        with held_back(_SIGNALS):
            return super().submit(fn, *args, **kwargs)


@contextmanager
def held_back(numbers: Sequence[int]) -> Iterator[None]:
    """Hear of signals when the block has ended; processes that are started in it do not hear of them at all.

    Examples
    --------
    >>> with held_back([signal.SIGINT]):
    ...     signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    True
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep what this process does about signals, whatever a library called in the block makes of it.

    Examples
    --------
    >>> before = signal.getsignal(signal.SIGTERM)
    >>> with handlers_kept():
    ...     _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    >>> signal.getsignal(signal.SIGTERM) == before
    True
    """
    before = [(number, signal.getsignal(number)) for number in _SIGNALS]
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # the only one that may
            for number, handler in before:
                signal.signal(number, handler)


def _begin(parent: int, start: Callable[..., None] | None, shared: tuple[Any, ...]) -> None:
    """Do what a worker does first."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    end_with(parent)
    if start is not None:
        start(*shared)


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool now: what its workers are at may take minutes, and nobody waits for it any more."""
    workers = list((pool._processes or {}).values())  # public as kill_workers from Python 3.14 on
    if (manager := pool._executor_manager_thread) is not None:
        # It gives each pending call an error, and up to Python 3.12 fails at those that were cancelled meanwhile.
        manager._invoke_excepthook = lambda thread: None  # type: ignore[attr-defined]
        # Nobody wakes it when Python ends: what it would be woken through may be closed by then.
        process._threads_wakeups.pop(manager, None)
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()
