"""The whole way from a model to a workload."""

import copy
import importlib

import pytest
import small_models as models
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload import point
from mpsim.workload.example import Example
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.model import Fidelity
from mpsim.workload.model_source import Source
from mpsim.workload.show import show_workload, workload_to_dict
from mpsim.workload.source import resolve_model
from mpsim.workload.trace import trace

pytestmark = pytest.mark.usefixtures("timed_once")


def quick(model, batch=None, **options):
    return trace(model, batch, **{"repeats": 2, "warmup": 1, **options})


def small_mlp():
    return models.Functional()


def test_mlp_of_the_seeds():
    """784-256-128-64-10 at batch 8192: the numbers of the teaching example, from the real model."""
    model = nn.Sequential()
    sizes = (784, 256, 128, 64, 10)
    for i in range(4):
        model.append(nn.Linear(sizes[i], sizes[i + 1]))
        model.append(nn.ReLU() if i < 3 else nn.LogSoftmax(dim=1))
    batch, target = torch.rand(8192, 784), torch.zeros(8192, dtype=torch.long)
    workload = quick(model, batch, target=target, loss=F.nll_loss, dataset_samples=60_000)
    assert [layer.shard().gradient_bytes for layer in workload.layers] == [803840, 131584, 33024, 2600]
    fed = [tensor for tensor in workload.tensors if tensor.role in ("input", "target")]
    assert sum(tensor.bytes() for tensor in fed) == 4 * 6_438_912
    assert [tensor.consumers for tensor in fed] == [("0",), ("6",)]
    outputs = [layer["output_bytes"] for layer in workload_to_dict(workload)["layers"]]
    assert outputs == [8192 * 4 * size for size in sizes[1:]]
    assert workload_to_dict(workload)["gradient_bytes"] == 971_048
    assert workload.dataset_samples // workload.microbatch + 1 == 8


def test_samples_are_raw_and_complete():
    workload = trace(small_mlp(), torch.rand(4, 6), microbatches=(2, 4), repeats=3, warmup=1)
    for layer in workload.layers:
        assert [(cost.microbatch, cost.tensor_parallel) for cost in layer.costs] == [(2, 1), (4, 1)]
        for cost in layer.costs:
            assert cost.fidelity is Fidelity.MEASURED
            assert len(cost.samples.forward_s) == len(cost.samples.optimizer_s) == len(cost.wall.forward_s) == 3
    assert workload.layers[0].costs[0].samples.backward_input_s == (0.0, 0.0, 0.0)  # nobody reads that gradient
    assert min(workload.layers[1].costs[0].samples.backward_input_s) > 0
    assert [(check.microbatch, len(check.whole_s)) for check in workload.checks] == [(2, 3), (4, 3)]
    assert (workload.clock, workload.threads, workload.microbatch) == ("thread-cpu", 1, 4)


def test_a_step_that_its_layers_miss_is_timed_again_and_nothing_is_left_out(monkeypatch):
    seen = []
    monkeypatch.setattr(point, "doubted", lambda check: seen.append(len(check.whole_s)) or len(seen) < 2)
    workload = trace(small_mlp(), torch.rand(4, 6), repeats=2, warmup=1)
    assert seen == [2, 4]
    assert len(workload.checks[0].whole_s) == len(workload.layers[0].costs[0].samples.forward_s) == 4
    monkeypatch.setattr(point, "doubted", lambda check: True)
    assert len(trace(small_mlp(), torch.rand(4, 6), repeats=2, warmup=1).checks[0].whole_s) == 6


def test_more_threads_are_timed_by_the_wall():
    before = torch.get_num_threads()
    workload = quick(small_mlp(), torch.rand(4, 6), threads=1)
    assert torch.get_num_threads() == before
    assert workload.clock == "thread-cpu"


def test_model_is_left_as_it_was():
    model = models.ResNet().eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    batch = torch.rand(2, 2, 6, 6)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    quick(model, batch)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert not model.layer[0].norm.training
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_optimizer_state_is_counted_once_for_a_tied_parameter():
    tokens = torch.randint(0, 7, (2, 5))
    workload = quick(models.Tied(), tokens)
    first, last = workload.layers[0].shard(), workload.layers[-1].shard()
    assert first.optimizer_bytes == 2 * 7 * 4 * 4 + 4
    assert last.optimizer_bytes == 0
    assert first.parameters == last.parameters
    assert workload.layers[-1].costs[0].samples.optimizer_s == (0.0, 0.0)


@pytest.mark.parametrize(("optimizer", "copies", "beside"), [("sgd", 0, 0), ("momentum", 1, 0), ("adam", 2, 4)])
def test_optimizers_and_their_state(optimizer, copies, beside):
    workload = quick(nn.Sequential(nn.Linear(3, 2, bias=False)), torch.rand(2, 3), optimizer=optimizer)
    assert workload.layers[0].shard().optimizer_bytes == copies * 24 + beside


def test_batch_dimension_is_found_where_it_is_merged():
    class Merged(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):  # [batch, seq, 4]
            rows = self.a(x).flatten(0, 1)
            last = self.b(rows).reshape(x.shape[0], x.shape[1], 4).transpose(0, 1)
            return self.c(last) * rows.sum(0)[:2]

    workload = quick(Merged(), torch.rand(3, 5, 4))
    found = {(tensor.producer, tensor.shape): tensor.batch_dim for tensor in workload.tensors}
    assert found["a", (15, 4)] == 0
    assert found["b", (5, 3, 4)] == 1
    assert found["c", (5, 3, 2)] == 1
    assert found["", (3, 5, 4)] == 0


def test_edge_without_batch_dimension():
    """The mask is made before the first layer is called, and so by it."""
    tokens = torch.randint(0, 7, (2, 5))
    mask = [tensor for tensor in quick(models.Tied(), tokens).tensors if tensor.dtype == "bool"]
    assert [(tensor.producer, tensor.consumers, tensor.batch_dim) for tensor in mask] == [
        ("embed", ("blocks.0", "blocks.1"), None)
    ]
    assert not mask[0].needs_gradient


def test_skips_are_edges_of_the_unet():
    workload = quick(models.SmallUNet(), torch.rand(2, 1, 8, 8))
    made = {(tensor.consumers, tensor.shape) for tensor in workload.tensors if tensor.producer == "down1"}
    # What is pooled goes down; what is not skips to where it is joined, which is before up1 and so in up2's unit.
    assert made == {(("down2",), (2, 2, 4, 4)), (("up2",), (2, 2, 8, 8))}


def test_factory_source_and_round_trip(tmp_path):
    def factory(batch):
        return models.Functional(), torch.rand(batch, 6), torch.zeros(batch, dtype=torch.long), F.nll_loss

    workload = quick(factory, 4, microbatches=(2, 4), name="mine")
    path = tmp_path / "mine.json"
    save_workload(path, workload)
    assert load_workload(path) == workload
    assert "micro-batch 4: sum of layers / whole step" in show_workload(workload)


def test_zoo_model_at_a_small_size():
    workload = quick(resolve_model("llama", {"n_layer": 2, "hidden": 32, "n_head": 2, "n_kv_head": 2, "ffn": 64,
                                             "vocab": 64, "seq": 8}), 2)  # fmt: skip
    assert [layer.kind for layer in workload.layers].count("LlamaDecoderLayer") == 2
    assert workload.dataset_samples >= 0


def test_tensor_shards_are_run_and_keep_the_names():
    plan = {"fc1": "colwise", "fc2": "rowwise"}
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(8, 4))
    model.add_module("relu", nn.ReLU())
    model.add_module("fc2", nn.Linear(4, 2))
    workload = quick(model, torch.rand(4, 8), microbatches=(2, 4), tensor=(1, 2), tensor_parallel=plan)
    fc1, fc2 = workload.layers
    assert fc1.shard(2).parameter_bytes == 4 * (8 * 2 + 2)
    assert fc2.shard(2).parameter_bytes == 4 * (2 * 2 + 2)
    hidden = next(tensor for tensor in workload.tensors if tensor.producer == "fc1")
    assert hidden.bytes(2) == hidden.bytes() // 2
    found = {(cost.microbatch, item.kind, item.bytes) for cost in fc2.costs for item in cost.collectives}
    assert found == {(2, "all_reduce", 2 * 2 * 4), (4, "all_reduce", 4 * 2 * 4)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatches": (0,)}, "micro-batch is 0, expected 1 or more"),
        ({"tensor": (2,)}, "lack 1"),
        ({"repeats": 0}, "repeats 0"),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv'; did you mean 'adam"),
        ({"device": "cuda:7"}, "no CUDA device|invalid"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"threads": 4096}, "threads is 4096, this machine has"),
        ({"depth": "deep"}, "unknown depth 'deep'"),
    ],
)
def test_bad_requests_get_one_line(options, message):
    if options.get("device") == "cuda:7" and torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(MpsimError, match=message) as caught:
        quick(small_mlp(), torch.rand(2, 6), **options)
    assert "\n" not in str(caught.value)


def test_factory_that_fails():
    def factory(batch):
        raise KeyError("no data")

    with pytest.raises(MpsimError, match="factory cannot be built for 2 samples: KeyError"):
        quick(factory, 2)


def test_model_that_fails_when_it_runs():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            raise RuntimeError("out of memory\nin many lines")

    with pytest.raises(MpsimError, match="at micro-batch 2, tp=1 failed on cpu: RuntimeError: out of memory"):
        quick(Fails(), torch.rand(2, 4))


def test_loss_that_is_not_finite():
    with pytest.raises(MpsimError, match="the loss of Functional is nan"):
        quick(small_mlp(), torch.full((2, 6), float("nan")))


def test_batch_without_a_batch_dimension():
    with pytest.raises(MpsimError, match="no tensor whose first dimension"):
        quick(small_mlp(), torch.tensor(1.0))


def test_model_that_is_none_of_the_three():
    with pytest.raises(MpsimError, match="model is a int"):
        quick(3)


def test_forward_that_differs_under_export_is_traced_as_it_runs():
    class Sly(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return y[:, :2] if torch.compiler.is_compiling() else y

    outputs = [tensor.shape for tensor in quick(Sly(), torch.rand(2, 4)).tensors if tensor.role == "output"]
    assert outputs == [(2, 4)]


def test_too_large_for_the_device(monkeypatch):
    from mpsim.workload import machine

    monkeypatch.setattr(machine, "memory_bytes", lambda device: 100)
    with pytest.raises(MpsimError, match=r"needs .* for parameters, gradients and optimizer, cpu has 100 B"):
        quick(small_mlp(), torch.rand(2, 6))


def test_example_is_built_with_the_same_weights_each_time():
    seen = []

    def factory(batch):
        example = Example(model=models.Functional(), inputs=(torch.rand(batch, 6),))
        seen.append(example.model.fc1.weight)
        return example

    quick(factory, 2, microbatches=(1, 2))
    real = [weight for weight in seen if type(weight) is nn.Parameter and not hasattr(weight, "fake_mode")]
    assert len(real) == 2
    assert torch.equal(real[0], real[1])


def test_ctrl_c_leaves_tensors_at_a_size_that_every_shard_has(monkeypatch):
    """Whole layers come first, and what a shard sends is never taken for what the whole layer sends."""

    def sharded_pair(batch):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
        return Example(model=model, inputs=(torch.ones(batch, 4),), tensor_parallel={"0": "colwise", "1": "rowwise"})

    def measuring(*given, **how):
        point = real(*given, **how)

        def until(size, split):
            if (size, split.tp) == (2, 2):
                raise KeyboardInterrupt
            return point(size, split)

        return until

    module = importlib.import_module("mpsim.workload.trace")
    real = module._measuring
    monkeypatch.setattr(module, "_measuring", measuring)
    workload = quick(Source(name="pair", build=sharded_pair, default_batch=2), microbatches=(4, 2), tensor=(2, 1))
    points = [(cost.microbatch, cost.tensor_parallel) for cost in workload.layers[0].costs]
    assert points == [(4, 1), (2, 1), (4, 2)]
    assert workload.microbatch == 4
    (between,) = [tensor for tensor in workload.tensors if tensor.role == "activation"]
    assert (between.shape, [shard.shape for shard in between.shards]) == ((4, 8), [(4, 4)])
    assert workload.notes == ("interrupted: 1 of 4 points are missing",)


def test_autocast_in_a_forward_stands_in_the_precision():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    assert quick(Cast(), torch.ones(2, 8)).precision.name == "bf16-mixed"


def test_a_shard_that_cannot_be_is_refused_before_anything_is_measured():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    ran = []
    model[0].register_forward_hook(lambda *given: ran.append(1) and None)
    with pytest.raises(MpsimError, match="4 features do not divide by 3 tensor-parallel ranks"):
        quick(model, torch.rand(2, 8), tensor=(1, 3), tensor_parallel={"0": "colwise", "1": "rowwise"})
    assert not ran
