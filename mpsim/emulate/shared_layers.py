"""A model as each of several tensor-parallel ranks has it, collectives included.

PyTorch's own tensor-parallel API shards the weights (:func:`mpsim.workload.tensor_parallel.local_shard`); each module
that has but a part of the work then gets the collective that completes it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.emulate.meeting import gather_forward, sum_backward, sum_forward
from mpsim.workload.example import Example
from mpsim.workload.found_plans import planned
from mpsim.workload.parallel_styles import SUMMED, parallel_styles
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


class _SplitLinear(nn.Linear):  # type: ignore[misc]
    first = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = sum_backward(x)[..., self.first : self.first + self.weight.shape[1]]
        y = sum_forward(F.linear(own, self.weight))
        return y if self.bias is None else y + self.bias


class _GatheredLinear(nn.Linear):  # type: ignore[misc]
    ranks, outputs = 1, 0  # outputs: of the whole Linear, without those that padding added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = gather_forward(nn.Linear.forward(self, sum_backward(x)), self.ranks)
        return y[..., : self.outputs]


class _VocabularyEmbedding(LocalEmbedding):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = sum_forward(super().forward(tokens))
        return y


def _experts(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a mixture's experts of which each rank has some inner features."""

    def forward(self: Any, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = sum_forward(kind.forward(self, sum_backward(hidden), chosen, sum_backward(shares)))
        return y

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _summed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a module that every rank has and runs on its own heads."""

    def forward(self: Any, *args: Any) -> Any:
        own = {name: sum_backward(parameter) for name, parameter in self._parameters.items() if parameter is not None}
        self.__dict__.update(own)  # an attribute of the instance comes before a parameter of that name
        try:
            return kind.forward(self, *args)
        finally:
            for name in own:
                del self.__dict__[name]

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


class _RopeLinear(nn.Linear):  # type: ignore[misc]
    rotated = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        latent, rotated = y.split([y.shape[-1] - self.rotated, self.rotated], dim=-1)
        return torch.cat([latent, sum_backward(rotated)], dim=-1)


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
    example, _ = planned(example)
    styles = parallel_styles(example, ranks)
    return [_with_collectives(example, styles, ranks, rank) for rank in range(ranks)]


def _with_collectives(example: Example, styles: dict[str, str], ranks: int, rank: int) -> Example:
    model = local_shard(example, ranks, rank=rank).example.model
    for path, style in styles.items():
        module = model.get_submodule(path)
        if style in ("colwise", "rowwise") and isinstance(module, nn.Linear):
            module.__class__ = _ColumnLinear if style == "colwise" else _RowLinear
        elif style in ("vocabulary", "colwise_gather_output"):
            _complete(module, ranks, example.model.get_submodule(path).weight.shape[0])
        elif style == "rowwise_split_input":
            module.__class__ = _SplitLinear
        elif style == "experts":
            module.__class__ = _experts(type(module))
        elif style == SUMMED:
            module.__class__ = _summed(type(module))
        elif style == "mla_kv_a_proj":
            module.__class__, module.rotated = _RopeLinear, model.config.get_text_config().qk_rope_head_dim
    return dataclasses.replace(example, model=model)


def _complete(module: nn.Module, ranks: int, outputs: int) -> None:
    """Let a module that has some tokens return what the whole one returns."""
    if isinstance(module, nn.Linear):
        module.__class__, module.ranks, module.outputs = _GatheredLinear, ranks, outputs
    else:
        module.__class__ = _VocabularyEmbedding
