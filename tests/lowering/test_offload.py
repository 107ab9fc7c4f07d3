"""Offload: activations go to a host behind forward and come back ahead of backward, by hand."""

import math
from dataclasses import replace

import pytest
from cases import chained, layer, on_axis
from folded_cases import compared

from mpsim import Plan, parse_topology, simulate
from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Compute, Drop, Hold
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import load_plan, save_plan
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.sharding import Sharding
from mpsim.topology.builders import fully_connected
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.hosts import with_hosts
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire

FREE = Wire(math.inf)
# 1,024 bytes a second to the host and back.
ONE = with_hosts(fully_connected(1, link=FREE), Wire(1024.0))


def work(n=3):
    return chained([layer(f"h.{i}", saved_bytes=512) for i in range(n)], 0)


def off(what="all", **plan):
    return Plan(sharding=Sharding(offload=what, recompute=plan.pop("recompute", "")), **plan)


def said(plan, workload):
    lowering = lower(workload, with_hosts(fully_connected(plan.ranks, link=FREE), Wire(1024.0)), plan)
    return " · ".join(str(one) for one in instructions_of(lowering, 0) if not isinstance(one, Hold | Drop))


def test_what_goes_when():
    assert said(off(), work(2)) == (
        "0F0[0:1] · offload 0F0[0] · 0F0[1:2] · offload 0F0[1] · reload 0B0[1] · wait · reload 0B0[0] · 0B0[1:2] ·"
        " wait · 0B0[0:1] · update[0:2]"
    )


def test_by_hand():
    """A copy takes half a second; forward 1, backward 2.

    ::

        t        0   1   2   3 3.5  4  5.5    7.5    9.5
        compute  F0  F1  F2  .  .  |B2    |B1    |B0
        away         0   1   2
        back                   2  1 . 0
    """
    result = simulate(work(), ONE, off())
    moved = on_axis(result, "host")
    assert [(name, start, end) for name, _, start, end in moved if name == "0F0"] == [
        ("0F0", 1.0, 1.5), ("0F0", 2.0, 2.5), ("0F0", 3.0, 3.5),
    ]  # fmt: skip
    # h.2's comes back at once, for its backward from 4 on; then another one while each backward runs.
    assert [(start, end) for name, _, start, end in moved if name == "0B0"] == [(3.5, 4.0), (4.0, 4.5), (6.0, 6.5)]
    assert result.step_s == 4.0 + 3 * 2.0
    # From a forward on until it is away, and from when it comes back to the end of its backward.
    (activations,) = (one for one in result.devices[0].memory.by_holder if one.holder == "activations")
    assert dict(zip(activations.time_s, activations.bytes, strict=True)) == {
        0.0: 512, 1.0: 1024, 1.5: 512, 2.0: 1024, 2.5: 512, 4.0: 1024, 8.0: 512, 10.0: 0,
    }  # fmt: skip
    count = next(one for one in result.traffic if one.kind == "offload")
    assert (count.transfers, count.payload_bytes) == (3, 3 * 512)


def test_what_came_back_for_a_split_backward_stays_to_its_end():
    result = simulate(work(1), ONE, off(schedule="0F0 0I0 0W0"))
    # F 0-1, away to 1.5, back to 2, I to 3, W to 4.
    (activations,) = (one for one in result.devices[0].memory.by_holder if one.holder == "activations")
    assert dict(zip(activations.time_s, activations.bytes, strict=True)) == {0.0: 512, 4.0: 0}


def test_two_layers_at_most_are_there_at_once():
    result = simulate(work(6), ONE, off())
    assert result.devices[0].memory.activations_bytes == 2 * 512
    assert simulate(work(6), ONE, Plan()).devices[0].memory.activations_bytes == 6 * 512


def test_both_ways_have_links_of_their_own_and_share_them_with_what_else_uses_them():
    """A device whose only way to host and network is one link of 1,024 bytes a second."""
    devices = tuple(Device(name=name, host="host") for name in "ab")
    links = [
        Link(source=source, target=target, bandwidth_bytes_per_s=1024.0)
        for one in (*"ab", "host")
        for source, target in ((one, "bus"), ("bus", one))
    ]
    bus = Topology(name="bus", devices=devices, switches=("bus", "host"), links=tuple(links))
    one = simulate(work(2), replace(bus), off(pp=1))
    both = simulate(work(2), replace(bus), off(dp=2, bucket_bytes=1, first_bucket_bytes=1))
    # Two devices share the way from the bus to the host: each copy takes twice as long.
    lasted = [{round(end - start, 9) for _, _, start, end in on_axis(found, "host")} for found in (one, both)]
    assert lasted == [{0.5}, {1.0}]


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_on_free_links_nothing_takes_longer(schedule):
    topology = with_hosts(fully_connected(2, link=FREE), FREE)
    plan = Plan(pp=2, microbatches=4, schedule=schedule)
    plain = simulate(work(8), topology, plan)
    found = simulate(work(8), topology, replace(plan, sharding=Sharding(offload="all")))
    assert found.step_s == plain.step_s
    for device in found.devices:
        assert all(one.bytes[-1] in (0, one.bytes[0]) for one in device.memory.by_holder)
    if not any(one.kind == "W" for row in plan.rows() for one in row):  # a second part keeps what has come to its end
        for one, other in zip(found.devices, plain.devices, strict=True):
            assert one.memory.activations_bytes < other.memory.activations_bytes


@pytest.mark.parametrize("sharding", [{"zero": 3}, {"zero": 1}, {"recompute": "full"}, {"recompute": "stages"}])
@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo", "torch-nccl"])
def test_beside_everything_else(sharding, runtime):
    layers = [layer(f"h.{i}", parameters={f"w{i}": 64}, saved_bytes=512) for i in range(4)]
    topology = with_hosts(fully_connected(4, link=Wire(1e6)), Wire(1024.0))
    plan = Plan(dp=2, pp=2, microbatches=2, runtime=runtime, sharding=Sharding(offload="all", **sharding))
    plain = replace(plan, sharding=Sharding(**sharding))
    found, other = (simulate(chained(layers, 64), topology, each) for each in (plan, plain))
    assert found.step_s >= other.step_s
    # Of stages that run again whole nothing is left but what came as a message.
    assert (sharding.get("recompute") != "stages") == ("offload" in found.spans.kind)
    assert compared(chained(layers, 64), topology, plan) == (4 if runtime == "torch-gloo" else 2)


def test_hosts_change_nothing_else():
    topology = fully_connected(4, link=Wire(1e6))
    layers = [layer(f"h.{i}", parameters={f"w{i}": 64}, saved_bytes=512) for i in range(4)]
    for plan in (Plan(dp=4), Plan(dp=2, pp=2, microbatches=2), Plan(dp=4, algorithm="auto")):
        one, other = (simulate(chained(layers, 64), each, plan) for each in (topology, with_hosts(topology, FREE)))
        assert one.step_s == other.step_s


def test_a_topology_says_where_hosts_are(tmp_path):
    made = parse_topology("switch:2,link=1GB/s@1us,offload=25GB/s@1us")
    assert [device.host for device in made.devices] == ["d0.host", "d1.host"]
    save_topology(tmp_path / "made.json", made)
    assert load_topology(tmp_path / "made.json") == made
    with pytest.raises(MpsimError, match=r"^host of device 'a' is 'b', no switch of the topology, which has none$"):
        Topology(name="t", devices=(Device(name="a", host="b"),))


def test_a_plan_says_it_and_a_file_keeps_it(tmp_path):
    plan = off("h.*", recompute="full")
    assert plan.text == "dp=1 recompute=full offload=h.*"
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("what", "topology", "message"),
    [
        ("all", fully_connected(1, link=FREE), "device 'd0' of topology 'fully_connected:1' has no host to offload to"),
        ("g.0", ONE, "offload names layer 'g.0', which 'chain' has not; did you mean 'h.0'?"),
        ("selective", ONE, "offload is 'selective', expected all, or names, patterns or numbers of layers"),
        ("full", ONE, "offload is 'full', expected all, or names, patterns or numbers of layers"),
    ],
)
def test_what_cannot_be(what, topology, message):
    with pytest.raises(MpsimError) as error:
        simulate(work(), topology, off(what))
    assert str(error.value).startswith(message)


def test_copies_stand_in_the_order_of_computations():
    lowering = lower(work(), ONE, off(microbatches=3))
    kinds = [one.pass_kind for one in instructions_of(lowering, 0) if isinstance(one, Compute)]
    assert kinds == ["F", "F", "F", "B", "B", "B"] * 3 + ["U"]
