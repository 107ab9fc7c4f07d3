"""What the tracer runs: a model, a batch for it, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mpsim.errors import MpsimError

if TYPE_CHECKING:
    import torch

__all__ = ["Example", "on_device"]


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
    target : object
        What the loss compares the output with: a tensor, or several in any containers.
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
    target: Any = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)
    shard: Callable[[torch.nn.Module, int], None] | None = None
    dataset_samples: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, tuple | list):
            found = type(self.inputs).__name__
            raise MpsimError(f"inputs of an Example is a {found}, expected a tuple of arguments: write inputs=(x,)")
        if not isinstance(self.keywords, Mapping):
            found = type(self.keywords).__name__
            raise MpsimError(f"keywords of an Example is a {found}, expected a dict of arguments")
        if self.loss is not None and not callable(self.loss):
            found = type(self.loss).__name__
            raise MpsimError(f"loss is a {found}, expected a function loss(output, target)")


def on_device(example: Example, device: str | torch.device) -> Example:
    """Return the example with its model, arguments and target on a device.

    The model itself is moved. Batches may be nested in any way; an object whose tensors cannot be seen is moved by its
    own ``to``.

    Examples
    --------
    >>> import torch
    >>> on_device(Example(model=torch.nn.Linear(1, 1), inputs=(torch.ones(1, 1),)), "cpu").inputs[0].device.type
    'cpu'
    """
    import torch

    from mpsim.workload.nested import Done, map_values, parts_of

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            moved = value.to(device)
            return value if moved is value else moved.detach().requires_grad_(value.requires_grad)
        opaque = not parts_of(value) and callable(getattr(value, "to", None)) and not isinstance(value, type)
        return value.to(device) if opaque else value

    done: Done = {}  # a tensor that is both input and target is moved once
    return replace(
        example,
        model=example.model.to(device),
        inputs=tuple(map_values(move, item, done) for item in example.inputs),
        keywords={name: map_values(move, item, done) for name, item in example.keywords.items()},
        target=map_values(move, example.target, done),
    )
