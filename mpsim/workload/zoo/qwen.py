"""Qwen2.5 and Qwen3: decoders, from transformers' configurations."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mpsim.workload.example import Example
from mpsim.workload.zoo.attention import ATTENTION, construct, heads_of, language_model, logits_of
from mpsim.workload.zoo.decoders import LLAMA_STYLES

__all__ = ["QWEN3_NORMS", "qwen2", "qwen3"]

QWEN3_NORMS = {"model.layers.*.self_attn.[qk]_norm": "replicated_with_grad_allreduce"}
"""One weight for all heads, of which a rank has some."""


def qwen2(batch: int, *, size: str, **sizes: Any) -> Example:
    """Return Qwen2.5 as a language model: Llama with biases in query, key and value; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = qwen2(2, size="", tied=True, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    return _qwen(batch, Qwen2ForCausalLM, Qwen2Config, {}, **sizes)


def qwen3(batch: int, *, size: str, head_dim: int, **sizes: Any) -> Example:
    """Return Qwen3 as a language model: heads of any width, their queries and keys normalised; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = qwen3(2, size="", head_dim=6, tied=True, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    return _qwen(batch, Qwen3ForCausalLM, Qwen3Config, {"head_dim": head_dim}, **sizes)


def _qwen(
    batch: int,
    kind: Any,
    configuration: Any,
    heads: dict[str, int],
    *,
    n_layer: int,
    hidden: int,
    n_head: int,
    n_kv_head: int,
    ffn: int,
    vocab: int,
    tied: bool,
    seq: int,
) -> Example:
    config = configuration(
        **heads,
        num_hidden_layers=n_layer,
        hidden_size=hidden,
        num_attention_heads=n_head,
        num_key_value_heads=n_kv_head,
        intermediate_size=ffn,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=seq,
        use_cache=False,
        attn_implementation=ATTENTION,
    )
    model, shared = construct(logits_of(kind), config), heads_of(n_head, n_kv_head)
    styles = {**LLAMA_STYLES, **QWEN3_NORMS} if heads else LLAMA_STYLES
    return language_model(model, batch, vocab=vocab, seq=seq, tensor_parallel=styles, shared=shared)
