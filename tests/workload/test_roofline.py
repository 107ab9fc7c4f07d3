"""The roofline, worked by hand on dyadic numbers."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mpsim.errors import MpsimError
from mpsim.workload.roofline import DeviceSpec, Roofline


def spec(**changes):
    """One byte a second and no floor, products for nothing: seconds are bytes."""
    values = {
        "name": "d", "peak_flops_per_s": {"float32": 1e30}, "matmul_fraction": 1.0, "memory_bytes_per_s": 1.0,
        "kernel_floor_s": 0.0,
    }  # fmt: skip
    return DeviceSpec(**(values | changes))


def charged(work, *inputs, **changes):
    with Roofline(spec(**changes)) as roofline:
        work(*inputs)
    return roofline


X, Y = torch.ones(4, 4), torch.ones(4, 4)  # 64 bytes each
ROWS = torch.tensor([1, 2])  # 16 bytes


@pytest.mark.parametrize(
    ("work", "moved"),
    [
        (lambda: X + Y, 3 * 64),
        (lambda: X.clone().add_(Y), 2 * 64 + 3 * 64),
        (lambda: torch.empty(4, 4).copy_(X), 2 * 64),
        (lambda: torch.empty(4, 4).zero_(), 64),
        (lambda: torch.add(X, Y, out=torch.empty(4, 4)), 3 * 64),
        (lambda: X + torch.ones(1).expand(4, 4), 4 + 2 * 64 + 4),
        (lambda: torch._foreach_add_([X.clone(), Y.clone()], 0.0), 4 * 64 + 2 * 2 * 64),
        (lambda: torch.cat([X, Y]), 4 * 64),
        (lambda: torch.nn.functional.embedding(ROWS, X), 2 * 32 + 16),
        (lambda: torch.ones(100, 4).index_add_(0, ROWS, torch.ones(2, 4)), 1600 + 32 + (32 + 16) + 2 * 48),
        (lambda: (X.view(2, 8), X.t(), X[0], X.split(2), X.detach(), torch.empty(9)), 0),
    ],
    ids=range(11),
)
def test_bytes_read_and_written(work, moved):
    assert charged(work).seconds == moved


def test_products_at_a_part_of_the_peak_and_a_floor_for_every_kernel():
    device = {"peak_flops_per_s": {"float32": 64.0}, "matmul_fraction": 0.5, "memory_bytes_per_s": 1e30}
    roofline = charged(lambda: (X @ Y, X @ Y), kernel_floor_s=0.25, **device)
    assert roofline.seconds == 2 * (2 * 4**3 / 32 + 0.25)
    assert (roofline.flops, roofline.kernels) == (2 * 2 * 4**3, 2)


def test_fake_tensors_cost_what_real_ones_do():
    def work():
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2)
        )
        model(torch.rand(2, 2, 6, 6)).sum().backward()

    real = charged(work)
    with FakeTensorMode():
        fake = charged(work)
    assert (fake.seconds, fake.flops, fake.kernels) == (real.seconds, real.flops, real.kernels)


def test_recomputed_is_charged_twice():
    layer, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.rand(2, 4, requires_grad=True)
    plain = charged(lambda: layer(x).sum().backward())
    again = charged(lambda: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward())
    assert again.flops == plain.flops + 2 * 2 * 4 * 4  # the last layer keeps its input, and is not run again


def test_narrow_products_are_those_of_linear_layers_in_half_precision():
    def work():
        half, batch = torch.ones(4, 4).bfloat16(), torch.ones(2, 4, 4).bfloat16()
        torch.mm(half, half), torch.bmm(batch, batch), torch.mm(X, Y)

    peaks = {"float32": 1.0, "bfloat16": 4.0, "float8_e4m3fn": 8.0}
    roofline = charged(work, peak_flops_per_s=peaks, linear_dtype="float8_e4m3fn", memory_bytes_per_s=1e30)
    assert roofline.seconds == 128 / 8 + 2 * 128 / 4 + 128


def test_complex_products_cost_four_real_ones():
    z = torch.ones(4, 4, dtype=torch.complex64)
    roofline = charged(lambda: z @ z, peak_flops_per_s={"float32": 1.0}, memory_bytes_per_s=1e30)
    assert (roofline.flops, roofline.seconds) == (128, 4 * 128)


def test_a_missing_peak_is_named_and_refused_if_it_matters():
    half = torch.ones(4, 4).half()
    roofline = charged(lambda: half @ half)
    assert roofline.uncounted == {"aten::mm in float16": 1}
    assert roofline.seconds == 3 * 32
    with pytest.raises(
        MpsimError, match="no peak for float16, in which the model does 100% of its FLOPs, only for flo"
    ):
        roofline.check()
    charged(lambda: X @ Y).check()


@torch.library.custom_op("mpsim_tests::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@square.register_fake
def _(x):
    return torch.empty_like(x)


def _unlike_shapes(*args, **kwargs):
    raise AssertionError("a formula that does not fit")


def test_what_cannot_be_counted_is_named_and_costs_its_bytes(monkeypatch):
    roofline = charged(lambda: (square(X), square(X), torch.linalg.qr(X)))
    assert roofline.uncounted == {"mpsim_tests::square": 2, "aten::linalg_qr": 1}
    assert roofline.seconds == 2 * 128 + 3 * 64
    monkeypatch.setitem(torch.utils.flop_counter.flop_registry, torch.ops.mpsim_tests.square, _unlike_shapes)
    assert charged(square, X).uncounted == {"mpsim_tests::square": 1}
    monkeypatch.setitem(torch.utils.flop_counter.flop_registry, torch.ops.mpsim_tests.square, lambda x, out_val: 7)
    roofline = charged(square, X)
    assert (roofline.flops, roofline.uncounted) == (7, {})


def test_functions_within_operators_are_charged():
    def work():
        torch.cond(torch.tensor(True), lambda x: x @ x, lambda x: x @ x @ x, (X,))

    assert charged(work).flops == 128
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(X)
        roofline = charged(lambda: torch.cond(mode.from_tensor(torch.tensor(True)), torch.mm, torch.mm, (x, x)))
    assert roofline.uncounted == {"cond": 1}  # which branch is not known


def test_wrapped_tensors_are_charged_by_what_they_wrap():
    rows = torch.nested.nested_tensor([torch.ones(3, 8), torch.ones(5, 8)], layout=torch.jagged)
    assert charged(nn.Linear(8, 4), rows).flops == 2 * 8 * 8 * 4


@pytest.mark.parametrize(
    "field", [{"memory_bytes_per_s": 0.0}, {"matmul_fraction": -1.0}, {"peak_flops_per_s": {"float32": 0.0}}]
)
def test_device_without_speed(field):
    with pytest.raises(MpsimError, match=r"expected more than 0|a peak of 0\.0"):
        spec(**field)


def test_device_without_the_type_of_its_linear_layers():
    with pytest.raises(MpsimError, match="no peak for float8_e5m2, only for float32"):
        spec(linear_dtype="float8_e5m2")
