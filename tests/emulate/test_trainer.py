"""Training a distributed model is training the model: the losses of five steps, the weights, the gradients."""

from __future__ import annotations

import copy
import dataclasses
import threading

import pytest
import small_models as models
import torch
import torch.nn.functional as F  # noqa: N812
from exact import in_double
from torch import nn
from zoo_sizes import SMALL

import mpsim
from mpsim.emulate.device import Device
from mpsim.emulate.trainer import ParallelTrainer
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.schedules import parse_rows
from mpsim.workload import zoo
from mpsim.workload.example import Example

STEPS = 5
SHARDED = ("mnist-mlp", "bert-base", "vit-b16", "t5-small", "llama", "qwen3", "qwen3-30b-a3b", "mixtral", "deepseek")
SHARED_FAST = ("mnist-mlp", "llama", "qwen3-30b-a3b", "deepseek")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def devices(count):
    return [Device(f"device {i}", "1 GiB") for i in range(count)]


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4))


def whole_step(model, example, optimizer, pieces):
    """Train one step of the whole model, gradients accumulated over the batch's pieces."""
    optimizer.zero_grad()
    total = 0.0
    batches = [[leaf.chunk(pieces)[i] for leaf in (*example.inputs, example.target)] for i in range(pieces)]
    for *inputs, target in batches:
        loss = example.loss(model(*inputs), target) / pieces
        loss.backward()
        total += float(loss.detach())
    optimizer.step()
    return total


def check_training(example, plan, optimizer=sgd, pieces=1):
    """Train five steps, on one batch after another, distributed and whole."""
    example = in_double(example)
    twin = copy.deepcopy(example.model)
    trainer = ParallelTrainer(devices(plan.ranks), plan=plan, optimizer=optimizer)
    trainer.distribute_model(example)
    reference = optimizer(twin.parameters())
    samples = example.inputs[0].shape[0]
    for step in range(STEPS):
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(step))
        inputs = tuple(value[order] for value in example.inputs)
        batch = dataclasses.replace(example, inputs=inputs, target=example.target[order])
        expected = whole_step(twin, batch, reference, pieces)
        found = trainer.step(batch.inputs, batch.target)
        torch.testing.assert_close(found, expected)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(example.model.get_parameter(name), parameter)
    return trainer


def mlp_example(batch=8):
    styles = {"0": "colwise", "2": "rowwise", "4": "colwise", "5": "rowwise"}
    return Example(
        model=mlp(), inputs=(torch.randn(batch, 8),), target=torch.randn(batch, 4), loss=F.mse_loss,
        tensor_parallel=styles,
    )  # fmt: skip


PLANS = {
    "naive": Plan(pp=4, schedule="naive"),
    "gpipe": Plan(pp=4, microbatches=4, schedule="gpipe"),
    "1f1b": Plan(pp=4, microbatches=8, schedule="1f1b"),
    "data": Plan(dp=4),
    "tensor": Plan(tp=4),
    "dp x pp": Plan(dp=2, pp=2, microbatches=2),
    "dp x tp": Plan(dp=2, tp=2, microbatches=2),
    "pp x tp": Plan(pp=2, tp=2, microbatches=4, schedule="gpipe"),
    "pp x tp, cut between a pair": Plan(pp=2, tp=2, microbatches=2, boundaries=(1,)),
    "dp x pp x tp": Plan(dp=2, pp=2, tp=2, microbatches=2),
    "given places": Plan(dp=2, pp=2, microbatches=2, devices=(3, 1, 0, 2)),
}


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("name", PLANS)
def test_every_kind_of_split(name, optimizer):
    check_training(mlp_example(), PLANS[name], optimizer)


DEEP = (
    "looped-bfs", "interleaved-1f1b", "interleaved-zb", "zb-v", "v-half", "v-min", "dualpipe-v", "zb-h1", "zb-h2",
    "eager-1f1b",
)  # fmt: skip


def deep_example(batch=8):
    """Return a model whose first and last layer are one, eight layers in all."""
    layers = [nn.Linear(8, 8) for _ in range(8)]
    model = nn.Sequential(*[module for one in layers for module in (one, nn.Tanh())][:-1])
    layers[-1].weight = layers[0].weight
    return Example(model=model, inputs=(torch.randn(batch, 8),), target=torch.randn(batch, 8), loss=F.mse_loss)


@pytest.mark.parametrize("name", DEEP)
def test_every_schedule_trains(name):
    trainer = check_training(deep_example(), Plan(pp=2, microbatches=4, schedule=name))
    assert len({id(part) for device in trainer.devices for part in device.parts}) == len(trainer.parts)


def test_several_stages_on_each_rank_of_a_hybrid():
    plan = Plan(dp=2, pp=2, microbatches=2, schedule="interleaved-1f1b", boundaries=(2, 4, 6), devices=(3, 1, 0, 2))
    trainer = check_training(deep_example(), plan)
    # Rank (d, p) has stages p and p + 2.
    held = [[part.layers.start for part in device.parts] for device in trainer.devices]
    assert held == [[0, 4], [2, 6], [2, 6], [0, 4]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dualpipe", "schedule 'dualpipe' has 2 copies of each stage, ParallelTrainer one: use a schedule of one"),
        ("pipedream", "schedule 'pipedream' updates while micro-batches are under way, ParallelTrainer when all"),
    ],
)
def test_schedules_that_do_not_train_a_model_are_refused(name, message):
    with pytest.raises(MpsimError, match=message):
        ParallelTrainer(devices(2), plan=Plan(pp=2, microbatches=4, schedule=name))


def test_backward_in_halves():
    def halves(stages, microbatches):
        return parse_rows("0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1")

    check_training(mlp_example(), Plan(pp=2, microbatches=2, schedule=halves))


def test_the_seeds_example():
    """The document's two parts of one linear layer each, trained instead of only run."""
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    trainer = mpsim.ParallelTrainer([Device(name, "80 GiB") for name in ("left", "right")])
    input_tensor = torch.randn(10, 10)
    trainer.distribute_model(model, input_tensor)
    before = model[0].weight.clone()
    trainer.step(input_tensor)
    assert not torch.equal(before, model[0].weight)
    assert [len(part.units) for part in trainer.parts] == [1, 1]


@pytest.mark.parametrize("name", SMALL)
def test_the_zoo_in_a_pipeline(name):
    example = zoo.get(name).build(4, **SMALL[name])
    check_training(example, Plan(pp=2, microbatches=2), pieces=2 if name == "resnet50" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(pp=4, schedule="naive"),
        Plan(pp=4, microbatches=4, schedule="gpipe"),
        Plan(pp=4, microbatches=4),
        Plan(dp=2),
        Plan(dp=2, pp=2, microbatches=2, schedule="gpipe"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SMALL)
def test_the_zoo_on_two_and_four_devices(name, plan):
    example = zoo.get(name).build(4, **SMALL[name])
    check_training(example, plan, pieces=plan.dp * plan.microbatches if name == "resnet50" else 1)


@pytest.mark.parametrize("name", SHARED_FAST)
def test_shared_layers_of_the_zoo(name):
    check_training(zoo.get(name).build(4, **SMALL[name]), Plan(tp=2))


@pytest.mark.parametrize("name", ["bert-base", "llama"])
def test_a_padded_vocabulary_trains_as_the_whole_one(name):
    """51 tokens do not divide by 2 ranks; BERT's head has a bias, and both of BERT's are tied."""
    check_training(zoo.get(name).build(4, **{**SMALL[name], "vocab": 51}), Plan(tp=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        pytest.param(name, plan, id=f"{name}-{plan.text}")
        for name in SHARDED
        for plan in (Plan(tp=2), Plan(tp=2, pp=2, microbatches=2), Plan(dp=2, tp=2))
        if plan != Plan(tp=2) or name not in SHARED_FAST
    ],
)
def test_shared_layers_of_the_whole_zoo(name, plan):
    check_training(zoo.get(name).build(4, **SMALL[name]), plan)


def test_a_fused_projection_is_refused_rather_than_trained_wrongly():
    example = zoo.get("gpt2").build(2, **SMALL["gpt2"])
    trainer = ParallelTrainer(devices(2), plan=Plan(tp=2))
    with pytest.raises(MpsimError, match="over 2 tensor-parallel ranks gives outputs that differ by"):
        trainer.distribute_model(example)
    assert all(device.parts == () for device in trainer.devices)


def test_gpt2_shares_what_is_not_fused():
    example = zoo.get("gpt2").build(4, **SMALL["gpt2"])
    styles = {**example.tensor_parallel, "transformer.h.*.attn.c_attn": "replicate"}
    styles["transformer.h.*.attn.c_proj"] = "replicate"
    check_training(dataclasses.replace(example, tensor_parallel=styles, shard=None), Plan(tp=2))


def test_gradients_are_those_of_the_whole_model():
    example = in_double(zoo.get("gpt2").build(4, **SMALL["gpt2"]))  # its embedding and head are one weight in two parts
    twin = copy.deepcopy(example.model)
    trainer = ParallelTrainer(devices(4), plan=Plan(dp=2, pp=2, microbatches=2), optimizer=sgd)
    trainer.distribute_model(example)
    trainer.run_batch(example.inputs, example.target)
    found = trainer.collect_gradients()
    example.loss(twin(*example.inputs), example.target).backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_shared_gradients_are_put_together():
    example = in_double(mlp_example())
    twin = copy.deepcopy(example.model)
    trainer = ParallelTrainer(devices(4), plan=Plan(tp=2, dp=2), optimizer=sgd)
    trainer.distribute_model(example)
    trainer.run_batch(example.inputs, example.target)
    found = trainer.collect_gradients()
    F.mse_loss(twin(*example.inputs), example.target).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_batch_normalisation_keeps_the_first_replicas_statistics():
    model = models.ResNet()
    twin = copy.deepcopy(model)
    x, y = torch.rand(4, 2, 6, 6), torch.randint(3, (4,))
    trainer = ParallelTrainer(devices(4), plan=Plan(dp=2, pp=2), optimizer=sgd, loss=F.cross_entropy)
    trainer.distribute_model(model, x, y)
    trainer.step(x, y)
    twin(x[:2])
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_a_model_with_keywords_and_its_own_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=11, use_cache=False
    )
    model = transformers.LlamaForCausalLM(config).double()
    twin = copy.deepcopy(model)
    batch = {"input_ids": torch.randint(11, (4, 6)), "labels": torch.randint(11, (4, 6))}
    trainer = ParallelTrainer(devices(2), plan=Plan(pp=2, microbatches=2), optimizer=sgd)
    trainer.distribute_model(model, batch)
    torch.testing.assert_close(trainer.step(batch), float(twin(**batch).loss.detach()))


def test_distributing_again_frees_the_devices():
    example = mlp_example()
    trainer = ParallelTrainer(devices(2), plan=Plan(pp=2))
    for _ in range(2):
        trainer.distribute_model(example)
    assert [device.parts for device in trainer.devices] == [(part,) for part in trainer.parts]


def test_no_thread_is_left_and_a_failure_reaches_the_caller():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.a, self.b = nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(torch.relu(self.a(self.embed(x))))

    styles = {"embed": "replicate", "a": "colwise", "b": "rowwise"}
    trainer = ParallelTrainer(devices(8), plan=Plan(dp=2, pp=2, tp=2, microbatches=2), optimizer=sgd)
    good, bad = torch.zeros(8, 3, dtype=torch.long), torch.zeros(8, 3, dtype=torch.long)
    bad[-1] = 9
    trainer.distribute_model(Picky(), good, tensor_parallel=styles)
    before = threading.active_count()
    with pytest.raises(IndexError):
        trainer.step(bad)
    assert threading.active_count() == before
    assert all(p.grad is None for part in trainer.parts for p in part.parameters.values())
    trainer.step(good)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelTrainer(devices(3), plan=Plan(dp=2, pp=2)), "plan needs dp(2) × pp(2) × tp(1) = 4 devices"),
        (lambda: ParallelTrainer(["cuda:0"]), "give mpsim.emulate.Device(id, memory)"),
        (lambda: ParallelTrainer(devices(2)).step(torch.ones(2, 8)), "no model is distributed yet"),
        (lambda: ParallelTrainer(devices(2)).distribute_model("gpt2"), "model is a str"),
        (lambda: ParallelTrainer(devices(8)).distribute_model(mlp_example()),
         "Sequential has 4 layers to place, the plan has 8 stages on pp=8 ranks"),
        (lambda: ParallelTrainer(devices(4), plan=Plan(dp=2, pp=2, microbatches=3)).distribute_model(mlp_example()),
         "batch of 8 samples does not divide into dp(2) × micro-batches(3) = 6 equal parts"),
        (lambda: ParallelTrainer(devices(2), plan=Plan(tp=2)).distribute_model(nn.Linear(8, 2), torch.ones(2, 8)),
         "has no tensor-parallel form"),
        (lambda: ParallelTrainer([Device("small", "1 KiB")]).distribute_model(mlp_example()),
         "device small: the part of layers 0 to 3 takes 2.95 KiB, 1 KiB of 1 KiB are free"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(make, message):
    with pytest.raises(MpsimError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_batch_of_another_size_is_refused():
    trainer = ParallelTrainer(devices(2), plan=Plan(pp=2, microbatches=2))
    trainer.distribute_model(mlp_example())
    with pytest.raises(
        MpsimError, match=r"micro-batch has tensors \['float32\[2, 8\]', .* distributed for \['float32\[4"
    ):
        trainer.step(torch.ones(4, 8), torch.ones(4, 4))
