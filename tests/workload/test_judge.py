"""The plain step that judges a trace."""

import pytest
import torch
from torch import nn

from mpsim.workload.account import Account, LayerAccount
from mpsim.workload.judge import PlainStep, differences, judging


def judged(model, step):
    with judging(dict(model.named_parameters()), dict(model.named_buffers())) as plain:
        step()
    return plain


def test_a_plain_step_by_hand():
    """y = w x of 2 x 3 ones, its mean: each weight's gradient is a half of what 2 rows give, 1."""
    model = nn.Linear(3, 2, bias=False)
    nn.init.ones_(model.weight)
    plain = judged(model, lambda: model(torch.ones(2, 3)).mean().backward())
    assert plain.loss == 3.0
    assert plain.gradient_norms == {"weight": pytest.approx((6 * 0.5**2) ** 0.5)}
    assert plain.saved_bytes == 2 * 3 * 4  # the input; the weight is the model's own


def test_parameters_and_buffers_are_not_kept_and_one_storage_counts_once():
    model = nn.Module()
    model.weight, half = nn.Parameter(torch.ones(4)), torch.ones(4)
    model.register_buffer("scale", torch.ones(4))
    plain = judged(model, lambda: (model.weight * model.scale * half * half.view(2, 2).view(4)).sum().backward())
    assert plain.saved_bytes == 16  # the half, for the weight's gradient; no gradient of it is asked for


def test_what_backward_keeps_itself_is_not_counted():
    model = nn.Linear(3, 2)
    x = torch.ones(2, 3, requires_grad=True)

    def step():
        loss = model(x).pow(2).sum()
        loss.backward(create_graph=True)

    assert judged(model, step).saved_bytes == 2 * 3 * 4 + 2 * 2 * 4


def test_backward_within_forward_is_not_the_steps():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            shift = torch.zeros_like(x, requires_grad=True)
            self.one(x + shift).sum().backward(inputs=[shift])
            return self.two(shift.grad)

    model = Inner()
    plain = judged(model, lambda: model(torch.ones(2, 3)).mean().backward())
    assert sorted(plain.gradient_norms) == ["two.bias", "two.weight"]


def test_step_without_backward_leaves_hooks_as_they_were():
    model = nn.Linear(3, 2)
    plain = judged(model, lambda: model(torch.ones(2, 3)))
    assert plain.gradient_norms == {}
    with torch.autograd.graph.disable_saved_tensors_hooks("none may be left"):
        pass


def account(loss=1.0, saved=100, norms=None, listed=("a", "b")):
    found = Account(1, {}, {}, {})
    found.layers = [LayerAccount(saved_bytes=saved, gradients=list(listed))]
    found.loss, found.gradient_norms = loss, norms or {"a": 1.0, "b": 2.0}
    return found


PLAIN = PlainStep(loss=1.0, gradient_norms={"a": 1.0, "b": 2.0}, saved_bytes=100)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (account(), ()),
        (account(loss=1.005, saved=101, norms={"a": 1.04, "b": 2.0}), ()),  # as near as noise may come
        (account(norms={"a": 1.0}, listed=("a",)), ("gradients of other parameters than in the plain step: b",)),
        (account(listed=("a",)), ("gradients that no layer makes: b",)),
        (
            account(norms={"a": 1.0, "b": 3.0}),
            ("1 gradients of other norm than in the plain step: b 3, 2",),
        ),
        (account(saved=102), ("kept for backward 102 bytes, the plain step 100",)),
        (account(loss=2.0), ("loss 2, the plain step's 1",)),
        (account(loss=float("nan")), ("loss nan, the plain step's 1",)),
    ],
)
def test_differences_in_words(other, says):
    assert differences(PLAIN, other) == says


def test_two_losses_that_are_no_number_are_alike():
    plain = PlainStep(gradient_norms={"a": 1.0, "b": 2.0}, saved_bytes=100)
    assert differences(plain, account(loss=float("nan"))) == ()
