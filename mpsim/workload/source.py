"""What to trace, at any micro-batch: a zoo model, a user's factory, or a module with a batch that can be resized."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.example import Example

if TYPE_CHECKING:
    import torch

__all__ = ["Source", "arguments_of", "module_source", "resolve_model"]


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

    Examples
    --------
    >>> Source(name="mine", build=lambda batch: None).default_batch
    1
    """

    name: str
    build: Callable[[int], Example]
    default_batch: int = 1
    dataset_samples: int = 0


def resolve_model(text: str, overrides: Mapping[str, Any] | None = None) -> Source:
    """Return the model that a zoo name or ``package.module:factory`` stands for.

    Parameters
    ----------
    text : str
        A factory is called with the batch size and the overrides; it returns an Example, or
        ``(model, inputs)``, or ``(model, inputs, target, loss)``.
    overrides : mapping
        Sizes of a zoo model, or keyword arguments of a factory.

    Raises
    ------
    MpsimError
        No such model, module or factory.

    Examples
    --------
    >>> resolve_model("gpt2", {"n_layer": 2}).name
    'gpt2[n_layer=2]'
    >>> resolve_model("gtp2")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown model 'gtp2'; did you mean 'gpt2'? (or package.module:factory for your own)
    """
    chosen = dict(overrides or {})
    label = text + (f"[{','.join(f'{key}={_text(value)}' for key, value in chosen.items())}]" if chosen else "")
    if ":" in text:
        factory = _import(text)
        return Source(name=label, build=lambda batch: _example(factory(batch, **chosen), text))
    from mpsim.workload.zoo import ZOO

    if text not in ZOO:
        raise MpsimError(f"unknown model {text!r}{did_you_mean(text, ZOO)} (or package.module:factory for your own)")
    model = ZOO[text]
    model.resolve(chosen)
    return Source(
        name=label,
        build=lambda batch: model.build(batch, **chosen),
        default_batch=model.default_batch,
        dataset_samples=model.dataset_samples,
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _import(text: str) -> Callable[..., Any]:
    module_name, _, attribute = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise MpsimError(f"cannot import {module_name!r} of {text!r}: no module named {error.name!r}") from None
    except Exception as error:  # a user's module may fail in any way
        raise MpsimError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise MpsimError(f"{module_name} has no factory {attribute!r}{did_you_mean(attribute, known)}")
    return factory  # type: ignore[no-any-return]


def _example(made: Any, what: str) -> Example:
    """Return what a factory made as an Example."""
    if isinstance(made, Example):
        return made
    if isinstance(made, tuple) and len(made) in (2, 4):
        model, inputs, target, loss = (*made, None, None)[:4]
        positional, keywords = arguments_of(inputs)
        return Example(model=model, inputs=positional, keywords=keywords, target=target, loss=loss)
    found = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
    raise MpsimError(f"{what} returned {found}, expected an Example, (model, inputs), or (model, inputs, target, loss)")


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a batch: a tensor, a tuple of them, or a dict of them.

    Examples
    --------
    >>> arguments_of({"input_ids": 1}), arguments_of((1, 2)), arguments_of(1)
    (((), {'input_ids': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def factory_source(factory: Callable[[int], Any], batch: int | None, name: str) -> Source:
    """Return the source for a callable ``factory(batch) -> Example`` or tuple.

    Examples
    --------
    >>> factory_source(lambda batch: None, 8, "mine").default_batch
    8
    """
    if not (batch is None or (isinstance(batch, int) and batch >= 1)):
        raise MpsimError(f"batch is {batch!r}: with a factory give the number of samples, 1 or more")
    build = lambda size: _example(factory(size), name)  # noqa: E731
    return Source(name=name, build=build, default_batch=batch or 1)


def module_source(model: torch.nn.Module, batch: Any, example: Mapping[str, Any], name: str) -> Source:
    """Return the source for a module and one batch, which is sliced or repeated along its first dimension.

    Parameters
    ----------
    model : torch.nn.Module
        Shared by all examples.
    batch : tensor, tuple or dict of tensors
        The arguments of its forward; the first tensor's first dimension is the batch size.
    example : mapping
        Other fields of :class:`Example`: target, loss, tensor_parallel.
    name : str
        For the workload.

    Raises
    ------
    MpsimError
        The batch holds no tensor with a first dimension.

    Examples
    --------
    >>> import torch
    >>> source = module_source(torch.nn.Linear(2, 1), torch.ones(4, 2), {}, "linear")
    >>> source.default_batch, source.build(6).inputs[0].shape
    (4, torch.Size([6, 2]))
    """
    import torch

    inputs, keywords = arguments_of(batch)
    tensors = [item for item in (*inputs, *keywords.values()) if isinstance(item, torch.Tensor)]
    if not tensors or tensors[0].dim() == 0 or tensors[0].shape[0] == 0:
        raise MpsimError(
            "batch has no tensor whose first dimension could be the batch size: give a tensor, a tuple or a dict of"
            " tensors, or a factory f(batch_size) -> Example"
        )
    samples = int(tensors[0].shape[0])
    whole = Example(model=model, inputs=inputs, keywords=keywords, **example)
    return Source(name=name, build=lambda size: _resized(whole, samples, size), default_batch=samples)


def _resized(example: Example, samples: int, size: int) -> Example:
    def resize(value: Any) -> Any:
        if not hasattr(value, "shape") or value.dim() == 0 or value.shape[0] != samples or size == samples:
            return value
        repeats = -(-size // samples)
        return value.repeat(repeats, *[1] * (value.dim() - 1))[:size]

    return replace(
        example,
        inputs=tuple(resize(item) for item in example.inputs),
        keywords={key: resize(item) for key, item in example.keywords.items()},
        target=resize(example.target),
    )
