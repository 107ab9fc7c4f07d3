"""The bar that long commands move on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(asked: bool | None, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what to call with the number done and the total: it moves a bar on stderr, by default on a terminal."""
    if not (sys.stderr.isatty() if asked is None else asked):
        yield lambda done, total: None
        return
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its thread must not be forked
    with tqdm(unit=f" {unit}", file=sys.stderr, leave=False) as bar:

        def move(done: int, total: int) -> None:
            if bar.total != total:
                bar.total = total
                bar.refresh()  # however soon all is done
            bar.update(done - bar.n)

        yield move
