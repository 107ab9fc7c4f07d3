"""Parts against a cutter written by others, and whatever the model and wherever it is cut."""

from __future__ import annotations

import copy

import pytest
import small_models as models
import torch
from exact import in_double
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline
from zoo_sizes import SMALL

from mpsim.emulate.capture.cut import capture
from mpsim.emulate.parts import crossing_tensors, make_parts
from mpsim.emulate.pipeline import play
from mpsim.emulate.splitter import ModelSplitter
from mpsim.emulate.under_way import UnderWay
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.schedules import parse_rows
from mpsim.workload import zoo
from mpsim.workload.example import Example, flat_inputs


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def feeds_of(cut, example):
    return dict(zip(cut.feeds, flat_inputs(example), strict=True))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("mnist-mlp", ["fc2", "fc4"]),
        ("lenet5", ["conv2", "fc2"]),
        ("vgg16", ["features.10", "classifier.2"]),
        ("unet", ["encoder.1", "upsample.2", "decoder.0"]),
        ("vit-b16", ["vit.layers.1", "classifier"]),
    ],
)
def test_cut_as_torch_distributed_pipelining_cuts(name, before):
    """The same cuts by PyTorch's own splitter: the same outputs, and the same parameters in each stage."""
    example = in_double(zoo.get(name).build(2, **SMALL[name]))
    pipe = pipeline(
        copy.deepcopy(example.model), example.inputs, split_spec=dict.fromkeys(before, SplitPoint.BEGINNING)
    )
    cut = capture(Example(model=example.model, inputs=example.inputs), with_loss=False)
    boundaries = tuple([unit.name for unit in cut.units].index(path) for path in before)
    splitter = ModelSplitter(example.model, plan=Plan(pp=len(before) + 1, boundaries=boundaries))
    torch.testing.assert_close(splitter(*example.inputs), pipe(*example.inputs)[0])
    for i, part in enumerate(splitter.parts):
        theirs = {tuple(p.shape) for p in pipe.get_stage_module(i).parameters()}
        assert {tuple(p.shape) for p in part.parameters.values()} == theirs


def test_gradients_accumulate_over_micro_batches_in_flight():
    example = in_double(zoo.get("unet").build(2, **SMALL["unet"]))
    twin = copy.deepcopy(example.model)
    cut = capture(example)
    parts = [UnderWay(part) for part in make_parts(cut, example.model, (2, 5))]
    feeds = [feeds_of(cut, in_double(zoo.get("unet").build(2, **SMALL["unet"]))) for _ in range(3)]
    sent = {}
    for k in range(3):
        sent[k] = {}
        for part in parts:
            sent[k] = part.forward(k, sent[k], feeds[k]).sends
    for k in (1, 0, 2):
        gradients, done = {}, []
        for part in reversed(parts):
            for layer in reversed(part.part.layers):
                flight = part.backward(k, gradients, weight=1 / 3, layers=range(layer, layer + 1))
                done.append(layer)
            gradients = flight.returned
        assert done == list(reversed(range(len(cut.units))))
        assert gradients == {}
    for one in feeds:
        (example.loss(twin(one["input"]), one["target"]) / 3).backward()
    found = {name: p.grad for one in parts for name, p in one.part.parameters.items()}
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    assert all(parameter.grad is None for parameter in example.model.parameters())


def test_layers_run_one_by_one_and_backward_in_halves():
    model = models.Tied()
    example = Example(model=model, inputs=(torch.randint(0, 7, (2, 5)),))
    cut = capture(example)
    whole, other = (make_parts(cut, model, ())[0] for _ in range(2))
    at_once = UnderWay(whole)
    at_once.forward(0, {}, feeds_of(cut, example))
    at_once.backward(0, {})
    flight = other.start({}, feeds_of(cut, example))
    for layer in other.layers:
        flight.forward(layer, layer + 1)
    flight.receive({})
    for kind in "IW":
        for layer in reversed(other.layers):
            flight.backward(layer, layer + 1, kind)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(other.parameters[name].grad, parameter.grad)


def test_what_crosses_is_known_before():
    model = models.NoGradient()
    example = Example(model=model, inputs=(torch.rand(3, 4),))
    cut = capture(example)
    found = crossing_tensors(cut, model, feeds_of(cut, example))
    first, last = (UnderWay(part) for part in make_parts(cut, model, (1,)))
    sent = first.forward(0, {}, feeds_of(cut, example)).sends
    assert set(found) == set(last.part.receives) == set(sent)
    assert {name: value.requires_grad for name, value in sent.items()} == {
        name: one.needs_gradient for name, one in found.items()
    }
    assert sorted(one.needs_gradient for one in found.values()) == [False, True]
    arrived = {name: torch.empty(one.shape, dtype=one.dtype).copy_(sent[name].detach()) for name, one in found.items()}
    last.forward(0, {name: value.requires_grad_(found[name].needs_gradient) for name, value in arrived.items()}, {})
    assert list(last.backward(0, {}).returned) == [name for name, one in found.items() if one.needs_gradient]


def test_running_statistics_stay_when_crossings_are_found():
    model = models.ResNet()
    example = Example(model=model, inputs=(torch.rand(3, 2, 6, 6),))
    before = copy.deepcopy(model.state_dict())
    cut = capture(example)
    crossing_tensors(cut, model, feeds_of(cut, example))
    torch.testing.assert_close(model.state_dict(), before)


def test_a_part_on_another_device_makes_everything_there():
    """The device without storage stands for one that is not here: whatever stayed behind would not mix with it."""
    model = models.Tied()
    example = Example(model=model, inputs=(torch.randint(0, 7, (2, 5)),))
    cut = capture(example)
    first, last = (UnderWay(part) for part in make_parts(cut, model, (2,), ["meta", "meta"]))
    flight = last.forward(0, first.forward(0, {}, feeds_of(cut, example)).sends, {})
    assert flight.results[cut.loss].is_meta
    first.backward(0, last.backward(0, {}).returned)
    held = [*first.part.parameters.values(), *last.part.parameters.values()]
    assert all(parameter.is_meta and parameter.grad.is_meta for parameter in held)
    assert not model.embed.weight.is_meta


def test_a_backward_without_a_forward_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    (part,) = make_parts(capture(Example(model=model, inputs=(torch.ones(1, 2),))), model, ())
    flight = part.start({}, {"input": torch.ones(1, 2)})
    with torch.no_grad():
        flight.forward(0, 2)
    with pytest.raises(MpsimError, match="layer 1 has no forward to go back through"):
        flight.backward(0, 2)


def test_rows_that_wait_for_each_other_are_refused():
    rows = parse_rows("0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0")
    with pytest.raises(MpsimError, match="schedule cannot finish, its ranks wait for each other at 0B0 1F1"):
        play(rows, lambda operation, received: {})


def test_the_first_failure_is_the_one_that_is_raised():
    def work(operation, received):
        if str(operation) == "1F1":
            raise RuntimeError("stage 1 fell over")
        return {}

    with pytest.raises(RuntimeError, match="stage 1 fell over"):
        play(parse_rows("0F0 0F1 0B0 0B1\n1F0 1F1 1B0 1B1\n2F0 2F1 2B0 2B1"), work)


class Skips(nn.Module):
    """Layers that each read the one before and, by `links`, any earlier one; some activations in place."""

    def __init__(self, links, in_place):
        super().__init__()
        self.links = links
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in links)
        self.activations = [nn.ReLU(inplace=True) if place else nn.Tanh() for place in in_place]

    def forward(self, x):
        made = [x]
        for layer, link, activation in zip(self.layers, self.links, self.activations, strict=True):
            made.append(activation(layer(made[-1])) + made[link % len(made)])
        return made[-1], made[len(made) // 2]


@st.composite
def skip_models(draw):
    count = draw(st.integers(2, 5))
    links = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    in_place = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    boundaries = draw(st.sets(st.integers(1, count - 1), max_size=3))
    return links, in_place, tuple(sorted(boundaries)), draw(st.sampled_from([1, 2, 3]))


@settings(max_examples=15)
@given(skip_models())
def test_any_skips_cut_anywhere(case):
    links, in_place, boundaries, chunks = case
    torch.manual_seed(0)
    model = Skips(links, in_place).double()
    twin = copy.deepcopy(model)
    x = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    splitter = ModelSplitter(model, plan=Plan(pp=len(boundaries) + 1, boundaries=boundaries, microbatches=chunks))
    found, expected = splitter(x), twin(y)
    torch.testing.assert_close(found, expected)
    sum(value.square().sum() for value in found).backward()
    sum(value.square().sum() for value in expected).backward()
    torch.testing.assert_close(x.grad, y.grad)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)
