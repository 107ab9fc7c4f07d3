"""Attention on fake tensors: the operators that a GPU runs, and what autograd keeps of them, to the byte."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mpsim.workload.fused import fused_attention
from mpsim.workload.roofline import Roofline

B, H, S, D = 2, 8, 64, 32
ITEM = B * H * S * D  # elements of q


def _kept(work, *inputs):
    """Return the sizes in bytes of what autograd keeps, and FLOPs forward and backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with Roofline() as roofline:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = work(*inputs)
        forward = roofline.flops
        out.sum().backward()
    sizes = sorted(storage.nbytes() for storage in kept.values())
    return [size for size in sizes if size > 16], forward, roofline.flops - forward, out


def _qkv(heads=H, d_v=D, dtype=torch.bfloat16):
    shapes = ((B, H, S, D), (B, heads, S, D), (B, heads, S, d_v))
    return [torch.empty(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heads", [H, 2, 1])
@pytest.mark.parametrize("options", [{"is_causal": True}, {"dropout_p": 0.1}, {"scale": 2.0}])
def test_q_k_v_output_and_log_sum_exp_are_kept(heads, options, dtype):
    with fused_attention(), FakeTensorMode():
        q, k, v = _qkv(heads, dtype=dtype)
        found = _kept(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != H, **options))
        sizes, forward, backward, out = found
        size, small = ITEM * dtype.itemsize, ITEM * dtype.itemsize * heads // H
        assert sizes == sorted([B * H * S * 4, small, small, size, size])
        assert (forward, backward) == (4 * B * H * S * S * D, 10 * B * H * S * S * D)
        assert (out.shape, out.dtype) == (q.shape, dtype)
        assert k.grad.shape == k.shape


@pytest.mark.parametrize("heads", [H, 2])
def test_a_mask_is_read_for_all_heads_from_one_copy(heads):
    with fused_attention(), FakeTensorMode():
        q, k, v = _qkv(heads)
        for mask in (torch.empty(S, S, dtype=torch.bfloat16), torch.empty(B, 1, S, S, dtype=torch.bool)):
            work = lambda mask=mask: F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=heads != H)  # noqa: E731
            sizes, forward, backward, _ = _kept(work)
            kept = 2 * mask.numel()  # of a bool mask the kernels take, and autograd keeps, what is added to the scores
            assert sizes == sorted([B * H * S * 4, kept, *[2 * ITEM] * 2, *[2 * ITEM * heads // H] * 2])
            assert (forward, backward) == (4 * B * H * S * S * D, 10 * B * H * S * S * D)


def test_a_learnt_mask_gets_its_gradient():
    with fused_attention(), FakeTensorMode():
        for heads in (H, 2):
            q, k, v = _qkv(heads)
            bias = torch.empty(H, S, S, dtype=torch.bfloat16, requires_grad=True)
            F.scaled_dot_product_attention(q, k, v, bias, enable_gqa=heads != H).sum().backward()
            assert bias.grad.shape == bias.shape


def test_values_of_another_size():
    with fused_attention(), FakeTensorMode():
        q, k, v = _qkv(d_v=16)
        sizes, forward, _, out = _kept(lambda: F.scaled_dot_product_attention(q, k, v))
        assert out.shape == (B, H, S, 16)
        assert forward == 2 * B * H * S * S * (D + 16)
        assert max(sizes) == 2 * ITEM


@pytest.mark.parametrize("autocast", [False, True])
def test_modules_and_autocast(autocast):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)  # dropout 0.1: plain products on a CPU
    with fused_attention(), FakeTensorMode(allow_non_fake_inputs=True) as mode, Roofline() as roofline:
        x = mode.from_tensor(torch.empty(2, 512, 32))
        seen = []
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t),
        ):
            layer(x).sum().backward()
    assert max(tensor.numel() for tensor in seen) < 2 * 4 * 512 * 512
    assert roofline.flops == 3 * 2 * 1024 * 32 * (4 * 32 + 2 * 64) - 2 * 1024 * 32 * 96 + 14 * 2 * 4 * 512 * 512 * 8


def test_what_no_fused_kernel_takes_stays_plain():
    with fused_attention(), FakeTensorMode():
        for shape, dtype in (((H, S, D), torch.float32), ((B, H, S, D), torch.float64)):
            q = torch.empty(shape, dtype=dtype, requires_grad=True)
            sizes, *_ = _kept(lambda q=q: F.scaled_dot_product_attention(q, q, q))
            assert q.numel() // D * S * dtype.itemsize in sizes


def test_flex_attention_with_backward():
    from torch.nn.attention.flex_attention import flex_attention

    with fused_attention(), FakeTensorMode():
        q, k, v = _qkv(2)
        sizes, forward, backward, _ = _kept(lambda: flex_attention(q, k, v, enable_gqa=True))
    assert (forward, backward) == (4 * B * H * S * S * D, 10 * B * H * S * S * D)
    assert max(sizes) == 2 * ITEM


def test_real_tensors_and_what_comes_after_are_computed_as_ever():
    q = torch.rand(1, 2, 8, 4, requires_grad=True)
    before = F.scaled_dot_product_attention(q, q, q)
    for _ in range(2):
        with fused_attention():
            assert torch.equal(F.scaled_dot_product_attention(q, q, q), before)
    with FakeTensorMode():
        fake = torch.empty(1, 2, 8, 4, requires_grad=True)
        assert "ForCpu" in type(F.scaled_dot_product_attention(fake, fake, fake).grad_fn).__name__
