"""FLOPs of PyTorch's operators: attention in all its forms, and what else PyTorch's own counter lacks or gets wrong.

A multiply and an add are two FLOPs; only matrix products are counted, as in
:mod:`torch.utils.flop_counter`, whose formulas stand for every operator that is not here. Causality and block masks are
not subtracted, as there.

- Attention (https://arxiv.org/abs/2205.14135): of b batches and h query heads, two products forward,
  2·b·h·s_q·s_k·(d + d_v), and five backward, with the scores again, 2·b·h·s_q·s_k·(3d + 2d_v); fewer key than query
  heads change nothing. Packed sequences are counted by their lengths where these can be read, and otherwise each query
  as if its sequence had the longest one's keys.
- A convolution's gradients each cost what its forward does, also in groups: PyTorch counts a weight's gradient too
  often, once for each group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from mpsim.errors import MpsimError

__all__ = ["formula", "looks_like_products"]

# (arguments, keyword arguments, result) of a call → FLOPs.
Count = Callable[[Sequence[Any], Mapping[str, Any], Any], int]
# (arguments by their names in the operator's schema, result) → FLOPs.
Formula = Callable[[Mapping[str, Any], Any], int]

_FLEX_ARGUMENTS = ("query", "key", "value", "out", "logsumexp", "grad_out")  # forward has functions in the last places

# Parts of the names of operators that multiply matrices, where no formula is known.
_PRODUCTS = {
    "attention",
    "attn",
    "baddbmm",
    "bmm",
    "cdist",
    "cholesky",
    "conv",
    "convolution",
    "gru",
    "linalg",
    "linear",
}
_PRODUCTS |= {"dist", "lstm", "matmul", "mha", "mm", "mv", "qr", "rnn", "solve", "svd", "trilinear"}


def formula(operator: Any) -> Count | None:
    """Return what counts the FLOPs of a call of an operator (an overload or a higher-order one); None if nothing does.

    Examples
    --------
    >>> count = formula(torch.ops.aten.mv.default)
    >>> count((torch.ones(3, 4), torch.ones(4)), {}, torch.ones(3))
    24
    >>> formula(torch.ops.aten.relu.default) is None
    True
    """
    if isinstance(operator, torch._ops.HigherOrderOperator):
        return _bound(operator.name(), _FLEX_ARGUMENTS)
    schema = operator._schema
    ours = _bound(schema.name, [argument.name for argument in schema.arguments])
    theirs = flop_registry.get(operator._overloadpacket)
    if ours is not None or theirs is None:
        return ours
    return lambda args, kwargs, result: int(theirs(*args, **kwargs, out_val=result))


def _bound(name: str, arguments: Sequence[str]) -> Count | None:
    """Return our formula for an operator, called with positional arguments too."""
    ours = _FORMULAS.get(name)
    if ours is None:
        return None
    return lambda args, kwargs, result: ours({**dict(zip(arguments, args, strict=False)), **kwargs}, result)


def looks_like_products(name: str) -> bool:
    """Whether an operator without a formula must have FLOPs: it multiplies matrices by its name, or is not PyTorch's.

    Examples
    --------
    >>> [looks_like_products(name) for name in ("aten::linalg_qr", "aten::gelu", "mine::swiglu", "prims::mul")]
    [True, False, True, False]
    """
    namespace, _, word = name.partition("::")
    if namespace not in ("aten", "prims"):
        return True
    return not _PRODUCTS.isdisjoint(re.sub(r"\d", "", word).strip("_").split("_"))


def _attention(given: Mapping[str, Any], result: Any) -> int:
    """Query [..., heads, sequence, d], key and value alike."""
    query, key, value = given["query"], given["key"], given["value"]
    return _attention_flops(given, math.prod(query.shape[:-1]) * key.shape[-2], query.shape[-1], value.shape[-1])


def _rows_of_heads(given: Mapping[str, Any], result: Any) -> int:
    """Query [batch, sequence, heads, d], or packed [..., all sequences, heads, d] with where each begins."""
    query, key, value = given["query"], given["key"], given["value"]
    starts = _first(given, "cum_seq_q", "cu_seqlens_q", "cu_seq_q")
    pairs = math.prod(query.shape[:-2]) * key.shape[-3] if starts is None else _packed_pairs(given, starts)
    return _attention_flops(given, pairs * query.shape[-2], query.shape[-1], value.shape[-1])


def _cudnn_attention(given: Mapping[str, Any], result: Any) -> int:
    return (_attention if given.get("cum_seq_q") is None else _rows_of_heads)(given, result)


def _attention_flops(given: Mapping[str, Any], pairs: int, d: int, d_v: int) -> int:
    """Return the FLOPs for so many pairs of a query and a key in all batches and heads, forward or backward."""
    backward = _is_tensor(_first(given, "grad_out", "grad_out_"))
    return int(2 * pairs * (3 * d + 2 * d_v if backward else d + d_v))


def _first(given: Mapping[str, Any], *names: str) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)


def _packed_pairs(given: Mapping[str, Any], starts: Any) -> int:
    """Return the number of pairs of a query and a key of its own sequence in one head."""
    key_starts = _first(given, "cum_seq_k", "cu_seqlens_k", "cu_seq_k")
    key_starts = starts if key_starts is None else key_starts
    if any(item.is_meta or hasattr(item, "fake_mode") for item in (starts, key_starts)):
        return int(given["query"].shape[-3]) * int(_first(given, "max_k", "max_seqlen_k", "max_seqlen_q", "max_q"))
    return int((starts.diff() * key_starts.diff()).sum())


def _attention_layer(given: Mapping[str, Any], result: Any) -> int:
    """Attention with its projections, or a whole encoder layer: query [batch, sequence, width]."""
    query = given["query"] if "query" in given else given["src"]
    batch, queries, width = query.shape
    matrices = sum(v.numel() for k, v in given.items() if "weight" in k and _is_tensor(v) and v.dim() == 2)
    pairs = batch * queries * given.get("key", query).shape[1]
    return int(2 * batch * queries * matrices) + _attention_flops({}, pairs, width, width)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _product_of(first: str) -> Formula:
    """Return the formula of a product: every element of the result is as many multiply-adds as `first` has columns."""

    def count(given: Mapping[str, Any], result: Any) -> int:
        left = given[first]
        if left.layout is not torch.strided and left.layout is not torch._mkldnn:
            if hasattr(left, "fake_mode"):
                raise MpsimError("a fake sparse matrix does not say how many elements it holds")
            return 2 * int(left._nnz() * result.numel() // max(1, left.shape[0]))
        return int(2 * result.numel() * left.shape[-1])

    return count


def _grouped_product(given: Mapping[str, Any], result: Any) -> int:
    left, right = given["self"], given["mat2"]
    groups = result.shape[0] if left.dim() == 2 and right.dim() == 2 else 1  # then they share the inner dimension
    return int(2 * result.numel() * left.shape[-1] // groups)


def _grouped_rows(given: Mapping[str, Any], result: Any) -> int:
    """Count transformers' own grouped product of rows and weights, and its gradients of both."""
    products = len(result) if isinstance(result, tuple) else 1
    return int(2 * products * given["input"].numel() * given["weight"].shape[-1])


def _sum_of_products(given: Mapping[str, Any], result: Any) -> int:
    left = given["batch1"]
    return int(2 * result.numel() * left.shape[-1] * left.shape[0])


def _convolution(given: Mapping[str, Any], result: Any) -> int:
    return _convolution_flops(given["input"] if given.get("transposed") else result, given["weight"])


def _transposed_convolution(given: Mapping[str, Any], result: Any) -> int:
    return _convolution_flops(given["self"], given["weight"])


def _convolution_backward(given: Mapping[str, Any], result: Any) -> int:
    positions = given["input"] if given["transposed"] else given["grad_output"]
    return _convolution_flops(positions, given["weight"]) * sum(map(bool, given["output_mask"][:2]))


def _convolution_flops(positions: Any, weight: Any) -> int:
    """At each position of each sample every weight is used once."""
    return int(2 * positions.shape[0] * math.prod(positions.shape[2:]) * weight.numel())


def _recurrent(given: Mapping[str, Any], result: Any) -> int:
    """A whole recurrent layer: at each step of each sequence every weight is used once; twice backward."""
    held = given["weight"] if "weight" in given else [v for k, v in given.items() if re.fullmatch(r"weight\d", k)]
    weights = sum(item.numel() for item in held if item.dim() == 2)
    return int(2 * math.prod(given["input"].shape[:-1]) * weights) * (2 if "grad_output" in given else 1)


_KINDS: dict[Formula, str] = {
    _attention: """
        scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_backward
        _scaled_dot_product_efficient_attention _scaled_dot_product_efficient_attention_backward
        _scaled_dot_product_cudnn_attention _scaled_dot_product_cudnn_attention_backward
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward
        _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_fused_attention_overrideable_backward
        flex_attention flex_attention_backward""",
    _rows_of_heads: """
        _flash_attention_forward _flash_attention_backward _flash_attention_forward_no_dropout_inplace
        _efficient_attention_forward _efficient_attention_backward
        torch_attn::_varlen_attn torch_attn::_varlen_attn_out torch_attn::_varlen_attn_backward""",
    _cudnn_attention: "_cudnn_attention_forward _cudnn_attention_backward",
    _attention_layer: "_native_multi_head_attention _triton_multi_head_attention _transformer_encoder_layer_fwd",
    _product_of("self"): """
        mm bmm dot vdot mv _int_mm _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu _scaled_mm
        _scaled_mm_v2 mkldnn_linear""",
    _product_of("mat1"): "addmm _addmm_activation _sparse_addmm _sparse_semi_structured_mm",
    _product_of("batch1"): "baddbmm",
    _product_of("sparse"): "_sparse_mm",
    _product_of("mat"): "addmv",
    _product_of("input"): "linear _sparse_semi_structured_linear",
    _grouped_product: "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2",
    _grouped_rows: "transformers::grouped_mm_fallback transformers::grouped_mm_fallback_backward",
    _sum_of_products: "addbmm",
    _convolution: """
        convolution _convolution convolution_overrideable cudnn_convolution cudnn_convolution_relu
        cudnn_convolution_add_relu miopen_convolution miopen_depthwise_convolution mkldnn_convolution
        _conv_depthwise2d conv_depthwise3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d""",
    _transposed_convolution: """
        cudnn_convolution_transpose miopen_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d""",
    _convolution_backward: "convolution_backward convolution_backward_overrideable",
    _recurrent: """
        _cudnn_rnn _cudnn_rnn_backward miopen_rnn miopen_rnn_backward mkldnn_rnn_layer mkldnn_rnn_layer_backward""",
    lambda given, result: 0: """
        _cudnn_rnn_flatten_weight _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl
        _thnn_fused_gru_cell _thnn_fused_gru_cell_backward linalg_vector_norm linalg__powsum linalg_cross
        _linalg_check_errors""",
}


def _full_name(name: str) -> str:
    return name if "::" in name or name.startswith("flex_attention") else f"aten::{name}"


_FORMULAS = {_full_name(name): count for count, names in _KINDS.items() for name in names.split()}
