"""Times of a trace for layers of the same kind and shape."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpsim.errors import MpsimError
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.layers import Fidelity, Layer
from mpsim.workload.measured_blocks import with_measured_blocks
from mpsim.workload.model import Precision, Workload

TOY = DeviceSpec(name="toy-80", peak_flops_per_s={"float32": 1.0}, memory_bytes_per_s=1.0, reported=("Toy 80GB",))


def made(blocks, *, seconds, measured=False, device="toy-80", parameter_bytes=8, activation_bytes=4, **split):
    block = Layer.given("b", forward_s=seconds, backward_s=2 * seconds, parameter_bytes=parameter_bytes, **split)
    fidelity = Fidelity.MEASURED if measured else Fidelity.ANALYTICAL
    costs = tuple(replace(cost, fidelity=fidelity) for cost in block.costs)
    layers = [replace(block, name=f"b{i}", costs=costs) for i in range(blocks)]
    head = Layer.given("head", forward_s=1.0, backward_s=2.0, parameter_bytes=400)
    work = Workload.chain("work", [*layers, head], activation_bytes=activation_bytes)
    return replace(work, device=device)


def test_alike_blocks_take_the_times_and_the_notes_say_what_share():
    found = with_measured_blocks(
        made(3, seconds=9.0), made(1, seconds=1.0, measured=True, device="NVIDIA toy 80GB"), TOY
    )
    assert [layer.costs[0].samples.forward_s for layer in found.layers] == [(1.0,), (1.0,), (1.0,), (1.0,)]
    fidelities = [layer.costs[0].fidelity.value for layer in found.layers]
    assert fidelities == ["measured", "measured", "measured", "given"]  # a given head is no measured one
    assert found.notes == (
        "micro-batch 1, tp=1: 75 % of a step has times measured in work (3 of 4 layers); the rest is costed",
    )


@pytest.mark.parametrize("other", [{"parameter_bytes": 12}, {"activation_bytes": 8}, {"microbatch": 2}])
def test_blocks_of_another_shape_or_micro_batch_are_not_taken(other):
    with pytest.raises(MpsimError, match="no layer of 'work' is at any point of the kind, shapes"):
        with_measured_blocks(made(3, seconds=9.0), made(1, seconds=1.0, measured=True, **other), TOY)


def test_a_trace_of_another_device_or_precision_is_refused():
    work = made(3, seconds=9.0)
    with pytest.raises(MpsimError, match="measured on 'toy-40', the others are costed for 'toy-80'"):
        with_measured_blocks(work, made(1, seconds=1.0, measured=True, device="toy-40"), TOY)
    narrow = replace(made(1, seconds=1.0, measured=True), precision=Precision(name="bf16", compute="bfloat16"))
    with pytest.raises(MpsimError, match="were measured in bf16, the others are costed in float32"):
        with_measured_blocks(work, narrow, TOY)
