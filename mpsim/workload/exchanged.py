"""What ranks send each other: in which type, and awaited where it is read at once."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed._functional_collectives import AsyncCollectiveTensor

__all__ = ["as_autocast", "waited"]


def as_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Return what a matrix product or attention reads in the type in which autocast would have it computed.

    Autocast leaves float64 as it is.

    Examples
    --------
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     as_autocast(torch.ones(1)).dtype, as_autocast(torch.ones(1).double()).dtype
    (torch.bfloat16, torch.float64)
    """
    kind = tensor.device.type
    cast = torch.is_autocast_enabled(kind) and tensor.dtype is not torch.float64
    return tensor.to(torch.get_autocast_dtype(kind)) if cast else tensor


def waited(tensor: Any) -> torch.Tensor:
    """Return what a functional collective gives once it is there.

    Examples
    --------
    >>> waited(torch.ones(1))
    tensor([1.])
    """
    found: torch.Tensor = tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor
    return found
