"""FLOPs by hand, by PyTorch's own counter where it has a formula, and no attention operator without one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mpsim.workload.flops import formula
from mpsim.workload.roofline import Roofline

aten = torch.ops.aten


def meta(*shape):
    return torch.empty(*shape, device="meta")


def counted(operator, *args, result=None, **kwargs):
    return formula(operator)(args, kwargs, result)


def test_every_attention_operator_of_pytorch_has_a_formula():
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    names = {name for name in names if name.startswith("aten::") and "attention" in name}
    names -= {"aten::_triton_scaled_dot_attention"}  # of no backend
    assert len(names) > 15
    operators = [getattr(aten, name.removeprefix("aten::")) for name in names]
    assert [str(each) for each in operators if formula(getattr(each, each.overloads()[0])) is None] == []


# b 2, query heads 4, s_q 8, s_k 16, d 32: two products forward, five backward.
FORWARD = 2 * (2 * 4 * 8 * 16 * 32) * 2
BACKWARD = 5 * (2 * 4 * 8 * 16 * 32) * 2
SDPA = [
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_fused_attention_overrideable,
]


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("operator", SDPA, ids=str)
def test_attention_by_hand(operator, heads):
    q, k, v = meta(2, 4, 8, 32), meta(2, heads, 16, 32), meta(2, heads, 16, 32)
    assert counted(operator.default, q, k, v) == FORWARD
    backward = getattr(aten, f"{operator.__name__}_backward")
    assert counted(backward.default, q, q, k, v) == BACKWARD == 2.5 * FORWARD


def test_values_of_another_size():
    q, k, v, g = meta(2, 4, 8, 32), meta(2, 4, 16, 32), meta(2, 4, 16, 8), meta(2, 4, 8, 8)
    pairs = 2 * 4 * 8 * 16
    assert counted(aten._scaled_dot_product_efficient_attention.default, q, k, v) == 2 * pairs * (32 + 8)
    found = counted(aten._scaled_dot_product_efficient_attention_backward.default, g, q, k, v)
    assert found == 2 * pairs * (3 * 32 + 2 * 8)


def test_kernels_take_the_sequence_before_the_heads():
    q, k = meta(2, 8, 4, 32), meta(2, 16, 2, 32)
    for forward in (aten._flash_attention_forward.default, aten._efficient_attention_forward.default):
        assert counted(forward, q, k, k) == FORWARD
    for backward in (aten._flash_attention_backward.default, aten._efficient_attention_backward.default):
        assert counted(backward, q, q, k, k) == BACKWARD


@pytest.mark.parametrize("lead", [(), (1,)])
def test_packed_sequences_by_their_lengths(lead):
    q, starts = torch.empty(*lead, 10, 4, 32), torch.tensor([0, 2, 10])
    names = ("cum_seq_q", "cum_seq_k", "max_q", "max_k")
    operator = aten._flash_attention_forward.default
    if lead:
        names, operator = (
            ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"),
            (aten._efficient_attention_forward.default),
        )
    packed = dict(zip(names, (starts, starts, 8, 8), strict=True))
    assert counted(operator, q, q, q, **packed) == 4 * 4 * 32 * (2 * 2 + 8 * 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        unknown = packed | dict.fromkeys(names[:2], mode.from_tensor(starts))
    assert counted(operator, q, q, q, **unknown) == 4 * 4 * 32 * 10 * 8  # each query as if it met the longest


def test_flex_attention():
    q, k = meta(2, 4, 8, 32), meta(2, 2, 16, 32)
    higher = torch.ops.higher_order
    assert counted(higher.flex_attention, q, k, k, None) == FORWARD
    assert counted(higher.flex_attention_backward, q, k, k, q, meta(2, 4, 8), q) == BACKWARD


SIZE = st.integers(1, 5)


@given(batch=SIZE, heads=SIZE, groups=SIZE, queries=SIZE, keys=SIZE, d=SIZE, d_v=SIZE)
def test_attention_as_pytorch_counts_it(batch, heads, groups, queries, keys, d, d_v):
    q, k, v = meta(batch, heads * groups, queries, d), meta(batch, heads, keys, d), meta(batch, heads, keys, d_v)
    g = meta(batch, heads * groups, queries, d_v)
    for operator in SDPA[:3]:
        assert counted(operator.default, q, k, v) == flop_registry[operator](q, k, v)
        backward = getattr(aten, f"{operator.__name__}_backward")
        assert counted(backward.default, g, q, k, v) == flop_registry[backward](g, q, k, v)


@given(channels=SIZE, out=SIZE, size=st.integers(3, 6), kernel=st.integers(1, 3), transposed=st.booleans())
def test_convolutions_as_pytorch_counts_them(channels, out, size, kernel, transposed):
    def step():
        kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
        kind(channels, out, kernel, stride=2)(torch.rand(2, channels, size, size, requires_grad=True)).sum().backward()

    with Roofline() as ours:
        step()
    with FlopCounterMode(display=False) as theirs:
        step()
    assert ours.flops == theirs.get_total_flops() > 0
    assert ours.seconds == 0


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_in_groups(groups):
    layer = torch.nn.Conv2d(4, 8, 3, groups=groups)
    with Roofline() as ours:
        layer(torch.rand(2, 4, 8, 8, requires_grad=True)).sum().backward()
    assert ours.flops == 3 * 2 * (2 * 6 * 6) * (8 * 4 // groups * 3 * 3)


def _grouped_by_transformers():
    """Forward and both gradients; 6 rows for 2 experts."""
    pytest.importorskip("transformers.integrations.moe")
    rows, weights = torch.rand(6, 4, requires_grad=True), torch.rand(2, 4, 5, requires_grad=True)
    ends = torch.tensor([2, 6], dtype=torch.int32)
    torch.ops.transformers.grouped_mm_fallback(rows, weights, ends).sum().backward()


def _flops(work):
    with Roofline() as counter:
        work()
    return counter.flops, counter.uncounted


@pytest.mark.parametrize(
    ("work", "flops"),
    [
        (lambda: torch.rand(3, 4) @ torch.rand(4, 5), 2 * 3 * 4 * 5),
        (lambda: torch.rand(3, 4) @ torch.rand(4), 2 * 3 * 4),
        (lambda: torch.rand(6, 3, 4) @ torch.rand(6, 4, 5), 2 * 6 * 3 * 4 * 5),
        (_grouped_by_transformers, 3 * 2 * 6 * 4 * 5),
        (lambda: torch.addbmm(torch.rand(3, 5), torch.rand(6, 3, 4), torch.rand(6, 4, 5)), 2 * 6 * 3 * 4 * 5),
        (lambda: torch._int_mm(*[torch.ones(32, 32, dtype=torch.int8)] * 2), 2 * 32**3),
        (lambda: torch.rand(4, 4, dtype=torch.complex64) @ torch.rand(4, 4, dtype=torch.complex64), 2 * 4**3),
        (lambda: torch.sparse.mm(torch.eye(8).to_sparse(), torch.rand(8, 4)), 2 * 8 * 4),
        (lambda: torch.nn.LSTM(4, 8, 2)(torch.rand(5, 3, 4)), 2 * 5 * 3 * 4 * 8 * (4 + 8 + 8 + 8)),
        (lambda: torch.nn.Embedding(10, 4)(torch.tensor([1, 2])), 0),
        (lambda: torch.nn.utils.clip_grad_norm_([torch.nn.Parameter(torch.ones(2))], 1.0), 0),
    ],
)
def test_products_by_hand(work, flops):
    assert _flops(work) == (flops, {})


@pytest.mark.parametrize("module", [torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer])
def test_fast_paths_count_as_the_slow_ones_do(module):
    layer = module(16, 4, batch_first=True).eval()
    args = [torch.rand(3, 5, 16)] * (3 if module is torch.nn.MultiheadAttention else 1)
    slow = _flops(lambda: layer(*args))
    with torch.no_grad():
        assert _flops(lambda: layer(*args)) == slow


def test_inference_mode_counts_alike():
    def work():
        x = torch.nn.Linear(16, 16)(torch.rand(1, 2, 5, 16))
        torch.nn.functional.scaled_dot_product_attention(x, x, x)

    with torch.inference_mode():
        assert _flops(work) == (2 * 10 * 16 * 16 + 4 * 2 * 5 * 5 * 16, {})
