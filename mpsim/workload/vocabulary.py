"""A vocabulary shared by tensor-parallel ranks: each has the embedding rows and the logits of some tokens.

As in Megatron-LM (https://arxiv.org/abs/1909.08053, section 3): the embedding is summed over ranks, the logits are
never gathered, and cross-entropy exchanges one maximum, one sum and one logit for each token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel

from mpsim.errors import MpsimError

__all__ = ["LocalEmbedding", "local_loss", "refused_loss", "sharded_loss"]


class LocalEmbedding(nn.Embedding):  # type: ignore[misc]
    """The rows of some tokens, from token `first` on; other tokens give zeros, to be summed over the ranks.

    Examples
    --------
    >>> part = LocalEmbedding(2, 1)
    >>> part.first = 2
    >>> part(torch.tensor([0, 2, 3])).eq(0).flatten().tolist()
    [True, False, False]
    """

    first: int = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [*tokens.shape, features]."""
        row = tokens - self.first
        elsewhere = (row < 0) | (row >= self.weight.shape[0])
        padding = None if self.padding_idx is None else self.padding_idx - self.first
        if padding is not None and not 0 <= padding < self.weight.shape[0]:
            padding = None
        own = F.embedding(row.masked_fill(elsewhere, 0), self.weight, padding)
        return own.masked_fill(elsewhere.unsqueeze(-1), 0.0)


def local_loss(output: Any, target: Any, *, loss: Callable[[Any, Any], Any], tokens: int, head: str = "") -> Any:
    """Return `loss` over one rank's `tokens` logits, each target replaced by one that the rank has.

    This is the rank's share of the work, and no loss: the rank's cross-entropy runs over its own logits.

    Examples
    --------
    >>> local_loss(torch.zeros(1, 2), torch.tensor([3]), loss=F.cross_entropy, tokens=2).exp()
    tensor(2.)
    """
    try:
        return loss(output, target % tokens)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise refused_loss(head, str(error).strip().partition("\n")[0] or type(error).__name__) from error


def refused_loss(head: str, reason: str) -> MpsimError:
    """Return that a loss does not run on logits that ranks share, and what to do.

    Examples
    --------
    >>> "give lm_head the style 'colwise_gather_output' or" in str(refused_loss("lm_head", "256 classes, 512 weights"))
    True
    """
    return MpsimError(
        "the loss does not run on the part of the logits that a rank has where they are shared, as"
        f" {head} has the style 'vocabulary': {reason}; a plain cross_entropy would: give {head} the style"
        " 'colwise_gather_output' or 'replicate', with which each rank has all logits"
    )


@contextlib.contextmanager
def sharded_loss() -> Iterator[None]:
    """Let cross-entropy work on logits of which each rank has some, and undo that even after an error.

    PyTorch's own `loss_parallel` stays enabled when its body raises.

    Examples
    --------
    >>> with sharded_loss():
    ...     pass
    """
    context = loss_parallel()
    context.__enter__()
    try:
        yield
    finally:
        context.__exit__(None, None, None)
