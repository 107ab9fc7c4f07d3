"""T5: an encoder, and a decoder whose every layer reads the encoder's output."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from mpsim.workload.example import Example
from mpsim.workload.zoo.attention import ATTENTION, construct, cross_entropy_of_tokens, random_tokens

__all__ = ["t5"]


class _T5(T5ForConditionalGeneration):  # type: ignore[misc]
    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, target_seq, vocab]."""
        output = super().forward(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False)
        logits: torch.Tensor = output.logits
        return logits


def _shard(model: nn.Module, ranks: int, *, heads: int) -> None:
    for module in model.modules():
        if hasattr(module, "n_heads"):
            module.n_heads = heads // ranks
            module.inner_dim = module.n_heads * module.key_value_proj_dim


_STYLES = {
    "*Attention.[qkv]": "colwise",
    "*Attention.o": "rowwise",
    "*.relative_attention_bias": "colwise",
    "*.DenseReluDense.wi": "colwise",
    "*.DenseReluDense.wo": "rowwise",
    "shared": "vocabulary",
    "*.embed_tokens": "vocabulary",
    "lm_head": "vocabulary",
}


def t5(
    batch: int,
    *,
    n_layer: int,
    n_decoder_layer: int,
    hidden: int,
    n_head: int,
    head_dim: int,
    ffn: int,
    vocab: int,
    seq: int,
    target_seq: int,
) -> Example:
    """Return T5 as a translator.

    Examples
    --------
    >>> example = t5(
    ...     2, n_layer=1, n_decoder_layer=1, hidden=8, n_head=2, head_dim=4, ffn=16, vocab=11, seq=4, target_seq=3
    ... )
    >>> example.model(*example.inputs).shape
    torch.Size([2, 3, 11])
    """
    config = T5Config(
        num_layers=n_layer,
        num_decoder_layers=n_decoder_layer,
        d_model=hidden,
        num_heads=n_head,
        d_kv=head_dim,
        d_ff=ffn,
        vocab_size=vocab,
        dropout_rate=0.0,
        use_cache=False,
        decoder_start_token_id=0,
        attn_implementation=ATTENTION,
    )
    return Example(
        model=construct(_T5, config),
        inputs=(random_tokens(vocab, batch, seq), random_tokens(vocab, batch, target_seq)),
        target=random_tokens(vocab, batch, target_seq),
        loss=cross_entropy_of_tokens,
        tensor_parallel=_STYLES,
        shared={"attention heads": n_head},
        shard=partial(_shard, heads=n_head),
    )
