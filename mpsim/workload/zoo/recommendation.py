"""DLRM (https://arxiv.org/abs/1906.00091): tables of embeddings beside a perceptron, their products, a second one.

::

    dense ── bottom ──┬──────────────┐
    rows ── table 0 ──┤              cat ── top ── click
    rows ── table 1 ──┴─ interact ───┘
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example

__all__ = ["DLRM", "Interaction", "Tables", "dlrm"]


def _perceptron(widths: tuple[int, ...], *, last: bool) -> nn.Sequential:
    """Return linear layers with ReLU between; `last` has one behind the last too."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(modules if last else modules[:-1]))


class Interaction(nn.Module):  # type: ignore[misc]
    """The dot products of each pair of vectors, beside the first of them.

    Examples
    --------
    >>> Interaction(3)(torch.ones(1, 3, 2))
    tensor([[1., 1., 2., 2., 2.]])
    """

    def __init__(self, vectors: int) -> None:
        super().__init__()
        rows, columns = zip(*((i, j) for i in range(vectors) for j in range(i)), strict=True)
        self.register_buffer("pairs", torch.tensor([i * vectors + j for i, j in zip(rows, columns, strict=True)]))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [batch, features + pairs] of [batch, vectors, features]."""
        products = vectors @ vectors.transpose(1, 2)
        return torch.cat((vectors[:, 0], products.flatten(1).index_select(1, self.pairs)), 1)


class Tables(nn.ModuleList):  # type: ignore[misc]
    """Tables of embeddings, all looked up at once: one layer, whose tables ranks can share.

    Examples
    --------
    >>> Tables(nn.EmbeddingBag(rows, 4, mode="sum") for rows in (10, 20))(torch.zeros(3, 2, 5, dtype=torch.long)).shape
    torch.Size([3, 2, 4])
    """

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [batch, tables, features] of row numbers [batch, tables, pooling]."""
        return torch.stack([table(one) for table, one in zip(self, rows.unbind(1), strict=True)], 1)


class DLRM(nn.Module):  # type: ignore[misc]
    """A row of each table (or the sum of several) and a perceptron's output interact, and a perceptron judges.

    Gradients of tables are dense, as every optimizer takes them.

    Examples
    --------
    >>> model = DLRM(rows=(10, 20), features=4, dense=3, bottom=(8,), top=(8,))
    >>> [tuple(table.weight.shape) for table in model.tables], model.top[0].in_features
    ([(10, 4), (20, 4)], 7)
    """

    def __init__(
        self, *, rows: tuple[int, ...], features: int, dense: int, bottom: tuple[int, ...], top: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.tables = Tables(nn.EmbeddingBag(count, features, mode="sum") for count in rows)
        self.bottom = _perceptron((dense, *bottom, features), last=True)
        self.interaction = Interaction(len(rows) + 1)
        pairs = len(rows) * (len(rows) + 1) // 2
        self.top = _perceptron((features + pairs, *top, 1), last=False)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Return logits [batch] of numbers [batch, dense] and row numbers [batch, tables, pooling]."""
        looked_up = self.tables(sparse)
        vectors = torch.cat((self.bottom(dense).unsqueeze(1), looked_up), 1)
        return self.top(self.interaction(vectors)).squeeze(1)


def dlrm(
    batch: int,
    *,
    rows: tuple[int, ...],
    features: int,
    dense: int,
    bottom: tuple[int, ...],
    top: tuple[int, ...],
    pooling: int,
) -> Example:
    """Return DLRM with random clicks; each sample looks `pooling` rows of each table up.

    Examples
    --------
    >>> example = dlrm(2, rows=(10, 20), features=4, dense=3, bottom=(8,), top=(8,), pooling=2)
    >>> example.model(*example.inputs).shape
    torch.Size([2])
    """
    if len(rows) < 2:
        raise MpsimError(f"dlrm: rows {rows[0]} is one number: give the rows of two tables or more, as in 1000,200")
    numbers = [torch.randint(count, (batch, pooling)) for count in rows]
    return Example(
        model=DLRM(rows=rows, features=features, dense=dense, bottom=bottom, top=top),
        inputs=(torch.rand(batch, dense), torch.stack(numbers, 1)),
        target=torch.randint(2, (batch,)).float(),
        loss=F.binary_cross_entropy_with_logits,
    )
