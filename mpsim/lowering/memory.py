"""What a rank holds throughout a step, and for parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from mpsim.lowering.buckets import Bucket
from mpsim.lowering.stages import Stage
from mpsim.program.allocator import segment_bytes
from mpsim.program.model import Allocation, Resident, Task

__all__ = ["Pass", "allocations_of", "residents_of", "within"]


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


_ENDS = ("backward", "backward_weight")


def allocations_of(
    stage: Stage, device: int, tasks: Sequence[Task], ran: Sequence[int], reduced: Sequence[int]
) -> list[Allocation]:
    """Return what a rank holds between tasks, given what it computes, in order, and the reductions of its gradients.

    Activations from a micro-batch's forward to the end of its backward; gradients from the end of the first backward,
    which makes them, to the update; and within each pass and the update whatever they take for a while.
    """
    passes: list[tuple[str, int, int, int]] = []
    for (kind, microbatch), found in groupby(ran, lambda i: (tasks[i].kind, tasks[i].microbatch)):
        indices = list(found)
        passes.append((kind, microbatch, indices[0], indices[-1]))
    begun = {microbatch: first for kind, microbatch, first, _ in passes if kind == "forward"}
    makes = next((i for i, (kind, *_) in enumerate(passes) if kind in _ENDS), len(passes))
    held = []
    for i, (kind, microbatch, first, last) in enumerate(passes):
        if kind in _ENDS:
            held.append(Allocation(device, "activations", stage.activation_bytes, begun[microbatch], last))
        if kind == "optimizer":
            held.append(Allocation(device, "transients", stage.update_bytes, first, last))
            continue
        gradients, transients, released = within(stage, kind, adds=i > makes)
        held.append(Allocation(device, "gradients", gradients, first, last))
        held.append(Allocation(device, "transients", transients, first, last))
        held.append(Allocation(device, "activations", -released, first, last))
    whole = sum(gradient.bytes for _, gradient in stage.gradients)
    # In order: the numbers of tasks that several ranks share say nothing of when they run.
    passes_after = [end for _, _, *ends in passes[makes + 1 :] for end in ends]
    updates = bool(passes) and passes[-1][0] == "optimizer"
    after = [*reduced, *passes_after] if updates else [*passes_after, *reduced]
    if after:
        held.append(Allocation(device, "gradients", whole, passes_after[0] if passes_after else after[0], after[-1]))
    return [one for one in held if one.bytes]
