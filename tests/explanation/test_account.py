"""Parts of a step by hand; they add up to it whatever is split how."""

from fractions import Fraction
from math import fsum

import pytest
from cases import chained
from cases import layer as sharded
from hand_explained import FREE, SLOW, found, launched, parts, work
from hypothesis import given, settings
from random_cases import cases

from mpsim import Plan, parse_topology
from mpsim.explanation.exposed import Busy, exposed_transfers
from mpsim.plan.sharding import Sharding
from mpsim.topology.edit import replace_device


def test_what_the_schedule_leaves_idle_is_the_bubble():
    """Two stages of 3 s, two micro-batches: 9 s, of which a device computes 6."""
    one = found(work((1.0, 2.0), (1.0, 2.0)), parse_topology(FREE), Plan(pp=2, microbatches=2))
    assert parts(one) == {"computing": 6.0, "pipeline bubble": 3.0}


def test_what_unlike_stages_add_to_it_is_imbalance():
    """Stages of 3 and 6 s take 15 s, a device computes 9 of them on average; of 4.5 s each they would take 13.5."""
    one = found(work((1.0, 2.0), (2.0, 4.0)), parse_topology(FREE), Plan(pp=2, microbatches=2))
    assert parts(one) == {"computing": 9.0, "pipeline bubble": 4.5, "imbalance of stages and devices": 1.5}


def test_unlike_devices_are_imbalance_too():
    """One replica computes 3 s, the other 6 and is waited for; then both reduce for 1 s."""
    pair = replace_device(parse_topology(SLOW), "d1", speed=0.5)
    one = found(work((1.0, 2.0), parameter_bytes=1000), pair, Plan(dp=2))
    assert parts(one) == {
        "computing": 4.5,
        "exposed dp all_reduce over 1 kB/s links": 1.0,
        "imbalance of stages and devices": 1.5,
    }


def test_what_fits_into_the_bubble_is_no_more_bubble():
    """
    d0  [F0][F1]=      =[B0  ]  =[B1  ]     step 10 s, 9 on an ideal network, which leave 3 s idle
    d1     =[F0][B0  ][F1][B1  ]=
    """
    one = found(work((1.0, 2.0), (1.0, 2.0)), parse_topology(SLOW), Plan(pp=2, microbatches=2))
    assert parts(one) == {
        "computing": 6.0,
        "exposed pp send over 1 kB/s links": 1.25,
        "pipeline bubble": 2.75,
    }


def test_idle_time_that_free_links_would_take_away_is_behind_transfers():
    """Three stages, one micro-batch, 2 s a message: while the other two exchange one, a device is idle for it."""
    one = found(
        work((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), activation_bytes=2000),
        parse_topology("chain:3,link=1kB/s@0"),
        Plan(pp=3),
    )
    # Of 4 messages the outer devices take part in 2 each, the middle one in all: 16 of 24 s.
    assert one.result.step_s == 14.0
    assert parts(one) == {
        "computing": 2.0,
        "exposed pp send over 1 kB/s links": pytest.approx(16 / 3, rel=1e-15),
        "pipeline bubble": 4.0,
        "idle behind others' transfers": pytest.approx(8 / 3, rel=1e-15),
    }
    assert sum(part.seconds for part in one.parts) == 14.0


def test_launches_are_waited_for_by_their_own_device_and_by_others():
    """
    host 0  [F   ][B           ]
    d0           [.]           .     [..]     computes 1.5 s, waits 2 for its first launch
    host 1  [F   ][B           ]
    d1              [.]        [..]           computes 1.5 s, waits 3 for its second launch; the step takes 8
    """
    one = found(launched((2.0, 0.5), (2.0, 0.5)), parse_topology(FREE), Plan(pp=2))
    assert one.result.step_s == 8.0
    assert parts(one) == {
        "computing": 1.5, "exposed launch": 2.5, "pipeline bubble": 1.5, "idle behind others' launches": 2.5,
    }  # fmt: skip


def test_forwards_that_run_again_stand_apart():
    plan = Plan(sharding=Sharding(recompute="full"))
    one = found(work((1.0, 2.0), saved_bytes=8), parse_topology(SLOW), plan)
    assert parts(one) == {"computing": 3.0, "forwards run again": 1.0}


def test_computing_that_transfers_slow_down_stands_apart():
    """The first bucket is reduced from 2.5 to 3.5 s, beside 0.5 s of backward that takes 1 s meanwhile."""
    slowed = parse_topology("chain:2,link=1kB/s@0,overlap=2")
    plan = Plan(dp=2, first_bucket_bytes=1, bucket_bytes=1)
    one = found(work((1.0, 0.5), (1.0, 0.5), parameter_bytes=1000), slowed, plan)
    assert parts(one) == {
        "computing": 3.0,
        "computing slowed by transfers": 0.5,
        "exposed dp all_reduce over 1 kB/s links": 1.0,
    }


def test_of_several_transfers_the_one_counts_that_is_waited_for():
    busy = Busy()
    busy.computing = [(0.0, 1.0), (4.0, 5.0)]
    for start, end, task in ((0.5, 2.0, 0), (1.5, 4.0, 1), (0.0, 9.0, 2)):
        busy.move(start, end, task)
    # 0 and 1 end before the device computes again, the last of them counts; 2 is waited for by nobody until 5 s.
    assert exposed_transfers(busy) == {0: 0.5, 1: 2.5, 2: 4.0}


@settings(max_examples=60)
@given(cases())
def test_parts_add_up_and_the_path_is_the_step(case):
    one = found(*case)
    step_s, seconds = one.result.step_s, [part.seconds for part in one.parts]
    assert sum(seconds) == sum(reversed(seconds)) == sum(sorted(seconds)) == fsum(seconds) == step_s
    assert all(each > 0 for each in seconds)
    if step_s:
        uses = one.result.devices
        for names, of in (
            (("compute", "recompute", "slowed"), lambda use: use.compute_s),
            (("communication",), lambda use: use.exposed_communication_s),
            (("launch",), lambda use: use.exposed_launch_s),
        ):
            mean = sum(Fraction(of(use)) * use.count for use in uses) / one.result.n_devices
            told = sum(Fraction(part.seconds) for part in one.parts if part.name in names)
            # Each part is rounded by less than the step's last bit.
            assert abs(told - mean) <= len(seconds) * Fraction(2.0**-52) * Fraction(step_s)
    edges = [edge for task in one.path for edge in (task.start_s, task.end_s)]
    assert edges[1:-1:2] == edges[2::2]
    assert (edges[0], edges[-1]) == (0.0, step_s) if edges else step_s == 0.0


PLANS = [Plan(dp=20), Plan(dp=4, pp=5, microbatches=4), Plan(dp=10, tp=2)]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.text)
def test_of_ranks_that_stand_for_others_the_parts_are_the_same(plan):
    layers = chained(
        [
            sharded(name, exchanged=[("forward", "all_reduce", 300)], parameters={name: 1000}, tensor_parallel=[1, 2])
            for name in "abcde"
        ],
        500,
    )
    many = parse_topology("nodes:4,per_node=5,nics=5,inside=9kB/s@1ms,between=1kB/s@7ms")
    folded, whole = (found(layers, many, plan, fold=fold) for fold in (True, False))
    assert len(folded.result.devices) < len(whole.result.devices)
    assert folded.parts == whole.parts
    assert sum(part.seconds for part in folded.parts) == folded.result.step_s == whole.result.step_s
