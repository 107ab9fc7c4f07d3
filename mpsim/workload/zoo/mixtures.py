"""Mixtures of experts: Mixtral, Qwen3's and DeepSeek-V3, decoders from transformers' configurations."""

from __future__ import annotations

from dataclasses import replace

from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.zoo.decoders import LLAMA_STYLES, decoder
from mpsim.workload.zoo.experts import EXPERTS
from mpsim.workload.zoo.qwen import QWEN3_NORMS

__all__ = ["deepseek", "mixtral", "qwen_mixture"]


def _check_experts(name: str, experts: int, top_k: int) -> None:
    if top_k > experts:
        raise MpsimError(f"{name}: top_k {top_k} is more than n_expert {experts}: give {experts} or fewer")


# The experts' inner features are shared, as an ordinary feed-forward's are; the router is every rank's.
_EXPERTS = {"model.layers.*.mlp.experts": "experts", "model.layers.*.mlp.gate": "replicate"}
_ATTENTION = {path: style for path, style in LLAMA_STYLES.items() if ".mlp." not in path}
_MIXTRAL_STYLES = {**_ATTENTION, **_EXPERTS}
_DEEPSEEK_STYLES = {
    "model.embed_tokens": "vocabulary",
    "model.layers.*.self_attn.q_a_proj": "replicate",
    "model.layers.*.self_attn.q_b_proj": "colwise",
    "model.layers.*.self_attn.kv_a_proj_with_mqa": "mla_kv_a_proj",
    "model.layers.*.self_attn.kv_b_proj": "colwise",
    "model.layers.*.self_attn.o_proj": "rowwise",
    **_EXPERTS,
    "model.layers.*.gate_proj": "colwise",
    "model.layers.*.up_proj": "colwise",
    "model.layers.*.down_proj": "rowwise",
    "lm_head": "vocabulary",
}


def mixtral(batch: int, *, size: str, ffn: int, n_expert: int, top_k: int, **sizes: int) -> Example:
    """Return Mixtral as a language model; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = mixtral(2, size="", n_expert=4, top_k=2, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    _check_experts("mixtral", n_expert, top_k)
    return decoder(
        batch, MixtralForCausalLM, MixtralConfig, _MIXTRAL_STYLES, intermediate_size=ffn, num_local_experts=n_expert,
        num_experts_per_tok=top_k, experts_implementation=EXPERTS, **sizes,
    )  # fmt: skip


def qwen_mixture(batch: int, *, size: str, head_dim: int, ffn: int, n_expert: int, top_k: int, **sizes: int) -> Example:
    """Return a mixture of Qwen3 as a language model, `ffn` wide in each expert; `sizes` as Llama's.

    Examples
    --------
    >>> sizes = {"n_layer": 1, "hidden": 8, "n_head": 2, "n_kv_head": 1, "ffn": 16, "vocab": 11, "seq": 4}
    >>> example = qwen_mixture(2, size="", head_dim=4, n_expert=4, top_k=2, **sizes)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    _check_experts("qwen3-moe", n_expert, top_k)
    return decoder(
        batch, Qwen3MoeForCausalLM, Qwen3MoeConfig, {**_MIXTRAL_STYLES, **QWEN3_NORMS}, head_dim=head_dim,
        moe_intermediate_size=ffn, num_experts=n_expert, num_experts_per_tok=top_k, norm_topk_prob=True,
        experts_implementation=EXPERTS, **sizes,
    )  # fmt: skip


def deepseek(
    batch: int,
    *,
    size: str,
    n_layer: int,
    n_dense_layer: int,
    n_head: int,
    query_rank: int,
    key_value_rank: int,
    rope_dim: int,
    plain_dim: int,
    value_dim: int,
    ffn: int,
    expert_ffn: int,
    n_expert: int,
    n_shared_expert: int,
    top_k: int,
    n_group: int,
    top_group: int,
    **sizes: int,
) -> Example:
    """Return DeepSeek-V3 as a language model, without its module for the token after the next.

    The first `n_dense_layer` layers have one feed-forward of `ffn`; each token of the others is read by all shared
    experts and by the `top_k` best of the `n_expert` routed ones, out of the `top_group` best of `n_group` groups.
    Attention is latent: queries and keys of a head have `plain_dim` features and `rope_dim` rotated ones.

    Examples
    --------
    >>> sizes = {"n_layer": 2, "n_dense_layer": 1, "hidden": 8, "n_head": 2, "ffn": 16, "expert_ffn": 4}
    >>> latent = {"query_rank": 4, "key_value_rank": 4, "rope_dim": 2, "plain_dim": 4, "value_dim": 4}
    >>> routing = {"n_expert": 4, "n_shared_expert": 1, "top_k": 2, "n_group": 2, "top_group": 1}
    >>> example = deepseek(2, size="", vocab=11, seq=4, **sizes, **latent, **routing)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    _check_experts("deepseek", n_expert, top_k)
    _check_groups(n_expert, n_group, top_group, top_k)
    mixed = n_layer > n_dense_layer
    styles = {path: style for path, style in _DEEPSEEK_STYLES.items() if mixed or path not in _EXPERTS}
    made = decoder(
        batch, DeepseekV3ForCausalLM, DeepseekV3Config, styles, n_layer=n_layer, n_head=n_head, n_kv_head=n_head,
        first_k_dense_replace=n_dense_layer, q_lora_rank=query_rank, kv_lora_rank=key_value_rank,
        qk_rope_head_dim=rope_dim, qk_nope_head_dim=plain_dim, v_head_dim=value_dim, intermediate_size=ffn,
        moe_intermediate_size=expert_ffn, n_routed_experts=n_expert, n_shared_experts=n_shared_expert,
        num_experts_per_tok=top_k, n_group=n_group, topk_group=top_group, experts_implementation=EXPERTS, **sizes,
    )  # fmt: skip
    return replace(made, shared={"attention heads": n_head})  # Keys and values are made of what no head has alone.


def _check_groups(experts: int, groups: int, top_groups: int, top_k: int) -> None:
    """Refuse groups that a router of DeepSeek-V3 cannot choose from: it adds up the two best experts of each."""
    if experts % groups or experts < 2 * groups:
        raise MpsimError(f"deepseek: n_expert {experts} does not make n_group {groups} equal groups of 2 or more")
    reachable = min(top_groups, groups) * experts // groups
    if top_groups > groups or top_k > reachable:
        raise MpsimError(
            f"deepseek: top_group {top_groups} of n_group {groups} leaves {reachable} experts for top_k {top_k}"
        )
