"""The generators of random numbers that a step draws from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["Draws", "generators_kept"]


class Draws:
    """PyTorch's, Python's and NumPy's generators, which can begin again where they were.

    Examples
    --------
    >>> draws = Draws()
    >>> first = float(torch.rand(())), draws.unlike_torch
    >>> draws.begin()
    >>> first == (float(torch.rand(())), [])
    True
    """

    def __init__(self) -> None:
        self._torch = _torch_state()
        self._python, self._numpy = random.getstate(), np.random.get_state()

    def begin(self) -> None:
        """Put all generators back to where they were when this was made."""
        torch.set_rng_state(self._torch[0])
        if self._torch[1:]:
            torch.cuda.set_rng_state_all(list(self._torch[1:]))
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    @property
    def unlike_torch(self) -> list[str]:
        """Names of the modules, other than PyTorch, whose generator was drawn from since the beginning."""
        now = np.random.get_state(legacy=False)["state"]
        was = np.random.RandomState()
        was.set_state(self._numpy)
        drawn = [] if random.getstate() == self._python else ["random"]
        same = _is_same(now, was.get_state(legacy=False)["state"])
        return drawn if same else [*drawn, "numpy.random"]

    def now(self) -> tuple[bytes, ...]:
        """Return where PyTorch's generators are: equal ones have drawn the same numbers."""
        return tuple(one.numpy().tobytes() for one in _torch_state())


@contextlib.contextmanager
def generators_kept() -> Iterator[Draws]:
    """Leave all generators as they were.

    Examples
    --------
    >>> with generators_kept() as draws:
    ...     _ = random.random()
    ...     draws.unlike_torch
    ['random']
    """
    draws = Draws()
    try:
        yield draws
    finally:
        draws.begin()


def _torch_state() -> list[Any]:
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if on_cuda else [])]


def _is_same(a: Any, b: Any) -> bool:
    return bool(a["pos"] == b["pos"]) and bool((a["key"] == b["key"]).all())
