"""Runs through listed failures, worked by hand to the second: a step takes 1 s, there are 4 between checkpoints."""

from dataclasses import replace

import pytest

from mpsim import Checkpoints, Event, Failures, Layer, Plan, Recovery, Workload, goodput, parse_topology, simulate
from mpsim.errors import MpsimError
from mpsim.plan.sharding import Sharding
from mpsim.topology.edit import replace_device

PAIR = parse_topology("chain:2,link=1024B/s@0")
RESTART = Recovery(detect_s=1.0, restart_s=3.0)
STORED = Checkpoints(every_s=4.0, storage_bytes_per_s=512.0)


def work(layers="a", parameter_bytes=1024):
    """A step of 1 s in all, or of as many as there are layers, each by itself."""
    made = [Layer.given(n, forward_s=0.25, backward_s=0.75, parameter_bytes=parameter_bytes) for n in layers]
    return Workload.chain("work", made)


def adam(optimizer_bytes):
    """The same, of an optimizer that keeps something."""
    layer = Layer.given("a", forward_s=0.25, backward_s=0.75, parameter_bytes=1024)
    shards = tuple(replace(shard, optimizer_bytes=optimizer_bytes) for shard in layer.shards)
    return Workload.chain("adam", [replace(layer, shards=shards)])


def alone(at, checkpoints=STORED, recovery=RESTART, horizon=32.0, **event):
    """One device that fails, or is slow, at some times."""
    events = tuple(Event(at_s=time, what="d0", **event) for time in at)
    return goodput(
        work(), parse_topology("chain:1,link=1GB/s@0"), Plan(), failures=Failures(listed=events),
        checkpoints=checkpoints, recovery=recovery, horizon=horizon,
    )  # fmt: skip


def parts(found):
    """Useful, lost, checkpoint, restart, repair, slowed of the one trial, which add up to its wall time."""
    each = (found.useful_s, found.lost_s, found.checkpoint_s, found.restart_s, found.repair_s, found.slowed_s)
    assert len(found.useful_s) == 1
    assert sum(part for (part,) in each) == found.horizon_s
    return tuple(part for (part,) in each)


def test_steps_since_the_last_checkpoint_are_lost():
    """1,024 bytes over 512 a second: 2 s to write, 2 to read back.

    0 steps 4, 4 writes 6, steps 10, writes 12, 3 steps and at 15 it fails; 1 s until that is noticed, 3 and 2 to
    restart: 21 steps 25, writes 27, steps 31, and writes for the second that is left.
    """
    found = alone([15.0])
    assert parts(found) == (16.0, 3.0, 7.0, 6.0, 0.0, 0.0)
    assert (found.blocked_s, found.read_s, found.checkpoint_bytes, found.stops) == (2.0, 2.0, 1024, (1,))
    assert found.goodput == 0.5
    assert found.throughput_samples_per_s == 0.5


def test_a_failure_during_a_checkpoint():
    """At 11 half of the second one is written: its 4 steps are lost. 17 steps 21, writes 23, steps 27, writes 29."""
    assert parts(alone([11.0])) == (15.0, 4.0, 7.0, 6.0, 0.0, 0.0)


def test_a_checkpoint_that_is_whole_at_that_moment_counts():
    """At 12 the second has just been written. 18 steps 22, writes 24, steps 28, writes 30, 2 steps."""
    assert parts(alone([12.0])) == (18.0, 0.0, 8.0, 6.0, 0.0, 0.0)


def test_a_failure_during_a_restart_begins_it_anew():
    """Down from 15; again at 18, so to 24: steps 28, writes 30, 2 steps."""
    assert parts(alone([15.0, 18.0])) == (14.0, 3.0, 6.0, 9.0, 0.0, 0.0)


def test_without_a_failure_only_checkpoints_cost():
    """A failure of a device that the plan does not use is none, and said."""
    found = goodput(
        work(), PAIR, Plan(), failures=Failures(listed=(Event(at_s=5.0, what="d1"),)), checkpoints=STORED, horizon=32.0
    )
    assert parts(found) == (22.0, 0.0, 10.0, 0.0, 0.0, 0.0)
    assert found.notes[-1] == "1 listed failures are of what the plan does not use"
    assert found.best is None


def test_an_asynchronous_checkpoint_counts_once_it_is_written():
    """1 s to copy, 2 to write beside the next steps, 2 to read.

    0 steps 4, 4 copies 5, 5 steps 9, copies 10, and at 11 that is half written: back to the first, 4 + 1 steps lost.
    17 steps 21, copies 22, steps 26, copies 27, steps 31, copies 32.
    """
    kind = replace(STORED, kind="async", copy_bytes_per_s=1024.0)
    found = alone([11.0], kind)
    assert (found.blocked_s, found.written_s, found.read_s) == (1.0, 2.0, 2.0)
    assert parts(found) == (16.0, 5.0, 5.0, 6.0, 0.0, 0.0)
    # A second later it is written: 2 steps are lost, 18 steps 22, copies 23, steps 27, copies 28, 4 steps.
    assert parts(alone([12.0], kind)) == (20.0, 2.0, 4.0, 6.0, 0.0, 0.0)


def test_a_checkpoint_waits_until_the_one_before_is_written():
    """Written in 7 s: 0 steps 4, copies 5, steps 9, waits until 12, copies 13, steps 17, waits until 20, copies 21."""
    slow = Checkpoints(every_s=4.0, kind="async", write_s=7.0, copy_s=1.0)
    assert parts(alone([100.0], slow, horizon=21.0)) == (12.0, 0.0, 9.0, 0.0, 0.0, 0.0)


def test_sharded_each_writes_its_own_whole_one_writes_all():
    """Replicas hold the same 1,024 bytes: the first writes. Sharded, each has half. Two stages have 1,024 each."""

    def saved(plan, kind="sharded", layers="a", **more):
        checkpoints = Checkpoints(every_s=4.0, kind=kind, storage_bytes_per_s=512.0, **more)
        never = Failures(listed=(Event(at_s=1e6, what="d0"),))
        found = goodput(work(layers), PAIR, plan, failures=never, checkpoints=checkpoints, horizon=64.0)
        return found.checkpoint_bytes, found.blocked_s, found.read_s

    assert saved(Plan(dp=2)) == (1024, 2.0, 2.0)
    assert saved(Plan(dp=2, sharding=Sharding(zero=3))) == (1024, 1.0, 1.0)
    assert saved(Plan(pp=2), layers="ab") == (2048, 2.0, 2.0)
    # 1 s to send the first rank its 1,024 bytes, 4 s to write 2,048; each reads its own.
    assert saved(Plan(pp=2), "whole", "ab") == (2048, 5.0, 2.0)
    # Both together no faster than 256 bytes a second.
    assert saved(Plan(pp=2), layers="ab", total_bytes_per_s=256.0) == (2048, 8.0, 8.0)


def test_what_the_optimizer_keeps_is_saved_and_sharded():
    """Two moments of 1,024 bytes: with ZeRO 1 each replica writes half of them, the first the parameters too."""
    found = goodput(
        adam(2048), PAIR, Plan(dp=2, sharding=Sharding(zero=1)),
        failures=Failures(listed=(Event(at_s=1e6, what="d0"),)), checkpoints=STORED, horizon=64.0,
    )  # fmt: skip
    assert (found.checkpoint_bytes, found.blocked_s, found.read_s) == (3072, 4.0, 4.0)


def test_spares_take_over_until_there_are_none():
    """At 15 the spare: 1 s to notice, 2 to swap, 5 to restart; 2 s into that, at 20, again, and the end comes first."""
    recovery = replace(RESTART, spares=1, swap_s=2.0, repair_s=100.0)
    assert parts(alone([15.0, 20.0], recovery=recovery)) == (8.0, 3.0, 4.0, 4.0, 13.0, 0.0)


def test_a_repaired_node_is_a_spare_again():
    """The spare at 5, and the node that failed then at 5 + 12: one at 16 waits for 1 s after it was noticed.

    5 loses nothing but a second of writing (4 steps lost), 6 notices, 11 steps 15, 1 s of writing, 16 fails; 17 has a
    node at once: restarts until 22, steps 26, writes 28, 4 steps.
    """
    recovery = replace(RESTART, spares=1, repair_s=12.0)
    assert parts(alone([5.0, 16.0], recovery=recovery)) == (8.0, 8.0, 4.0, 12.0, 0.0, 0.0)
    later = replace(recovery, repair_s=13.0)
    assert parts(alone([5.0, 16.0], recovery=later)) == (7.0, 8.0, 4.0, 12.0, 1.0, 0.0)


def replicas(events, recovery, horizon=32.0, **more):
    """Two replicas that exchange nothing; a checkpoint takes 2 s, and a restart what it says."""
    return goodput(
        work(parameter_bytes=0), PAIR, Plan(dp=2), failures=Failures(listed=events),
        checkpoints=Checkpoints(every_s=4.0, write_s=2.0), recovery=recovery, horizon=horizon, **more,
    )  # fmt: skip


def test_a_smaller_plan_goes_on_until_the_repair():
    """One replica does half of the samples in the same second.

    15 fails, 16 notices, 19 steps 23, writes 25: there the other is back. Both restart until 28 and do 4 steps.
    """
    recovery = replace(RESTART, smaller=True, repair_s=10.0)
    found = replicas((Event(at_s=15.0, what="d1"),), recovery)
    assert parts(found) == (14.0, 3.0, 6.0, 7.0, 0.0, 2.0)
    assert [(one.what, one.step_s, one.useful_s) for one in found.replayed[1:]] == [("replica 1 out", 1.0, 0.5)]
    # Waited for, it is back at 25, and all restart until 28.
    waited = replicas((Event(at_s=15.0, what="d1"),), replace(RESTART, repair_s=10.0))
    assert parts(waited) == (12.0, 3.0, 4.0, 4.0, 9.0, 0.0)


def test_a_smaller_plan_that_does_not_fit_is_waited_for():
    """Two that shard hold half of what the optimizer keeps each; one alone would hold all of it."""
    sharded, state = Plan(dp=2, sharding=Sharding(zero=1)), adam(8192)
    peaks = [max(simulate(state, PAIR, plan).peak_memory_bytes) for plan in (sharded, Plan())]
    assert peaks[0] < peaks[1]

    def run(memory):
        topology = parse_topology(f"chain:2,link=1024B/s@0,memory={memory}B")
        return goodput(
            state, topology, sharded, failures=Failures(listed=(Event(at_s=5.0, what="d1"),)), horizon=30.0,
            checkpoints=Checkpoints(every_s=4.0, write_s=1.0), recovery=Recovery(smaller=True, repair_s=10.0),
        )  # fmt: skip

    assert (run(peaks[0]).repair_s, run(peaks[1]).repair_s) == ((10.0,), (0.0,))


def test_nobody_is_left_to_go_on():
    """The other replica fails too, at 20: both are out, and whoever is back first, at 25, goes on alone.

    19 steps 20, lost; noticed at 21, waits until 25, 28 steps 30, lost: there the other is back, and all restart.
    """
    recovery = replace(RESTART, smaller=True, repair_s=10.0)
    both = (Event(at_s=15.0, what="d1"), Event(at_s=20.0, what="d0"))
    assert parts(replicas(both, recovery)) == (8.0, 6.0, 4.0, 4.0 + 1.0 + 3.0 + 2.0, 4.0, 0.0)
    # Where d1, which nobody runs on, fails again at 22, it is back at 32, and d0 goes on first, at 30.
    again = (*both, Event(at_s=22.0, what="d1"))
    assert parts(replicas(again, recovery)) == (8.0, 4.0, 4.0, 4.0 + 1.0 + 2.0, 9.0, 0.0)


def test_a_slow_device_slows_the_steps_that_begin_meanwhile():
    """Slow by 2 from 5 to 12: 6 steps 8, 10, 12, and the fourth, which begins at 12, takes 1 s again."""
    found = alone([5.0], Checkpoints(every_s=4.0, write_s=2.0), factor=2.0, lasting_s=7.0)
    assert parts(found) == (20.0, 0.0, 9.0, 0.0, 0.0, 3.0)
    assert [(one.what, one.step_s) for one in found.replayed[1:]] == [("d0 2 times slower", 2.0)]
    # From 6.5 on the step that began at 6 still takes 1 s, the second ends at 9, the third, slow, at 11.
    late = alone([6.5], Checkpoints(every_s=4.0, write_s=2.0), factor=2.0, lasting_s=3.0, horizon=11.0)
    assert parts(late) == (7.0, 0.0, 2.0, 0.0, 0.0, 2.0)


def test_what_a_slow_device_does_to_a_step_is_replayed():
    """A slow stage of a pipeline slows it by less than by its factor: by what the replay says."""
    stages, plan = work("ab", 0), Plan(pp=2, microbatches=4, boundaries=(1,))
    event = Event(at_s=3.0, what="d1", factor=1.5, lasting_s=10.0)
    found = goodput(
        stages, PAIR, plan, failures=Failures(listed=(event,)), checkpoints=Checkpoints(every_s=60.0, write_s=1.0),
        horizon=60.0,
    )  # fmt: skip
    slow = simulate(stages, replace_device(PAIR, "d1", speed=1 / 1.5), plan)
    assert found.replayed[1].step_s == slow.steady_s
    assert found.step_s == simulate(stages, PAIR, plan).steady_s < slow.steady_s < 1.5 * found.step_s


def test_nodes_and_links_fail_too():
    """Two nodes of two: a failed node is both of its replicas; the wire between switches has to be repaired."""
    topology = parse_topology("nodes:2,per_node=2,nics=2,inside=1GB/s@0,between=1GB/s@0")
    switches = [f"{link.source}->{link.target}" for link in topology.links]
    between = next(name for name in switches if not any(device.name in name.split("->") for device in topology.devices))

    def run(what, smaller):
        return goodput(
            work(), topology, Plan(dp=4), failures=Failures(listed=(Event(at_s=2.0, what=what),)), horizon=16.0,
            checkpoints=Checkpoints(every_s=4.0, write_s=1.0), recovery=Recovery(smaller=smaller, repair_s=4.0),
        )  # fmt: skip

    assert [one.what for one in run("node:1", True).replayed[1:]] == ["replicas 2, 3 out"]
    assert run("node:1", False).repair_s == (4.0,)
    assert run(between, True).repair_s == (4.0,)
    with pytest.raises(MpsimError, match="stands on 2 nodes, from node:0 on, not on 'node:2'"):
        run("node:2", False)
    with pytest.raises(MpsimError, match="no device, node or link 'd9'"):
        run("d9", False)
