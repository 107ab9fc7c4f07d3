"""GPT-2 and Llama: decoders, from transformers' configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mpsim.workload.example import Example
from mpsim.workload.zoo.attention import ATTENTION, construct, heads_of, language_model, logits_of

__all__ = ["LLAMA_STYLES", "decoder", "gpt2", "llama"]


def _linear(convolution: Conv1D) -> nn.Linear:
    """Return the same map as a Linear, which PyTorch's tensor-parallel API knows and a Conv1D it does not."""
    linear = nn.Linear(convolution.nx, convolution.nf, device="meta")
    linear.weight = nn.Parameter(convolution.weight.detach().t().contiguous())
    linear.bias = convolution.bias
    return linear


def _replace_convolutions(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                setattr(module, name, _linear(child))


def _shard_gpt2(model: nn.Module, ranks: int) -> None:
    """Let each rank cut its part of the fused projection in three.

    A rank's rows are contiguous in the fused weight, so that the ranks together make the model whose
    query, key and value rows are those of the ranks in turn: a reordering of random rows.
    """
    for block in model.transformer.h:
        block.attn.split_size //= ranks


_GPT2_STYLES = {
    "transformer.wte": "vocabulary",
    "transformer.wpe": "replicate",
    "transformer.h.*.attn.c_attn": "colwise",
    "transformer.h.*.attn.c_proj": "rowwise",
    "transformer.h.*.mlp.c_fc": "colwise",
    "transformer.h.*.mlp.c_proj": "rowwise",
    "lm_head": "vocabulary",
}


def gpt2(
    batch: int, *, n_layer: int, hidden: int, n_head: int, ffn: int, vocab: int, positions: int, seq: int
) -> Example:
    """Return GPT-2 as a language model.

    Examples
    --------
    >>> example = gpt2(2, n_layer=1, hidden=8, n_head=2, ffn=32, vocab=11, positions=8, seq=4)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    config = GPT2Config(
        n_layer=n_layer,
        n_embd=hidden,
        n_head=n_head,
        n_inner=ffn,
        vocab_size=vocab,
        n_positions=positions,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation=ATTENTION,
    )
    model = construct(logits_of(GPT2LMHeadModel), config)
    _replace_convolutions(model)
    heads = {"attention heads": n_head}
    return language_model(
        model, batch, vocab=vocab, seq=seq, tensor_parallel=_GPT2_STYLES, shared=heads, shard=_shard_gpt2
    )


LLAMA_STYLES = {
    "model.embed_tokens": "vocabulary",
    "model.layers.*.self_attn.[qkv]_proj": "colwise",
    "model.layers.*.self_attn.o_proj": "rowwise",
    "model.layers.*.mlp.gate_proj": "colwise",
    "model.layers.*.mlp.up_proj": "colwise",
    "model.layers.*.mlp.down_proj": "rowwise",
    "lm_head": "vocabulary",
}


def llama(batch: int, *, size: str, ffn: int, tied: bool, **sizes: int) -> Example:
    """Return Llama as a language model; `size` only names the preset that the others came from, which are `decoder`'s.

    Examples
    --------
    >>> example = llama(
    ...     2, size="", n_layer=1, hidden=8, n_head=2, n_kv_head=1, ffn=16, vocab=11, tied=True, seq=4
    ... )
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    return decoder(
        batch, LlamaForCausalLM, LlamaConfig, LLAMA_STYLES, intermediate_size=ffn, tie_word_embeddings=tied, **sizes
    )


def decoder(
    batch: int,
    kind: type[PreTrainedModel],
    configuration: Callable[..., PreTrainedConfig],
    styles: Mapping[str, str],
    *,
    n_layer: int,
    hidden: int,
    n_head: int,
    n_kv_head: int,
    vocab: int,
    seq: int,
    **others: Any,
) -> Example:
    """Return a decoder of transformers as a language model; `others` are called as its configuration calls them.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "vocab": 11, "seq": 4}
    >>> example = decoder(2, LlamaForCausalLM, LlamaConfig, LLAMA_STYLES, intermediate_size=16, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    config = configuration(
        num_hidden_layers=n_layer,
        hidden_size=hidden,
        num_attention_heads=n_head,
        num_key_value_heads=n_kv_head,
        vocab_size=vocab,
        max_position_embeddings=seq,
        use_cache=False,
        attn_implementation=ATTENTION,
        **others,
    )
    model, heads = construct(logits_of(kind), config), heads_of(n_head, n_kv_head)
    return language_model(model, batch, vocab=vocab, seq=seq, tensor_parallel=styles, shared=heads)
