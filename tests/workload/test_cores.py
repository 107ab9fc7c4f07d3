"""Attention cores in what a layer runs: fused, written out, and what is none."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from mpsim import trace  # noqa: E402
from mpsim.workload.cores import Cores  # noqa: E402

HEADS, SEQ, WIDTH = 4, 16, 32


class Attention(nn.Module):
    """Self-attention; `core` makes the outcome of queries, keys and values."""

    def __init__(self, core):
        super().__init__()
        self.qkv, self.out, self.core = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), core

    def forward(self, x):
        q, k, v = (one.view(len(x), SEQ, HEADS, WIDTH // HEADS).transpose(1, 2) for one in self.qkv(x).chunk(3, dim=-1))
        return self.out(self.core(q, k, v).transpose(1, 2).reshape(len(x), SEQ, WIDTH))


def written_out(q, k, v):
    return (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v


def with_dropout(q, k, v):
    return F.dropout((q @ k.transpose(-1, -2) / 4).softmax(-1), 0.5) @ v


def masked(q, k, v):
    scores = q @ k.transpose(-1, -2)
    return scores.masked_fill(torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1), -1e9).softmax(-1) @ v


def without_softmax(q, k, v):
    return torch.relu(q @ k.transpose(-1, -2)) @ v


def core_of(core, batch=2):
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Attention(core), nn.Linear(WIDTH, WIDTH))
    workload = trace(model, torch.randn(batch, SEQ, WIDTH), repeats=1, warmup=0, progress=False)
    first, *found, last = (layer.costs[0].attention for layer in workload.layers)
    assert first is last is None
    (one,) = found
    return one


# Scores of 2 samples, 4 heads, 16 queries and keys, in float32.
SQUARE = 2 * HEADS * SEQ * SEQ * 4


@pytest.mark.parametrize(
    ("core", "kept"),
    [
        (written_out, SQUARE),  # what softmax makes is all that is kept of scores
        (with_dropout, 3 * SQUARE),  # and what dropout makes, and its mask, which is of floats on a CPU
        (masked, SQUARE),
    ],
)
def test_what_a_model_writes_out(core, kept):
    found = core_of(core)
    assert found.saved_bytes == kept
    assert 0 < found.forward_fraction < 1


def test_of_one_kernel_the_rest_of_the_layer_needs_all_but_a_sum_a_row():
    """Its outcome goes into the projection behind it; the log-sum-exp of each row it keeps for itself."""
    found = core_of(F.scaled_dot_product_attention)
    assert found.saved_bytes == 2 * HEADS * SEQ * 4
    assert 0 < found.forward_fraction < 1


def test_products_without_a_softmax_are_no_attention():
    assert core_of(without_softmax) is None


def test_memory_whose_number_is_used_again_is_other_memory():
    cores = Cores()
    cores.ran("bmm", (1, 2), (3,))
    cores.ran("add", (8,), (3,))  # what the product made was dropped
    cores.ran("_softmax", (3,), (4,))
    cores.ran("bmm", (4, 5), (6,))
    assert cores.found == []


def test_an_outcome_that_is_kept_twice_is_needed_by_the_rest():
    cores = Cores()
    cores.ran("_scaled_dot_product_flash_attention", (1, 2), (3, 4))
    cores.keep(3, 100)
    cores.keep(4, 10)
    cores.ran("view", (3,), (3,))
    cores.keep(3, 100)
    cores.ran("mm", (3, 7), (9,))
    assert [core.kept for core in cores.found] == [{4: 10}]


def test_by_a_roofline_the_core_takes_what_its_kernels_do():
    """Of a layer of attention alone; no two runs differ."""
    from mpsim.workload.device_spec import DeviceSpec

    spec = DeviceSpec(name="made up", peak_flops_per_s={"float32": 1e12}, memory_bytes_per_s=1e12)
    model, batch = Attention(F.scaled_dot_product_attention), torch.randn(2, SEQ, WIDTH)
    layers = [trace(model, batch, analytical=spec, progress=False).layers for _ in range(2)]
    first, second = (next(filter(None, (one.costs[0].attention for one in each))) for each in layers)
    assert first == second
    assert 0 < first.forward_fraction < 1
