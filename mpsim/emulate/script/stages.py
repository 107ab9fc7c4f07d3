"""Stages of a pipeline that run the model's own forward: what is before a stage is skipped, what is behind it not run.

A stage has a copy of the model in which the layers of other stages have no parameters. Its forward is the model's:
layers before the stage hand on a stand-in of the right shape, the first one of the stage gets what was received instead
of its first argument, and the first one behind it ends the forward with what it was to read. So all that is between
layers, positions and masks among it, is computed on each stage from the batch, and one tensor goes from stage to stage.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["Stage", "stage_of"]


class _EndOfStageError(Exception):
    """Ends a forward where the next stage begins."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Stage(nn.Module):  # type: ignore[misc]
    """The part of a model between two of its layers.

    Attributes
    ----------
    model : torch.nn.Module
        A copy whose other layers are skipped.
    first, after : str
        Paths of its first layer and of the first one behind it; empty where the model begins and ends.
    names : sequence of str
        Of the model's positional arguments among the keywords that it is called with.
    """

    def __init__(self, model: nn.Module, first: str, after: str, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.first, self.after, self.names = first, after, tuple(names)
        self.received: tuple[Any, ...] = ()

    def connect(self) -> None:
        """Let what is received in, and what is to be sent out; last of all, so that no other hook comes before."""
        if self.first:
            module = self.model.get_submodule(self.first)
            module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
        if self.after:
            module = self.model.get_submodule(self.after)
            module.register_forward_pre_hook(self._leave, with_kwargs=True, prepend=True)

    def forward(self, *received: Any, **batch: Any) -> Any:
        """Return what the next stage reads, or what the model returns; `batch` is the model's own."""
        self.received = received
        positional = [batch.pop(name) for name in self.names]
        try:
            return self.model(*positional, **batch)
        except _EndOfStageError as end:
            return end.value
        finally:
            self.received = ()

    def _enter(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        (value,) = self.received
        if args:
            return (value, *args[1:]), keywords
        name = next(name for name, one in keywords.items() if isinstance(one, torch.Tensor))
        return args, {**keywords, name: value}

    def _leave(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        raise _EndOfStageError(_first_tensor(args, keywords))


def stage_of(
    model: nn.Module, stages: Sequence[Sequence[str]], index: int, names: Sequence[str], skipped: Mapping[str, Any]
) -> Stage:
    """Return one stage of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Whole; it stays as it is.
    stages : sequence of sequence of str
        The paths of the layers of each stage.
    index : int
        Which one.
    names : sequence of str
        Of the model's positional arguments among the keywords that the stage is called with.
    skipped : mapping of str to object
        What a layer returns where it is skipped, if not its first argument: see `_stand_in`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> x, stages = torch.rand(3, 2), [["0"], ["2"]]
    >>> first, last = (stage_of(model, stages, i, ["x"], {}) for i in range(2))
    >>> first.connect(), last.connect()
    (None, None)
    >>> bool((last(first(x=x), x=x) == model(x)).all())
    True
    """
    own = copy.deepcopy(model)
    for path in (path for i, layers in enumerate(stages) if i != index for path in layers):
        _skip(own.get_submodule(path), skipped.get(path, "input"))
    first = stages[index][0] if index else ""
    after = stages[index + 1][0] if index + 1 < len(stages) else ""
    return Stage(own, first, after, names)


def _skip(module: nn.Module, returned: Any) -> None:
    """Take a layer's parameters away, and let it return a stand-in of what it would."""
    for one in module.modules():
        one._parameters = dict.fromkeys(one._parameters)
    module.forward = partial(_stand_in, returned)


def _stand_in(returned: Any, *args: Any, **keywords: Any) -> Any:
    """Return the first argument for ``"input"``, zeros for a type and a shape, and a tuple of these for a list."""
    if isinstance(returned, list):
        return tuple(_stand_in(one, *args, **keywords) for one in returned)
    first = _first_tensor(args, keywords)
    if returned == "input" or returned is None:
        return first if returned else None
    dtype, shape = returned
    return torch.zeros(shape, dtype=getattr(torch, dtype), device=first.device)


def _first_tensor(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    return args[0] if args else next(one for one in keywords.values() if isinstance(one, torch.Tensor))
