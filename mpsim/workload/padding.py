"""A vocabulary that ranks cannot share evenly gets rows that stand for no token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

__all__ = ["pad_vocabulary", "padded"]

_ROWS = 128  # of each rank a multiple, so that its products have whole tiles


def padded(tokens: int, ranks: int) -> int:
    """Return the tokens of a vocabulary that `ranks` share: as they are where they divide, else as Megatron-LM pads.

    That is the next multiple of 128 · ranks
    (https://github.com/NVIDIA/Megatron-LM, ``--make-vocab-size-divisible-by``).

    Examples
    --------
    >>> padded(50_257, 4), padded(50_257, 8), padded(128_256, 8)
    (50688, 51200, 128256)
    """
    return tokens if tokens % ranks == 0 else -(-tokens // (_ROWS * ranks)) * _ROWS * ranks


def pad_vocabulary(model: nn.Module, styles: Mapping[str, str], ranks: int) -> tuple[str, ...]:
    """Give each module that shares a vocabulary rows of zeros, in place, and return a note of each size.

    Parameters that other modules hold too stay shared.

    Examples
    --------
    >>> model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5))
    >>> model[1].weight = model[0].weight
    >>> pad_vocabulary(model, {"0": "vocabulary", "1": "vocabulary"}, 2)
    ('vocabulary of 5 tokens padded to 256, a multiple of 128 × 2, as Megatron-LM pads it',)
    >>> model[1].weight is model[0].weight, model[1].bias.shape
    (True, torch.Size([256]))
    """
    modules = [model.get_submodule(path) for path, style in styles.items() if style == "vocabulary"]
    sizes = {module.weight.shape[0]: None for module in modules if module.weight.shape[0] % ranks}
    for module in modules:
        for parameter in list(module.parameters(recurse=False)):
            more = padded(parameter.shape[0], ranks) - parameter.shape[0]
            if more:
                _replace(model, parameter, F.pad(parameter.detach(), (0, 0) * (parameter.dim() - 1) + (0, more)))
    for module in modules:
        rows = module.weight.shape[0]
        if isinstance(module, nn.Linear):
            module.out_features = rows
        else:
            module.num_embeddings = rows
    return tuple(
        f"vocabulary of {size} tokens padded to {padded(size, ranks)}, a multiple of {_ROWS} × {ranks}, as"
        " Megatron-LM pads it"
        for size in sizes
    )


def _replace(model: nn.Module, parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Put one new parameter wherever the old one is held."""
    new = nn.Parameter(value, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for name, held in module._parameters.items():
            if held is parameter:
                module._parameters[name] = new
