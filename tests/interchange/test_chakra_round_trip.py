"""Program → Chakra → program replays to the same times."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_cases import cases

from mpsim.collectives.traffic import collective, point_to_point
from mpsim.engine.replay import replay
from mpsim.interchange import from_chakra, load_chakra, save_chakra, to_chakra
from mpsim.interchange.chakra_file import RankTrace
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Layer, Workload

TOPOLOGY = parse_topology("switch:4,link=1024B/s@250ms")
PLANS = [
    Plan(pp=4, microbatches=4),
    Plan(pp=4, microbatches=4, schedule="gpipe"),
    Plan(pp=2, dp=2, microbatches=2, bucket_bytes=8192),
    Plan(dp=4),
]
RUNTIMES = ["ideal", "torch-gloo", "torch-nccl"]


def lowered(plan):
    layers = [
        Layer.given(name, forward_s=0.5, backward_s=1.0, optimizer_s=0.125, parameter_bytes=4096) for name in "abcdefgh"
    ]
    work = Workload.chain("eight", layers, activation_bytes=1024)
    return program_of(lower(work, TOPOLOGY, plan))


def without_hints(trace: RankTrace) -> RankTrace:
    """What a tool that knows the schema alone would have written."""
    nodes = tuple(
        replace(node, attributes={k: v for k, v in node.attributes.items() if not k.startswith("mpsim_")})
        for node in trace.nodes
    )
    return replace(trace, nodes=nodes, attributes={})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.text)
def test_every_task_of_a_plan_starts_and_ends_at_the_same_moment(tmp_path, plan, runtime):
    program = lowered(replace(plan, runtime=runtime))
    save_chakra(tmp_path / "step", program, TOPOLOGY)
    read, losses = load_chakra([tmp_path / "step"], TOPOLOGY)
    assert replay(read, TOPOLOGY) == replay(program, TOPOLOGY)
    assert read.streams == program.streams
    kept = ("name", "kind", "duration_s", "axis", "stage", "microbatch", "after_buffered")
    for before, after in zip(program.tasks, read.tasks, strict=True):
        assert [getattr(before, name) for name in kept] == [getattr(after, name) for name in kept]
        assert set(before.streams) == set(after.streams)
    assert losses.lines == ()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.text)
def test_what_the_schema_alone_has_replays_to_the_same_step(plan):
    program = lowered(plan)
    traces, _ = to_chakra(program, TOPOLOGY)
    groups = {name: ranks for trace in traces for name, ranks in json.loads(trace.attributes["mpsim_groups"]).items()}
    read, losses = from_chakra([without_hints(trace) for trace in traces], TOPOLOGY, in_flight=0, groups=groups)
    assert replay(read, TOPOLOGY).end_s == replay(program, TOPOLOGY).end_s
    assert losses.lines == ()


def test_on_another_topology_the_transfers_are_worked_out_anew():
    program = lowered(Plan(dp=4))
    traces, _ = to_chakra(program, TOPOLOGY)
    faster = parse_topology("switch:4,link=4096B/s@125ms")
    read, losses = from_chakra(traces, faster)
    layers = [
        Layer.given(name, forward_s=0.5, backward_s=1.0, optimizer_s=0.125, parameter_bytes=4096) for name in "abcdefgh"
    ]
    expected = program_of(lower(Workload.chain("eight", layers, activation_bytes=1024), faster, Plan(dp=4)))
    assert replay(read, faster) == replay(expected, faster)
    assert losses.lines == ("what another topology's links carried: worked out anew, collectives by ring",)


def test_losses_of_an_export_are_listed():
    _, losses = to_chakra(lowered(replace(PLANS[0], runtime="torch-gloo")), TOPOLOGY)
    kinds = [line.split(":")[0] for line in losses.lines]
    assert "streams that serve whoever is ready first" in kinds
    assert "memory resident" in kinds
    assert "memory allocated" in kinds


def test_durations_that_are_no_whole_microseconds_are_kept_and_listed():
    program = Program(
        streams=(Stream(device=0, name="compute"),), tasks=(Task("a", "forward", (0,), duration_s=1.5e-6),)
    )
    traces, losses = to_chakra(program, TOPOLOGY)
    assert traces[0].nodes[0].duration_us == 2
    assert from_chakra(traces, TOPOLOGY)[0].tasks[0].duration_s == 1.5e-6
    assert losses.lines == ("durations that are no whole microseconds: other tools see them rounded: 1, the first 'a'",)


def test_a_dependency_between_ranks_without_a_message_is_a_message_of_one_byte_there_and_none_here():
    streams = (Stream(device=0, name="compute"), Stream(device=1, name="compute"))
    tasks = (Task("a", "forward", (0,), (), 0.5), Task("b", "forward", (1,), (0,), 0.25))
    program = Program(streams=streams, tasks=tasks)
    traces, losses = to_chakra(program, TOPOLOGY)
    assert [node.type for trace in traces[:2] for node in trace.nodes] == [
        "COMP_NODE", "COMM_SEND_NODE", "COMM_RECV_NODE", "COMP_NODE",
    ]  # fmt: skip
    assert len(losses) == 1
    assert from_chakra(traces, TOPOLOGY)[0].tasks == tasks


def test_the_size_of_an_all_gather_is_one_ranks_part():
    traffic = collective(Routes(TOPOLOGY), "all_gather", range(4), 4096)
    streams = tuple(Stream(device=device, name="c") for device in range(4))
    program = Program(streams=streams, tasks=(Task("g", "all_gather", (0, 1, 2, 3), traffic=traffic),))
    traces, _ = to_chakra(program, TOPOLOGY)
    assert traces[0].nodes[0].attributes["comm_size"] == 1024
    read, _ = from_chakra([without_hints(trace) for trace in traces], TOPOLOGY, groups={"1": range(4)})
    assert read.tasks[0].traffic.payload_bytes == 4096


def test_what_two_ranks_exchange_goes_both_ways_on_another_topology():
    """The schema has no exchange: other tools see a message one way, which is listed."""
    streams = tuple(Stream(device=device, name="c") for device in range(2))
    traffic = collective(Routes(TOPOLOGY), "send_receive", (0, 1), 4096)
    task = Task("x", "send_receive", (0, 1), traffic=traffic)
    traces, losses = to_chakra(Program(streams=streams, tasks=(task,)), TOPOLOGY)
    assert losses.lines[0].startswith("exchanges of two ranks with each other: other tools see one message")
    other = parse_topology("switch:4,link=2048B/s@250ms")
    read, _ = from_chakra(traces, other)
    expected = collective(Routes(other), "send_receive", (0, 1), 4096)
    assert len(expected.links) == 4
    for name in ("latency_s", "links", "bytes", "payload_bytes", "rounds"):
        assert getattr(read.tasks[0].traffic, name) == getattr(expected, name)


def test_the_order_of_a_groups_ranks_is_kept():
    ranks = (2, 0, 3, 1)
    ring = parse_topology("ring:4,link=1024B/s@250ms")
    traffic = collective(Routes(ring), "all_reduce", ranks, 4096)
    streams = tuple(Stream(device=device, name="c") for device in ranks)
    program = Program(streams=streams, tasks=(Task("r", "all_reduce", (0, 1, 2, 3), traffic=traffic),))
    traces, _ = to_chakra(program, ring)
    groups = json.loads(traces[0].attributes["mpsim_groups"])
    assert groups == {"1": [2, 0, 3, 1]}
    read, _ = from_chakra([without_hints(trace) for trace in traces], ring, groups=groups)
    assert read.tasks[0].traffic.bytes == traffic.bytes
    assert replay(read, ring) == replay(program, ring)


_DYADIC = st.integers(0, 64).map(lambda n: n / 16)


@st.composite
def _programs(draw):
    """Computations, messages and collectives on a few streams of four devices, each after some that come before."""
    routes = Routes(TOPOLOGY)
    names = draw(st.sampled_from([("a",), ("a", "b")]))
    slots = draw(st.sampled_from([0, 1, 2]))
    streams = tuple(
        Stream(device=device, name=name, slots=slots if name == "b" else 0) for device in range(4) for name in names
    )
    tasks: list[Task] = []
    for i in range(draw(st.integers(1, 12))):
        after = tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else ()
        ranks = draw(st.permutations(range(4)))[: draw(st.integers(1, 4))]
        on = tuple(rank * len(names) + draw(st.integers(0, len(names) - 1)) for rank in ranks)
        size = draw(st.integers(0, 4)) * 1024
        if len(ranks) == 1:
            tasks.append(Task(f"c{i}", "forward", on, after, draw(_DYADIC)))
        elif len(ranks) == 2:
            traffic = point_to_point(routes, *ranks, size) if size else Traffic(latency_s=0.5)
            tasks.append(Task(f"m{i}", "send", on, after, 0.0, traffic))
        else:
            kind = draw(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "broadcast"]))
            traffic = collective(routes, kind, ranks, size or 96)
            tasks.append(Task(f"r{i}", kind, on, after, 0.0, traffic))
    return Program(streams=streams, tasks=tuple(tasks))


@given(_programs())
def test_any_program_replays_to_the_same_times(program):
    read, _ = from_chakra(to_chakra(program, TOPOLOGY)[0], TOPOLOGY)
    assert replay(read, TOPOLOGY) == replay(program, TOPOLOGY)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_any_plan_replays_to_the_same_times(case):
    program = program_of(lower(case.workload, case.topology, case.plan))
    read, _ = from_chakra(to_chakra(program, case.topology)[0], case.topology)
    assert replay(read, case.topology) == replay(program, case.topology)
