"""A model as each of several tensor-parallel ranks has it, collectives included.

PyTorch's own tensor-parallel API shards the weights (:func:`mpsim.workload.tensor_parallel.local_shard`); each module
that has but a part of the work then gets the collective that completes it.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.emulate.meeting import gather_forward, sum_backward, sum_forward
from mpsim.workload.example import Example
from mpsim.workload.parallel_styles import parallel_styles
from mpsim.workload.tensor_parallel import local_shard
from mpsim.workload.vocabulary import LocalEmbedding

__all__ = ["rank_examples"]


class _ColumnLinear(nn.Linear):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(sum_backward(x))


class _RowLinear(nn.Linear):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = sum_forward(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class _VocabularyLinear(nn.Linear):  # type: ignore[misc]
    ranks = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = gather_forward(super().forward(sum_backward(x)), self.ranks)
        return y


class _VocabularyEmbedding(LocalEmbedding):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = sum_forward(super().forward(tokens))
        return y


def rank_examples(example: Example, ranks: int) -> list[Example]:
    """Return the example of each rank: a model with the rank's weights, the whole batch, the whole model's loss.

    Raises
    ------
    MpsimError
        A module without a tensor-parallel form, or a size that does not divide.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> example = Example(model=model, inputs=(torch.ones(3, 4),), tensor_parallel={"0": "colwise", "2": "rowwise"})
    >>> [tuple(one.model[0].weight.shape) for one in rank_examples(example, 2)]
    [(4, 4), (4, 4)]
    """
    styles = parallel_styles(example, ranks)
    return [_with_collectives(example, styles, ranks, rank) for rank in range(ranks)]


def _with_collectives(example: Example, styles: dict[str, str], ranks: int, rank: int) -> Example:
    model = local_shard(example, ranks, rank=rank).example.model
    for path, style in styles.items():
        module = model.get_submodule(path)
        if isinstance(module, nn.Linear) and style == "vocabulary":
            module.__class__, module.ranks = _VocabularyLinear, ranks
        elif isinstance(module, nn.Linear) and style != "replicate":
            module.__class__ = _ColumnLinear if style == "colwise" else _RowLinear
        elif style == "vocabulary":
            module.__class__ = _VocabularyEmbedding
    return dataclasses.replace(example, model=model)
