"""Qwen2.5 and Qwen3: decoders, from transformers' configurations."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mpsim.workload.example import Example
from mpsim.workload.zoo.decoders import LLAMA_STYLES, decoder

__all__ = ["QWEN3_NORMS", "qwen2", "qwen3"]

QWEN3_NORMS = {"model.layers.*.self_attn.[qk]_norm": "replicated_with_grad_allreduce"}
"""One weight for all heads, of which a rank has some."""


def qwen2(batch: int, *, size: str, ffn: int, tied: bool, **sizes: int) -> Example:
    """Return Qwen2.5 as a language model: Llama with biases in query, key and value; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = qwen2(2, size="", tied=True, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    return decoder(
        batch, Qwen2ForCausalLM, Qwen2Config, LLAMA_STYLES, intermediate_size=ffn, tie_word_embeddings=tied, **sizes
    )


def qwen3(batch: int, *, size: str, ffn: int, tied: bool, head_dim: int, **sizes: int) -> Example:
    """Return Qwen3 as a language model: heads of any width, their queries and keys normalised; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = qwen3(2, size="", head_dim=6, tied=True, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    return decoder(
        batch, Qwen3ForCausalLM, Qwen3Config, {**LLAMA_STYLES, **QWEN3_NORMS}, intermediate_size=ffn,
        tie_word_embeddings=tied, head_dim=head_dim, **sizes,
    )  # fmt: skip
