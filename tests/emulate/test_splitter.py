"""A model in parts is the model: same outputs, same gradients, for every model of the zoo."""

from __future__ import annotations

import copy
import gc

import pytest
import small_models as models
import torch
from exact import in_double
from torch import nn
from torch.utils import _pytree as pytree
from zoo_sizes import SMALL

import mpsim
from mpsim.emulate.device import Device
from mpsim.emulate.flight import Flight
from mpsim.emulate.splitter import ModelSplitter
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.workload import zoo

NORMALISES_OVER_THE_BATCH = {"resnet50"}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def gradients_of(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def check_same(model, run, arguments, keywords=None, chunks=1):
    """Compare outputs and gradients of `run` with those of a twin of `model` that gets the batch chunk by chunk."""
    keywords = keywords or {}
    twin = copy.deepcopy(model)
    whole = run(*arguments, **keywords)
    pieces = [[x.chunk(chunks)[i] for x in arguments] for i in range(chunks)]
    named = [{name: x.chunk(chunks)[i] for name, x in keywords.items()} for i in range(chunks)]
    made = [twin(*piece, **words) for piece, words in zip(pieces, named, strict=True)]
    found, _ = pytree.tree_flatten(whole)
    parts, structures = zip(*(pytree.tree_flatten(one) for one in made), strict=True)
    assert pytree.tree_flatten(whole)[1] == structures[0]
    expected = [torch.cat(column) for column in zip(*parts, strict=True)]
    torch.testing.assert_close(found, expected)
    weights = [torch.randn_like(value) for value in expected]
    sum((value * weight).sum() for value, weight in zip(found, weights, strict=True)).backward()
    sum((value * weight).sum() for value, weight in zip(expected, weights, strict=True)).backward()
    for name, gradient in gradients_of(twin).items():
        torch.testing.assert_close(gradients_of(model)[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_the_seeds_example_as_written():
    model = MyModel()
    splitter = mpsim.ModelSplitter(model, num_devices=4)
    input_data = torch.randn(100, 64)
    output = splitter.forward(input_data)
    torch.testing.assert_close(output, model(input_data))
    assert len(splitter.parts) == 4
    assert splitter.boundaries == (1, 2, 3)
    assert "part 3 on the CPU: 1 layers, layers.3, 16.2 KiB" in str(splitter)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("name", SMALL)
def test_every_model_of_the_zoo(name, devices):
    example = in_double(zoo.get(name).build(4, **SMALL[name]))
    chunks = 1 if name in NORMALISES_OVER_THE_BATCH else 2
    splitter = ModelSplitter(example.model, devices, chunks=chunks)
    check_same(example.model, splitter, example.inputs)
    assert len(splitter.parts) == devices


@pytest.mark.parametrize("devices", [2, 4])
def test_batch_normalisation_is_over_a_chunk(devices):
    example = in_double(zoo.get("resnet50").build(4, **SMALL["resnet50"]))
    check_same(example.model, ModelSplitter(example.model, devices, chunks=2), example.inputs, chunks=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "t5-small"])
def test_every_cut_of_a_model_with_cross_edges(name):
    example = in_double(zoo.get(name).build(2, **SMALL[name]))
    units = len(ModelSplitter(example.model, 1, example=example.inputs).parts[0].units)
    for boundary in range(1, units):
        splitter = ModelSplitter(example.model, plan=Plan(pp=2, microbatches=2, boundaries=(boundary,)))
        example.model.zero_grad()
        check_same(example.model, splitter, example.inputs)
        assert splitter.boundaries == (boundary,)


def test_skips_are_relayed():
    example = zoo.get("unet").build(2, **SMALL["unet"])
    splitter = ModelSplitter(example.model, plan=Plan(pp=4, boundaries=(3, 4, 10)), example=example.inputs)
    first, bottleneck, _, last = splitter.parts
    assert len(bottleneck.receives) == 4
    assert set(first.sends[:-1]) <= set(bottleneck.sends)
    assert len(last.receives) == 1


CASES = {
    "in-place": (lambda: models.ResNet(), lambda: (torch.rand(4, 2, 6, 6),), 1),
    "tied": (lambda: models.Tied(), lambda: (torch.randint(0, 7, (4, 5)),), 2),
    "called again": (lambda: models.Shared(), lambda: (torch.rand(4, 4),), 2),
    "no gradient": (lambda: models.NoGradient(), lambda: (torch.rand(4, 4),), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_small_models(case):
    make, batch, chunks = CASES[case]
    model = make()
    check_same(model, ModelSplitter(model, 2, chunks=chunks), batch())


def test_nested_outputs_keywords_and_gradients_for_inputs():
    model = models.Nested()
    x, scale = torch.rand(6, 4, requires_grad=True), torch.rand(6, 1, requires_grad=True)
    check_same(model, ModelSplitter(model, 3, chunks=2), (x,), {"scale": scale})
    found = x.grad / 2, scale.grad / 2  # check_same goes back through both models
    x.grad = scale.grad = None
    torch.manual_seed(1)
    weights = torch.randn(6, 2)
    (ModelSplitter(model, 3)(x, scale=scale)["sum"] * weights).sum().backward()
    own = x.grad.clone(), scale.grad.clone()
    x.grad = scale.grad = None
    (model(x, scale=scale)["sum"] * weights).sum().backward()
    torch.testing.assert_close(own, (x.grad, scale.grad))
    assert all(item.abs().sum() > 0 for item in found)


def test_a_model_of_transformers_returns_its_own_output_class():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=11,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(11, (4, 6)), "labels": torch.tensor([0, 1, 1, 0])}
    output = ModelSplitter(model, 3, chunks=2)(**batch)
    expected = model(**batch)
    assert type(output) is type(expected)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)


def test_the_last_chunk_may_be_smaller():
    model = MyModel()
    splitter = ModelSplitter(model, 4)
    check_same(model, splitter, (torch.randn(10, 64),))
    model.zero_grad()
    check_same(model, splitter, (torch.randn(3, 64),))


def test_training_and_evaluation_are_different_graphs():
    model = models.ResNet()
    splitter = ModelSplitter(model, 2, chunks=1)
    batch = torch.rand(4, 2, 6, 6)
    splitter(batch)
    model.eval()
    torch.testing.assert_close(splitter(batch), model(batch))
    model.train()
    torch.testing.assert_close(splitter(batch), model(batch))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(mode):
    model = MyModel()
    splitter = ModelSplitter(model, 4)
    batch = torch.randn(8, 64)
    before = _flights()
    with mode():
        output = splitter(batch)
        torch.testing.assert_close(output, model(batch))
    assert not output.requires_grad
    assert _flights() == before


def _flights() -> int:
    """Return how many micro-batches anything still holds."""
    gc.collect()
    return sum(isinstance(one, Flight) for one in gc.get_objects())


def test_two_batches_one_backward_and_frozen_weights():
    model = MyModel()
    model.layers[1].requires_grad_(False)
    twin = copy.deepcopy(model)
    splitter = ModelSplitter(model, 2)
    one, two = torch.randn(4, 64), torch.randn(4, 64)
    (splitter(one).sum() + splitter(two).square().sum()).backward()
    (twin(one).sum() + twin(two).square().sum()).backward()
    for name, gradient in gradients_of(twin).items():
        torch.testing.assert_close(gradients_of(model)[name], gradient)
    assert model.layers[1].weight.grad is None


def test_an_optimizer_on_the_model_trains_the_parts():
    model = MyModel()
    twin = copy.deepcopy(model)
    splitter = ModelSplitter(model, 4)
    optimizers = [torch.optim.Adam(one.parameters(), lr=1e-2) for one in (model, twin)]
    for _ in range(5):
        batch = torch.randn(8, 64)
        losses = [run(batch).square().mean() for run in (splitter, twin)]
        torch.testing.assert_close(*losses)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_weights_that_are_replaced_are_used():
    model = MyModel()
    splitter = ModelSplitter(model, 2)
    batch = torch.randn(4, 64)
    splitter(batch)
    model.load_state_dict(MyModel().state_dict())
    torch.testing.assert_close(splitter(batch), model(batch))
    model.layers[0].weight = nn.Parameter(torch.randn(64, 64))
    torch.testing.assert_close(splitter(batch), model(batch))
    model.double()
    torch.testing.assert_close(splitter(batch.double()), model(batch.double()))


def test_named_devices_and_a_tied_weight():
    """Named devices take the way that several CUDA devices take: weights are handed over, tied ones kept alike."""
    model = models.Tied()
    twin = copy.deepcopy(model)
    splitter = ModelSplitter(model, devices=["cpu", "cpu"], chunks=2)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, twin)]
    for step in range(3):
        tokens = torch.randint(0, 7, (4, 5) if step else (2, 5))
        for run, optimizer in zip((splitter, twin), optimizers, strict=True):
            optimizer.zero_grad()
            run(tokens).square().mean().backward()
            optimizer.step()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)
    assert "part 1 on cpu" in str(splitter)


def test_devices_hold_their_parts():
    devices = [Device("left", "1 MiB"), Device("right", "1 MiB")]
    splitter = ModelSplitter(MyModel(), devices=devices, example=torch.randn(4, 64))
    assert [device.parts for device in devices] == [(part,) for part in splitter.parts]
    plan = Plan(pp=2, boundaries=(2,))
    with pytest.raises(MpsimError, match=r"device small: the part of layers 0 to 1 takes 32.5 KiB, 1 KiB of 1 KiB"):
        ModelSplitter(MyModel(), plan=plan, devices=[Device("small", "1 KiB"), devices[1]], example=torch.ones(4, 64))


def test_a_second_backward_is_refused():
    model = MyModel()
    output = ModelSplitter(model, 2)(torch.randn(4, 64)).sum()
    output.backward(retain_graph=True)
    with pytest.raises(MpsimError, match="gone back through once"):
        output.backward()


def test_a_failing_part_ends_the_others():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Embedding(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x))

    with pytest.raises(IndexError):
        ModelSplitter(Odd(), plan=Plan(pp=2, microbatches=4, boundaries=(1,)))(torch.full((4, 2), 9))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(x) if x.sum() > 0 else self.a(x)


class OverTheBatch(MyModel):
    def forward(self, x):
        return super().forward(x).sum(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSplitter(MyModel(), 5)(torch.ones(5, 64)),
         "MyModel has 4 layers to place, 5 devices were asked for: ask for fewer"),
        (lambda: ModelSplitter(MyModel(), 2, chunks=3)(torch.ones(10, 64)),
         "batch of 10 samples does not divide into 3 chunks"),
        (lambda: ModelSplitter(Branching(), 2)(torch.ones(2, 4)), "Branching cannot be exported"),
        (lambda: ModelSplitter(MyModel(), 2)(3), "no tensor whose first dimension holds samples"),
        (lambda: ModelSplitter(MyModel(), 2, plan=Plan(pp=3)), "num_devices is 2, plan.pp is 3"),
        (lambda: ModelSplitter(MyModel(), plan=Plan(pp=2, dp=2)), "plan has dp=2 and tp=1"),
        (lambda: ModelSplitter(MyModel(), 0), "num_devices is 0"),
        (lambda: ModelSplitter(MyModel(), 2, chunks=0), "chunks is 0"),
        (lambda: ModelSplitter("gpt2", 2), "model is a str: give a torch.nn.Module"),
        (lambda: ModelSplitter(MyModel(), 2).parts, "not split yet"),
        (lambda: ModelSplitter(OverTheBatch(), 2)(torch.rand(4, 64)), "neither holds an entry for each sample"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(make, message):
    with pytest.raises(MpsimError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
