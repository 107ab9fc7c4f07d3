"""What to trace, at any micro-batch: a zoo model, a factory, a configuration, or a module with a batch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.example import Example
from mpsim.workload.model_source import Source, labelled
from mpsim.workload.own_module import imported_factory, names_factory

if TYPE_CHECKING:
    import torch

__all__ = ["arguments_of", "module_source", "resolve_model", "source_of"]


def resolve_model(text: str, overrides: Mapping[str, Any] | None = None) -> Source:
    """Return the model that a zoo name, ``package.module:factory`` or ``hf:PATH`` stands for.

    Parameters
    ----------
    text : str
        A factory is called with the batch size and the overrides; it returns an Example, or
        ``(model, inputs)``, ``(model, inputs, target)``, ``(model, inputs, loss)`` or
        ``(model, inputs, target, loss)``. A path leads to a config.json of transformers; of one that ends with
        ``.json`` the ``hf:`` may be left out.
    overrides : mapping
        Sizes of a zoo model, keyword arguments of a factory, or fields of a configuration.

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
    label = labelled(text, chosen)
    if text.startswith("hf:") and not names_factory(text):  # a module of one's own that is called hf comes first
        return _of_configuration(text.partition(":")[2], chosen)
    if text.endswith(".json"):
        return _of_configuration(text, chosen)
    if ":" in text:
        factory = imported_factory(text)
        return Source(name=label, build=lambda batch: _made(factory, text, batch, **chosen))
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
        by_shape=True,
    )


def _of_configuration(path: str, overrides: Mapping[str, Any]) -> Source:
    from mpsim.workload.huggingface import path_source

    return path_source(path, overrides)


def _example(made: Any, what: str) -> Example:
    """Return what a factory made as an Example."""
    import torch

    if isinstance(made, Example):
        return made
    if not (isinstance(made, tuple) and len(made) in (2, 3, 4)):
        found = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
        raise MpsimError(f"{what} returned {found}, expected an Example or (model, inputs[, target][, loss])")
    model, inputs, target, loss = (*made, None, None)[:4]
    if not isinstance(model, torch.nn.Module):
        raise MpsimError(f"{what} returned a {type(model).__name__} as model, expected a torch.nn.Module")
    if len(made) == 3 and callable(target) and not isinstance(target, torch.Tensor):
        loss, target = _of_output(target), None
    positional, keywords = arguments_of(inputs)
    return Example(model=model, inputs=positional, keywords=keywords, target=target, loss=loss)


def _of_output(loss: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Return a loss given without a target as ``loss(output, target)``: it may take the output alone."""
    try:
        inspect.signature(loss).bind(None, None)
    except TypeError:
        return lambda output, _: loss(output)
    except ValueError:  # a built-in without a signature
        pass
    return loss


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a batch: one argument, a tuple or list of them, or a mapping.

    Examples
    --------
    >>> arguments_of({"input_ids": 1}), arguments_of((1, 2)), arguments_of(1)
    (((), {'input_ids': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    # A named tuple, a packed sequence among them, is a batch of a type of its own, as a dataclass is.
    several = isinstance(batch, tuple | list) and not hasattr(batch, "_fields")
    return (tuple(batch) if several else (batch,)), {}


def source_of(model: Any, batch: Any, example: Mapping[str, Any], name: str | None, asked: int | None = None) -> Source:
    """Return the source for whatever a caller of :func:`mpsim.trace` hands over.

    Parameters
    ----------
    model : torch.nn.Module, transformers.PretrainedConfig, callable, Source or str
        A module with its batch; a model of transformers, or its configuration, without one; a factory; a name.
    batch : object
        The arguments of a module's forward; for all others the number of samples, None for the model's own.
    example : mapping
        Other fields of :class:`Example`, for a module.
    name : str
        For the workload.
    asked : int
        The one micro-batch size that is asked for, if it is one.

    Raises
    ------
    MpsimError
        Nothing that can be traced, or a batch that does not go with it.

    Examples
    --------
    >>> source_of("gpt2", 2, {}, None).default_batch
    2
    """
    import torch

    if isinstance(model, str):
        model = resolve_model(model)
    if isinstance(model, Source):
        chosen = factory_source(model.build, model.default_batch if batch is None else batch, name or model.name)
        return replace(chosen, dataset_samples=model.dataset_samples, by_shape=model.by_shape)
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise MpsimError(f"model is the class {model.__name__}: give one made of it, {model.__name__}(...)")
    if _fits_itself(model, batch):
        from mpsim.workload.huggingface import transformers_source

        return source_of(transformers_source(model, name), batch, example, name)
    if isinstance(model, torch.nn.Module):
        return module_source(model, batch, example, name or type(model).__name__, asked)
    if callable(model):
        return factory_source(model, batch, name or str(getattr(model, "__name__", "model")))
    raise MpsimError(f"model is a {type(model).__name__}: give a torch.nn.Module, a factory, or a zoo name")


def _fits_itself(model: Any, batch: Any) -> bool:
    """Whether a model's configuration says what a batch of it is: one of transformers, given without a batch."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not (batch is None or isinstance(batch, int)):
        return False
    return isinstance(model, transformers.PreTrainedModel | transformers.PretrainedConfig)


def _made(factory: Callable[..., Any], name: str, size: int, **sizes: Any) -> Example:
    try:
        return _example(factory(size, **sizes), name)
    except SystemExit as error:
        raise MpsimError(
            f"{name} cannot be built for {size} samples: it ends the program (SystemExit: {error})"
        ) from None


def factory_source(factory: Callable[[int], Any], batch: int | None, name: str) -> Source:
    """Return the source for a callable ``factory(batch) -> Example`` or tuple.

    Examples
    --------
    >>> factory_source(lambda batch: None, 8, "mine").default_batch
    8
    """
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool)):
        raise MpsimError(f"batch is a {type(batch).__name__}: with a factory or a name give the number of samples")
    if batch is not None and batch < 1:
        raise MpsimError(f"batch is {batch}: give the number of samples, 1 or more")
    return Source(name=name, build=lambda size: _made(factory, name, size), default_batch=batch or 1)


def module_source(
    model: torch.nn.Module, batch: Any, example: Mapping[str, Any], name: str, asked: int | None = None
) -> Source:
    """Return the source for a module and one batch, whose samples are taken in part or several times.

    Parameters
    ----------
    model : torch.nn.Module
        Shared by all examples.
    batch : object
        The arguments of its forward: one, a tuple or list of several, or a mapping by name; tensors nested in any way.
    example : mapping
        Other fields of :class:`Example`: target, loss, tensor_parallel.
    name : str
        For the workload.
    asked : int
        The one micro-batch size that is asked for, if it is one: see :func:`mpsim.workload.batch.samples_of`.

    Raises
    ------
    MpsimError
        Nothing in the batch says how many samples it holds.

    Examples
    --------
    >>> import torch
    >>> source = module_source(torch.nn.Linear(2, 1), torch.ones(4, 2), {}, "linear")
    >>> source.default_batch, source.build(6).inputs[0].shape
    (4, torch.Size([6, 2]))
    """
    from mpsim.workload.batch import samples_of

    if batch is None:
        raise MpsimError(f"{name} has no batch: give the arguments of its forward, as in trace(model, x)")
    inputs, keywords = arguments_of(batch)
    whole = Example(model=model, inputs=inputs, keywords=keywords, **example)
    found = samples_of(*inputs, *keywords.values(), asked=asked)
    if not found:
        raise MpsimError(
            f"batch ({type(batch).__name__}) holds no tensor whose first dimension could be the number of samples:"
            " give microbatches=(n,), or a factory f(batch_size) -> Example"
        )
    return Source(name=name, build=lambda size: _resized(whole, found, size), default_batch=found)


def _resized(example: Example, samples: int, size: int) -> Example:
    """Return the example with `size` samples of its `samples`."""
    from mpsim.workload.batch import resized

    before = (*example.inputs, *example.keywords.values(), example.target)
    *arguments, target = resized(before, samples, size)
    inputs, values = arguments[: len(example.inputs)], arguments[len(example.inputs) :]
    return replace(
        example, inputs=tuple(inputs), keywords=dict(zip(example.keywords, values, strict=True)), target=target
    )
