"""Export a training step: one graph of forward and loss, with the modules that each operation was called in."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.attributes import put_back
from mpsim.emulate.capture.form import Form, take_apart
from mpsim.emulate.capture.hidden import hidden_work
from mpsim.emulate.capture.refusal import refusal
from mpsim.errors import MpsimError
from mpsim.workload.example import Example, default_loss

__all__ = ["Exported", "export_step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A training step as a graph.

    Attributes
    ----------
    graph : torch.fx.GraphModule
        Returns the loss, or None without one, and the leaves of the model's output; its parameters are attributes
        below ``model``.
    calls : tuple of tuple of str
        For each call of a module with parameters, in order, the paths of those that ran, outermost first.
    form : Form
        Of the model's output.

    Examples
    --------
    >>> export_step(Example(model=nn.Linear(4, 2), inputs=(torch.ones(3, 4),))).calls
    (('',),)
    """

    graph: fx.GraphModule
    calls: tuple[tuple[str, ...], ...]
    form: Form


class _Step(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Forward and loss as one module, so that one graph holds both."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Any], forms: list[Form]) -> None:
        super().__init__()
        self.model = model
        self.criterion = loss
        self.forms = forms

    def forward(self, inputs: Any, keywords: Any, target: Any) -> Any:
        buffers = _buffers(self.model)
        output = self.model(*inputs, **keywords)
        leaves, form = take_apart(output)
        self.forms.append(form)
        loss = self.criterion(output, target)
        for module, name in buffers:  # export takes no note of buffers that are set to a new tensor
            before, after = buffers[module, name], module._buffers.get(name)
            if after is not None and after is not before and after.shape == before.shape:
                before.copy_(after.detach() if after.requires_grad else after)
                module._buffers[name] = before
        return loss, leaves


def _buffers(model: nn.Module) -> dict[tuple[nn.Module, str], Any]:
    return {
        (module, name): value
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None
    }


def _no_loss(output: Any, target: Any) -> None:
    return None


def export_step(example: Example, *, with_loss: bool = True) -> Exported:
    """Return the graph of an example's forward and loss. The model stays as it is.

    Raises
    ------
    MpsimError
        It cannot be exported; the message names the line.

    Examples
    --------
    >>> exported = export_step(Example(model=nn.Linear(4, 2), inputs=(torch.ones(3, 4),)))
    >>> [node.name for node in exported.graph.graph.nodes if node.op == "call_function"]
    ['linear', 'mean']
    """
    forms: list[Form] = []
    step = _Step(example.model, (example.loss or default_loss) if with_loss else _no_loss, forms)
    arguments = _apart((tuple(example.inputs), dict(example.keywords), example.target))
    try:
        with _quiet(), _in_training(example), torch.enable_grad(), _calls(example.model) as calls:
            exported = torch.export.export(step, arguments, strict=False)
            graph = exported.module(check_guards=False)
    except MpsimError:
        raise
    except Exception as error:  # torch.export raises many classes; each becomes one line
        hidden = hidden_work(example) if "fake tensor in the exported program" in str(error) else ""
        raise refusal(error, type(example.model).__name__, hidden) from error
    return Exported(graph=graph, calls=tuple(calls), form=forms[-1])


@contextlib.contextmanager
def _calls(model: nn.Module) -> Iterator[list[tuple[str, ...]]]:
    """Note the calls of modules with parameters, those too whose operations export will drop as nobody reads them."""
    paths = {id(item): path for path, item in model.named_modules() if next(item.parameters(), None) is not None}
    found: list[tuple[str, ...]] = []
    running: list[str] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        if id(module) in paths:
            running.append(paths[id(module)])
            found.append(tuple(running))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in paths:
            running.pop()

    with contextlib.ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ):
            stack.callback(handle.remove)
        yield found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from printing what it also raises."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _apart(arguments: Any) -> Any:
    """Return the arguments with no tensor twice: export takes one tensor given as input and label for one input."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        if id(value) in seen:
            return value.detach().clone()
        if isinstance(value, torch.Tensor):
            seen.add(id(value))
        return value

    return pytree.tree_map(own, arguments)


@contextlib.contextmanager
def _in_training(example: Example) -> Iterator[None]:
    """Let transformers take the path of a training step while it is exported; leave the model as it is.

    Under export it would build an explicit causal mask, and a test for packed sequences, where a training step
    hands the causality to the attention kernel: other operations than those of a step. Where positions are given, rows
    may be packed in another batch: there the mask is explicit. One that is given is looked at only as export allows.
    """
    masking = sys.modules.get("transformers.masking_utils")
    changes: dict[str, Callable[..., Any]] = {
        "is_tracing": lambda tensor=None: tensor is not None,
        "is_torchdynamo_exporting": lambda: False,
    }
    if example.keywords.get("position_ids") is None:
        changes["find_packed_sequence_indices"] = lambda position_ids: None
    with put_back(example.model), contextlib.ExitStack() as stack:
        for name, value in changes.items():
            if masking is not None and hasattr(masking, name):
                stack.enter_context(mock.patch.object(masking, name, value))
        yield
