"""Export a training step: one graph of forward and loss, with the modules that each operation was called in."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["default_loss", "export_step"]


def default_loss(output: Any, target: Any) -> Any:
    """Return the output's own ``.loss``, or else the mean of its floating-point tensors.

    Examples
    --------
    >>> float(default_loss(torch.tensor([1.0, 3.0]), None))
    2.0
    """
    own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if own is not None:
        return own
    parts = [item for item in pytree.tree_leaves(output) if isinstance(item, torch.Tensor) and item.is_floating_point()]
    if not parts:
        raise MpsimError("the model's output holds no floating-point tensor to make a loss of: give loss=")
    means = [item.mean() for item in parts]
    return means[0] if len(means) == 1 else torch.stack(means).mean()


class _Step(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Forward and loss as one module, so that one graph holds both."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model = model
        self.criterion = loss

    def forward(self, inputs: Any, keywords: Any, target: Any) -> Any:
        output = self.model(*inputs, **keywords)
        return self.criterion(output, target), output


def _no_loss(output: Any, target: Any) -> None:
    return None


def export_step(example: Example, *, with_loss: bool = True) -> fx.GraphModule:
    """Return the graph of an example's forward and loss, its parameters as attributes below ``model``.

    The graph returns the loss, or None without one, and the model's output.

    Raises
    ------
    MpsimError
        It cannot be exported; the message names the module.

    Examples
    --------
    >>> graph = export_step(Example(model=nn.Linear(4, 2), inputs=(torch.ones(3, 4),)))
    >>> [node.name for node in graph.graph.nodes if node.op == "call_function"]
    ['linear', 'mean']
    """
    step = _Step(example.model, (example.loss or default_loss) if with_loss else _no_loss)
    arguments = _apart((tuple(example.inputs), dict(example.keywords), example.target))
    name = type(example.model).__name__
    try:
        with _as_in_training(), torch.enable_grad():
            exported = torch.export.export(step, arguments, strict=False)
            return exported.module(check_guards=False)
    except MpsimError:
        raise
    except Exception as error:  # torch.export raises many classes; each becomes one line
        where = _failing_module(error, step)
        raise MpsimError(
            f"{name} cannot be exported{where}: {_first_line(error)};"
            " the tracer needs a forward whose path does not depend on the values of tensors"
        ) from error


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


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"


def _failing_module(error: Exception, step: nn.Module) -> str:
    """Name the innermost module whose forward was running when export failed."""
    paths = {id(module): path for path, module in step.named_modules()}
    found = ""
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        path = paths.get(id(owner), "")
        if trace.tb_frame.f_code.co_name == "forward" and path.startswith("model."):
            found = f" (in {path.removeprefix('model.')}, {type(owner).__name__})"
        trace = trace.tb_next
    return found


@contextlib.contextmanager
def _as_in_training() -> Iterator[None]:
    """Let transformers take the path of a training step while it is exported.

    Under export it would build an explicit causal mask, and a test for packed sequences, where a training step
    hands the causality to the attention kernel: other operations than those that are timed as the whole step.
    A mask that is given is still looked at only as export allows.
    """
    masking = sys.modules.get("transformers.masking_utils")
    changes = {
        "is_tracing": lambda tensor=None: tensor is not None,
        "is_torchdynamo_exporting": lambda: False,
        "find_packed_sequence_indices": lambda position_ids: None,
    }
    with contextlib.ExitStack() as stack:
        for name, value in changes.items():
            if masking is not None and hasattr(masking, name):
                stack.enter_context(mock.patch.object(masking, name, value))
        yield
