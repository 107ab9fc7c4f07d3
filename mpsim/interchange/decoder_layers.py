"""The layers of a decoder by what torchtitan and Megatron call them: embedding, blocks, norm, output."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mpsim.errors import MpsimError

__all__ = ["block_numbers", "layer_kinds"]

_BLOCK = re.compile(r"(?:.*\.)?(\d+)")


def layer_kinds(names: Sequence[str]) -> str:
    """Return a letter for each layer: ``E`` before the blocks, ``t`` for a block, ``N`` between, ``L`` for the last.

    Raises
    ------
    MpsimError
        Not embeddings, numbered blocks, and an output layer with no more than a norm before it.

    Examples
    --------
    >>> layer_kinds(["wte", "wpe", "h.0", "h.1", "ln_f", "lm_head"])
    'EEttNL'
    """
    blocks = [i for i, name in enumerate(names) if _BLOCK.fullmatch(name)]
    parents = {names[i].rpartition(".")[0] for i in blocks}
    together = blocks == list(range(blocks[0], blocks[-1] + 1)) if blocks else False
    before, behind = (blocks[0], len(names) - blocks[-1] - 1) if blocks else (0, 0)
    if len(parents) != 1 or not together or not before or behind not in (1, 2):
        raise MpsimError(
            f"the workload's layers are {', '.join(names[:4])}{', …' * (len(names) > 4)}: torchtitan and Megatron lay"
            " out a decoder's embedding, numbered blocks, norm and output"
        )
    return "E" * before + "t" * len(blocks) + "N" * (behind - 1) + "L"


def block_numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of the layers that are blocks.

    Examples
    --------
    >>> block_numbers(["wte", "h.0", "h.1", "lm_head"])
    [0, 1]
    """
    return [int(match[1]) for name in names if (match := _BLOCK.fullmatch(name))]
