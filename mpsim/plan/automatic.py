"""Rows made for the times that a pipeline's stages really take: automatic zero-bubble scheduling.

Registered schedules are drawn for stages that are alike and for F, I and W of one length. Here every stage has its
own, messages take time and memory is limited; many ways of placing are tried and the best kept, never worse than
ZB-H1 and ZB-H2 where these fit (Qi et al., https://arxiv.org/abs/2401.10241).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol, runtime_checkable

from mpsim.errors import MpsimError
from mpsim.plan.candidates import best_placed
from mpsim.plan.operations import Rows
from mpsim.plan.placing import Pipeline, StageTimes

__all__ = ["Fitted", "StageTimes", "ZeroBubble", "zero_bubble_rows"]


@runtime_checkable
class Fitted(Protocol):
    """A schedule whose rows are made for the times of a plan's stages; asked for rows alone, it takes them as alike."""

    def __call__(self, ranks: int, microbatches: int, chunks: int = 1) -> Rows:
        """Return rows for stages that are alike."""

    def fit(
        self, stages: Sequence[StageTimes], microbatches: int, message_s: float, limits: Sequence[float], chunks: int
    ) -> Rows:
        """Return rows for these stages, as `zero_bubble_rows` takes them."""


@dataclass(frozen=True, slots=True)
class ZeroBubble:
    """Automatic zero-bubble scheduling (Qi et al., https://arxiv.org/abs/2401.10241), as a registered schedule.

    A simulated plan gives it the times of its own stages, its messages, and as much memory as its devices have left;
    without those, each of F, I and W takes as long, and a rank holds twice what 1F1B does on the first one.

    Examples
    --------
    >>> from mpsim.plan.schedules import format_rows
    >>> print(format_rows(ZeroBubble()(2, 2)))
    0F0 0F1 0I0 0W0 0I1 0W1
    1F0 1I0 1F1 1I1 1W0 1W1
    """

    name: str = "zb-auto"

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, ranks: int, microbatches: int, chunks: int = 1) -> Rows:
        """Return rows for stages that are alike."""
        alike = [StageTimes(1.0, 1.0, 1.0)] * (ranks * chunks)
        return zero_bubble_rows(alike, microbatches, limits=2.0 * ranks * chunks, chunks=chunks, barrier=True)

    def fit(
        self, stages: Sequence[StageTimes], microbatches: int, message_s: float, limits: Sequence[float], chunks: int
    ) -> Rows:
        """Return rows for these stages."""
        return zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits, chunks=chunks, barrier=True)


def zero_bubble_rows(
    stages: Sequence[StageTimes],
    microbatches: int,
    *,
    message_s: float = 0.0,
    limits: float | Sequence[float] | None = None,
    chunks: int = 1,
    barrier: bool = False,
) -> Rows:
    """Return rows with as little bubble as is found within what the ranks can hold.

    Parameters
    ----------
    stages : sequence of StageTimes
        In the order in which a micro-batch passes them.
    microbatches : int
        Of a step; any number.
    message_s : float
        What a message from one rank to another takes; a rank computes meanwhile.
    limits : float or sequence of float, optional
        What a rank, or each rank, can hold at once, in the unit of ``StageTimes.held``. Left out, what 1F1B holds on
        its first rank: as many micro-batches as there are ranks. With twice that, or two chunks, bubbles may vanish.
    chunks : int
        Stages of each rank: 1, or 2 that lie as a V (the first and the last stage on the first rank).
    barrier : bool
        Whether ranks wait for each other after a step. What is made small is then the time from the step's first
        operation to its last; otherwise a rank goes on with its next step, and it is the longest time from a rank's
        own first operation to its own last.

    Raises
    ------
    MpsimError
        Numbers that cannot be, or a rank that cannot hold one micro-batch.

    Examples
    --------
    >>> from mpsim.plan.schedules import format_rows
    >>> print(format_rows(zero_bubble_rows([StageTimes(1.0, 1.0, 1.0)] * 2, 4, limits=3)))
    0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
    1F0 1I0 1F1 1I1 1F2 1I2 1W0 1F3 1I3 1W1 1W2 1W3
    """
    pipeline = _pipeline(stages, microbatches, message_s, limits, chunks)
    best = best_placed(pipeline, barrier)
    if best is None:
        raise MpsimError(f"no order of operations fits into limits {_text(pipeline.limits)}: raise them")
    return best.rows


def _pipeline(
    stages: Sequence[StageTimes],
    microbatches: int,
    message_s: float,
    limits: float | Sequence[float] | None,
    chunks: int,
) -> Pipeline:
    """Return what is given as one value, checked."""
    if chunks not in (1, 2):
        raise MpsimError(f"chunks is {chunks}: automatic scheduling has 1 stage a rank, or 2 that lie as a V")
    ranks, rest = divmod(len(stages), chunks)
    if not ranks or rest:
        raise MpsimError(f"{len(stages)} stages do not lie {chunks} on each rank: give a multiple of {chunks}")
    if microbatches < 1:
        raise MpsimError(f"microbatches is {microbatches}: give 1 or more")
    for stage, times in enumerate(stages):
        _check_times(stage, times)
    if not (isfinite(message_s) and message_s >= 0):
        raise MpsimError(f"message_s is {message_s}: give seconds of 0 or more")
    home = (*range(ranks), *reversed(range(ranks)))[: len(stages)]
    needed = [sum(times.held for times, rank in zip(stages, home, strict=True) if rank == one) for one in range(ranks)]
    if limits is None:
        limits = [ranks * held for held in needed]
    each = tuple(map(float, limits)) if isinstance(limits, Sequence) else (float(limits),) * ranks
    if len(each) != ranks:
        raise MpsimError(f"{len(each)} limits are given for {ranks} ranks: give one for each, or one for all")
    for rank, (limit, held) in enumerate(zip(each, needed, strict=True)):
        if not limit >= held:
            raise MpsimError(f"rank {rank} can hold {limit:g}, one micro-batch on it holds {held:g}: raise its limit")
    return Pipeline(tuple(stages), home, microbatches, float(message_s), each)


def _check_times(stage: int, times: StageTimes) -> None:
    for name, value in zip(times._fields, times, strict=True):
        if not (isfinite(value) and value >= 0):
            raise MpsimError(f"stage {stage} has {name} {value}: give 0 or more")
    if times.kept > times.held:
        raise MpsimError(f"stage {stage} keeps {times.kept} of {times.held} held: I can free, not add")


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
