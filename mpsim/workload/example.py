"""What is traced or split: a model, a batch for it, and the loss.

Whoever resolves a model's name needs no torch, so that it is imported where it is used.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mpsim.calls import checked
from mpsim.errors import MpsimError

if TYPE_CHECKING:
    import torch

__all__ = ["Example", "default_loss", "fields_of", "flat_inputs", "on_device", "output_tensors"]


@checked
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
        ``vocabulary`` (an embedding or output layer whose tokens the ranks share), ``replicate`` or another of
        :func:`mpsim.workload.tensor_parallel.local_shard`; ``experts`` names a module of experts. Empty: a plan is
        looked for (:func:`mpsim.workload.found_plans.planned`), and where none is found the model has no
        tensor-parallel form.
    shard : callable or None
        ``shard(model, n)`` adapts what no parallel style can (a stored head count), after sharding.
    shared : mapping of str to int
        What tensor-parallel ranks share whole, such as ``{"attention heads": 12}``: their number must divide it.
    dataset_samples : int
        Samples in one epoch; 0 if unknown.
    imbalance : float
        Where ranks share experts: the tokens that the busiest rank gets, in means.

    Examples
    --------
    >>> import torch
    >>> one = Example(model=torch.nn.Linear(8, 2), inputs=(torch.ones(4, 8),), target=torch.zeros(4, 2))
    >>> one.inputs[0].shape[0]
    4
    """

    model: torch.nn.Module | Any
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)
    shard: Callable[[torch.nn.Module, int], None] | None = None
    shared: Mapping[str, int] = field(default_factory=dict)
    dataset_samples: int = 0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.imbalance < float("inf"):
            raise MpsimError(f"imbalance is {self.imbalance}: the busiest rank gets 1 or more times the mean")
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


def flat_inputs(example: Example) -> list[Any]:
    """Return the example's inputs, keywords and target as a flat list.

    Examples
    --------
    >>> flat_inputs(Example(model=None, inputs=(1,), keywords={"mask": 2}, target=3))
    [1, 2, 3]
    """
    from torch.utils import _pytree as pytree

    return list(pytree.tree_leaves((tuple(example.inputs), dict(example.keywords), example.target)))


def default_loss(output: Any, target: Any) -> Any:
    """Return the output's own ``.loss``, or else the mean of the means of its floating-point tensors.

    Parameters
    ----------
    output : object
        What a model returned: tensors, in any nest of containers and records (see :func:`fields_of`). A cache in it
        is no output to train on.
    target : object
        Not looked at.

    Raises
    ------
    MpsimError
        There is no such tensor.

    Examples
    --------
    >>> import torch
    >>> float(default_loss(torch.tensor([1.0, 3.0]), None))
    2.0
    >>> float(default_loss(types.SimpleNamespace(scores={"a": torch.tensor([1.0, 3.0]), "b": torch.ones(2)}), None))
    1.5
    """
    import torch

    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    means = [item.mean() for item in output_tensors(output) if item.is_floating_point()]
    if not means:
        raise MpsimError("the model's output holds no floating-point tensor to make a loss of: give loss=")
    return means[0] if len(means) == 1 else torch.stack(means).mean()


def fields_of(value: Any, *, outermost: bool) -> dict[str, Any] | None:
    """Return what a record holds by attribute, None if it is no record.

    A dataclass and a namespace are records wherever they stand. Any other object is one if a model returns it as its
    whole output; inside of one it is something else, such as a cache of keys and values.

    Examples
    --------
    >>> fields_of(types.SimpleNamespace(loss=1), outermost=False)
    {'loss': 1}
    >>> fields_of(7, outermost=True)
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if hasattr(value, item.name)}
    if isinstance(value, types.SimpleNamespace) or (outermost and hasattr(value, "__dict__") and not callable(value)):
        return dict(vars(value))
    return None


def output_tensors(output: Any, dropped: dict[str, None] | None = None) -> list[Any]:
    """Return the tensors of what a model returned, in any nest of containers and records (see :func:`fields_of`).

    Other objects that hold tensors, such as a cache of keys and values, are passed over: `dropped` gets their classes.

    Examples
    --------
    >>> import torch
    >>> output = {"a": [torch.ones(1)], "b": types.SimpleNamespace(c=torch.ones(2))}
    >>> [tuple(one.shape) for one in output_tensors(output)]
    [(1,), (2,)]
    """
    return _tensors_in(output, {} if dropped is None else dropped, outermost=True)


def _tensors_in(value: Any, dropped: dict[str, None], *, outermost: bool) -> list[Any]:
    import torch
    from torch.utils import _pytree as pytree

    found = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif (fields := fields_of(leaf, outermost=outermost and leaf is value)) is not None:
            found += _tensors_in(fields, dropped, outermost=False)
        elif hasattr(leaf, "__dict__") and not callable(leaf):
            dropped[type(leaf).__name__] = None
    return found
