"""Real processes: what they report, that no plan waits for ever, and what is said and left when one dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mpsim import Layer, MpsimError, Plan, Workload, load_result, parse_topology, save_result, simulate, summary  # noqa: E402
from mpsim.emulate.fabric import open_fabric  # noqa: E402
from mpsim.emulate.launch import Launch, launch  # noqa: E402
from mpsim.emulate.run import emulate, emulate_collectives  # noqa: E402
from mpsim.lowering.bind import scripts  # noqa: E402
from mpsim.lowering.instructions import Collective, Compute, Listed, Script, Wait  # noqa: E402
from mpsim.lowering.lower import lower  # noqa: E402
from mpsim.plan.schedule_file import rows_schedule  # noqa: E402
from mpsim.plan.schedules import parse_rows  # noqa: E402
from mpsim.plan.sharding import Sharding  # noqa: E402

FOUR = parse_topology("switch:4,link=1GB/s@10us")
PATIENCE_S = 120.0
LAUNCHER = """
from mpsim import Plan, Layer, Workload, parse_topology
from mpsim.emulate.run import emulate
layers = [Layer.given(name, forward_s=5.0, backward_s=5.0) for name in "ab"]
emulate(Workload.chain("slow", layers, activation_bytes=64), parse_topology("chain:2,link=1GB/s@1us"), Plan(pp=2))
"""


def work(seconds=1e-3, layers="abcd"):
    layers = [Layer.given(name, forward_s=seconds, backward_s=2 * seconds, parameter_bytes=1004) for name in layers]
    return Workload.chain("few", layers, activation_bytes=5001)


def ranks_of(launcher):
    """Return the processes of ranks that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and b"mpsim.emulate.rank" in command:
            found.append(int(entry.name))
    return sorted(found)


def wait_for(condition):
    until_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.02)
    return found


def signal_one_rank(number):
    """Signal the second rank of this process as soon as there are two."""

    def run():
        os.kill(wait_for(lambda: ranks_of(os.getpid())[1:])[0], number)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def check(emulation, plan, trials, workload=None):
    """What must hold of any run: it is a result as a replay's, with every byte."""
    result = emulation.result
    predicted = simulate(workload or work(), FOUR, replace(plan, boundaries=emulation.boundaries))
    assert (result.made_by, result.runtime, result.trials) == ("emulate", "torch-gloo", trials)
    assert len(result.trial_step_s) == trials
    assert sorted(result.trial_step_s)[(trials - 1) // 2] == result.step_s == max(result.spans.end_s)
    sent = {(count.axis, count.kind): (count.transfers, count.payload_bytes) for count in result.traffic}
    assert sent == {(c.axis, c.kind): (c.transfers, c.payload_bytes) for c in predicted.traffic}
    assert sorted(zip(result.spans.name, result.spans.kind, strict=True)) == sorted(
        zip(predicted.spans.name, predicted.spans.kind, strict=True)
    )
    for use, other in zip(result.devices, predicted.devices, strict=True):
        assert use.compute_s + use.exposed_communication_s + use.idle_s == result.step_s
        assert use.compute_s >= 0.999 * other.compute_s  # sleeping never ends early
        assert (use.name, use.bubble_s) == (other.name, None)


def test_a_pipeline_runs_and_its_result_is_that_of_a_replay(tmp_path):
    plan = Plan(pp=2, microbatches=3)
    emulation = emulate(work(), FOUR, plan, trials=3)
    check(emulation, plan, 3)
    links = emulation.links
    assert [device.name for device in links.devices] == [device.name for device in FOUR.devices]
    assert all(link.bandwidth_bytes_per_s > 0 for link in links.links)
    assert "real run" in summary(emulation.result)
    save_result(tmp_path / "r.json", emulation.result)
    assert load_result(tmp_path / "r.json") == emulation.result


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        Plan(pp=4, microbatches=4, schedule="gpipe"),
        Plan(pp=4, microbatches=6),
        Plan(pp=2, schedule="naive"),
        Plan(dp=2, microbatches=2, bucket_bytes=1500, first_bucket_bytes=1000),
        Plan(dp=4),
        Plan(dp=2, pp=2, microbatches=2),
        Plan(pp=2, microbatches=2, devices=(3, 1)),
        *(Plan(dp=2, pp=2, microbatches=2, sharding=Sharding(zero=zero)) for zero in (1, 2, 3)),
        Plan(dp=4, microbatches=2, sharding=Sharding(zero=3, shards=2)),
    ],
    ids=lambda plan: plan.text,
)
def test_no_plan_waits_for_ever(plan):
    check(emulate(work(), FOUR, plan, trials=2, measure_links=False), plan, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interleaved-1f1b", "zb-v", "dualpipe", "pipedream"])
def test_schedules_of_every_shape_run_on_four_ranks(name):
    plan, eight = Plan(pp=4, microbatches=8, schedule=name), work(layers="abcdefgh")
    check(emulate(eight, FOUR, plan, measure_links=False), plan, 1, eight)


@pytest.mark.parametrize(
    "schedule",
    ["chimera", rows_schedule(parse_rows("0F0 3F0 3I0 0B0 3W0\n1F0 2F0 2B0 1I0 1W0"))],
    ids=["two directions", "rows of one's own"],
)
def test_several_stages_on_a_rank_run_and_the_result_is_that_of_a_replay(schedule):
    plan = Plan(pp=2, microbatches=2 if schedule == "chimera" else 1, schedule=schedule)
    check(emulate(work(), FOUR, plan, measure_links=False), plan, 1)


@pytest.mark.slow
def test_collectives_of_every_kind_and_of_odd_sizes():
    told = []
    result = emulate_collectives(
        [1, 1003, 70_000], FOUR, devices=3, trials=2, measure_links=False, progress=lambda *done: told.append(done)
    ).result
    assert told == sorted(told)
    assert {total for _, total in told} == {3}  # two trials and a warm-up
    assert told[-1] == (3, 3)
    assert result.spans.name == ("all_reduce 0", "all_reduce 1", "all_reduce 2")
    assert result.spans.bytes == (1, 1003, 70_000)
    assert result.spans.devices == ((0, 1, 2),) * 3
    steps = []
    for i, kind in enumerate(("all_gather", "reduce_scatter", "all_to_all", "broadcast")):
        steps += [Collective(i, Listed(i, kind), kind, "dp", (0, 1, 2), 1003, 0, -1), Wait((i,))]
    ranks = tuple(Script(device=i, rank=i, steps=tuple(steps)) for i in range(3))
    with open_fabric("host", FOUR, [0, 1, 2]) as fabric:
        reports = launch(fabric, Launch(scripts=(ranks,), names=("d0", "d1", "d2"), trials=1))
    for report in reports:
        (times,) = report.trials
        assert list(times.start_s) == sorted(times.start_s)
        assert all(start_s < end_s for start_s, end_s in zip(*times, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("tied_model:decoder", Plan(pp=2, microbatches=2, schedule="gpipe")),
        ("gpt2", Plan(dp=2, pp=2, microbatches=2)),
        ("gpt2", Plan(tp=2)),
        ("tied_model:decoder", Plan(pp=2, microbatches=2, schedule="zb-v")),
        ("tied_model:decoder", Plan(dp=2, pp=2, microbatches=2, schedule="interleaved-1f1b")),
    ],
    ids=lambda value: getattr(value, "text", value),
)
def test_parts_that_compute_make_the_loss_of_the_whole(name, plan, monkeypatch):
    """Of a model of transformers where its loading, 4 s for each rank, is part of what is tried."""
    from mpsim import trace
    from mpsim.workload.example import default_loss
    from mpsim.workload.source import resolve_model

    sizes = {"n_layer": 2, "hidden": 64, "n_head": 2, "vocab": 100, "seq": 16} if name == "gpt2" else {}
    source = resolve_model(name, sizes)
    traced = trace(source, microbatches=(2,), tensor=sorted({1, plan.tp}), repeats=2)
    torch.manual_seed(0)
    example = source.build(2)
    output = example.model(*example.inputs, **example.keywords)
    whole = float((example.loss or default_loss)(output, example.target).detach())
    of = None if name == "gpt2" else name
    monkeypatch.chdir(Path(__file__).parent)  # where ranks find it
    # What is measured before leaves the parts as they were.
    emulation = emulate(traced, FOUR, plan, trials=2, compute="real", model=of, measure_links=plan.dp > 1)
    assert len(emulation.losses) == 2
    assert len(emulation.boundaries) == plan.pp * (1 if plan.schedule in ("1f1b", "gpipe") else 2) - 1
    if emulation.links is not None:
        speeds = [device.speed for device in emulation.links.devices]
        assert 1 not in speeds
        assert len({device.overlap_slowdown for device in emulation.links.devices}) == 1
    if plan.tp == 1:
        assert emulation.losses == pytest.approx([whole, whole], rel=1e-5)
    # Of so small a model the layers may miss the step, and times alone decide where it is cut: at the stages that were
    # run, what is sent is the same.
    predicted = simulate(traced, FOUR, replace(plan, boundaries=emulation.boundaries), unchecked=True)
    sent = {(count.axis, count.kind): count.payload_bytes for count in emulation.result.traffic}
    assert sent == {(count.axis, count.kind): count.payload_bytes for count in predicted.traffic}
    assert emulation.result.fidelity == "measured"


def test_a_rank_that_dies_is_named_and_the_others_end():
    thread = signal_one_rank(signal.SIGKILL)
    with pytest.raises(MpsimError, match=r"^rank 1 \(d1\) was killed by SIGKILL.*; the other ranks were ended$"):
        emulate(work(5.0), FOUR, Plan(pp=2), measure_links=False)
    thread.join()
    assert not ranks_of(os.getpid())


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named():
    lowering = lower(work(5.0), FOUR, Plan(pp=2))
    order = Launch(scripts=(scripts(lowering),), names=("d0", "d1"), trials=1, patience_s=15.0)
    thread = signal_one_rank(signal.SIGSTOP)
    with (
        open_fabric("host", FOUR, [0, 1]) as fabric,
        pytest.raises(MpsimError, match=r"no rank has gone on for 15 s: rank 1"),
    ):
        launch(fabric, order)
    thread.join()
    assert not ranks_of(os.getpid())


@pytest.mark.slow
def test_a_rank_that_raises_says_its_last_words():
    from dataclasses import replace

    lowering = lower(work(), FOUR, Plan(pp=2, runtime="torch-gloo"))
    first, second = scripts(lowering)
    steps = [step._replace(seconds=None) if isinstance(step, Compute) else step for step in second.steps]
    wrong = replace(second, steps=tuple(steps))
    order = Launch(scripts=((first, wrong),), names=("d0", "d1"), trials=1)
    with (
        open_fabric("host", FOUR, [0, 1]) as fabric,
        pytest.raises(MpsimError, match=r"^rank 1 \(d1\) ended with 1 in the warm-up.*: .*TypeError: unsupported"),
    ):
        launch(fabric, order)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_rank_outlives_the_launcher(number):
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stderr=subprocess.PIPE)
    ranks = wait_for(lambda: ranks_of(launcher.pid)[1:] and ranks_of(launcher.pid))
    launcher.send_signal(number)
    launcher.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not any(alive(rank) for rank in ranks))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
