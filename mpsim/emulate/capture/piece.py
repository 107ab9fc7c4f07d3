"""Run a cut one unit at a time, as separate devices would: forward on detached inputs, backward on what arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mpsim.emulate.capture.cut import Cut, Unit

__all__ = ["Piece", "backward", "forward", "run_step"]


@dataclass(slots=True)
class Piece:
    """One unit's forward, kept for its backward.

    Attributes
    ----------
    inputs : list of (str, torch.Tensor)
        Those inputs that a gradient goes back to.
    outputs : list of (str, torch.Tensor)
        Those outputs that a gradient can come back to.

    Examples
    --------
    >>> Piece(inputs=[], outputs=[]).inputs
    []
    """

    inputs: list[tuple[str, Any]]
    outputs: list[tuple[str, Any]]


def forward(unit: Unit, values: dict[str, Any]) -> Piece:
    """Run one unit forward, adding its outputs to `values`.

    Inputs are detached from the units that made them. A floating-point input requires a gradient where its
    producer could use one; the model's own inputs never do.
    """
    arguments, inputs = [], []
    for name in unit.inputs:
        value = values[name]
        if value.requires_grad:
            value = value.detach().requires_grad_()
            inputs.append((name, value))
        arguments.append(value)
    results = unit.module.forward(*arguments)
    values.update(zip(unit.outputs, results, strict=True))
    outputs = [(name, value) for name, value in zip(unit.outputs, results, strict=True) if value.requires_grad]
    return Piece(inputs=inputs, outputs=outputs)


def backward(piece: Piece, gradients: dict[str, list[Any]], parameters: Sequence[Any]) -> None:
    """Run one unit backward with the gradients that its consumers sent, adding those it sends itself.

    Gradients of several consumers are summed here, as a device would on receiving them; those of the parameters are
    added to what they have.
    """
    received = [(value, gradients.pop(name)) for name, value in piece.outputs if name in gradients]
    wanted = [*(value for _, value in piece.inputs), *parameters]
    names = [name for name, _ in piece.inputs]
    piece.inputs, piece.outputs = [], []
    if not received or not wanted:
        return
    results = torch.autograd.grad(
        [value for value, _ in received], wanted, [_sum(parts) for _, parts in received], allow_unused=True
    )
    for parameter, gradient in zip(parameters, results[len(names) :], strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    for name, gradient in zip(names, results, strict=False):
        if gradient is not None:
            gradients.setdefault(name, []).append(gradient)


def _sum(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def run_step(
    cut: Cut,
    feeds: Mapping[str, Any],
    parameters: Mapping[str, Any],
    starts: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run every unit forward, then every unit backward in reverse order.

    Parameters
    ----------
    cut : Cut
        The model in units.
    feeds : mapping of str to torch.Tensor
        The model's inputs by name.
    parameters : mapping of str to torch.Tensor
        The model's parameters by name; their ``.grad`` is added to.
    starts : mapping of str to torch.Tensor
        The gradients that backward starts from, by the value's name; none: the loss's own, 1.

    Returns
    -------
    dict of str to torch.Tensor
        Every value that was made, by name.
    dict of str to torch.Tensor
        The gradients for those feeds that require one.

    Examples
    --------
    >>> from mpsim.emulate.capture.cut import capture
    >>> from mpsim.workload.example import Example
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> cut = capture(Example(model=model, inputs=(torch.ones(1, 2),)))
    >>> _ = run_step(cut, {"input": torch.ones(1, 2)}, dict(model.named_parameters()))
    >>> model.weight.grad.tolist()
    [[1.0, 1.0]]
    """
    values = dict(feeds)
    pieces = [forward(unit, values) for unit in cut.units]
    gradients = {name: [gradient] for name, gradient in (starts or {cut.loss: None}).items()}
    for unit, piece in zip(reversed(cut.units), reversed(pieces), strict=True):
        own = [parameters[name] for name in unit.parameters if parameters[name].requires_grad]
        backward(piece, gradients, own)
    return values, {name: _sum(parts) for name, parts in gradients.items() if name in feeds}
