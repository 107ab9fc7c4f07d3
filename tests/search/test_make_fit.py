"""The changes that make a plan fit: by hand, and as good as trying every one."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
from cases import chained, layer
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpsim.cli import cli
from mpsim.errors import MpsimError
from mpsim.lowering.recomputation import recomputed_layers
from mpsim.plan.model import Plan, load_plan, save_plan
from mpsim.plan.recompute import Recompute
from mpsim.plan.sharding import Sharding
from mpsim.search.make_fit import make_fit
from mpsim.search.neighbours import KINDS, Beside, neighbours
from mpsim.simulation import simulate
from mpsim.simulation.cutting import round_step
from mpsim.topology.builders import chain, switch
from mpsim.topology.file import save_topology
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire
from mpsim.workload.file import save_workload


def devices_of(n, memory):
    return switch(n, link=Wire(400.0, 0.01), devices=[Device(name="", memory_bytes=memory)] * n)


# By hand.


def two_by_two(memory):
    """Return a pipeline of two layers on each of two devices: the first has two micro-batches of 160 bytes under way.

    Its own layers take 1.5 s forward and 3 s back, the others a third of it: four micro-batches take 4 × 4.5 = 18 s.
    """
    layers = [
        layer("a", (1.0, 1.0, 1.0), saved_bytes=100), layer("b", (0.5, 0.5, 0.5), saved_bytes=60),
        layer("c", (0.25, 0.25, 0.25), saved_bytes=30), layer("d", (0.25, 0.25, 0.25), saved_bytes=30),
    ]  # fmt: skip
    topology = chain(2, link=Wire(float("inf")), devices=[Device(name="", memory_bytes=memory)] * 2)
    return chained(layers, 0), topology, Plan(pp=2, microbatches=4, boundaries=(2,))


def of_kind(found, *kinds):
    return next((one for one in found.fixes if one.kinds == kinds), None)


def test_what_does_not_fit_holds_two_micro_batches() -> None:
    found = make_fit(*two_by_two(319))
    assert (found.step_s, found.peak_bytes, found.capacity_bytes, found.fits) == (18.0, 320, 319, False)
    assert make_fit(*two_by_two(320)).fits


@pytest.mark.parametrize(
    ("memory", "layers", "step_s", "peak"),
    [
        # Without b: twice the 100 of a, and the 60 of b again; half a second for each of four micro-batches.
        (260, "b", 20.0, 260),
        # That is a byte too much. Without a, where it is made again b of the same micro-batch is gone: 60 and 100.
        (259, "a", 22.0, 160),
        (160, "a", 22.0, 160),
        # Without either, no more than one layer of one micro-batch is there.
        (159, "a,b", 24.0, 100),
    ],
)
def test_the_layers_that_are_cheapest_to_compute_again(memory, layers, step_s, peak) -> None:
    found = of_kind(make_fit(*two_by_two(memory)), "recompute")
    assert (found.plan.sharding.recompute, found.step_s, found.peak_bytes) == (layers, step_s, peak)
    assert found.options == f"--recompute {layers}"
    assert found.more_fraction == step_s / 18 - 1
    result = simulate(*two_by_two(memory)[:2], found.plan)
    assert (result.step_s, max(result.peak_memory_bytes), result.fits) == (step_s, peak, True)


def test_what_no_layer_mends_is_said() -> None:
    found = make_fit(*two_by_two(99))
    assert not found.fixes
    assert "no change of one thing or of two makes it fit; the nearest is" in str(found)
    assert found.nearest.bytes > found.nearest.capacity_bytes == 99


def test_fewer_micro_batches_under_way() -> None:
    """GPipe keeps four of 160 bytes; 1F1B two, and takes no longer."""
    workload, topology, plan = two_by_two(320)
    found = make_fit(workload, topology, replace(plan, schedule="gpipe"))
    assert (found.peak_bytes, found.best.kinds, found.best.options) == (640, ("schedule",), "--schedule 1f1b")
    assert str(found.best) == f"fits with --schedule 1f1b: {found.best.time} of time (needs 320 B of 320 B)"


def test_stages_that_are_cut_elsewhere() -> None:
    """The first stage holds two micro-batches: with a alone 200 bytes; the other has 120 then, and is as slow as it."""
    found = make_fit(*two_by_two(219))
    assert of_kind(found, "stages").options == "--stages 1"
    assert of_kind(found, "stages").peak_bytes == 200


def test_replicas_that_shard() -> None:
    """Of 100 bytes of parameters, 100 of gradients and 300 of the optimizer two replicas hold 150 of them each."""
    one = layer("a", parameters={"w": 100}, optimizer_bytes=300, saved_bytes=10)
    found = make_fit(chained([one], 0), devices_of(2, 460), Plan(dp=2))
    assert found.peak_bytes > 460
    assert of_kind(found, "zero").options == "--zero 1"
    assert of_kind(found, "recompute") is None
    assert "recompute" in found.short
    assert "schedule" not in found.short  # there is none to be another of


def test_two_changes_where_one_is_not_enough() -> None:
    """Two layers of 100 bytes and 300 of the optimizer, a bucket of 200, 500 kept and a gradient of 100: 1,600."""
    layers = [layer(name, parameters={name: 100}, optimizer_bytes=300, saved_bytes=250) for name in "ab"]
    work, topology = chained(layers, 0), devices_of(2, 950)
    found = make_fit(work, topology, Plan(dp=2, microbatches=1))
    assert found.peak_bytes == 1600
    assert {"axes", "zero", "recompute"} <= {*found.short}
    assert len(found.best.kinds) == 2
    plan = replace(Plan(dp=2, microbatches=1), batch=2)
    assert round_step(found.best.step_s) == fastest(work, topology, pairs_by_hand(work, topology, plan))


def test_devices_that_are_free_are_used() -> None:
    """One layer on each of two devices, of which the plan uses one."""
    work = chained([layer(name, saved_bytes=100) for name in "ab"], 0)
    found = of_kind(make_fit(work, devices_of(2, 150), Plan()), "devices")
    assert (found.options, found.peak_bytes) == ("--pp 2", 100)


@pytest.mark.parametrize("schedule", ["1f1b", "pipedream"])
def test_of_many_layers_each_rank_takes_the_first_of_those_that_are_alike(schedule) -> None:
    """Of ten layers the first device keeps 1,000 bytes of each of two micro-batches: without one it is 200 less.

    Where the first ones are made again those behind them are gone. The second device has enough for its one.
    """
    work = chained([layer(f"l{i}", saved_bytes=100) for i in range(20)], 0)
    topology, plan = devices_of(2, 1100), Plan(pp=2, microbatches=4, schedule=schedule, boundaries=(10,))
    found = of_kind(make_fit(work, topology, plan), "recompute")
    assert (found.options, found.peak_bytes) == ("--recompute 0,1,2,3,4", 1000)
    fewer = replace(found.plan, sharding=Sharding(recompute="0,1,2,3"))
    assert simulate(work, topology, fewer).peak_memory_bytes == (1200, 1000)


# As good as trying every one.


@st.composite
def cases(draw):
    times = st.tuples(*[st.integers(1, 16).map(lambda n: n / 16)] * 3)
    tp = draw(st.sampled_from([1, 1, 2]))
    layers = [
        layer(
            f"l{i}", data, parameters={f"p{i}": draw(st.integers(1, 300))}, saved_bytes=draw(st.integers(0, 900)),
            optimizer_bytes=draw(st.sampled_from([0, 400])), tensor_parallel=sorted({1, tp}),
            exchanged=[("forward", "all_reduce", 64)],
        )
        for i, data in enumerate(draw(st.lists(times, min_size=1, max_size=4)))
    ]  # fmt: skip
    work = chained(layers, draw(st.integers(0, 100)))
    pp = draw(st.integers(1, len(layers)))
    plan = Plan(
        dp=draw(st.integers(1, 4 // pp)), pp=pp, microbatches=draw(st.sampled_from([1, 2, 4])),
        schedule=draw(st.sampled_from(["1f1b", "gpipe"])),
    )  # fmt: skip
    if pp > 1:
        cuts = list(combinations(range(1, len(layers)), pp - 1))
        plan = replace(plan, boundaries=draw(st.sampled_from(cuts)))
    held = max(simulate(work, devices_of(4, 0), plan).peak_memory_bytes)
    part = draw(st.floats(0.4, 0.999))
    return work, devices_of(draw(st.sampled_from([plan.ranks, 4])), max(int(held * part), 1)), plan


def by_hand(work, topology, plan, kind):
    """Return all plans of one kind of change, of layers and stages each there is."""
    found = neighbours(Beside(work, topology), plan, kind)
    n = len(work.layers)
    if kind == "stages" and plan.pp > 1:
        found += [replace(plan, boundaries=cut) for cut in combinations(range(1, n), plan.pp - 1)]
    if kind == "recompute":
        able = recomputed_layers(work, [one.costs[0] for one in work.layers], Recompute("full"))
        for count in range(1, n + 1):
            for own in combinations(sorted(able), count):
                text = ",".join(work.layers[i].name for i in own)
                found.append(replace(plan, sharding=replace(plan.sharding, recompute=text)))
    return found


def pairs_by_hand(work, topology, plan):
    """Return all plans in which two kinds of thing are otherwise; of stages cut anew no layers one by one."""
    kinds, found = list(KINDS), []
    for i, kind in enumerate(kinds):
        for one in by_hand(work, topology, plan, kind):
            for other in kinds[i + 1 :]:
                two = by_hand(work, topology, one, other)
                whole = [plan for plan in two if plan.sharding.recompute in ("", "full", "stages")]
                found += whole if kind == "stages" else two
    return found


def fastest(work, topology, plans):
    """Return the least step of plans that fit, simulating each."""
    steps = []
    for plan in plans:
        try:
            result = simulate(work, topology, plan)
        except MpsimError:
            continue
        if result.fits:
            steps.append(round_step(result.step_s))
    return min(steps, default=None)


@pytest.mark.slow
@settings(max_examples=8)
@given(cases())
def test_each_kind_is_the_fastest_of_all_that_fit(case) -> None:
    work, topology, plan = case
    assume(simulate(work, topology, plan).fits is False)
    found = make_fit(work, topology, plan)
    plan = replace(plan, batch=plan.dp * plan.microbatches)
    for kind in KINDS:
        expected = fastest(work, topology, by_hand(work, topology, plan, kind))
        own = of_kind(found, kind)
        assert (own and round_step(own.step_s)) == expected, kind
    pairs = pairs_by_hand(work, topology, plan)
    same = [one for one in pairs if one.ranks == plan.ranks]
    if not found.fixes or len(found.best.kinds) == 2:
        expected = fastest(work, topology, same) or fastest(work, topology, pairs)
        assert (found.best and round_step(found.best.step_s)) == expected
    elif found.best.plan.ranks > plan.ranks:
        assert fastest(work, topology, same) is None
    steps = [(one.plan.ranks, round_step(one.step_s)) for one in found.fixes]
    assert steps == sorted(steps)
    for one in found.fixes:
        result = simulate(work, topology, one.plan)
        assert (result.fits, result.step_s) == (True, one.step_s)
        assert max(result.peak_memory_bytes) == one.peak_bytes


# The commands.


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A pipeline of which the first stage is a few bytes too large, as files; what runs a command on them."""
    monkeypatch.chdir(tmp_path)
    workload, topology, plan = two_by_two(259)
    save_workload("w.json", workload)
    save_topology("t.json", topology)
    save_plan("p.json", plan)
    return lambda command, *words: CliRunner().invoke(cli, [command, "w.json", "t.json", *map(str, words)])


def test_a_plan_that_does_not_fit_says_what_finds_out(files) -> None:
    told = files("simulate", "--plan", "p.json").output
    assert "DOES NOT FIT: d0 needs 320 B, has 259 B (1 of 2 devices over)" in told
    assert told.endswith("note: it does not fit: --make-fit finds the cheapest change with which it does\n")


def test_the_command_prints_what_makes_it_fit_and_writes_that_plan(files) -> None:
    result = files("simulate", "--plan", "p.json", "--make-fit", "--save-plan", "f.json")
    assert result.exit_code == 0, result.output
    found = make_fit(*two_by_two(259))
    assert str(found) in result.output
    assert load_plan("f.json") == found.best.plan
    assert make_fit("w.json", "t.json", "p.json") == found
    told = json.loads(files("simulate", "--plan", "p.json", "--make-fit", "--json").output)
    assert told["fits_with"] == found.rows()
    for row in told["fits_with"]:
        again = json.loads(files("simulate", "--plan", "p.json", *row["options"].split(), "--json").output)
        assert (again["step_s"], again["fits"], again["plan"]) == (row["step_s"], True, row["plan"])


def test_a_plan_that_fits_is_left_alone(files) -> None:
    fits = files("simulate", "--plan", "p.json", "--recompute", "a", "--make-fit")
    assert fits.exit_code == 0
    assert fits.output.endswith("note: --make-fit: it fits\n")
    assert "note" not in files("simulate", "--plan", "p.json", "--recompute", "a").output


def test_a_list_of_collectives_has_nothing_to_fit() -> None:
    result = CliRunner().invoke(cli, ["simulate", "--collectives", "2600", "--devices", "4", "--make-fit"])
    assert (result.exit_code, "leave out --make-fit" in result.output) == (2, True)


def test_a_search_in_which_nothing_fits_says_what_would(files) -> None:
    """With a alone on the first device it needs 200 bytes there, however it is cut."""
    save_topology("t.json", two_by_two(199)[1])
    only = ("--batch", 4, "--devices", 2, "--dp", 1, "--recompute", "none", "--schedules", "1f1b", "--processes", 1)
    result = files("best", *only)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "none of 1 plans fits; the nearest, pp=2" in result.output
    assert "needs 200 B on a device at least, 1 B more than a device has: it fits with --recompute" in result.output


def test_a_search_in_which_nothing_fits_says_on_how_many_devices(files) -> None:
    """Four layers of 100 bytes, and as much of gradients: half of that fits."""
    save_workload("w.json", chained([layer(name, parameters={name: 100}) for name in "abcd"], 0))
    where = "chain:1,link=1GB/s@0,memory=500B"
    result = CliRunner().invoke(cli, ["best", "w.json", where, "--batch", "4", "--processes", "1"])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "on chain:2,link=1GB/s@0,memory=500B it fits with --pp 2: a step of" in result.output
    largest = CliRunner().invoke(cli, ["best", "w.json", where.replace("500", "5"), "--batch", "4", "--processes", "1"])
    assert largest.output.endswith("use more devices, or devices with more memory\n")
