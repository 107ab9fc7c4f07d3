"""A split model is the model, by gradient and state, or it is refused with the cause."""

import copy
import re

import hard_models as hard
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils import _pytree as pytree
from zoo_sizes import SMALL

from mpsim.emulate.capture.check import check, checked_capture
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.capture.form import take_apart
from mpsim.emulate.splitter import ModelSplitter
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.workload import zoo
from mpsim.workload.example import Example
from mpsim.workload.layering import Layering, layer_names


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def state_of(model):
    return {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def tensors_of(output):
    return [leaf for leaf in take_apart(output)[0] if isinstance(leaf, torch.Tensor)]


def finish(output):
    return sum(leaf.square().sum() for leaf in tensors_of(output))


RIGHT = {
    "a backward of its own that is the true one": lambda: hard.Between(
        hard.function(lambda x: x.tanh(), lambda gradient, x: gradient * (1 - x.tanh() ** 2))
    ),
    "teacher and queue": hard.Follower,
    "weights clamped": lambda: hard.Clamped("no_grad"),
    "spectral norm": lambda: hard.Between(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "spectral norm, as it was": lambda: hard.Between(spectral_norm(nn.Linear(6, 6))),
    "weight norm": lambda: hard.Between(parametrizations.weight_norm(nn.Linear(6, 6))),
    "batch norm": lambda: hard.Between(nn.BatchNorm1d(6)),
    "a mean in a buffer": lambda: hard.Counter("buffer", True),
    "a number that only counts": lambda: hard.Counter("number", False),
    "a list that only counts": lambda: hard.Counter("list", False),
    "checkpoints": lambda: hard.decoder(hard.not_reentrant),
    "a layer whose output nobody reads": lambda: hard.Dead(),
    "regions": hard.Regions,
    "namespace": lambda: hard.Answers("namespace"),
    "dataclass": lambda: hard.Answers("dataclass"),
    "dataclasses": lambda: hard.Answers("dataclasses"),
    "bfloat16": lambda: hard.Between(nn.ReLU()).bfloat16(),
    "hooks that count": lambda: hard.Between(nn.ReLU()),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_a_graph_holds_is_split_rightly(case):
    """Outputs, gradients, and the state after one step, which is moved once."""
    model = RIGHT[case]()
    twin = copy.deepcopy(model)
    batch = torch.randn(4, next(model.parameters()).shape[-1], dtype=next(model.parameters()).dtype)
    output = ModelSplitter(model, 2, chunks=1)(batch)
    expected = twin(batch)
    assert type(output) is type(expected)
    torch.testing.assert_close(tensors_of(output), tensors_of(expected))
    finish(output).backward()
    finish(expected).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name).grad, parameter.grad, msg=lambda text, n=name: f"{n} {text}"
        )
    torch.testing.assert_close(state_of(model), state_of(twin))


OWN = r"the capture drops the own backward of the torch.autograd.Function Own \(hard_models.py:\d+\)"
REFUSED = {
    "straight through": (
        lambda: hard.Between(hard.function(lambda x: x.sign(), lambda gradient, x: gradient)),
        rf"one.weight .* gradient .*: {OWN}",
    ),
    "gradient three times": (
        lambda: hard.Between(hard.function(lambda x: x * 1, lambda gradient, x: 3 * gradient)),
        rf"one.weight has a gradient that is .* off the model's, whose norm is .*: {OWN}",
    ),
    "gradient clipped where it is large": (
        lambda: hard.Between(hard.function(lambda x: x * 1, lambda gradient, x: gradient.clamp(-100, 100))),
        rf"one.weight has a gradient .*: {OWN}",
    ),
    "gradient reversed in a branch": (hard.Adversary, rf"trunk.weight has a gradient .*: {OWN}"),
    "gradient three times behind dropout": (
        lambda: hard.Between(nn.Sequential(nn.Dropout(), hard.Tripled())),
        rf"one.weight has a gradient .*: {OWN}",
    ),
    "reentrant checkpoint": (lambda: hard.decoder(hard.reentrant), "use_reentrant=False"),
    "weights written through .data": (
        lambda: hard.Clamped("data"),
        r"writes one.weight in place, through .data, at hard_models.py:\d+ \(`self.one.weight.data.clamp_",
    ),
    "weights replaced through .data": (lambda: hard.Clamped("replaced"), "writes one.weight in place, through .data"),
    "a number that steers": (lambda: hard.Counter("number", True), "attribute calls from 0 to 1: .*register_buffer"),
    "a list that steers": (lambda: hard.Counter("list", True), "attribute seen from 0 to 1"),
    "a mean that is no buffer": (lambda: hard.Counter("attribute", True), "attribute mean.*register_buffer"),
    "a mean in place": (lambda: hard.Counter("attribute in place", True), "attribute mean.*register_buffer"),
    "a count of batches that steers": (lambda: hard.Between(nn.BatchNorm1d(6, momentum=None)), "values of tensors"),
    "random": (lambda: hard.Drawing("python"), r"forward draws from random: .*torch.rand"),
    "numpy.random": (lambda: hard.Drawing("numpy"), r"forward draws from numpy.random"),
    "is_compiling": (lambda: hard.OtherPath(torch.compiler.is_compiling), "another path than in training"),
    "is_exporting": (lambda: hard.OtherPath(torch.compiler.is_exporting), "another path than in training"),
}  # fmt: skip


def in_splitter(model, batch):
    ModelSplitter(model, 2, chunks=1)(batch)


def with_a_loss(model, batch):
    checked_capture(Example(model=model, inputs=(batch,), loss=lambda output, _: finish(output)))


@pytest.mark.parametrize("split", [in_splitter, with_a_loss])
@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_does_not_hold_is_refused_in_one_line(case, split):
    make, message = REFUSED[case]
    model = make()
    before, attributes = state_of(model), repr(vars(model))
    batch = torch.randn(4, 6)
    with pytest.raises(MpsimError) as caught:
        split(model, batch)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(state_of(model), before)
    assert repr(vars(model)) == attributes


@pytest.mark.parametrize("case", ["teacher and queue", "regions", "a layer whose output nobody reads", "checkpoints"])
def test_the_model_is_left_as_it_was(case):
    model = RIGHT[case]()
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before, drawn = state_of(model), torch.get_rng_state()
    checked_capture(Example(model=model, inputs=(torch.randn(4, first.shape[-1], generator=torch.Generator()),)))
    torch.testing.assert_close(state_of(model), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(item.grad is None for item in model.parameters() if item is not first)


def test_layers_in_regions_of_their_own_mode_are_layers():
    cut = capture(Example(model=hard.Regions(), inputs=(torch.randn(4, 6),)))
    assert [unit.name for unit in cut.units] == ["teacher.0", "teacher.2", "student.0", "student.2"]


@pytest.mark.parametrize("name", SMALL)
def test_layers_are_those_of_the_model_as_it_runs(name):
    """The same rule on the calls of an eager step gives the same names."""
    example = zoo.get(name).build(2, **SMALL[name])
    paths = {id(item): path for path, item in example.model.named_modules() if any(True for _ in item.parameters())}
    running, calls = [], []

    def enter(module, inputs):
        running.append(paths[id(module)])
        calls.append(tuple(running))

    handles = []
    for module in example.model.modules():
        if id(module) in paths:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(lambda *_: (running.pop(), None)[1]))
    example.model(*example.inputs, **example.keywords)
    for handle in handles:
        handle.remove()
    layering = Layering(example.model, calls)
    layers = [stack[-1] for stack in calls if layering.level(stack) == len(stack) - 1]
    assert [unit.name for unit in capture(example).units] == layer_names(layers, example.model)


def test_a_layer_that_nobody_reads_keeps_its_place():
    cut = capture(Example(model=hard.Dead(), inputs=(torch.randn(4, 4),)))
    assert [unit.name for unit in cut.units] == ["one", "two", "three"]
    assert cut.units[1].outputs == ()


def test_a_module_in_two_places_is_called_by_its_first_name():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.here = nn.Linear(4, 4)
            self.there = self.here

        def forward(self, x):
            return self.there(self.here(x))

    cut = capture(Example(model=Twice(), inputs=(torch.randn(4, 4),)))
    assert [unit.name for unit in cut.units] == ["here", "here@2"]


def test_random_numbers_of_pytorch_are_drawn_alike():
    model = hard.Drawing("torch")
    cut = checked_capture(Example(model=model, inputs=(torch.randn(4, 6),)))
    assert [unit.name for unit in cut.units] == ["one", "two"]


def test_other_draws_are_held_by_order_of_magnitude():
    """A capture that draws once more than its model is not refused for its numbers, but for what it lacks."""
    model = hard.Drawing("torch")
    example = Example(model=model, inputs=(torch.randn(4, 6),))
    cut = capture(example)
    graph = cut.units[0].module.graph
    first = next(node for node in graph.nodes if node.op == "call_function")
    with graph.inserting_before(first):
        graph.call_function(torch.ops.aten.rand.default, ([3],))
    cut.units[0].module.recompile()
    assert check(cut, example).units == cut.units
    for node in graph.nodes:
        if "dropout" in node.name:
            node.replace_all_uses_with(node.args[0])
            with graph.inserting_after(node):
                graph.call_function(torch.ops.aten.detach.default, (node,))
    far = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(far):
        scaled = graph.call_function(torch.ops.aten.mul.Tensor, (far.args[0][0], 1e3))
    far.args = ((scaled,),)
    cut.units[0].module.recompile()
    with pytest.raises(MpsimError, match=r"has a gradient of norm .*, in the model of"):
        check(cut, example)


def test_gradients_of_inputs_are_held_too():
    make = hard.function(lambda x: x * 1, lambda gradient, x: 3 * gradient)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.two(self.one(make(x)))

    ModelSplitter(First(), 2)(torch.randn(4, 6))  # nothing goes back through the function
    with pytest.raises(MpsimError, match=f"input has a gradient .*: {OWN}"):
        ModelSplitter(First(), 2)(torch.randn(4, 6, requires_grad=True))


def test_without_gradients_the_forward_alone_is_held():
    model = hard.Between(hard.function(lambda x: x * 1, lambda gradient, x: 3 * gradient))
    splitter = ModelSplitter(model, 2)
    batch = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(splitter(batch), model(batch))
    with pytest.raises(MpsimError, match=OWN):
        splitter(batch)


def test_state_that_two_parts_hold_is_refused_where_several_chunks_are_in_flight():
    model = hard.Follower()
    batch = torch.randn(4, 6)
    cut = Plan(pp=2, boundaries=(1,), microbatches=2)  # the first layer moves the weights of the second
    with pytest.raises(MpsimError, match=r"forward moves .* in place, which layers .* of different parts hold: cut so"):
        ModelSplitter(model, plan=cut)(batch)


def test_a_cache_in_the_output_becomes_none_and_is_named():
    model = hard.Answers("cache")
    with pytest.warns(UserWarning, match="Answers returns a Cache: in parts it returns None there"):
        output = ModelSplitter(model, 2)(torch.randn(4, 6))
    assert output["cache"] is None
    assert pytree.tree_leaves(output)[0].shape == (4, 4)


@pytest.mark.slow
def test_a_decoder_of_transformers_as_it_is_shipped():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=11
    )
    model = transformers.LlamaForCausalLM(config)
    twin = copy.deepcopy(model)
    batch = {"input_ids": torch.randint(11, (4, 6)), "labels": torch.randint(11, (4, 6))}
    with pytest.warns(UserWarning, match="DynamicCache"):
        output = ModelSplitter(model, 3, chunks=1)(**batch)
    expected = twin(**batch)
    assert type(output) is type(expected)
    output.loss.backward()
    expected.loss.backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)


@pytest.mark.slow
def test_rows_may_be_packed_in_a_later_batch():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=11, use_cache=False
    )
    model = transformers.LlamaForCausalLM(config)
    splitter = ModelSplitter(model, 2, chunks=1)
    for positions in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]):
        batch = {"input_ids": torch.randint(11, (4, 6)), "position_ids": torch.tensor([positions] * 4)}
        torch.testing.assert_close(splitter(**batch).logits, model(**batch).logits)
