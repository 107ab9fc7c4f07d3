"""Hold the C allocator still while a CPU is timed.

glibc gives freed memory at the end of its heap back to the system, and takes it again page by page at the next step:
whether a step pays for that (up to a third of a small network's step) hangs on which block happens to lie last. Both of
its thresholds move with what the program has freed so far. Here they are set to where a long run would take them at
most, and nothing is given back: as PyTorch's own allocator does on CUDA. Blocks above 32 MiB still come from the system
each time, as they do outside of a trace.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["keep_freed_memory"]

# Numbers from glibc's malloc.h, https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST, _LARGEST_BLOCK, _AFTERWARDS = 2**31 - 1, 32 * 2**20, 64 * 2**20


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Let the process keep what it frees until the end of the block; yield whether the C library can.

    Examples
    --------
    >>> with keep_freed_memory() as kept:
    ...     isinstance(kept, bool)
    True
    """
    try:
        library = ctypes.CDLL(None)
        set_option, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):  # not glibc
        yield False
        return
    kept = bool(set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(set_option(_TRIM_THRESHOLD, _MOST))
    try:
        yield kept
    finally:
        set_option(_TRIM_THRESHOLD, _AFTERWARDS)
        trim(0)
