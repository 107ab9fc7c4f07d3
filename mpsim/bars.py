"""The bar that moves where something lasts and somebody looks: in a terminal, or as a widget in a notebook."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from mpsim.errors import MpsimError

__all__ = ["PATIENCE_S", "Progress", "ShowProgress", "each", "in_notebook", "new_bar", "progress_of", "watched"]

Progress = Callable[[int, int], None]
# True: a bar, where somebody looks, once it has lasted a while. False: nothing. Or what is called instead.
ShowProgress = Progress | bool | None
PATIENCE_S = 2.0
_Item = TypeVar("_Item")


def in_notebook() -> bool:
    """Return whether a notebook's kernel runs this."""
    # What never imported IPython runs in no notebook, and need not import it to know.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


def watched() -> bool:
    """Return whether somebody sees a bar: there is a terminal or a notebook, and ``TQDM_DISABLE`` does not forbid it.

    Examples
    --------
    >>> os.environ["TQDM_DISABLE"] = "1"
    >>> watched()
    False
    >>> del os.environ["TQDM_DISABLE"]
    """
    if os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        return False
    return in_notebook() or bool(_stream() and _stream().isatty())


def _stream() -> Any:
    return sys.__stderr__ or sys.stderr  # where messages of a model's own are held back, the bar still shows


def new_bar(**options: Any) -> Any:
    """Return a bar of tqdm's: a widget in a notebook that has widgets, else a line on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without widgets, where a line does as well
        from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # its thread must not be forked

    file = None if in_notebook() else _stream()
    return Bar(**{"file": file, "leave": False, **options})


@contextmanager
def progress_of(asked: ShowProgress, unit: str) -> Iterator[Progress]:
    """Yield what to call with the number done and the total.

    Parameters
    ----------
    asked : callable, bool or None
        What to call; True or None: a bar that appears after two seconds where somebody looks; False: nothing.
    unit : str
        What is counted, in the plural.

    Raises
    ------
    MpsimError
        It is none of these.

    Examples
    --------
    >>> with progress_of(print, "plans") as progress:
    ...     progress(1, 2)
    1 2
    """
    if not (callable(asked) or isinstance(asked, bool | None)):
        raise MpsimError(f"progress is {asked!r}, expected a function of the number done and the total, True or False")
    if callable(asked):
        yield asked
    elif asked is False or not watched():
        yield lambda done, total: None
    else:
        late = _Late(unit)
        try:
            yield late
        finally:
            late.close()


def each(items: Sequence[_Item], asked: ShowProgress, unit: str) -> Iterator[_Item]:
    """Yield items one after another, and tell how many are done; see `progress_of`.

    Examples
    --------
    >>> [item.upper() for item in each("ab", print, "letters")]
    0 2
    1 2
    2 2
    ['A', 'B']
    """
    with progress_of(asked, unit) as progress:
        progress(0, len(items))
        for done, item in enumerate(items, start=1):
            yield item
            progress(done, len(items))


class _Late:
    """A bar that is made once what it shows has taken a while: what is soon done never imports tqdm."""

    def __init__(self, unit: str) -> None:
        self._unit, self._begun = unit, time.time()
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        first = self._bar is None
        if first:
            if time.time() - self._begun < PATIENCE_S:
                return
            self._bar = new_bar(unit=f" {self._unit}", total=total)
            self._bar.start_t = self._bar.last_print_t = self._begun  # the time left is judged by all that is done
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if first:
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
