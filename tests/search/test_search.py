"""The answer of a search is that of simulating every plan."""

from dataclasses import replace

import pytest
from cases import chained, layer
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.cli import cli
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan, load_plan
from mpsim.search.rates import parse_count, parse_price
from mpsim.search.run import best, dry_run
from mpsim.search.space import Axes
from mpsim.search.study import Study
from mpsim.sweeps.file import load_sweep
from mpsim.topology.builders import chain, nodes, switch
from mpsim.topology.model import Device
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire
from mpsim.workload.file import load_workload, save_workload


def named(found):
    """Return the answer: the best of each number of devices, and the ranking."""
    ranked = [(row["plan"], row["n_devices"], row["step_s"], row["fits"]) for row in found.sweep.ranked]
    return [row["plan"] for row in found.by_devices], ranked


def check_exhaustive(study, batch, axes=Axes(), top=5):  # noqa: B008
    """Check a search against the simulation of every plan; return how many plans each simulated."""
    few = best(study, batch=batch, axes=axes, top=top, processes=1)
    every = best(study, batch=batch, axes=axes, top=top, processes=1, prune=False)
    assert named(few) == named(every)
    assert few.planned == every.planned == sum(few.counts.values()) == sum(every.counts.values())
    return few.simulated, every.simulated


def uneven(n, memory=0, speeds=(1.0,) * 4):
    layers = [
        layer(
            f"l{i}", (0.5 + (i * 7 % 3) / 4, 0.5, 0.25 + i % 2), parameters={f"p{i}": 200 + 100 * (i % 4)},
            optimizer_bytes=400, saved_bytes=150 * (1 + i % 3), tensor_parallel=[1, 2],
            exchanged=[("forward", "all_reduce", 64), ("backward", "all_reduce", 64)],
        )
        for i in range(n)
    ]  # fmt: skip
    devices = [Device(name="", memory_bytes=memory, speed=speed) for speed in speeds]
    return Study(chained(layers, 40), switch(len(devices), link=Wire(400.0, 0.01), devices=devices))


@pytest.mark.parametrize("memory", [0, 2500, 3400])
@pytest.mark.parametrize("speeds", [(1.0,) * 4, (1.0, 1.0, 4.0)])
def test_a_small_space(memory, speeds) -> None:
    few, every = check_exhaustive(uneven(6, memory, speeds), 8, Axes(zero=(0, 1, 3)))
    assert few < every


@settings(max_examples=8)
@given(st.data())
def test_random_spaces(data) -> None:
    times = st.tuples(*[st.integers(1, 16).map(lambda n: n / 16)] * 3)
    layers = [
        layer(
            f"l{i}", data.draw(times), parameters={f"p{i}": data.draw(st.integers(1, 900))}, optimizer_s=0.125,
            saved_bytes=data.draw(st.integers(0, 900)),
        )
        for i in range(data.draw(st.integers(1, 5)))
    ]  # fmt: skip
    speeds = data.draw(st.lists(st.sampled_from([1.0, 1.0, 2.0]), min_size=1, max_size=4))
    memory = data.draw(st.sampled_from([0, 3000, 6000]))
    devices = [Device(name="", speed=speed, memory_bytes=memory) for speed in speeds]
    wire = Wire(data.draw(st.sampled_from([100.0, 1e4])), data.draw(st.sampled_from([0.0, 0.1])))
    study = Study(chained(layers, data.draw(st.integers(0, 200))), switch(len(devices), link=wire, devices=devices))
    axes = Axes(schedules=("1f1b", "interleaved-1f1b", "zb-v"), recompute=("", "full"))
    check_exhaustive(study, data.draw(st.sampled_from([1, 4, 6])), axes, top=data.draw(st.integers(1, 6)))


def test_processes_make_no_difference() -> None:
    study = uneven(5)
    one, two = (best(study, batch=8, axes=Axes(zero=(0, 3)), processes=count) for count in (1, 2))
    assert named(one) == named(two)
    assert one.sweep.rows == replace(two.sweep, processes=1).rows


def test_what_cannot_fit_is_never_simulated() -> None:
    found = best(uneven(6, memory=900), batch=8, processes=1)
    assert not found.sweep.rows
    assert found.simulated == 0
    assert found.unfit is not None
    assert found.unfit.bytes > found.unfit.capacity_bytes == 900


def test_a_dry_run_counts() -> None:
    study = uneven(6, memory=2500)
    found, counted = best(study, batch=8, processes=1), dry_run(study, batch=8)
    assert counted.planned == found.planned
    assert 0 < counted.counts["too large"] <= found.planned - found.simulated
    assert not counted.sweep.rows


def test_rows_are_kept_and_gone_on_with(tmp_path, monkeypatch) -> None:
    study, path = uneven(5), tmp_path / "best.csv"
    whole = best(study, batch=8, processes=1)
    done = []

    def stopping(plan, real=study.row):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(plan)
        return real(plan)

    monkeypatch.setattr(study, "row", stopping)
    with pytest.raises(KeyboardInterrupt, match="interrupted after"):
        best(study, batch=8, processes=1, output=path)
    assert len(path.read_text().splitlines()) == 4
    shown = run("show", path)
    assert shown.exit_code == 0, shown.output
    assert load_sweep(path).rows[0]["fidelity"] == "given"
    monkeypatch.undo()
    again = []
    monkeypatch.setattr(study, "row", lambda plan, real=study.row: again.append(plan) or real(plan))
    found = best(study, batch=8, processes=1, output=path)
    assert named(found) == named(whole)
    assert not set(again) & set(done)
    assert [row["plan"] for row in load_sweep(path).ranked] == [row["plan"] for row in whole.sweep.ranked]
    with pytest.raises(MpsimError, match="another batch"):
        best(study, batch=4, processes=1, output=path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("2.5", "a currency and a unit"), ("2.5/h", "a currency"), ("2.5 USD", "a unit"), ("$x/h", "expected a number")],
)
def test_a_price_has_a_currency_and_a_unit(text, said) -> None:
    with pytest.raises(MpsimError, match=said):
        parse_price(text)


@pytest.mark.parametrize("text", ["", "4Q", "-1M", "0.5", "nan"])
def test_tokens_are_whole(text) -> None:
    with pytest.raises(MpsimError, match="whole number of tokens"):
        parse_count(text, "--tokens")


# The command.


@pytest.fixture
def files(tmp_path):
    save_workload(tmp_path / "w.json", uneven(5).workload)
    return str(tmp_path / "w.json"), "switch:4,link=400B/s@10ms,memory=4KiB"


def run(*words: str):
    return CliRunner().invoke(cli, [*map(str, words)], standalone_mode=True)


def test_the_command_says_the_best_and_how_many_were_simulated(files, tmp_path) -> None:
    work, where = files
    plan, rows = tmp_path / "plan.json", tmp_path / "rows.csv"
    done = run("best", work, where, "--batch", 8, "--plan", plan, "-o", rows, "--processes", 1, "--price", "2 USD/h")
    assert done.exit_code == 0, done.output
    assert "The best for each number of devices" in done.output
    assert "that cannot be faster" in done.output
    assert "USD" in done.output
    found = best(Study(load_workload(work), parse_topology(where)), batch=8, processes=1)
    assert load_plan(plan) == found.plans[found.best["plan"]]
    assert load_sweep(rows).best["plan"] == found.best["plan"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either --batch"),
        (["--batch", "8", "--tokens", "4M"], "give either --batch"),
        (["--tokens", "4M"], "no sequences of tokens"),
        (["--batch", "8", "--price", "2.5"], "a currency"),
        (["--batch", "8", "--train-tokens", "1T"], "give --price too"),
        (["--batch", "8", "--devices", "9"], "9 devices asked for"),
        (["--batch", "8", "--tp", "3"], "none of the splits"),
        (["--batch", "7", "--dp", "2"], "no plan can be"),
        (["--batch", "8", "--pp", "3", "--devices", "4"], "no plan can be"),
        (["--batch", "8", "--schedules", "1f2b"], "unknown schedule"),
        (["--batch", "0"], "expected 1 or more"),
        (["--batch", "8", "--seq", "64"], "--seq is of a model"),
        (["--batch", "8", "--top", "0"], "--top is 0"),
    ],
)
def test_bad_input_gets_a_line(files, words, said) -> None:
    done = run("best", *files, *words)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_what_fits_under_no_plan_says_what_it_lacks(files) -> None:
    done = run("best", files[0], "chain:2,link=400B/s@0,memory=500B", "--batch", 8)
    assert done.exit_code == 2
    assert "none of" in done.output
    assert "more than a device has" in done.output


def test_base_and_chain_are_used() -> None:
    """What the base plan says of runtime and buckets all plans have."""
    study = Study(uneven(4).workload, chain(2, link=Wire(400.0)))
    found = best(study, batch=4, base=Plan(runtime="blocking", algorithm="direct"), processes=1)
    assert {plan.runtime for plan in found.plans.values()} == {"blocking"}
    assert found.best["algorithm"] == "direct"


def test_groups_that_shard_are_tried_where_asked() -> None:
    """Four replicas on two nodes with slow links between: pairs inside a node gather over none of these."""
    layers = [layer(f"l{i}", (1.0, 1.0, 1.0), parameters={f"p{i}": 4096}) for i in range(4)]
    topology = nodes(2, per_node=2, nics=1, inside="4KB/s@0", between="100B/s@0")
    study = Study(chained(layers, 0), topology)
    axes = Axes(devices=(4,), dp=(4,), zero=(3,))
    alone, also = (best(study, batch=8, axes=one, processes=1) for one in (axes, replace(axes, shards=(0, 2, 3))))
    assert also.planned == 2 * alone.planned
    assert [note for note in alone.sweep.notes if "--shards" in note]
    assert not [note for note in also.sweep.notes if "--shards" in note]
    assert "shards=2" in also.best["plan"]
    assert also.best["step_s"] < alone.best["step_s"]
    every = best(study, batch=8, axes=replace(axes, shards=(0, 2)), prune=False, processes=1)
    assert named(every) == named(also)
    with pytest.raises(MpsimError, match="shards is 1"):
        Axes(shards=(1,))
