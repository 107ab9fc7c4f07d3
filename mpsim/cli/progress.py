"""The bar that long commands move on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpsim.bars import new_bar, progress_of

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(asked: bool | None, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what to call with the number done and the total: it moves a bar on stderr.

    By default on a terminal, once it has lasted two seconds.
    """
    if not asked:
        with progress_of(asked, unit) as progress:
            yield progress
        return
    with new_bar(unit=f" {unit}", file=sys.stderr) as bar:

        def move(done: int, total: int) -> None:
            if bar.total != total:
                bar.total = total
                bar.refresh()  # however soon all is done
            bar.update(done - bar.n)

        yield move
