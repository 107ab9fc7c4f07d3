"""The multi-layer perceptron of the MNIST tutorials."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["MultilayerPerceptron", "mnist_mlp"]


class MultilayerPerceptron(nn.Module):  # type: ignore[misc]
    """Linear layers ``fc1``, ``fc2``, … with ReLU between and log-softmax at the end.

    Examples
    --------
    >>> [name for name, _ in MultilayerPerceptron((4, 3, 2)).named_children()]
    ['fc1', 'fc2']
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            self.add_module(f"fc{i}", nn.Linear(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [batch, classes] of `x` [batch, features]."""
        for i in range(1, self.depth):
            x = F.relu(self.get_submodule(f"fc{i}")(x))
        return F.log_softmax(self.get_submodule(f"fc{self.depth}")(x), dim=1)


def mnist_mlp(batch: int, *, widths: tuple[int, ...]) -> Example:
    """Return the perceptron with negative log-likelihood; every second layer closes a column-row pair.

    Examples
    --------
    >>> mnist_mlp(2, widths=(784, 256, 128, 64, 10)).tensor_parallel["fc2"]
    'rowwise'
    """
    if len(widths) < 2:
        raise MpsimError(f"mnist-mlp: widths {widths[0]} is one number: give inputs and outputs, as in 784,10")
    model = MultilayerPerceptron(widths)
    depth = model.depth
    styles = {f"fc{i}": "colwise" if i % 2 else "rowwise" for i in range(1, depth + 1)}
    if depth % 2:
        styles[f"fc{depth}"] = "replicate"
    return Example(
        model=model,
        inputs=(torch.rand(batch, widths[0]),),
        target=torch.randint(widths[-1], (batch,)),
        loss=F.nll_loss,
        tensor_parallel=styles,
    )
