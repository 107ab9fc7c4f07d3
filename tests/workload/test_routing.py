"""What a trace says of how routers spread tokens, by hand and of a real mixture."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from zoo_sizes import SMALL  # noqa: E402

from mpsim.workload.routing import routing_noted  # noqa: E402
from mpsim.workload.source import resolve_model  # noqa: E402
from mpsim.workload.trace import trace  # noqa: E402


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_experts = 4
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.ones(4, 2, 1)), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, tokens, chosen, shares):
        return tokens


def test_the_first_call_counts():
    model, notes = Experts(), []
    with routing_noted(model, notes):
        model(torch.ones(4, 1), torch.tensor([[0, 1], [0, 2], [0, 1], [0, 2]]), torch.ones(4, 2))  # 4, 2, 2, 0 of 2
        model(torch.ones(1, 1), torch.tensor([[3, 3]]), torch.ones(1, 2))
    assert notes == ["experts got 0 to 2 of an equal share of the tokens, as the weights at hand route"]
    assert not model._forward_pre_hooks


def test_a_measured_mixture_says_so_and_another_model_does_not():
    mixture = trace(resolve_model("mixtral", SMALL["mixtral"]), 2, tensor=(1, 2), repeats=1, warmup=0)
    assert [note.startswith("experts got 0") for note in mixture.notes] == [True]
    assert trace(nn.Linear(2, 2), torch.ones(2, 2), repeats=1, warmup=0).notes == ()
