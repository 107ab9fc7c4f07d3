"""What a picture of a schedule is made of."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Cell"]


class Cell(NamedTuple):
    """One pass of one micro-batch on one rank, in a picture that knows no schedules.

    Attributes
    ----------
    rank : int
        Its row.
    begin, end : float
        In units of time.
    kind : str
        F, B, I, W, or U, which is a moment.
    microbatch : int
        What is written into it.
    shade : int
        Which of a rank's stages, or which direction, from 0.
    half : int
        Of a cell that two share: 1 the upper half, 2 the lower one; else 0.
    """

    rank: int
    begin: float
    end: float
    kind: str
    microbatch: int
    shade: int = 0
    half: int = 0
