"""Precisions that PyTorch runs: what is converted, what is refused, and what is put back."""

import contextlib
import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mpsim.errors import MpsimError
from mpsim.workload.casting import as_found, cast, check_runs, computing, loss_scale, precision_of, products
from mpsim.workload.example import Example
from mpsim.workload.precision import PRECISIONS, precision


def example():
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    return Example(model=model, inputs=(x, torch.arange(4)), keywords={"mask": {"m": x}}, target=[x.double(), "text"])


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_model_and_floating_batch_are_converted(name, dtype):
    made = cast(example(), precision(name))
    dtype = getattr(torch, dtype)
    assert {item.dtype for item in (*made.model.parameters(), *made.model.buffers())} == {dtype, torch.int64}
    assert [item.dtype for item in made.inputs] == [dtype, torch.int64]
    assert made.keywords["mask"]["m"] is made.inputs[0]
    assert made.target[0].dtype == dtype
    assert made.target[1] == "text"


def test_complex_parameters_stay():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    cast(Example(model=model, inputs=()), precision("bf16"))
    assert model.weight.dtype == torch.complex64


@pytest.mark.parametrize("name", ["bf16-mixed", "fp16-mixed"])
def test_mixed_computes_in_16_bits_and_has_gradients_in_32(name):
    check_runs(precision(name), "cpu")
    made = cast(example(), precision(name))
    with computing(precision(name), "cpu"):
        out = made.model[0](made.inputs[0])
        loss = out.sum()
    (loss * loss_scale(precision(name))).backward()
    assert out.dtype == getattr(torch, precision(name).compute)
    assert made.model[0].weight.grad.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["fp8-mixed", "mxfp8-mixed", "nvfp4-mixed"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_eight_and_four_bits_are_refused(name, device):
    with pytest.raises(MpsimError, match=f"{name} .* only with --analytical"):
        check_runs(precision(name), device)


def test_tf32_is_refused_on_a_cpu():
    with pytest.raises(MpsimError, match=r"tf32 .* CPU has none"):
        check_runs(precision("tf32"), "cpu")
    check_runs(precision("tf32"), "cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_autocast_that_would_do_nothing_is_refused_with_its_reason():
    with pytest.raises(MpsimError, match=r"bf16-mixed does not run on this CUDA: .*CUDA is not available"):
        check_runs(precision("bf16-mixed"), "cuda")


@pytest.mark.parametrize("name", [None, *PRECISIONS])
def test_settings_are_put_back(name):
    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with contextlib.suppress(RuntimeError), products(name and precision(name)):
        inside = settings()
        raise RuntimeError
    assert settings() == before
    assert inside == {"fp32": ("highest", False), "tf32": ("high", True)}.get(name, before)


def test_a_model_is_given_back_as_it_was_found():
    made = example()
    made.model[2].weight.grad = torch.ones(2, 8)
    made.model[2].bias = nn.Parameter(made.model[1].bias[:2].detach())
    before = [(name, item, item.clone()) for name, item in made.model.state_dict(keep_vars=True).items()]
    with as_found(made.model):
        cast(made, precision("bf16"))
        with torch.no_grad():
            made.model[0].weight.zero_()
    after = made.model.state_dict(keep_vars=True)
    for name, item, value in before:
        assert after[name] is item
        assert torch.equal(item, value)
    assert made.model[2].weight.grad.dtype == torch.float32


def test_the_precision_of_a_model_is_the_type_of_most_bytes():
    norm_in_32 = nn.Sequential(nn.Linear(100, 100).bfloat16(), nn.LayerNorm(4))
    assert precision_of(norm_in_32) == PRECISIONS["bf16"]
    assert precision_of(nn.Linear(2, 2)).name == "fp32"
    assert precision_of(nn.Identity()).name == "fp32"
    assert precision_of(nn.Linear(2, 2), "bfloat16") == PRECISIONS["bf16-mixed"]
    upcast = precision_of(nn.Linear(2, 2).bfloat16(), "float32")
    assert (upcast.name, upcast.compute, upcast.parameters) == ("", "float32", "bfloat16")
    frozen = nn.Sequential(nn.Linear(100, 100).half().requires_grad_(False), nn.Linear(4, 4))
    assert (precision_of(frozen).parameters, precision_of(frozen).gradients) == ("float16", "float32")


def test_fake_parameters_that_something_refers_to_weakly_are_converted():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.write, self.rnn = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.GRU(4, 4)
            self.write.weight = self.read.weight

    with FakeTensorMode():
        model = Tied()
        held = [weakref.ref(item) for item in model.parameters()]
        made = cast(Example(model=model, inputs=()), PRECISIONS["bf16"]).model
        assert {item.dtype for item in (*made.parameters(), *made.rnn._flat_weights)} == {torch.bfloat16}
    assert made.write.weight is made.read.weight
    assert len(held) == len(list(made.parameters()))
