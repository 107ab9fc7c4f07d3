"""Gradient buckets, as PyTorch's DistributedDataParallel fills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.workload.model import Gradient

__all__ = ["Bucket", "fill"]


class Bucket(NamedTuple):
    """Gradients that are reduced together, the layer whose backward completes the last of them, and among whom."""

    bytes: int
    layer: int
    axis: str = "dp"


def fill(gradients: Sequence[tuple[int, Gradient]], first_bytes: int, bytes_: int, axis: str = "dp") -> list[Bucket]:
    """Fill buckets in the order in which gradients become ready; a bucket is closed once it holds enough.

    The first bucket is small so that communication starts early
    (https://docs.pytorch.org/docs/stable/notes/ddp.html, "Internal Design").

    Parameters
    ----------
    gradients : sequence of (int, Gradient)
        With the layer that completes each.
    first_bytes, bytes_ : int
        What closes the first bucket, and the others.
    axis : str
        Of the ranks that reduce them.

    Examples
    --------
    >>> g = [(2, Gradient(parameter="c", bytes=6)), (1, Gradient(parameter="b", bytes=6))]
    >>> fill([*g, (0, Gradient(parameter="a", bytes=1))], 4, 7)
    [Bucket(bytes=6, layer=2, axis='dp'), Bucket(bytes=7, layer=0, axis='dp')]
    """
    buckets: list[Bucket] = []
    held, limit = 0, first_bytes
    for i, (layer, gradient) in enumerate(gradients):
        held += gradient.bytes
        if held >= limit or i == len(gradients) - 1:
            if held:
                buckets.append(Bucket(held, layer, axis))
            held, limit = 0, bytes_
    return buckets
