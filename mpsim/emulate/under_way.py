"""The micro-batches under way in one part, each from its forward to the end of its backward, whoever carries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mpsim.emulate.flight import Flight
from mpsim.emulate.parts import Part
from mpsim.emulate.seeds import Seeds
from mpsim.errors import MpsimError

__all__ = ["UnderWay"]


class UnderWay:
    """Runs passes of one part, in runs of its layers as they are asked for.

    Parameters
    ----------
    part : Part
    key : int or None
        Of the step's random numbers; None: as PyTorch's generators have them.
    first : int
        What the micro-batches of other replicas come to, before the first one here.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> (part,) = make_parts(capture(Example(model=model, inputs=(torch.ones(3, 4),))), model, ())
    >>> under_way = UnderWay(part)
    >>> sorted(under_way.forward(0, {}, {"input": torch.ones(3, 4)}).results)
    ['linear_1', 'mean']
    >>> _ = under_way.backward(0, {}, weight=0.5)
    >>> part.parameters["1.bias"].grad
    tensor([0.2500, 0.2500])
    """

    def __init__(self, part: Part, key: int | None = None, first: int = 0) -> None:
        self.part, self._key, self._first = part, key, first
        self._flights: dict[int, Flight] = {}

    def forward(
        self, microbatch: int, received: Mapping[str, Any], feeds: Mapping[str, Any], layers: range | None = None
    ) -> Flight:
        """Run layers forward; with the part's first one the micro-batch enters it.

        Parameters
        ----------
        microbatch : int
        received, feeds : mapping of str to torch.Tensor
            As :meth:`mpsim.emulate.parts.Part.start` has them; read when it enters.
        layers : range
            The next of the part's; None: all.

        Returns
        -------
        Flight
            With what goes on and what was made, after the last layer.
        """
        own = self.part.layers
        layers = layers or own
        if layers.start == own.start:
            seeds = None if self._key is None else Seeds(self._key, self._first + microbatch)
            self._flights[microbatch] = self.part.start(received, feeds, seeds)
        flight = self._flights[microbatch]
        flight.forward(layers.start, layers.stop)
        if layers.stop == own.stop and not torch.is_grad_enabled():
            del self._flights[microbatch]
        return flight

    def backward(
        self,
        microbatch: int,
        *gradients: Mapping[str, Any],
        weight: float = 1.0,
        kind: str = "B",
        layers: range | None = None,
    ) -> Flight:
        """Run layers backward; with the part's first one the pass is over, and with its last kind the micro-batch.

        Parameters
        ----------
        microbatch : int
        gradients : mapping of str to torch.Tensor
            Of what was sent and made, read as the pass begins; those of one name are summed.
        weight : float
            What the loss counts for.
        kind : str
            B, or I and then W.
        layers : range
            The next of the part's from its end; None: all.

        Returns
        -------
        Flight
            With what goes back, after the first layer of B or I.

        Raises
        ------
        MpsimError
            The micro-batch is not under way.
        """
        own = self.part.layers
        layers = layers or own
        flight = self.flight(microbatch)
        if layers.stop == own.stop and kind != "W":
            for one in gradients:
                flight.receive(one, weight)
        flight.backward(layers.start, layers.stop, kind)
        if layers.start == own.start and kind != "I":
            del self._flights[microbatch]
        return flight

    def flight(self, microbatch: int) -> Flight:
        """Return a micro-batch that is under way."""
        if microbatch not in self._flights:
            raise MpsimError("this output has been gone back through once: run the batch again for another backward")
        return self._flights[microbatch]
