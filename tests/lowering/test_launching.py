"""A host launches what its device runs: by hand, to the bit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim import MpsimError, Plan, Workload, parse_topology, simulate
from mpsim.lowering.launch import launch_of
from mpsim.plan.schedules import Operation
from mpsim.workload.costs import cost_at
from mpsim.workload.model import Layer, Samples

ONE = parse_topology("chain:1,link=1GB/s@0")
FREE = "link=1000000GB/s@0"


def layer(name, host_s, device_s, update=(0.0, 0.0), added_s=0.0, **given):
    """A layer whose forward, and each half of whose backward, takes so long to launch, and so long."""
    made = Layer.given(name, forward_s=device_s, backward_s=2 * device_s, optimizer_s=update[1], **given)
    (cost,) = made.costs
    host = Samples(
        forward_s=(host_s,), backward_input_s=(host_s,), backward_weight_s=(host_s,), optimizer_s=(update[0],)
    )
    return replace(made, costs=(replace(cost, host=host, samples=replace(cost.samples, accumulate_s=(added_s,))),))


def chain(*layers):
    return Workload.chain("launched", list(layers), activation_bytes=8)


def launches(result):
    spans = result.spans
    return [
        (name, start_s, end_s)
        for name, kind, start_s, end_s in zip(spans.name, spans.kind, spans.start_s, spans.end_s, strict=True)
        if kind == "launch"
    ]


def test_a_host_that_is_slower_binds_the_step():
    """
    host    [F a  ][F b  ][B b          ][B a          ]      4 s of forward, 8 of backward
    device        [.]   [.]            [..]           [..]
    """
    result = simulate(chain(layer("a", 2.0, 0.5), layer("b", 2.0, 0.5)), ONE, Plan())
    assert (result.step_s, result.steady_s) == (13.0, 12.0)
    (use,) = result.devices
    assert (use.compute_s, use.exposed_launch_s, use.exposed_communication_s, use.idle_s) == (3.0, 10.0, 0.0, 0.0)
    assert result.launch == "eager"


def test_a_device_that_is_slower_waits_for_the_first_launch_alone():
    result = simulate(chain(layer("a", 0.5, 2.0), layer("b", 0.5, 2.0)), ONE, Plan())
    assert (result.step_s, result.steady_s) == (12.5, 12.0)
    assert result.devices[0].exposed_launch_s == 0.5
    assert result.devices[0].bubble_s == 0.0


def test_graphs_launch_for_nothing():
    result = simulate(chain(layer("a", 2.0, 0.5)), ONE, Plan(launch="graphs"))
    assert (result.step_s, result.steady_s, result.launch) == (1.5, 1.5, "graphs")
    assert not launches(result)
    assert "graphs" in result.plan


def test_a_host_twice_as_fast_takes_half_as_long():
    work = chain(layer("a", 2.0, 0.5, update=(1.0, 0.25)))
    assert simulate(work, ONE, Plan()).steady_s == 7.0
    assert simulate(work, ONE, Plan(), host_speed=2.0).steady_s == 3.5


def test_the_host_runs_ahead_into_the_next_step():
    """Alone the step ends when the device is done; of many, each takes as long as the host."""
    work = chain(layer("a", 1.0, 0.5, update=(1.0, 3.0)))
    result = simulate(work, ONE, Plan())
    assert (result.step_s, result.steady_s) == (4.0 + 3.0, 4.5)


def test_the_host_of_the_baseline_launches_too():
    work = chain(layer("a", 2.0, 0.5), layer("b", 2.0, 0.5))
    for count in (1, 2, 5):
        result = simulate(work, ONE, Plan(microbatches=count))
        assert result.speedup == 1.0


def weights_last(stages, microbatches):
    return [[Operation(p, kind, k) for kind in "FIW" for k in range(microbatches)] for p in range(stages)]


def test_later_microbatches_add_to_gradients():
    work = chain(layer("a", 0.25, 1.0, added_s=0.5))
    assert simulate(work, ONE, Plan(microbatches=4, launch="graphs")).step_s == 4 * 3.0 + 3 * 0.5
    split = simulate(work, ONE, Plan(microbatches=4, launch="graphs", schedule=weights_last))
    assert split.step_s == 4 * 3.0 + 3 * 0.5


def test_one_stage_waits_for_what_another_launches():
    """Stage 1 launches ahead of what it waits for: its device idles, and only stage 0's waits for a launch."""
    work = chain(layer("a", 2.0, 1.0), layer("b", 1.0, 1.0))
    result = simulate(work, parse_topology(f"chain:2,{FREE}"), Plan(pp=2))
    first, second = result.devices
    # F 2-3, then 1 3-4, its backward launched by 3 runs 4-6, and stage 0's, launched by 6, 6-8.
    assert result.step_s == pytest.approx(8.0, abs=1e-9)
    assert first.exposed_launch_s == pytest.approx(2.0, abs=1e-9)
    assert second.exposed_launch_s == 0.0


def test_a_message_is_launched_by_both_ends_under_nccl():
    work = chain(layer("a", 1.0, 1.0), layer("b", 1.0, 1.0))
    result = simulate(work, parse_topology(f"chain:2,{FREE}"), Plan(pp=2, runtime="torch-nccl"))
    named = [name for name, *_ in launches(result)]
    assert named.count("0F0>1") == 2
    assert named.count("1B0>0") == 2


def test_gloos_host_waits():
    """The host of stage 1 launches its forward when the message is there, not before."""
    work = chain(layer("a", 1.0, 4.0), layer("b", 1.0, 1.0))
    topology = parse_topology(f"chain:2,{FREE}")
    first = {
        runtime: next(
            start for name, start, _ in launches(simulate(work, topology, Plan(pp=2, runtime=runtime))) if name == "1F0"
        )
        for runtime in ("torch-gloo", "torch-nccl")
    }
    assert first["torch-gloo"] == pytest.approx(5.0, abs=1e-6)
    assert first["torch-nccl"] < 1.0


@pytest.mark.parametrize("runtime", ["ideal", "blocking", "torch-nccl", "torch-gloo"])
@pytest.mark.parametrize("axes", [{"dp": 4}, {"pp": 4}, {"dp": 2, "pp": 2}])
def test_every_second_is_accounted_for(runtime, axes):
    layers = [
        layer(name, 1.0 + i / 8, 0.5 + i / 4, update=(0.25, 0.5), parameter_bytes=4096) for i, name in enumerate("abcd")
    ]
    topology = parse_topology("fully_connected:4,link=1KB/s@125ms")
    result = simulate(chain(*layers), topology, Plan(microbatches=4, runtime=runtime, **axes))
    for use in result.devices:
        parts = (use.compute_s, use.exposed_communication_s, use.exposed_launch_s, use.idle_s)
        assert sum(parts) == result.step_s
        assert min(parts) >= 0
    graphs = simulate(chain(*layers), topology, Plan(microbatches=4, runtime=runtime, launch="graphs", **axes))
    assert graphs.step_s <= result.step_s
    assert graphs.steady_s <= result.steady_s + 1e-9


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=8))
def test_layers_as_one_end_when_one_after_another_would(layers):
    host_s = device_s = 0
    for launch, work in layers:
        host_s += launch
        if work:
            device_s = max(device_s, host_s) + work
    found = launch_of([(float(a), float(b)) for a, b in layers])
    whole = sum(work for _, work in layers)
    assert found.lead_s + found.rest_s == host_s
    assert (found.lead_s + whole if whole else device_s) == device_s


def one_clock():
    return Workload.chain("plain", [Layer.given("a", forward_s=1.0, backward_s=2.0)])


@pytest.mark.parametrize("launch", ["eager", "graphs"])
def test_one_clock_does_not_say_what_launching_takes(launch):
    with pytest.raises(
        MpsimError, match=f"launch={launch} needs to know what launching takes, .* 'plain' .* one clock"
    ):
        simulate(one_clock(), ONE, Plan(launch=launch))


def test_a_host_speed_needs_a_host():
    with pytest.raises(MpsimError, match="host speed 2 needs to know what launching takes"):
        simulate(one_clock(), ONE, Plan(), host_speed=2.0)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_a_host_has_some_speed(speed):
    with pytest.raises(MpsimError, match=r"host speed is .*, expected more than 0"):
        simulate(chain(layer("a", 1.0, 1.0)), ONE, Plan(), host_speed=speed)


def test_launching_has_a_name():
    with pytest.raises(MpsimError, match="unknown way of launching 'graph'; did you mean 'graphs'"):
        Plan(launch="graph")


def test_one_clock_is_its_own_period():
    result = simulate(one_clock(), ONE, Plan(microbatches=2))
    assert (result.step_s, result.steady_s, result.launch) == (6.0, 6.0, "")


def test_costs_of_which_only_some_have_host_times_are_refused():
    with pytest.raises(MpsimError, match=r"micro-batch 1, tp=1: layer 'a' has host times, layer 'b' has none"):
        chain(layer("a", 2.0, 0.5), Layer.given("b", forward_s=1.0, backward_s=2.0))
    one = layer("a", 2.0, 0.5)
    other = replace(one.costs[0], microbatch=3, host=None)
    with pytest.raises(MpsimError, match="of micro-batches 1 and 3 only one has host times: trace 2 itself"):
        cost_at(replace(one, costs=(*one.costs, other)), 2)
