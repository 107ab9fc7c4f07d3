"""Collectives between the threads that share a layer: PyTorch operations that export keeps and that have a gradient.

A layer that is shared by tensor-parallel ranks sums or gathers over them, forward or backward (Megatron-LM's f and g,
https://arxiv.org/abs/1909.08053, section 3). The ranks are threads here; they meet, and each leaves with the same
bits, because all add in the order of ranks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from mpsim.errors import MpsimError

__all__ = ["Meeting", "gather_forward", "seated", "sum_backward", "sum_forward"]


class Meeting:
    """Where the threads of one group exchange tensors.

    Examples
    --------
    >>> Meeting(1).exchange(0, "x")
    ['x']
    """

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks)
        self._slots: list[Any] = [None] * ranks

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """Wait for all ranks and return what each brought.

        Raises
        ------
        threading.BrokenBarrierError
            The meeting was broken off.
        """
        self._slots[rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()  # nobody brings the next one before all have these
        return values

    def break_off(self) -> None:
        """Let everybody who waits, or will wait, fail: one of the ranks is not going to come."""
        self._barrier.abort()


_here = threading.local()


@contextlib.contextmanager
def seated(meeting: Meeting, rank: int) -> Iterator[None]:
    """Let this thread's collectives be those of one rank of a meeting.

    Examples
    --------
    >>> with seated(Meeting(1), 0):
    ...     sum_forward(torch.ones(2))
    tensor([1., 1.])
    """
    before = getattr(_here, "seat", None)
    _here.seat = (meeting, rank)
    try:
        yield
    finally:
        _here.seat = before


def _seat() -> tuple[Meeting, int]:
    seat: tuple[Meeting, int] | None = getattr(_here, "seat", None)
    if seat is None:
        raise MpsimError(
            "a layer shared by tensor-parallel ranks was run outside of its group: use ParallelTrainer.step"
        )
    return seat


def _sum(value: Any, seat: tuple[Meeting, int]) -> Any:
    meeting, rank = seat
    first, *others = (one.to(value.device) for one in meeting.exchange(rank, value))
    total = first.clone()
    for other in others:
        total += other
    return total


def _gather(value: Any, seat: tuple[Meeting, int]) -> Any:
    meeting, rank = seat
    return torch.cat([one.to(value.device) for one in meeting.exchange(rank, value)], dim=-1)


@torch.library.custom_op("mpsim::sum_forward", mutates_args=())  # type: ignore[untyped-decorator]
def sum_forward(value: torch.Tensor) -> torch.Tensor:
    """Return the sum over the ranks; the gradient is every rank's own."""
    return _sum(value.detach(), _seat())


@torch.library.custom_op("mpsim::sum_backward", mutates_args=())  # type: ignore[untyped-decorator]
def sum_backward(value: torch.Tensor) -> torch.Tensor:
    """Return the value; its gradient is summed over the ranks."""
    return value.clone()


@torch.library.custom_op("mpsim::gather_forward", mutates_args=())  # type: ignore[untyped-decorator]
def gather_forward(value: torch.Tensor, ranks: int) -> torch.Tensor:
    """Return the ranks' values side by side in the last dimension; the gradient is the rank's own part."""
    return _gather(value.detach(), _seat())


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    # On CUDA the backward runs in another thread than the forward.
    ctx.seat, ctx.width = getattr(_here, "seat", None), inputs[0].shape[-1]


def _cut_own(ctx: Any, gradient: Any) -> Any:
    return gradient.narrow(-1, ctx.seat[1] * ctx.width, ctx.width), None


sum_forward.register_fake(torch.empty_like)
sum_backward.register_fake(torch.empty_like)
gather_forward.register_fake(lambda value, ranks: value.new_empty(*value.shape[:-1], value.shape[-1] * ranks))
sum_forward.register_autograd(lambda ctx, gradient: gradient)
sum_backward.register_autograd(lambda ctx, gradient: _sum(gradient, ctx.seat), setup_context=_remember)
gather_forward.register_autograd(_cut_own, setup_context=_remember)
