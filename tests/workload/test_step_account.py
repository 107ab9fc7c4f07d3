"""Saved bytes, FLOPs and gradient order, worked by hand."""

import small_models as models
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.workload.account import account
from mpsim.workload.example import Example
from mpsim.workload.graph import capture, flat_inputs


def _account(example):
    cut = capture(example)
    feeds = {name: value for name, value in zip(cut.feeds, flat_inputs(example), strict=True) if name}
    parameters, buffers = dict(example.model.named_parameters()), dict(example.model.named_buffers())
    return cut, account(cut, feeds, parameters, buffers)


def test_mlp_by_hand():
    """Batch 3, sizes 6-5-4: fc1 keeps its input and the ReLU's output, which fc2 reads too and does not count again."""
    target = torch.tensor([0, 1, 2])
    example = Example(model=models.Functional(), inputs=(torch.rand(3, 6),), target=target, loss=F.nll_loss)
    _, found = _account(example)
    fc1, fc2 = found.units
    assert fc1.saved_bytes == 4 * (3 * 6 + 3 * 5)
    assert fc2.saved_bytes == 4 * 3 * 4 + 8 * 3 + 4  # the log-softmax, the labels, and the loss's total weight
    assert (fc1.flops, fc2.flops) == (2 * 3 * 6 * 5, 2 * 3 * 5 * 4)
    assert fc1.gradients == ["fc1.bias", "fc1.weight"]
    assert found.saved_by["relu"] == "fc1"
    assert found.sent_back == {"relu"}


def test_units_sum_to_the_whole_model():
    """However the model is cut, the same storages are kept."""
    torch.manual_seed(0)
    totals = set()
    for depth in ("auto", 0, 1, 2):
        example = Example(model=models.SmallUNet(), inputs=(torch.rand(2, 1, 8, 8),))
        cut = capture(example, depth)
        feeds = {"input": example.inputs[0]}
        found = account(cut, feeds, dict(example.model.named_parameters()), {})
        totals.add((sum(unit.saved_bytes for unit in found.units), sum(unit.flops for unit in found.units)))
    assert len(totals) == 1


def test_running_statistics_are_state_and_not_kept_activations():
    example = Example(model=nn.Sequential(nn.BatchNorm1d(4)), inputs=(torch.rand(3, 4),))
    _, found = _account(example)
    assert found.units[0].saved_bytes == 4 * (3 * 4 + 2 * 4)  # the input, the batch's mean and inverse deviation


def test_tied_gradient_is_listed_in_both_layers():
    example = Example(model=models.Tied(), inputs=(torch.randint(0, 7, (2, 5)),))
    _, found = _account(example)
    assert found.units[0].gradients == found.units[-1].gradients == ["embed.weight"]


def test_mask_gets_no_gradient_back():
    cut, found = _account(Example(model=models.Tied(), inputs=(torch.randint(0, 7, (2, 5)),)))
    crossing = set(cut.units[1].outputs)
    masks = {name for name in crossing if found.shapes[name][1] == "bool"}
    assert len(masks) == 1
    assert crossing - masks == crossing & found.sent_back


def test_no_gradients_are_left_behind():
    example = Example(model=models.Shared(), inputs=(torch.rand(2, 4),))
    _account(example)
    assert all(parameter.grad is None for parameter in example.model.parameters())


def test_attention_is_counted_on_a_cpu():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            q = x * self.scale
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    _, found = _account(Example(model=nn.Sequential(Attention()), inputs=(torch.rand(2, 4, 128, 16),)))
    assert found.units[0].flops == 2 * (2 * 2 * 4 * 128 * 128 * 16)
