"""The roofline, worked by hand on dyadic numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from zoo_sizes import SMALL

from mpsim.errors import MpsimError
from mpsim.workload import zoo
from mpsim.workload.analytical import DeviceSpec, Rooflines
from mpsim.workload.example import Example
from mpsim.workload.fake import shape_point
from mpsim.workload.model import Fidelity
from mpsim.workload.model_source import Source
from mpsim.workload.trace import trace

FLOOR = DeviceSpec(
    name="floor", peak_flops_per_s={"float32": 1e30}, matmul_fraction=1.0, memory_bytes_per_s=1e30, kernel_floor_s=0.5
)
COMPUTE = DeviceSpec(
    name="compute", peak_flops_per_s={"float32": 64.0}, matmul_fraction=0.5, memory_bytes_per_s=1e30, kernel_floor_s=0.0
)
MEMORY = DeviceSpec(
    name="memory", peak_flops_per_s={"float32": 1e30}, matmul_fraction=1.0, memory_bytes_per_s=8.0, kernel_floor_s=0.0
)


def _two_layers(batch):
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False))
    return Example(model=model, inputs=(torch.rand(batch, 8),))


SOURCE = Source(name="two", build=_two_layers)


def _samples(spec, optimizer="sgd"):
    return Rooflines(SOURCE, spec, depth="auto", optimizer=optimizer).point(4, 1).samples


def test_matrix_products_at_half_the_peak():
    first, second = _samples(COMPUTE)
    assert first.forward_s == (2 * 4 * 8 * 4 / 32,)
    assert first.backward_input_s == (0.0,)  # the model's input needs no gradient
    assert first.backward_weight_s == first.forward_s
    assert second.forward_s == second.backward_input_s == second.backward_weight_s == (2 * 4 * 4 * 2 / 32,)


def test_every_kernel_costs_the_floor_and_views_cost_nothing():
    first, second = _samples(FLOOR)
    assert first.forward_s == (0.5,)  # one product; the weight's transpose is a view
    assert second.forward_s == (1.0,)  # one product, and the mean that stands in for a loss
    assert first.backward_weight_s == (0.5,)


def test_bytes_read_and_written():
    first, _ = _samples(MEMORY)
    assert first.forward_s == (4 * (4 * 8 + 8 * 4 + 4 * 4) / 8,)
    assert first.optimizer_s == (3 * 4 * 8 * 4 / 8,)  # sgd reads gradient and parameter, writes the parameter


def test_nothing_is_allocated_for_a_model_of_any_size():
    def huge(batch):
        model = nn.Sequential(*(nn.Linear(2**20, 2**20, bias=False) for _ in range(2)))
        return Example(model=model, inputs=(torch.rand(batch, 2**20),))

    spec = DeviceSpec(name="big", peak_flops_per_s={"float32": 1e15}, memory_bytes_per_s=1e12)
    workload = trace(Source(name="huge", build=huge), 2, analytical=spec)
    assert workload.layers[0].shard().parameter_bytes == 2**42
    assert workload.device == "big"
    assert workload.checks == ()
    assert {cost.fidelity for layer in workload.layers for cost in layer.costs} == {Fidelity.ANALYTICAL}


def test_state_and_shapes_are_those_of_the_measured_model():
    def source(batch):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2))
        return Example(model=model, inputs=(torch.rand(batch, 1, 6, 6),))

    measured = trace(source, 2, repeats=1, warmup=1)
    analytical = trace(
        source, 2, analytical=DeviceSpec(name="d", peak_flops_per_s={"float32": 1e9}, memory_bytes_per_s=1e9)
    )
    assert measured.tensors == analytical.tensors
    for here, there in zip(measured.layers, analytical.layers, strict=True):
        assert here.shards == there.shards
        assert (here.costs[0].saved_bytes, here.costs[0].flops) == (there.costs[0].saved_bytes, there.costs[0].flops)


def test_later_micro_batches_add_to_gradients():
    first, second = _samples(MEMORY)
    assert first.accumulate_s == (3 * 4 * 8 * 4 / 8,)  # reads both, writes one
    assert second.accumulate_s == (3 * 4 * 4 * 2 / 8,)


def test_missing_peak_is_named():
    spec = DeviceSpec(name="odd", peak_flops_per_s={"bfloat16": 1e12}, memory_bytes_per_s=1e12)
    with pytest.raises(MpsimError, match=r"device 'odd' has no peak for float32, .* only for bfloat16"):
        _samples(spec)


def test_shapes_alone():
    like = Rooflines(SOURCE, COMPUTE, depth="auto", optimizer="sgd").point(4, 1)
    (between,) = [value for value in shape_point(SOURCE, 6, like).values if value.producer == 0 and value.readers]
    assert (between.shape, between.dtype) == ((6, 4), "float32")


@pytest.mark.parametrize("field", [{"memory_bytes_per_s": 0.0}, {"matmul_fraction": -1.0}])
def test_device_without_speed(field):
    values = {"name": "d", "peak_flops_per_s": {"float32": 1.0}, "memory_bytes_per_s": 1.0} | field
    with pytest.raises(MpsimError, match="expected more than 0"):
        DeviceSpec(**values)


def test_the_state_of_an_optimizer_is_of_its_master_copy():
    spec = DeviceSpec(name="d", peak_flops_per_s={"float8_e4m3fn": 1e9, "bfloat16": 1e9}, memory_bytes_per_s=1e9)
    spec = replace(spec, linear_dtype="float8_e4m3fn", kernel_floor_s=0.0)
    source = Source(name="l", build=lambda n: Example(model=nn.Linear(4, 3, bias=False), inputs=(torch.rand(n, 4),)))
    made = trace(source, 2, analytical=spec, precision="fp8-mixed", optimizer="momentum")
    (layer,) = made.layers
    assert (layer.shard().parameter_bytes, layer.shard().optimizer_bytes) == (24, 48)
    assert layer.costs[0].samples.optimizer_s == (5 * 48 / 1e9,)


def test_what_is_wrapped_around_a_model_is_said():
    spec = DeviceSpec(name="d", peak_flops_per_s={"float32": 1e9}, memory_bytes_per_s=1e9)
    made = trace(nn.DataParallel(nn.Linear(4, 3)), torch.rand(2, 4), analytical=spec)
    assert made.notes == ("DataParallel was taken off: one replica was traced",)


def test_experts_are_said_to_be_costed_evenly():
    sizes = {**SMALL["mixtral"], "n_layer": 1}
    source = Source(name="mixtral", build=lambda batch: zoo.get("mixtral").build(batch, **sizes))
    point = Rooflines(source, FLOOR, depth="auto", optimizer="sgd").point(1, 1)
    assert point.notes == ["experts are costed as if each got an equal share of the tokens: shapes do not route"]
    plain = Rooflines(SOURCE, FLOOR, depth=1, optimizer="sgd").point(1, 1)
    assert not any("experts" in note for note in plain.notes)
