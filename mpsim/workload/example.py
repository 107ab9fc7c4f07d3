"""What the tracer runs: a model, a batch for it, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Example"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A model with one batch.

    Attributes
    ----------
    model : torch.nn.Module
        In training mode.
    inputs : tuple
        Positional arguments of ``model(...)``.
    keywords : mapping
        Keyword arguments.
    target : torch.Tensor or None
        What the loss compares the output with.
    loss : callable or None
        ``loss(output, target)``, a scalar; where None, the output's ``.loss``, or else the mean of its
        floating-point tensors, stands in.
    tensor_parallel : mapping of str to str
        How PyTorch's tensor-parallel API shards each module: a glob over module paths to ``colwise``, ``rowwise``,
        ``vocabulary`` (an embedding or output layer whose tokens the ranks share) or ``replicate``. Empty: the model
        has no tensor-parallel form.
    shard : callable or None
        ``shard(model, n)`` adapts what no parallel style can (a stored head count), after sharding.
    dataset_samples : int
        Samples in one epoch; 0 if unknown.
    """

    model: torch.nn.Module
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    target: torch.Tensor | None = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)
    shard: Callable[[torch.nn.Module, int], None] | None = None
    dataset_samples: int = 0
