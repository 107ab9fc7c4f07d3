"""Data and tensor parallelism, hybrids and tied parameters worked by hand, on durations that floats hold exactly."""

from dataclasses import replace

import pytest
from cases import chained, layer, on_axis

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import fully_connected, ring
from mpsim.topology.wire import Wire

# Over two devices an all-reduce of S bytes takes 2 x 1/4 s and puts S on each link: 1024 bytes take 5/2 s.
SLOW = Wire(512.0, 0.25)
TWO = fully_connected(2, link=SLOW)
# The second device takes twice as long.
UNLIKE = replace(TWO, devices=(TWO.devices[0], replace(TWO.devices[1], speed=0.5)))
THREE = [layer(name, parameters={f"{name}.weight": 1024}, optimizer_s=0.5) for name in "abc"]


def test_buckets_overlap_the_last_backward():
    """One bucket a layer, c first; layer b's waits for c's.

    t          0  1  2  3  4  5  6  7  8  9  10 11 12 13 14
    compute    Fa Fb Fc Bc Bc Bb Bb Ba Ba .  .  .  .| update
    gradients  .  .  .  .  .  c  c  c|b  b  b |a  a  a|
                              5    7.5     10       12.5
    """
    plan = Plan(dp=2, bucket_bytes=1, first_bucket_bytes=1)
    result = simulate(chained(THREE, 8), TWO, plan)
    assert on_axis(result, "dp") == [
        ("bucket 0", (0, 1), 5.0, 7.5),
        ("bucket 1", (0, 1), 7.5, 10.0),
        ("bucket 2", (0, 1), 10.0, 12.5),
    ]
    assert on_axis(result, "")[-2:] == [("update", (0,), 12.5, 14.0), ("update", (1,), 12.5, 14.0)]
    for device in result.devices:
        assert (device.compute_s, device.exposed_communication_s, device.idle_s) == (10.5, 3.5, 0.0)
        assert device.bubble_s == 0.0
    assert result.communication_overhead_s == 3.5
    (count,) = result.traffic
    assert (count.axis, count.kind, count.transfers, count.payload_bytes) == ("dp", "all_reduce", 3, 3 * 1024)
    # Two links, each with 2 (n - 1) / n of the tensor.
    assert count.link_bytes == 2 * 3 * 1024


def test_one_large_bucket_waits_for_all_of_backward():
    result = simulate(chained(THREE, 8), TWO, Plan(dp=2))
    # 3 + 6 of compute, 1/2 + 3072 / 512 of all-reduce, 3/2 of updates.
    assert result.step_s == 9.0 + 6.5 + 1.5


def test_the_first_bucket_may_be_smaller():
    """c alone, then b and a together: 5 to 7.5, and 9 to 9 + 1/2 + 4."""
    plan = Plan(dp=2, first_bucket_bytes=1000, bucket_bytes=2000)
    result = simulate(chained(THREE, 8), TWO, plan)
    assert [(start, end) for *_, start, end in on_axis(result, "dp")] == [(5.0, 7.5), (9.0, 13.5)]
    assert [count for count in result.spans.bytes if count] == [1024, 2048]


def test_only_the_last_microbatch_is_reduced():
    """Two micro-batches on one stage: the second backward begins at 12 under 1F1B, its first layer is done at 14."""
    plan = Plan(dp=2, microbatches=2, bucket_bytes=1, first_bucket_bytes=1)
    result = simulate(chained(THREE, 8), TWO, plan)
    assert [start for *_, start, _ in on_axis(result, "dp")] == [14.0, 16.5, 19.0]
    assert result.step_s == 19.0 + 2.5 + 1.5
    # Only the last backward is cut at its buckets: on each device F0, B0, F1, three parts of B1 and the update.
    assert len(on_axis(result, "")) == 2 * 7


def test_a_bucket_waits_for_the_slowest_replica():
    """Replica 1 has twice the time: its backward of c ends at 10."""
    result = simulate(chained(THREE, 8), UNLIKE, Plan(dp=2, bucket_bytes=1, first_bucket_bytes=1))
    assert [start for *_, start, _ in on_axis(result, "dp")] == [10.0, 14.0, 18.0]
    fast, late = result.devices
    # 18 + 2.5 of all-reduce, then replica 1 updates for 3 s.
    assert result.step_s == 23.5
    assert (fast.compute_s, fast.exposed_communication_s, fast.idle_s) == (10.5, 7.5, 5.5)
    # Of its three all-reduces only the last is not covered by backward.
    assert (late.compute_s, late.exposed_communication_s, late.idle_s) == (21.0, 2.5, 0.0)


def test_tensor_parallel_collectives_block():
    """
    t        0  1    3.5 4.5  7  9    11.5 13.5  16
    compute  Fa ar   Fb  ar   Bb  ar   Ba   ar
    """
    layers = [
        layer(
            name,
            {1: (2.0, 2.0, 2.0), 2: (1.0, 1.0, 1.0)},
            exchanged=[("forward", "all_reduce", 1024), ("backward", "all_reduce", 1024)],
            tensor_parallel=(1, 2),
        )
        for name in "ab"
    ]
    result = simulate(chained(layers, 8), TWO, Plan(tp=2))
    times = [(start, end) for *_, start, end in on_axis(result, "tp")]
    assert times == [(1.0, 3.5), (4.5, 7.0), (9.0, 11.5), (13.5, 16.0)]
    assert result.step_s == 16.0
    assert result.baseline_step_s == 12.0
    assert result.speedup == 0.75
    for device in result.devices:
        assert (device.compute_s, device.exposed_communication_s, device.idle_s) == (6.0, 10.0, 0.0)


def test_a_layer_makes_its_collectives_one_after_another():
    calls = [("forward", "reduce_scatter", 1024), ("forward", "all_gather", 1024), ("backward", "all_gather", 2048)]
    one = layer("a", exchanged=calls, tensor_parallel=(2,))
    result = simulate(chained([one], 8), TWO, Plan(tp=2))
    # Over two devices a reduce-scatter or an all-gather is one round of half the tensor.
    assert on_axis(result, "tp") == [
        ("0F0", (0, 1), 1.0, 2.25),
        ("0F0", (0, 1), 2.25, 3.5),
        ("0B0", (0, 1), 5.5, 7.75),
    ]
    assert [count.kind for count in result.traffic] == ["all_gather", "reduce_scatter"]


def test_a_rank_of_a_slower_device_holds_up_its_group():
    one = layer("a", exchanged=[("forward", "all_reduce", 1024)], tensor_parallel=(2,))
    result = simulate(chained([one], 8), UNLIKE, Plan(tp=2))
    assert on_axis(result, "tp") == [("0F0", (0, 1), 2.0, 4.5)]
    # The fast one waits from 1 to 2, and once its backward is done at 6.5 for the slow one to end at 8.5.
    assert [device.idle_s for device in result.devices] == [3.0, 0.0]


HYBRID = [
    layer(
        name,
        exchanged=[("forward", "all_reduce", 768), ("backward", "all_reduce", 768)],
        parameters={f"{name}.weight": 1792},
        optimizer_s=0.5,
        tensor_parallel=(1, 2),
    )
    for name in "ab"
]


@pytest.fixture
def hybrid():
    plan = Plan(dp=2, pp=2, tp=2, microbatches=2, schedule="gpipe")
    return simulate(chained(HYBRID, 896), fully_connected(8, link=Wire(1024.0, 0.125)), plan)


def test_hybrid_of_all_three(hybrid):
    """Every pair has its own link, so that nothing is shared: a message and an all-reduce take 1 s, a bucket 2 s.

    t        0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18
    stage 0  F0  ar  F1  ar                               B0--B0  ar  B1--B1  ar |update
    0 > 1            F0      F1
    stage 1              F0  ar  F1  ar  B0--B0  ar  B1--B1  ar  |update
    1 > 0                                            B0          B1
    bucket                                                   [ stage 1 ]     [ stage 0 ]
    """
    times = {axis: {(row[0], *row[2:]) for row in on_axis(hybrid, axis)} for axis in ("dp", "pp", "tp", "")}
    assert times["pp"] == {
        ("0F0>1", 2.0, 3.0), ("0F1>1", 4.0, 5.0), ("1B0>0", 10.0, 11.0), ("1B1>0", 13.0, 14.0),
    }  # fmt: skip
    assert times["tp"] == {
        ("0F0", 1.0, 2.0), ("0F1", 3.0, 4.0), ("1F0", 4.0, 5.0), ("1F1", 6.0, 7.0),
        ("1B0", 9.0, 10.0), ("1B1", 12.0, 13.0), ("0B0", 13.0, 14.0), ("0B1", 16.0, 17.0),
    }  # fmt: skip
    assert times[""] == {
        ("0F0", 0.0, 1.0), ("0F1", 2.0, 3.0), ("1F0", 3.0, 4.0), ("1F1", 5.0, 6.0),
        ("1B0", 7.0, 9.0), ("1B1", 10.0, 12.0), ("0B0", 11.0, 13.0), ("0B1", 14.0, 16.0),
        ("update", 14.0, 14.5), ("update", 18.0, 18.5),
    }  # fmt: skip
    assert on_axis(hybrid, "dp") == [
        ("bucket 0", (2, 6), 12.0, 14.0),
        ("bucket 0", (3, 7), 12.0, 14.0),
        ("bucket 0", (0, 4), 16.0, 18.0),
        ("bucket 0", (1, 5), 16.0, 18.0),
    ]
    assert hybrid.step_s == 18.5


def test_hybrid_groups_are_slices_of_the_grid(hybrid):
    """arange(8).reshape(dp, pp, tp): tp groups are (0, 1), ..., pp pairs (0, 2), ..., dp groups (0, 4), ..."""
    groups = {axis: {where for _, where, *_ in on_axis(hybrid, axis)} for axis in ("dp", "pp", "tp")}
    assert groups["tp"] == {(0, 1), (2, 3), (4, 5), (6, 7)}
    assert groups["pp"] == {(0, 2), (2, 0), (1, 3), (3, 1), (4, 6), (6, 4), (5, 7), (7, 5)}
    assert groups["dp"] == {(0, 4), (1, 5), (2, 6), (3, 7)}


def test_hybrid_accounts(hybrid):
    # Stage 0: 2 x 3 s of compute and the update; all-reduces 1-2, 3-4, 13-14, 16-17, messages 2-3 and 4-5, 10-11 and
    # 13-14, bucket 16-18: exposed are 1-2, 3-4, 4-5, 10-11, 13-14, 16-18.
    first = hybrid.devices[0]
    assert (first.compute_s, first.exposed_communication_s, first.idle_s) == (6.5, 7.0, 5.0)
    traffic = {(count.axis, count.kind): (count.transfers, count.payload_bytes) for count in hybrid.traffic}
    assert traffic == {
        ("dp", "all_reduce"): (4, 4 * 1792),
        ("pp", "send"): (16, 16 * 896),
        ("tp", "all_reduce"): (16, 16 * 768),
    }


TIED = [layer("a", parameters={"embedding": 1024}), layer("b", parameters={"embedding": 1024})]
FAST = Wire(1024.0)


def test_tied_parameters_on_two_stages():
    """F 0-1 and 1-2, B 2-4 and 4-6, then both stages add up the one gradient: 6-7."""
    result = simulate(chained(TIED, 0), fully_connected(2, link=FAST), Plan(pp=2))
    assert on_axis(result, "pp")[-1] == ("tied embedding", (0, 1), 6.0, 7.0)
    assert result.step_s == 7.0
    assert [device.memory.parameters_bytes for device in result.devices] == [1024, 1024]


def test_tied_parameters_with_replicas_are_reduced_after_them_and_side_by_side():
    """Stage 1's bucket 4-5, stage 0's 6-7; then each replica's tied reduction, on links of its own."""
    result = simulate(chained(TIED, 0), fully_connected(4, link=FAST), Plan(pp=2, dp=2))
    assert on_axis(result, "dp") == [("bucket 0", (1, 3), 4.0, 5.0), ("bucket 0", (0, 2), 6.0, 7.0)]
    assert on_axis(result, "pp")[-2:] == [
        ("tied embedding", (0, 1), 7.0, 8.0),
        ("tied embedding", (2, 3), 7.0, 8.0),
    ]
    assert result.step_s == 8.0


def test_tied_parameters_on_one_stage_are_one():
    result = simulate(chained(TIED, 0), fully_connected(2, link=FAST), Plan(dp=2))
    (count,) = result.traffic
    assert (count.transfers, count.payload_bytes) == (1, 1024)
    assert result.devices[0].memory.parameters_bytes == 1024
    # What c began is there until a has made its part, and that is added.
    assert result.devices[0].memory.gradients_bytes == 2048
    # Complete only when layer a, the first, has added its part.
    assert result.step_s == 7.0


def test_a_tied_gradient_takes_its_place_where_it_is_complete():
    """b's gradient is ready at 7, the shared one of a and c only when a has added its part at 9."""
    layers = [
        layer("a", parameters={"embedding": 1024}),
        layer("b", parameters={"b.weight": 1024}),
        layer("c", parameters={"embedding": 1024}),
    ]
    plan = Plan(dp=2, bucket_bytes=1, first_bucket_bytes=1)
    result = simulate(chained(layers, 0), fully_connected(2, link=FAST), plan)
    assert [row[2:] for row in on_axis(result, "dp")] == [(7.0, 8.0), (9.0, 10.0)]


def test_the_update_waits_for_tied_reductions():
    tied = [layer(name, parameters={"embedding": 1024}, optimizer_s=0.5) for name in "ab"]
    result = simulate(chained(tied, 0), fully_connected(2, link=FAST), Plan(pp=2))
    assert on_axis(result, "")[-2:] == [("update", (0,), 7.0, 7.5), ("update", (1,), 7.0, 7.5)]


def test_tied_parameters_of_three_stages_and_of_none_in_between():
    layers = [TIED[0], layer("m"), layer("n", parameters={"embedding": 1024})]
    result = simulate(chained(layers, 0), fully_connected(3, link=FAST), Plan(pp=3))
    assert on_axis(result, "pp")[-1][:2] == ("tied embedding", (0, 2))
    assert [device.memory.parameters_bytes for device in result.devices] == [1024, 0, 1024]


def test_a_tied_parameter_of_no_bytes_is_left_out():
    empty = [layer("a", parameters={"x": 0}), layer("b", parameters={"x": 0})]
    assert simulate(chained(empty, 0), fully_connected(4, link=FAST), Plan(pp=2, dp=2)).traffic[0].kind == "send"


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("size", [4096, 2**20, 3 * 2**24])
def test_ring_all_reduce_through_the_engine(n, size):
    """2 (n - 1) latencies and 2 (n - 1) / n of the tensor at the link's bandwidth, to the bit."""
    wire = Wire(2.0**30, 2.0**-20)
    one = layer("a", parameters={"w": size})
    result = simulate(chained([one], 8), ring(n, link=wire), Plan(dp=n))
    spans = result.spans
    i = spans.axis.index("dp")
    expected_s = 2 * (n - 1) * wire.latency_s + 2 * (n - 1) * size / n / wire.bandwidth_bytes_per_s
    assert spans.start_s[i] == 3.0
    assert spans.end_s[i] == 3.0 + 2 * (n - 1) * wire.latency_s + 2 * (n - 1) * size / n / wire.bandwidth_bytes_per_s
    assert spans.end_s[i] - spans.start_s[i] == pytest.approx(expected_s, rel=1e-9)


def test_a_shard_never_measured_is_refused_with_both_values():
    with pytest.raises(MpsimError, match=r"was measured at tp 1, the plan needs tp=2: trace again with --tensor 1,2"):
        simulate(chained(THREE, 8), TWO, Plan(tp=2))
