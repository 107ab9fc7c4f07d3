"""What the transformers of the zoo share: construction, an attention without masks, losses and batches of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mpsim.workload.example import Example

__all__ = [
    "ATTENTION",
    "construct",
    "cross_entropy_of_tokens",
    "heads_of",
    "language_model",
    "logits_of",
    "random_tokens",
]

ATTENTION = "mpsim_sdpa"
"""PyTorch's scaled_dot_product_attention, told by each module whether it is causal.

Under its usual name transformers makes mask tensors when a model is exported and none when it runs,
so that the exported graph would have edges that the measured model has not. An attention without a
registered mask function gets no mask in either case: https://huggingface.co/docs/transformers/attention_interface
"""

ALL_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_attention_forward)


def construct(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model in training mode; weights without storage (fake, meta) are left uninitialised.

    Some initialisations ask for values, which a fake tensor has not.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> construct(LlamaForCausalLM, LlamaConfig(num_hidden_layers=1, hidden_size=64, vocab_size=8)).training
    True
    """
    probe = torch.empty(0)
    with no_init_weights() if probe.is_meta or isinstance(probe, FakeTensor) else nullcontext():
        model = kind(config).train()
    model.tie_weights()
    return model


def logits_of(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a decoder's class whose forward takes token numbers alone and returns logits [batch, seq, vocab].

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = logits_of(LlamaForCausalLM)(LlamaConfig(num_hidden_layers=1, hidden_size=64, vocab_size=8))
    >>> model(torch.tensor([[1, 2]])).shape
    torch.Size([1, 2, 8])
    """

    def forward(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = kind.forward(self, input_ids=input_ids, use_cache=False).logits
        return logits

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def language_model(
    model: PreTrainedModel,
    batch: int,
    *,
    vocab: int,
    seq: int,
    tensor_parallel: Mapping[str, str],
    shared: Mapping[str, int],
    shard: Callable[[Any, int], None] | None = None,
) -> Example:
    """Return `model` with random tokens, random targets and cross-entropy.

    Examples
    --------
    >>> example = language_model(None, 2, vocab=8, seq=3, tensor_parallel={}, shared={})
    >>> example.inputs[0].shape
    torch.Size([2, 3])
    """
    return Example(
        model=model,
        inputs=(random_tokens(vocab, batch, seq),),
        target=random_tokens(vocab, batch, seq),
        loss=cross_entropy_of_tokens,
        tensor_parallel=tensor_parallel,
        shared=shared,
        shard=shard,
    )


def cross_entropy_of_tokens(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of logits [batch, seq, vocab] and token numbers [batch, seq].

    Examples
    --------
    >>> cross_entropy_of_tokens(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long)).exp()
    tensor(4.)
    """
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def random_tokens(vocab: int, batch: int, seq: int) -> torch.Tensor:
    """Return token numbers [batch, seq].

    Examples
    --------
    >>> random_tokens(8, 2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randint(vocab, (batch, seq))


def heads_of(n_head: int, n_kv_head: int) -> dict[str, int]:
    """Return the heads that ranks share whole.

    Examples
    --------
    >>> heads_of(8, 2)
    {'attention heads': 8, 'key-value heads': 2}
    """
    return {"attention heads": n_head, "key-value heads": n_kv_head}
