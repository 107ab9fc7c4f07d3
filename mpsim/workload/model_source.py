"""A model that can be built for any batch, as a value, and what it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpsim.workload.example import Example

__all__ = ["Source", "labelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that can be built for any batch.

    Attributes
    ----------
    name : str
        For the workload.
    build : callable
        ``build(batch) -> Example``.
    default_batch : int
        Samples, where none are asked for.
    dataset_samples : int
        Samples in one epoch; 0 if unknown.
    by_shape : bool
        Whether it is built without memory in any number of samples, on fake tensors.

    Examples
    --------
    >>> Source(name="mine", build=lambda batch: None).default_batch
    1
    """

    name: str
    build: Callable[[int], Example]
    default_batch: int = 1
    dataset_samples: int = 0
    by_shape: bool = False


def labelled(name: str, overrides: Mapping[str, Any]) -> str:
    """Return a model's name with what was changed of it.

    Examples
    --------
    >>> labelled("mlp", {"widths": (8, 4), "bias": True})
    'mlp[widths=8,4,bias=True]'
    """
    return name + (f"[{','.join(f'{key}={_text(value)}' for key, value in overrides.items())}]" if overrides else "")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
