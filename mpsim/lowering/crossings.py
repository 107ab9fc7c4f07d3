"""What goes over each cut between layers."""

from __future__ import annotations

from dataclasses import dataclass

from mpsim.workload.model import Tensor, Workload
from mpsim.workload.split import Split

__all__ = ["Crossing", "crossings", "tensor_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """What goes over one cut for one micro-batch, in bytes on one of the ranks that share the layers."""

    forward_bytes: int
    backward_bytes: int
    tensors: tuple[str, ...]


def tensor_bytes(tensor: Tensor, microbatch: int, reference: int, split: Split | int) -> int:
    """Return a tensor's bytes at a micro-batch size, on one of the ranks of a split."""
    count = tensor.bytes(split)
    return count if tensor.batch_dim is None else count * microbatch // reference


def crossings(workload: Workload, microbatch: int, split: Split | int) -> list[Crossing]:
    """Return what crosses the cut before each layer but the first: entry `i` is the cut before layer ``i + 1``.

    Every tensor made before the cut and read behind it crosses once, whatever the number of its readers; one that
    skips stages crosses every cut on its way. What is fed to the model does not cross: each stage loads its own.
    """
    n = len(workload.layers)
    position = {layer.name: i for i, layer in enumerate(workload.layers)}
    names: list[list[str]] = [[] for _ in range(n)]
    forward, backward = [0] * n, [0] * n
    for tensor in workload.tensors:
        if not tensor.producer or not tensor.consumers:
            continue
        count = tensor_bytes(tensor, microbatch, workload.microbatch, split)
        for cut_before in range(position[tensor.producer] + 1, max(position[c] for c in tensor.consumers) + 1):
            names[cut_before].append(tensor.name)
            forward[cut_before] += count
            backward[cut_before] += count if tensor.needs_gradient else 0
    return [
        Crossing(forward_bytes=forward[i], backward_bytes=backward[i], tensors=tuple(names[i])) for i in range(1, n)
    ]
