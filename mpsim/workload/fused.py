"""Attention as the fused kernels that a GPU runs, for a run on fake tensors of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode

__all__ = ["fused_attention"]

_aten = torch.ops.aten
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within this, ``scaled_dot_product_attention`` of fake tensors is the operator that PyTorch takes on a GPU.

    On a CPU PyTorch chooses other operators, for some shapes the plain products with their s × s matrix, which a GPU
    neither computes nor keeps. Here the choice is the GPU's, whoever calls (a model, ``nn.MultiheadAttention``,
    autocast): flash attention without a mask, memory-efficient attention with one or with values of another size,
    cuDNN's where that has fewer key than query heads; the plain products for what no fused kernel takes (three
    dimensions, float64, batches of unlike sizes). They are PyTorch's operators with PyTorch's own backward: what
    autograd keeps of them is what it keeps on a GPU, q, k, v, the output, the log-sum-exp and a mask. PyTorch's kernels
    for float32 take no grouped heads; they are costed as if they did. Flex attention is one operator, as once compiled,
    with the backward that PyTorch refuses on a CPU. Real tensors are computed as ever.

    Examples
    --------
    >>> from torch._subclasses.fake_tensor import FakeTensorMode
    >>> with fused_attention(), FakeTensorMode():
    ...     q = torch.empty(1, 2, 16, 8, requires_grad=True)
    ...     type(torch.nn.functional.scaled_dot_product_attention(q, q, q).grad_fn).__name__
    'ScaledDotProductFlashAttentionBackward0'
    """
    with torch.library._scoped_library("aten", "IMPL") as library:
        for key in ("AutogradCPU", "AutogradCUDA", "AutogradMeta"):  # below autocast, above what splits the operator up
            library.impl("scaled_dot_product_attention", _attention, key)
        with _flex_attention_as_compiled():
            yield


@contextmanager
def _flex_attention_as_compiled() -> Iterator[None]:
    """Let ``flex_attention`` call its operator: under a dispatch mode PyTorch compiles nothing, and then raises."""
    from torch.nn.attention import flex_attention as module

    instead = {"_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG": True, "_validate_device": lambda *tensors: None}
    before = {name: getattr(module, name) for name in instead if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, instead[name])
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    plain: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    if detect_fake_mode((query, key, value)) is None and not query.is_meta:
        operator = _aten.scaled_dot_product_attention.default
        return operator.decompose(query, key, value, attn_mask, dropout_p, is_causal, **plain)
    grouped = key.dim() == 4 and key.shape[1] != query.shape[1]
    learnt_mask = attn_mask is not None and attn_mask.requires_grad  # has no kernel for grouped heads
    if (grouped and learnt_mask) or not _is_fusible(query, key, value, enable_gqa):
        plainly = _aten._scaled_dot_product_attention_math
        return plainly(query, key, value, attn_mask, dropout_p, is_causal, **plain)[0]
    if attn_mask is None and query.shape[-1] == value.shape[-1]:
        return _aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    operator = _aten._scaled_dot_product_cudnn_attention if grouped else _aten._scaled_dot_product_efficient_attention
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    keeps = torch.is_grad_enabled() and any(item.requires_grad for item in (query, key, value))
    return operator(query, key, value, bias, keeps, dropout_p, is_causal, scale=scale)[0]


def _is_fusible(query: Any, key: Any, value: Any, enable_gqa: bool) -> bool:
    """Whether some fused kernel takes these: [batch, heads, sequence, d], of one batch size and dtype."""
    if any(item.dim() != 4 or item.dtype not in _FUSED_DTYPES for item in (query, key, value)):
        return False
    if not query.shape[0] == key.shape[0] == value.shape[0] or key.shape[1] != value.shape[1]:
        return False
    return bool(query.shape[1] == key.shape[1] or (enable_gqa and query.shape[1] % key.shape[1] == 0))


def _bias(mask: Any, query: Any, key: Any) -> Any:
    """Return a mask as the kernels take it: added to the scores, one for each head without copies."""
    if mask.dtype is torch.bool:
        mask = torch.where(mask, 0.0, torch.full((), float("-inf"), dtype=query.dtype, device=mask.device))
    return mask.expand(*query.shape[:-1], key.shape[-2])
