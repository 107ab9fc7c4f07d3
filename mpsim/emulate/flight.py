"""One micro-batch on its way through one part: forward and backward in runs of units, as they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mpsim.emulate.capture.cut import Unit
from mpsim.emulate.capture.piece import Piece, backward, forward
from mpsim.emulate.seeds import Seeds, seeded
from mpsim.errors import MpsimError

__all__ = ["Flight", "Section"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Section:
    """What a micro-batch needs to know of a part: made by :meth:`mpsim.emulate.parts.Part.section`.

    Attributes
    ----------
    layers : range
        Of the model.
    units : tuple of Unit
        One a layer.
    trained : tuple of tuple of torch.nn.Parameter
        Of each unit, those that get a gradient.
    draws : tuple of bool
        Which units draw random numbers.
    receives, sends, feeds, results : tuple of str
        As the part has them.
    loss : str
        The name of the model's loss.
    device : str or None
        Where it runs.
    """

    layers: range
    units: tuple[Unit, ...]
    trained: tuple[tuple[Any, ...], ...]
    draws: tuple[bool, ...]
    receives: tuple[str, ...]
    sends: tuple[str, ...]
    feeds: tuple[str, ...]
    results: tuple[str, ...]
    loss: str
    device: str | None


class Flight:
    """One micro-batch in one part; made by :meth:`mpsim.emulate.parts.Part.start`.

    A gradient for a received value, relayed ones included, is the sum of what the part's own units and the next part
    have to say about it.

    Attributes
    ----------
    sends : dict of str to torch.Tensor
        After the forward: what the next part receives.
    results : dict of str to torch.Tensor
        After the forward: those of the model's outputs and the loss that the part makes.
    returned, feed_gradients : dict of str to torch.Tensor
        After the backward: gradients for the previous part, and for feeds that require one.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> (part,) = make_parts(capture(Example(model=model, inputs=(torch.ones(3, 4),))), model, ())
    >>> flight = part.start({}, {"input": torch.ones(3, 4)})
    >>> flight.forward(0, 1)
    >>> flight.forward(1, 2)
    >>> flight.receive({}, weight=0.5)
    >>> flight.backward(1, 2)
    >>> part.parameters["1.bias"].grad
    tensor([0.2500, 0.2500])
    """

    def __init__(
        self, section: Section, received: Mapping[str, Any], feeds: Mapping[str, Any], seeds: Seeds | None = None
    ) -> None:
        self._section, self._seeds = section, seeds
        self._values = {name: _placed(received[name], section.device) for name in section.receives}
        self._values |= {name: _placed(feeds[name], section.device) for name in section.feeds}
        self._pieces: dict[int, Piece] = {}
        self._half_done: dict[int, list[tuple[Any, Any]]] = {}
        self._gradients: dict[str, list[Any]] = {}
        self.sends: dict[str, Any] = {}
        self.results: dict[str, Any] = {}

    def forward(self, first: int, last: int) -> None:
        """Run the layers ``first..last-1`` of the model, the next ones of this part."""
        layers = self._section.layers
        for layer in range(first, last):
            with self._drawing(layer):
                piece = forward(self._section.units[layer - layers.start], self._values)
            if torch.is_grad_enabled():
                self._pieces[layer] = piece
        if last == layers.stop:
            self.sends = {name: _cut_off(self._values[name]) for name in self._section.sends}
            self.results = {name: _cut_off(self._values[name]) for name in self._section.results}
            self._values = {}

    def receive(self, gradients: Mapping[str, Any], weight: float = 1.0) -> None:
        """Take the gradients that backward starts from; what comes for one tensor in several calls is summed.

        Parameters
        ----------
        gradients : mapping of str to torch.Tensor
            Of sends and results.
        weight : float
            The loss's own gradient, where this part makes it.
        """
        for name, gradient in gradients.items():
            self._gradients.setdefault(name, []).append(_placed(gradient, self._section.device))
        name = self._section.loss
        loss = self.results.get(name)
        if loss is not None and loss.requires_grad and name not in self._gradients:
            self._gradients[name] = [torch.full_like(loss, weight)]

    def backward(self, first: int, last: int, kind: str = "B") -> None:
        """Run the backward of the layers ``first..last-1``, the next ones from the end.

        Parameters
        ----------
        first, last : int
            Layers of the model.
        kind : str
            B, or its halves in turn: I for the inputs, then W for the weights.
        """
        for layer in reversed(range(first, last)):
            if kind == "B":
                backward(self._take(layer), self._gradients, self._trained(layer))
            elif kind == "I":
                self._backward_input(layer)
            else:
                self._backward_weight(layer)

    @property
    def returned(self) -> dict[str, Any]:
        """Gradients for the previous part."""
        return self._summed(self._section.receives)

    @property
    def feed_gradients(self) -> dict[str, Any]:
        """Gradients for the feeds that require one."""
        return self._summed(self._section.feeds)

    def _summed(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {
            name: sum(self._gradients[name][1:], self._gradients[name][0]) for name in names if name in self._gradients
        }

    def _take(self, layer: int) -> Piece:
        if layer not in self._pieces:
            raise MpsimError(f"layer {layer} has no forward to go back through: run it once, with gradients enabled")
        return self._pieces.pop(layer)

    def _drawing(self, layer: int) -> contextlib.AbstractContextManager[None]:
        section = self._section
        if self._seeds is None or not section.draws[layer - section.layers.start]:
            return contextlib.nullcontext()
        return seeded(self._seeds.of(layer), section.device)

    def _trained(self, layer: int) -> list[Any]:
        return list(self._section.trained[layer - self._section.layers.start])

    def _backward_input(self, layer: int) -> None:
        """Make the gradients for the inputs, and keep what those for the weights start from."""
        piece = self._take(layer)
        received = [(value, self._gradients.pop(name)) for name, value in piece.outputs if name in self._gradients]
        starts = [(value, sum(parts[1:], parts[0])) for value, parts in received]
        self._half_done[layer] = starts
        if not starts or not piece.inputs:
            return
        values, gradients = zip(*starts, strict=True)
        wanted = [value for _, value in piece.inputs]
        results = torch.autograd.grad(values, wanted, gradients, retain_graph=True, allow_unused=True)
        for (name, _), gradient in zip(piece.inputs, results, strict=True):
            if gradient is not None:
                self._gradients.setdefault(name, []).append(gradient)

    def _backward_weight(self, layer: int) -> None:
        starts, trained = self._half_done.pop(layer), self._trained(layer)
        if not starts or not trained:
            return
        values, gradients = zip(*starts, strict=True)
        results = torch.autograd.grad(values, trained, gradients, allow_unused=True)
        for parameter, gradient in zip(trained, results, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _placed(value: Any, device: str | None) -> Any:
    """Return a value on a device, cut off from how it was made, requiring a gradient if it did."""
    if device is None or value.device == torch.device(device):
        return value
    return value.detach().to(device).requires_grad_(value.requires_grad)


def _cut_off(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad)
