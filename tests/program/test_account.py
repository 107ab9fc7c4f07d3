"""Where time and memory went, worked by hand."""

import math
from dataclasses import replace

import pytest
from cases import chained, layer, tensor

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.program.account import account_devices, account_traffic
from mpsim.program.model import Allocation, Program, Resident, Stream, Task, Traffic
from mpsim.simulation import simulate
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Samples, Workload

ONE_SECOND = Wire(1024.0, 0.5)
FREE = Wire(math.inf)


def account(tasks, streams, residents=(), allocations=(), devices=1):
    topology = chain(devices, link=Wire(1.0))
    program = Program(
        streams=tuple(Stream(device=d, name=name) for d, name in streams),
        tasks=tuple(tasks),
        residents=tuple(residents),
        allocations=tuple(allocations),
    )
    timing, free = replay(program, topology), replay(program, topology, free=True)
    return account_devices(program, topology, range(devices), timing, free), program


def wait(name, stream, seconds, *after):
    return Task(name, "send", (stream,), after, 0.0, Traffic(latency_s=seconds))


def test_exposed_is_what_no_computation_covers():
    """
    t        0 1 2 3 4 5 6 7 8 9
    compute  a a . . . b b . .      a 0-2, b 5-7
    network  . m m m . . n n n n    m 1-4 (after a's twin), n 6-10
    """
    tasks = [
        Task("a", "compute", (0,), (), 2.0),
        Task("tick", "compute", (2,), (), 1.0),
        wait("m", 1, 3.0, 1),
        Task("tock", "compute", (3,), (2,), 1.0),
        Task("b", "compute", (0,), (3,), 2.0),
        Task("tuck", "compute", (3,), (), 1.0),
        wait("n", 1, 4.0, 5),
    ]
    streams = [(0, "compute"), (0, "network"), (1, "compute"), (1, "other")]
    (first, _), _ = account(tasks, streams, devices=2)
    assert (first.compute_s, first.exposed_communication_s, first.idle_s) == (4.0, 2.0 + 3.0, 1.0)
    # On an ideal network m ends at 1 and b runs from 2 to 4.
    assert first.bubble_s == 0.0


def test_overlapping_transfers_count_once_and_waiting_counts_as_idle():
    """x needs both devices; device 0 is ready at 1, device 1 at 3: until then device 0 idles."""
    tasks = [
        Task("a", "compute", (0,), (), 1.0),
        Task("b", "compute", (1,), (), 3.0),
        Task("x", "all_reduce", (2, 3), (0, 1), 0.0, Traffic(latency_s=2.0)),
        Task("y", "all_reduce", (4, 5), (0, 1), 0.0, Traffic(latency_s=1.0)),
    ]
    streams = [(0, "compute"), (1, "compute"), (0, "x"), (1, "x"), (0, "y"), (1, "y")]
    (first, second), program = account(tasks, streams, devices=2)
    assert (first.compute_s, first.exposed_communication_s, first.idle_s) == (1.0, 2.0, 2.0)
    assert (second.compute_s, second.exposed_communication_s, second.idle_s) == (3.0, 2.0, 0.0)
    (count,) = account_traffic(program)
    assert (count.transfers, count.payload_bytes, count.link_bytes) == (2, 0, 0)


def test_memory_over_time():
    """Freed when the task ends, taken when it starts; at one time in the order of the tasks."""
    tasks = [Task(name, "compute", (0,), (), 1.0) for name in "abc"]
    allocations = [Allocation(0, "activations", 10, 0, 1, 0, 1), Allocation(0, "activations", 4, 2, 2, 2, 2)]
    (use,), _ = account(tasks, [(0, "compute")], [Resident(0, "parameters", 7)], allocations)
    assert use.memory.timeline_s == (0.0, 2.0, 3.0)
    assert use.memory.timeline_bytes == (17, 11, 7)
    assert (use.memory.parameters_bytes, use.memory.activations_bytes, use.memory.peak_bytes) == (7, 10, 17)


def test_memory_of_tasks_that_take_no_time_counts():
    tasks = [Task(name, "compute", (0,), (), 0.0) for name in "abcd"]
    # Held over a and b, then over c and d; never both.
    allocations = [Allocation(0, "activations", 10, 0, 1, 0, 1), Allocation(0, "activations", 10, 2, 3, 2, 3)]
    (use,), _ = account(tasks, [(0, "compute")], (), allocations)
    assert use.memory.activations_bytes == 10
    assert (use.memory.timeline_s, use.memory.timeline_bytes) == ((0.0,), (0,))
    together = [Allocation(0, "activations", 10, 0, 2, 0, 2), Allocation(0, "activations", 10, 1, 3, 1, 3)]
    (use,), _ = account(tasks, [(0, "compute")], (), together)
    assert use.memory.activations_bytes == 20


def test_memory_of_a_pipeline():
    """Stage 1 holds what its layer keeps and what it received, from 2 and 3 until its backwards end at 6 and 8.

    Its gradients, 40 bytes, are made from 4 on and kept from 6 on, when the second backward makes others to add.
    Stage 0 has in each of its backwards, from 7 and 9 on, the 512 bytes of the gradient that has come.
    """
    layers = [layer(name, saved_bytes=100, parameters={f"{name}.weight": 40}, optimizer_bytes=80) for name in "ab"]
    result = simulate(chained(layers, 512), chain(2, link=ONE_SECOND), Plan(pp=2, microbatches=2, schedule="gpipe"))
    first, second = (device.memory for device in result.devices)
    resident = 40 + 80
    assert second.timeline_s == (0.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    assert [count - resident for count in second.timeline_bytes] == [0, 612, 1224, 1264, 692, 0]
    assert [count - resident for count in first.timeline_bytes] == [100, 200, 240 + 512, 180 + 512, 0]
    assert first.timeline_s == (0.0, 1.0, 7.0, 9.0, 11.0)
    assert (second.parameters_bytes, second.gradients_bytes, second.optimizer_bytes) == (40, 40, 80)
    assert second.peak_bytes == resident + 1224 + 40
    assert result.peak_memory_bytes == (resident + 240 + 512, resident + 1264)


def test_what_is_received_and_saved_by_the_stage_counts_once():
    """b saves a's output: it is in b's saved bytes already."""
    work = Workload(
        name="saved",
        layers=(layer("a"), layer("b", saved_bytes=300)),
        tensors=(tensor("a", ["b"], 256, saved_by="b"),),
    )
    result = simulate(work, chain(2, link=FREE), Plan(pp=2))
    assert [device.memory.activations_bytes for device in result.devices] == [0, 300]
    kept_before = replace(work, tensors=(replace(work.tensors[0], saved_by="a"),))
    result = simulate(kept_before, chain(2, link=FREE), Plan(pp=2))
    assert [device.memory.activations_bytes for device in result.devices] == [0, 556]


def test_replicas_hold_their_buckets():
    work = chained([layer("a", parameters={"w": 40}, optimizer_bytes=80)], 8)
    one, two = (simulate(work, fully_connected(2, link=ONE_SECOND), Plan(dp=dp)).devices[0].memory for dp in (1, 2))
    assert (one.buffers_bytes, two.buffers_bytes) == (0, 40)
    assert two.peak_bytes == 40 + 40 + 80 + 40


@pytest.mark.parametrize(("memory", "fits"), [(240, True), (239, False), (0, None)])
def test_fits(memory, fits):
    """40 of parameters, as many of gradients, as many of those that are added to them, and 120 kept for backward."""
    work = chained([layer("a", saved_bytes=120, parameters={"w": 40})], 8)
    topology = chain(1, link=FREE, device=Device(name="", memory_bytes=memory))
    result = simulate(work, topology, Plan(microbatches=3))
    assert result.peak_memory_bytes == (240,)
    assert result.fits is fits


# The baseline.


def sized(costs: dict[int, float]) -> Workload:
    """Return one layer, measured at several micro-batch sizes: seconds of its forward, twice that of its backward."""
    table = tuple(
        Cost(
            microbatch=size,
            samples=Samples(forward_s=(t,), backward_input_s=(t,), backward_weight_s=(t,), optimizer_s=(1.0,)),
        )
        for size, t in costs.items()
    )
    return Workload(name="sized", layers=(replace(layer("a"), costs=table),), microbatch=min(costs))


def test_the_baseline_is_the_fastest_way_to_run_the_batch_on_one_device():
    """12 samples: twelve of 1 take 36 s and three of 4 take 18 s, each and an update; 8 does not divide."""
    work = sized({1: 1.0, 4: 2.0, 8: 0.125})
    result = simulate(work, fully_connected(3, link=FREE), Plan(dp=3, batch=12, microbatches=1))
    assert (result.global_batch, result.baseline_step_s) == (12, 19.0)
    assert result.baseline == "one device, 3 × micro-batch 4"
    assert result.speedup == 19.0 / 7.0


def test_the_fastest_of_unlike_devices_counts():
    topology = fully_connected(
        2, link=FREE, devices=[Device(name="", type="old"), Device(name="", type="new", speed=4.0)]
    )
    result = simulate(chained([layer("a")], 8), topology, Plan(dp=2))
    assert (result.baseline, result.baseline_step_s) == ("one new, 2 × micro-batch 1", 1.5)


def test_a_given_baseline_must_have_the_same_batch():
    work = chained([layer("a"), layer("b")], 8)
    topology = chain(2, link=FREE)
    naive = simulate(work, topology, Plan(pp=2, microbatches=4, schedule="naive"))
    result = simulate(work, topology, Plan(pp=2, microbatches=4), baseline=naive)
    assert result.baseline == naive.plan
    assert result.speedup == 24.0 / 15.0
    with pytest.raises(MpsimError, match="baseline has a global batch of 4, the plan 8: a speedup needs equal ones"):
        simulate(work, topology, Plan(pp=2, microbatches=8), baseline=naive)


def test_throughput_and_overhead():
    result = simulate(chained([layer("a"), layer("b")], 512), chain(2, link=ONE_SECOND), Plan(pp=2, microbatches=2))
    assert result.throughput_samples_per_s == 2 / result.step_s
    assert result.communication_overhead_s == result.step_s - 9.0
    assert result.communication_overhead_fraction == (result.step_s - 9.0) / result.step_s


def test_a_step_of_no_time_divides_by_nothing():
    work = chained([layer("a", (0.0, 0.0, 0.0))], 8)
    result = simulate(work, chain(1, link=FREE), Plan())
    assert (result.step_s, result.throughput_samples_per_s, result.communication_overhead_fraction) == (0.0, 0.0, 0.0)
    assert result.speedup is None
    assert [(d.compute_s, d.exposed_communication_s, d.idle_s) for d in result.devices] == [(0.0, 0.0, 0.0)]
