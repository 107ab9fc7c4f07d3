"""What lowering takes from the cost tables: points, shards, types of device, buckets."""

from dataclasses import replace

import pytest
from cases import chained, layer
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.lowering.buckets import fill
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Fidelity, Gradient, Samples, Tensor, Workload

FREE = Wire(float("inf"))


def point(microbatch: int, seconds: float, **fields) -> Cost:
    samples = Samples(forward_s=(seconds,), backward_input_s=(seconds,), backward_weight_s=(seconds,))
    return Cost(microbatch=microbatch, samples=samples, fidelity=Fidelity.MEASURED, **fields)


def tabled(*points: Cost) -> Workload:
    one = replace(layer("a"), costs=points)
    read = Tensor(name="x", producer="a", shape=(2, 8), dtype="float32")
    return Workload(
        name="tabled", layers=(one, replace(one, name="b")), tensors=(replace(read, consumers=("b",)),), microbatch=2
    )


TABLE = tabled(point(1, 1.0, saved_bytes=100), point(4, 2.5, saved_bytes=400))


def test_a_measured_point_is_taken_as_it_is():
    assert simulate(TABLE, chain(1, link=FREE), Plan(batch=4)).step_s == 2 * 3 * 2.5
    assert simulate(TABLE, chain(1, link=FREE), Plan(batch=4)).fidelity == "measured"


def test_between_two_points_times_and_bytes_are_interpolated():
    result = simulate(TABLE, chain(1, link=FREE), Plan(batch=2))
    assert result.step_s == 2 * 3 * 1.5
    assert result.fidelity == "interpolated"
    assert result.peak_memory_bytes == (400,)


@pytest.mark.parametrize("batch", [8, 64])
def test_outside_the_points_is_refused(batch):
    with pytest.raises(MpsimError) as error:
        simulate(TABLE, chain(1, link=FREE), Plan(batch=batch))
    text = str(error.value)
    assert text.startswith(f"layer 'a' was measured at micro-batch 1,4 (tp=1), the plan needs {batch}: ")
    assert f"trace again with --batch 1,4,{batch}" in text


def test_tensors_grow_with_the_microbatch():
    """Two samples of 8 floats at the reference of 2: 32 bytes a sample."""
    for batch, count in ((1, 32), (2, 64), (4, 128)):
        (sent,) = simulate(TABLE, chain(2, link=FREE), Plan(pp=2, batch=batch)).traffic
        assert sent.payload_bytes == 2 * count


def test_a_tensor_without_a_batch_dimension_does_not_grow():
    fixed = replace(TABLE, tensors=(replace(TABLE.tensors[0], batch_dim=None),))
    for batch in (1, 4):
        assert simulate(fixed, chain(2, link=FREE), Plan(pp=2, batch=batch)).traffic[0].payload_bytes == 2 * 64


def test_no_batch_means_the_reference():
    result = simulate(TABLE, chain(2, link=FREE), Plan(dp=2, microbatches=3))
    assert result.global_batch == 2 * 3 * 2


def test_speed_scales_and_says_so():
    fast = chain(1, link=FREE, device=Device(name="", speed=2.0))
    result = simulate(TABLE, fast, Plan(batch=4))
    assert (result.step_s, result.fidelity) == (7.5, "scaled")


def test_each_type_has_its_own_table():
    old = tabled(point(4, 10.0), point(1, 5.0))
    devices = [Device(name="", type="new"), Device(name="", type="old")]
    result = simulate(TABLE, chain(2, link=FREE, devices=devices), Plan(pp=2, batch=4), by_type={"old": old})
    assert [device.compute_s for device in result.devices] == [7.5, 30.0]
    assert result.baseline == "one new, 1 × micro-batch 4"


def test_balance_knows_the_types():
    """The old device takes four times as long: with one of eight layers 12 s beside 21 s, with two 24 s beside 18 s."""
    names = "abcdefgh"
    old = chained([layer(name, (4.0, 4.0, 4.0)) for name in names], 0)
    devices = [Device(name="", type="old"), Device(name="", type="new")]
    work = chained([layer(name) for name in names], 0)
    found = lower(work, chain(2, link=FREE, devices=devices), Plan(pp=2), by_type={"old": old})
    assert [len(stage.layers) for stage in found.stages] == [1, 7]


def test_another_model_is_refused():
    other = chained([layer("x"), layer("y")], 0)
    with pytest.raises(MpsimError, match=r"for device type 'old' has 2 layers that are not the 2 of 'tabled'"):
        simulate(TABLE, chain(1, link=FREE), Plan(batch=4), by_type={"old": other})


# Buckets.


def gradients(*sizes: int):
    return [(len(sizes) - 1 - i, Gradient(parameter=f"p{i}", bytes=size)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "first", "rest", "expected"),
    [
        ((), 1, 1, []),
        ((5,), 100, 100, [(5, 0)]),
        ((5, 5, 5), 1, 1, [(5, 2), (5, 1), (5, 0)]),
        ((5, 5, 5), 5, 10, [(5, 2), (10, 0)]),
        ((5, 5, 5), 6, 100, [(10, 1), (5, 0)]),
        ((5, 5, 5), 100, 1, [(15, 0)]),
        ((100, 1), 1, 1000, [(100, 1), (1, 0)]),
        ((0, 0), 1, 1, []),
        ((0, 7, 0), 1, 1, [(7, 1)]),
    ],
)
def test_buckets(sizes, first, rest, expected):
    assert [tuple(bucket[:2]) for bucket in fill(gradients(*sizes), first, rest)] == expected


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60), st.integers(1, 60))
def test_buckets_hold_everything_once_and_close_in_order(sizes, first, rest):
    found = fill(gradients(*sizes), first, rest)
    assert sum(bucket.bytes for bucket in found) == sum(sizes)
    layers = [bucket.layer for bucket in found]
    assert layers == sorted(set(layers), reverse=True)
    for bucket, limit in zip(found[:-1], [first, *[rest] * len(found)], strict=False):
        assert bucket.bytes >= limit


def test_the_seeds_buckets():
    """The gradients of a small classifier, 971,048 bytes: 2600 and 33,024 and 131,584 and 803,840."""
    sizes = (2600, 33_024, 131_584, 803_840)
    names = "abcd"
    layers = [layer(n, parameters={f"{n}.w": size}) for n, size in zip(names, reversed(sizes), strict=True)]
    plan = Plan(dp=4, bucket_bytes=1, first_bucket_bytes=1)
    result = simulate(chained(layers, 0), fully_connected(4, link=FREE), plan)
    assert [count for count in result.spans.bytes if count] == list(sizes)
    assert result.traffic[0].payload_bytes == 971_048
