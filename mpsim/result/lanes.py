"""How spans are told apart and laid side by side, for whatever draws them."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.result.model import Spans

__all__ = ["is_launch", "is_transfer", "pack"]


def is_transfer(spans: Spans, index: int) -> bool:
    """Whether a span moves bytes rather than computes.

    Examples
    --------
    >>> spans = Spans(name=("0F0", "send"), kind=("forward", "send"), axis=("", "pp"), devices=((0,), (0, 1)),
    ...               stage=(0, 0), microbatch=(0, 0), bytes=(0, 64), start_s=(0.0, 1.0), end_s=(1.0, 2.0))
    >>> is_transfer(spans, 0), is_transfer(spans, 1)
    (False, True)
    """
    return bool(spans.axis[index]) or spans.bytes[index] > 0 or len(spans.devices[index]) > 1


def is_launch(spans: Spans, index: int) -> bool:
    """Whether a span is a host's, that launches what its device runs.

    Examples
    --------
    >>> spans = Spans(name=("0F0", "0F0"), kind=("launch", "forward"))
    >>> is_launch(spans, 0), is_launch(spans, 1)
    (True, False)
    """
    return spans.kind[index] == "launch"


def pack(starts: Sequence[float], ends: Sequence[float]) -> list[int]:
    """Return a lane for each interval, the lowest that is free at its start: no two in one lane overlap.

    Parameters
    ----------
    starts, ends : sequence
        Of the intervals, ordered by start.

    Examples
    --------
    >>> pack([0, 1, 2, 2], [2, 3, 4, 3])
    [0, 1, 0, 2]
    """
    free: list[float] = []
    lanes = []
    for start, end in zip(starts, ends, strict=True):
        lane = next((i for i, until in enumerate(free) if until <= start), len(free))
        if lane == len(free):
            free.append(end)
        free[lane] = end
        lanes.append(lane)
    return lanes
