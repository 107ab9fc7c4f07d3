"""What a rank holds throughout a step, and for parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mpsim.lowering.buckets import Bucket
from mpsim.lowering.stages import Stage
from mpsim.program.allocator import segment_bytes
from mpsim.program.model import Resident

__all__ = ["Pass", "residents_of", "within"]


def residents_of(stage: Stage, buckets: Sequence[Bucket], device: int) -> list[Resident]:
    """Return what a device holds of its stage from the first task to the last, and the buffers of its buckets.

    Where the caching allocator keeps them, with what it reserves: tensors of one holder are made one after another.
    """
    parameters = stage.parameter_sizes
    trained = [gradient.bytes for _, gradient in stage.gradients]
    copies = stage.optimizer_bytes // sum(trained) if sum(trained) else 0
    tensors: dict[str, list[int]] = {
        "parameters": list(parameters),
        "master": [stage.master_bytes],
        "optimizer": trained * copies + [stage.optimizer_bytes - copies * sum(trained)],
        "buffers": [stage.buffer_bytes, *(bucket.bytes for bucket in buckets)],
        "workspace": [stage.workspace_bytes],
    }
    return [
        Resident(device, holder, sum(sizes), segment_bytes(sizes) if stage.cached else 0)
        for holder, sizes in tensors.items()
        if sum(sizes)
    ]


class Pass(NamedTuple):
    """What a rank holds in a pass when it holds most, beyond what it held before and what the pass leaves behind.

    `gradients` are those made by then, `transients` what is inside the layer, `released` the activations that the
    layers before it needed no longer.
    """

    gradients: int
    transients: int
    released: int

    @property
    def most(self) -> int:
        """All of it."""
        return self.gradients + self.transients - self.released


def within(stage: Stage, kind: str, adds: bool = False) -> Pass:
    """Return what a pass of a stage takes for a while: in layer after layer, the one in which it takes most.

    Parameters
    ----------
    kind : str
        ``forward``, ``backward``, ``backward_input`` or ``backward_weight``.
    adds : bool
        A backward that adds to gradients that are there: it holds a new one only until it is added.
    """
    saved = [cost.saved_bytes for cost in stage.costs]
    if kind == "forward":
        # All activations count from the pass's beginning: of those behind a layer, none is there yet.
        behind = [sum(saved[i + 1 :]) for i in range(len(saved))]
        return max(
            (Pass(0, cost.forward_transient_bytes, missing) for cost, missing in zip(stage.costs, behind, strict=True)),
            key=lambda one: one.most,
        )
    return max(_backward(stage, kind, adds, saved), key=lambda one: one.most)


def _backward(stage: Stage, kind: str, adds: bool, saved: Sequence[int]) -> Iterator[Pass]:
    """Yield what each layer of a backward takes, the last layer first."""
    made = released = 0
    for i in reversed(range(len(saved))):
        new = [gradient.bytes for layer, gradient in stage.gradients if layer == stage.layers.start + i]
        made += sum(new)
        gradients = 0 if kind == "backward_input" else max(new, default=0) if adds else made
        transients = 0 if kind == "backward_weight" else stage.costs[i].backward_transient_bytes
        yield Pass(gradients, transients, 0 if kind == "backward_input" else released)
        released += saved[i]
