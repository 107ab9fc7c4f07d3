"""What a real run is made of, without any process: the check of its scripts, its accounts, its words."""

import pickle
from array import array
from dataclasses import replace

import pytest

from mpsim import Layer, MpsimError, Plan, Workload, parse_topology
from mpsim.emulate import launch as launching
from mpsim.emulate import run
from mpsim.emulate.assignment import Memory, Times, groups_of
from mpsim.emulate.launch import Launch
from mpsim.emulate.measured import lay_out, timing_of
from mpsim.emulate.pairing import check_scripts
from mpsim.emulate.recipes import recipes
from mpsim.emulate.run import emulate, emulate_collectives
from mpsim.lowering.bind import scripts
from mpsim.lowering.draws import Draw, Trials, Variability
from mpsim.lowering.emit import program_of
from mpsim.lowering.instructions import Bucket, Collective, Compute, Receive, Script, Send, Wait
from mpsim.lowering.lower import lower
from mpsim.plan.schedule_file import rows_schedule
from mpsim.plan.schedules import SCHEDULES, parse_rows
from mpsim.program.account import account_devices, account_traffic
from mpsim.topology.routes import Routes

PAIR = parse_topology("chain:2,link=1GB/s@1ms")
FOUR = parse_topology("switch:4,link=1GB/s@1ms")


def script(device, *steps):
    return Script(device=device, rank=0, steps=steps)


def send(key=1, peer=1, count=8):
    return Send(key, peer, count, 0, 1, 0, "F")


def receive(key=1, peer=0, count=8):
    return Receive(key, peer, count, 0, 1, 0, "F")


def reduce(key=1, group=(0, 1), kind="all_reduce"):
    return Collective(key, Bucket(0), kind, "dp", group, 8, 0, -1)


def given(parameter_bytes=0, layers="abcd"):
    layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=parameter_bytes) for name in layers]
    return Workload.chain("few", layers, activation_bytes=64)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(pp=2, microbatches=4),
        Plan(pp=4, microbatches=8, schedule="gpipe"),
        Plan(pp=2, schedule="naive"),
        Plan(dp=4),
        Plan(dp=2, pp=2, microbatches=2),
        Plan(pp=2, microbatches=4, devices=(3, 1)),
    ],
    ids=lambda plan: plan.text,
)
def test_scripts_of_plans_fit_together(plan):
    check_scripts(scripts(lower(given(1000), FOUR, replace(plan, runtime="torch-gloo"))))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_scripts_of_every_schedule_fit_together(name, ranks):
    plan = Plan(pp=ranks, microbatches=2 * ranks, schedule=name, runtime="torch-gloo")
    for replicas in (1, 4 // ranks):
        lowering = lower(given(1000, "abcdefgh"), FOUR, replace(plan, dp=replicas))
        drawn = scripts(lowering)
        check_scripts(drawn)
        # What is laid out is every pass of every replica, once, and each message by both its ends.
        layout = lay_out(drawn, Routes(FOUR))
        computed = [task for task in layout.program.tasks if len(task.streams) == 1]
        assert len(computed) == replicas * sum(one.kind != "U" for row in lowering.rows for one in row)
        assert {len(posts) for (posts, _), task in zip(layout.sources, layout.program.tasks, strict=True)
                if task.kind == "send"} == {2}  # fmt: skip


def test_a_stage_lives_where_the_rows_say():
    # Stages 0 and 3 on rank 0, 1 and 2 on rank 1: nothing goes from stage 1 to stage 2 by a message.
    mine = rows_schedule(parse_rows("0F0 3F0 3B0 0B0\n1F0 2F0 2B0 1B0"))
    plan = Plan(pp=2, schedule=mine, runtime="torch-gloo", devices=(3, 1))
    ranks = scripts(lower(given(), FOUR, plan))
    check_scripts(ranks)
    sent = [(one.device, step.name, step.peer) for one in ranks for step in one.steps if isinstance(step, Send)]
    assert sent == [(3, "0F0>1", 1), (3, "3B0>2", 1), (1, "2F0>3", 3), (1, "1B0>0", 3)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([script(0, send(), Wait((1,))), script(1)], r"message 1 has no other end: device 0 sends 8 bytes"),
        ([script(0), script(1, receive(), Wait((1,)))], r"message 1 has no other end: device 1 receives 8 bytes"),
        (
            [script(0, send(), Wait((1,))), script(1, receive(count=9), Wait((1,)))],
            r"message 1 has no other end: device 1 receives 9 bytes",
        ),
        ([script(0, send()), script(1, receive(), Wait((1,)))], r"device 0 never waits for '0F0>1': add a Wait"),
        ([script(0, Wait((1,)))], r"device 0 waits for 1, which is not under way"),
        ([script(0, reduce(), Wait((1,))), script(1)], r"devices \[0, 1\] do not all post the same collectives"),
        (
            [
                script(0, reduce(1), reduce(2), Wait((1, 2))),
                script(1, reduce(2), reduce(1), Wait((1, 2))),
            ],
            r"devices \[0, 1\] do not all post the same collectives in the same order",
        ),
    ],
)
def test_scripts_that_would_wait_for_ever_are_refused(given, message):
    with pytest.raises(MpsimError, match=message):
        check_scripts(given)


def test_accounts_of_a_measured_step_by_hand():
    # Device 0 computes until 2, its message is posted at 2 and received at 5, device 1 computes from 5 to 7.
    ranks = [
        script(0, Compute(0, "F", 0, 0, 1, 2.0), send(), Wait((1,))),
        script(1, receive(), Wait((1,)), Compute(1, "F", 0, 1, 2, 2.0)),
    ]
    origin = 100.0
    times = [
        Times(array("d", [origin, origin + 2, origin + 2]), array("d", [origin + 2, origin + 4, origin + 4])),
        Times(array("d", [origin, origin, origin + 5]), array("d", [origin + 5, origin + 5, origin + 7])),
    ]
    layout = lay_out(ranks, Routes(PAIR))
    timing = timing_of(layout, times)
    assert [(task.name, task.kind) for task in layout.program.tasks] == [
        ("0F0", "forward"),
        ("0F0>1", "send"),
        ("1F0", "forward"),
    ]
    assert timing.start_s == (0.0, 2.0, 5.0)
    assert timing.end_s == (2.0, 5.0, 7.0)
    first, second = account_devices(layout.program, PAIR, (0, 1), timing, None)
    assert (first.compute_s, first.exposed_communication_s, first.idle_s) == (2.0, 3.0, 2.0)
    assert (second.compute_s, second.exposed_communication_s, second.idle_s) == (2.0, 3.0, 2.0)
    assert first.bubble_s is None


def test_a_collective_lasts_from_the_last_post_to_the_last_outcome():
    ranks = [script(device, reduce(), Wait((1,))) for device in (0, 1)]
    times = [
        Times(array("d", [10.0, 10.0]), array("d", [13.0, 13.0])),
        Times(array("d", [11.0, 11.0]), array("d", [13.5, 14.0])),
    ]
    layout = lay_out(ranks, Routes(PAIR))
    timing = timing_of(layout, times)
    assert (timing.start_s, timing.end_s) == ((1.0,), (3.5,))
    (count,) = account_traffic(layout.program)
    assert (count.axis, count.kind, count.transfers, count.payload_bytes) == ("dp", "all_reduce", 1, 8)


def test_groups_are_named_by_rank():
    ranks = [script(7, reduce(group=(7, 3)), Wait((1,))), script(3, reduce(group=(7, 3)), Wait((1,)))]
    assert groups_of(tuple(ranks)) == ((0, 1),)


def test_trials_draw_what_a_simulation_draws():
    layers = []
    for layer in given().layers:
        (cost,) = layer.costs
        spread = replace(cost.samples, forward_s=(0.5, 1.0, 2.0), backward_input_s=(0.5, 1.0, 2.0))
        layers.append(replace(layer, costs=(replace(cost, samples=spread),)))
    lowering = lower(Workload.chain("four", layers, activation_bytes=64), FOUR, Plan(pp=2, microbatches=4))
    drawn = run._drawn(lowering, Trials(count=3, rng=7))
    assert len(drawn) == 3
    assert drawn[0] != drawn[1]
    for trial, ranks in enumerate(drawn):
        tasks = program_of(lowering, Draw(seed=7, trial=trial)).tasks
        expected = sorted((task.name, task.duration_s) for task in tasks if task.traffic is None)
        steps = [step for rank in ranks for step in rank.steps if isinstance(step, Compute)]
        assert sorted((step.name, step.seconds) for step in steps) == expected
    assert len(run._drawn(lowering, Trials(count=1, rng=7))) == 1


def test_buckets_hold_all_parameters_in_the_order_of_backward():
    lowering = lower(given(1000), FOUR, Plan(dp=2, pp=2, microbatches=2, bucket_bytes=1500, first_bucket_bytes=900))
    made = [pickle.loads(data) for data in recipes(lowering, "mnist-mlp", "auto")]
    assert [(one.dp, one.microbatches) for one in made] == [(2, 2)] * 4
    assert [[own.layers for own in one.stages] for one in made] == [[range(2)], [range(2, 4)]] * 2
    for one, stage in zip(made, (*lowering.stages, *lowering.stages), strict=True):
        names = [name for bucket in one.stages[0].buckets for name in bucket]
        assert names == [gradient.parameter for _, gradient in stage.gradients]
    assert len(made[0].stages[0].buckets) == 2


def test_a_rank_computes_the_stages_that_live_there():
    lowering = lower(given(), FOUR, Plan(pp=2, tp=1, microbatches=2, schedule="zb-v"))
    made = [pickle.loads(data) for data in recipes(lowering, "mnist-mlp", "auto")]
    assert [[(own.stage, own.layers) for own in one.stages] for one in made] == [
        [(0, range(1)), (3, range(3, 4))],
        [(1, range(1, 2)), (2, range(2, 3))],
    ]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("chimera", "schedule 'chimera' has 2 copies of each stage, real computation one: replay the computation"),
        ("pipedream", "schedule 'pipedream' updates while micro-batches are under way, real computation when all"),
    ],
)
def test_schedules_that_no_run_computes_are_refused(schedule, message):
    lowering = lower(given(), FOUR, Plan(pp=2, microbatches=2, schedule=schedule))
    with pytest.raises(MpsimError, match=message):
        recipes(lowering, "mnist-mlp", "auto")


def test_a_model_that_other_processes_cannot_load_is_refused():
    lowering = lower(given(), FOUR, Plan())
    with pytest.raises(MpsimError, match="cannot be sent to another process"):
        recipes(lowering, lambda: None, "auto")
    with pytest.raises(MpsimError, match="what else a file names is not run: give --model"):
        recipes(lowering, None, "auto")


def test_more_processes_than_sense_are_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(launching.os, "sched_getaffinity", lambda pid: {0, 1})
    layers = [Layer.given(str(i), forward_s=1.0, backward_s=1.0) for i in range(65)]
    work = Workload.chain("many", layers, activation_bytes=8)
    with pytest.raises(MpsimError, match=r"needs 65 processes, this machine has 2 cores: more than 64"):
        emulate(work, parse_topology("switch:65,link=1GB/s@1us"), Plan(pp=65, microbatches=1))


def test_what_cannot_be_imposed_on_a_real_run_is_refused():
    for changes, message in (
        ({"trials": 0}, "trials is 0"),
        ({"warm_ups": -1}, "warm_ups is -1"),
        ({"compute": "guess"}, "unknown compute 'guess'"),
        ({"fabric": "cloud"}, "unknown fabric 'cloud'"),
        ({"variability": Variability(link_jitter_s=1e-3)}, "a jitter of 0.001 s cannot be imposed"),
    ):
        with pytest.raises(MpsimError, match=message):
            emulate(given(), PAIR, Plan(pp=2), **changes)
    with pytest.raises(MpsimError, match="'binary_tree' collectives, gloo has its own ring"):
        emulate(given(), PAIR, Plan(pp=2, algorithm="binary_tree"))
    with pytest.raises(MpsimError, match="1 devices asked for"):
        emulate_collectives([8], PAIR, devices=1)
    with pytest.raises(MpsimError, match="no collective sizes"):
        emulate_collectives([], PAIR)


def test_nameless_files_are_shared_by_descriptor_and_leave_nothing():
    memory = Memory.make("test")
    memory.dump({"a": 1})
    assert Memory(memory.descriptor).load() == {"a": 1}
    assert Memory(memory.descriptor).path.startswith("/proc/self/fd/")
    memory.close()


def test_ranks_are_named_with_their_device():
    order = Launch(scripts=((script(0),),), names=("gpu0",), trials=1)
    assert order.title(0) == "rank 0 (gpu0)"
