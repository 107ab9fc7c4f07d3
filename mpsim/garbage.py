"""Pause Python's cyclic garbage collector where hundreds of thousands of lasting objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Make no collections inside: each would walk every task made so far, and find nothing to free.

    It takes a third off the time of lowering and replaying a large program (``benchmarks/speed.py``).

    Examples
    --------
    >>> with collector_paused():
    ...     gc.isenabled()
    False
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
