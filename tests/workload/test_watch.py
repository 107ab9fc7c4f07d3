"""Which layer is at work at every moment of a step."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mpsim.errors import MpsimError
from mpsim.workload.watch import Graph, Watch, calls_of, taking_over


class Said(list):
    """A listener that writes down what it is told."""

    def at(self, phase, layer):
        if phase:
            self.append((phase, layer))

    def graph(self, graph):
        self.append("graph")

    def returned(self, output):
        self.append(("returned", output))


def watched(model, *inputs, inputs_too=False, loss=lambda out: out.sum(), depth="auto"):
    def step():
        loss(model(*inputs)).backward()

    calls = calls_of(model, step, depth)
    said = Said()
    Watch(model, calls, said, inputs=inputs_too).run(step)
    return [call.name for call in calls], [one for one in said if not (isinstance(one, tuple) and one[0] == "returned")]


def chain(width=4, depth=3):
    return nn.Sequential(*(module for _ in range(depth) for module in (nn.Linear(width, width), nn.Tanh())))


ROWS = torch.ones(2, 4)
FORWARD = [("forward", 0), ("forward", 1), ("forward", 2), "graph"]
BACKWARD = [("backward", 2), ("backward", 1), ("backward", 0), ("update", 0)]


def test_phases_come_in_the_order_of_the_step():
    assert watched(chain(), ROWS) == (["0", "2", "4"], FORWARD + BACKWARD)


def test_backward_for_inputs_comes_before_the_steps_own_and_ends_at_the_second_layer():
    inputs = [("backward for inputs", 2), ("backward for inputs", 1)]
    assert watched(chain(), ROWS, inputs_too=True)[1] == FORWARD + inputs + BACKWARD


def test_backward_for_inputs_leaves_no_gradient():
    model, found = chain(), []

    class Looks(Said):
        def at(self, phase, layer):
            if phase == "backward" and not found:
                found.extend(p.grad for p in model.parameters())

    step = lambda: model(ROWS).sum().backward()  # noqa: E731
    calls = calls_of(model, step)
    model.zero_grad()
    Watch(model, calls, Looks(), inputs=True).run(step)
    assert found == [None] * 6


def test_frozen_layers_have_no_backward():
    model = chain()
    model[0].requires_grad_(False)
    assert watched(model, ROWS)[1] == [*FORWARD, ("backward", 2), ("backward", 1), ("update", 0)]


def test_output_is_what_the_models_own_hooks_make_of_it():
    model = chain()
    model.register_forward_hook(lambda module, inputs, out: out + 1)
    step = lambda: model(ROWS).sum().backward()  # noqa: E731
    said = Said()
    Watch(model, calls_of(model, step), said).run(step)
    (output,) = [one[1] for one in said if one[0] == "returned"]
    assert torch.equal(output, model(ROWS))


def test_module_called_again_is_a_layer_again():
    shared = nn.Linear(4, 4)
    names, said = watched(nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 2)), ROWS)
    assert names == ["0", "0@2", "3"]
    assert said == FORWARD + BACKWARD


def test_module_that_stands_in_two_blocks_is_named_by_the_one_that_calls_it():
    class Block(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.shared, self.own = shared, nn.Linear(4, 4)

        def forward(self, x):
            return self.own(self.shared(x))

    shared = nn.Linear(4, 4)
    model = nn.Sequential(Block(shared), Block(shared))
    assert watched(model, ROWS, depth=2)[0] == ["0.shared", "0.own", "1.shared", "1.own"]


class Checkpointed(nn.Module):
    def __init__(self, reentrant, together=False):
        super().__init__()
        self.first, self.blocks = nn.Linear(4, 4), chain()
        self.reentrant, self.together = reentrant, together

    def forward(self, x):
        x = self.first(x)
        for block in [self.blocks] if self.together else [self.blocks[i : i + 2] for i in (0, 2, 4)]:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layer_is_at_work_in_backward_when_its_forward_runs_again(reentrant):
    names, said = watched(Checkpointed(reentrant), ROWS)
    assert names == ["first", "blocks.0", "blocks.2", "blocks.4"]
    assert said == [
        *[("forward", i) for i in range(4)], "graph", *[("backward", i) for i in (3, 2, 1, 0)], ("update", 0),
    ]  # fmt: skip


def test_layers_in_one_checkpoint_run_forward_again_one_after_the_other_then_backward():
    _, said = watched(Checkpointed(False, together=True), ROWS)
    assert said[5:] == [*[("backward", i) for i in (3, 1, 2, 3, 2, 1, 0)], ("update", 0)]


def test_layers_in_one_reentrant_checkpoint_each_have_their_own_backward():
    """Its backward makes a graph anew and goes backward through that."""
    _, said = watched(Checkpointed(True, together=True), ROWS)
    assert said[5:] == [*[("backward", i) for i in (3, 1, 2, 3, 2, 1, 0)], ("update", 0)]


class _Around(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = ctx.layer(x)
        out.backward(gradient)
        return x.grad, None


def test_layer_within_an_own_function_has_that_functions_backward():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.three(_Around.apply(self.one(x), self.two))

    assert watched(Model(), ROWS) == (["one", "two", "three"], FORWARD + BACKWARD)


def test_layer_that_is_called_in_the_update_is_not_at_work():
    """Such as to log: the update is one piece."""
    model = chain()

    def step():
        model(ROWS).sum().backward()
        with torch.no_grad():
            model(ROWS)

    said = Said()
    Watch(model, calls_of(model, step), said).run(step)
    assert [one for one in said if one[0] == "update"] == [("update", 0)]


def test_second_backward_is_refused():
    model = chain()

    def step():
        for row in ROWS.split(1):
            model(row).sum().backward()

    with pytest.raises(MpsimError, match=r"calls backward a second time: .* where models train in turn"):
        Watch(model, calls_of(model, step), Said()).run(step)


def test_backward_with_its_own_arguments_gets_them():
    model, weights = chain(), torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)

    def step():
        out = model(ROWS)
        out.backward(weights, retain_graph=True)
        assert out.grad_fn(weights) is not None  # its graph is still there

    step()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    calls = calls_of(model, step)
    model.zero_grad()
    Watch(model, calls, Said(), inputs=True).run(step)
    assert all(torch.equal(p.grad, one) for p, one in zip(model.parameters(), expected, strict=True))


def test_backward_within_forward_is_a_part_of_forward():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            shift = torch.zeros_like(x, requires_grad=True)
            self.two(self.one(x).detach() + shift).sum().backward(inputs=[shift])
            return self.three(x - shift.grad)

    assert watched(Model(), ROWS)[1] == [*FORWARD, ("backward", 2), ("update", 0)]


def test_another_path_is_refused_and_leaves_nothing_behind():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.turn = nn.Linear(4, 4), nn.Linear(4, 4), 0

        def forward(self, x):
            self.turn += 1
            return self.one(self.two(x)) if self.turn % 2 else self.two(self.one(x))

    model = Model()
    step = lambda: model(ROWS).sum().backward()  # noqa: E731
    before = torch.autograd.backward
    watch = Watch(model, calls_of(model, step), Said())
    with pytest.raises(MpsimError, match="where it called layer 'two' first, it calls another in a later step"):
        watch.run(step)
    assert torch.autograd.backward is before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    watch.run(step)  # the turn after that is the first again


def test_fewer_layers_than_before_are_refused():
    model = chain()
    runs = iter([model, model[:2]])
    step = lambda: next(runs)(ROWS).sum().backward()  # noqa: E731
    with pytest.raises(MpsimError, match="where it called layer '2' first, it stops there in a later step"):
        Watch(model, calls_of(model, step), Said()).run(step)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU()), "Sequential has none"),
        (torch.jit.script(chain()), "is scripted"),
    ],
)
def test_no_layer_to_place(model, message):
    with pytest.raises(MpsimError, match=message):
        calls_of(model, lambda: model(ROWS))


def test_weights_that_are_computed_are_part_of_their_module():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    assert [call.name for call in calls_of(model, lambda: model(ROWS).sum().backward())] == ["0"]


def test_graph_of_two_layers_by_hand():
    """w1 in the first layer, w2 in the second, which reads what the first makes."""
    w1, w2 = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    first = torch.autograd._get_sequence_nr()
    h = w1 * 2
    second = torch.autograd._get_sequence_nr()
    loss = (h * w2).sum()
    graph = Graph([loss], [first, second])
    assert {layer: node.name() for layer, node in graph.heads.items()} == {0: "MulBackward0", 1: "SumBackward0"}
    assert graph.between == {(h.grad_fn, 0)}
    assert graph.read_by == {(1, h.grad_fn, 0)}
    assert {layer: [leaf is one for leaf, one in zip(leaves, [w], strict=True)] for (layer, leaves), w in
            zip(sorted(graph.leaves.items()), (w1, w2), strict=True)} == {0: [True], 1: [True]}  # fmt: skip
    assert list(graph.input_heads) == [1]


def test_backward_is_given_back_when_the_step_fails():
    before = torch.autograd.backward
    with pytest.raises(KeyError), taking_over(lambda original, *given, **how: original(*given, **how)):
        raise KeyError
    assert torch.autograd.backward is before
