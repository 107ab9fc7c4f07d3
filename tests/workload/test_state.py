"""A model is given back as it was, whatever its forward does to it."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from mpsim.workload.state import Restore, from_one_seed, put_back


class Restless(nn.Module):
    """Moves all that a forward can move."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("queue", torch.zeros(4))
        self.register_buffer("range", torch.tensor([]))
        self.recent = deque([1], maxlen=2)
        self.steps, self.history, self.seen, self.by_name = 0, [1], {1}, {"a": 1}
        self.bank, self.state = torch.zeros(4), None
        self.draw, self.dice = torch.Generator().manual_seed(1), random.Random(1)
        self.numbers = np.random.default_rng(1)

    def forward(self, x):
        x.mul_(2)
        self.steps += 1
        self.history.append(self.steps)
        self.recent.append(self.steps)
        self.seen.add(self.steps + 1)
        self.by_name["b"] = x
        self.bank[0] += 1
        self.queue = self.queue + 1
        self.range.resize_(4).fill_(1.0)
        self.extra = torch.ones(1)
        with torch.no_grad():
            self.linear.weight.add_(1)
        drawn = torch.rand((), generator=self.draw) + self.dice.random() + self.numbers.random()
        self.state = self.norm(self.linear(x)) * drawn
        return self.state


def picture(model):
    tensors = {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}
    lists = list(model.history), list(model.recent), set(model.seen), dict(model.by_name)
    plain = (model.steps, *lists, model.bank.clone(), model.state)
    return tensors, plain, model.draw.get_state(), model.dice.getstate(), model.numbers.bit_generator.state


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


def test_all_of_a_model_is_put_back():
    model, batch = Restless(), torch.ones(3, 4)
    before = picture(model)
    lists = model.history, model.seen, model.by_name
    with put_back(model, [batch]) as restore:
        first = model(batch).detach()
        restore()
        assert alike(picture(model), before)
        assert torch.equal(model(batch), first)
    assert alike(picture(model), before)
    assert (model.history, model.seen, model.by_name) == lists
    assert all(a is b for a, b in zip((model.history, model.seen, model.by_name), lists, strict=True))
    assert not hasattr(model, "extra")
    assert torch.equal(batch, torch.ones(3, 4))


def test_what_steers_is_put_back_between_steps_and_caches_stay():
    class Steered(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.steps, self.cache = nn.Linear(2, 2), 0, None

        def forward(self, x):
            self.steps += 1
            self.cache = torch.ones(2) if self.cache is None else self.cache
            return self.linear(x + self.cache)

    model = Steered()
    restore = Restore(model)
    model(torch.ones(1, 2))
    restore.again()
    assert model.steps == 0
    assert model.cache is not None
    restore()
    assert model.cache is None


def test_modes_and_gradients():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    gradient = torch.ones(2, 2)
    model[0].weight.grad = gradient
    with put_back(model):
        assert model[0].weight.grad is None
        model.train()
        model(torch.ones(1, 2)).sum().backward()
    assert model[0].weight.grad is gradient
    assert torch.equal(gradient, torch.ones(2, 2))
    assert model[0].bias.grad is None
    assert [module.training for module in model.modules()] == [True, True, False]


def test_generators_of_numbers():
    def drawn():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    model = nn.Linear(1, 1)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = drawn()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    with put_back(model):
        from_one_seed()
        first = drawn()
        from_one_seed()
        assert drawn() == first
    assert drawn() == expected


def test_parameters_that_forward_puts_others_in_the_place_of():
    model = nn.Linear(2, 2)
    weight, values = model.weight, model.weight.detach().clone()
    with put_back(model):
        model.weight = nn.Parameter(torch.zeros(2, 2))
    assert model.weight is weight
    assert torch.equal(weight, values)


def test_modules_that_learn_their_sizes_keep_them():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with put_back(model):
        model(torch.ones(4, 2))
    assert (model[0].in_features, model[0].weight.shape) == (2, (3, 2))
    assert model(torch.ones(4, 2)).shape == (4, 3)


def test_hooks_that_a_forward_adds_go_with_the_note_that_it_did():
    class Adds(nn.Linear):
        def forward(self, x):
            if not getattr(self, "added", False):
                self.register_forward_hook(lambda *_: None)
                self.added = True
            return super().forward(x)

    model = Adds(2, 2)
    with put_back(model) as restore:
        for _ in range(2):
            model(torch.ones(1, 2))
            restore()
        assert len(model._forward_hooks) == 0
        model(torch.ones(1, 2))
        assert len(model._forward_hooks) == 1


@pytest.mark.parametrize(
    "batch",
    [torch.arange(3.0).expand(2, 3), torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(),
     torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)],
)  # fmt: skip
def test_batches_of_every_kind(batch):
    with put_back(nn.Linear(1, 1), [batch]) as restore:
        restore()


def test_input_that_forward_asks_gradients_for():
    batch = torch.ones(2, 2)
    with put_back(nn.Linear(2, 2), [batch]):
        batch.requires_grad_().sum().backward()
    assert not batch.requires_grad
    assert batch.grad is None


def test_a_scripted_module_is_put_back():
    model = torch.jit.script(nn.BatchNorm1d(2))
    with put_back(model):
        model(torch.randn(3, 2))
    assert model.running_mean.tolist() == [0.0, 0.0]


def test_state_is_put_back_when_the_step_fails():
    model = Restless()
    before = picture(model)
    batch = torch.ones(3, 5)
    with pytest.raises(RuntimeError), put_back(model, [batch]):
        model(batch)
    assert alike(picture(model), before)
