"""What Python calls accept, and the one line in which they refuse the rest."""

import inspect
import pickle
import random
import warnings
from dataclasses import replace
from importlib import import_module
from operator import attrgetter

import call_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsim
from mpsim import MpsimError
from mpsim.workload.device_spec import DeviceSpec

CHAIN = "chain:2,link=1GB/s@2us"


@pytest.fixture(scope="module")
def work():
    layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "ab"]
    return mpsim.Workload.chain("two", layers, activation_bytes=1024)


@pytest.fixture(scope="module")
def network():
    return mpsim.parse_topology(CHAIN)


PLAN = mpsim.Plan(pp=2, microbatches=2)


# Text where the command line takes it


def test_files_and_text_stand_for_values(work, network, tmp_path):
    path = tmp_path / "work.json"
    work.save(path)
    network.save(tmp_path / "network.json")
    PLAN.save(tmp_path / "plan.json")
    wanted = mpsim.simulate(work, network, PLAN)
    assert mpsim.simulate(path, CHAIN, "pp=2 microbatches=2") == wanted
    assert mpsim.simulate(str(path), str(tmp_path / "network.json"), tmp_path / "plan.json") == wanted
    assert mpsim.explain(path, CHAIN, PLAN, what_ifs=False).result.step_s == wanted.step_s
    assert mpsim.sweep([path], CHAIN, batch=2, processes=1).best["plan"] == "dp=2"
    assert mpsim.Study(path, CHAIN).row(PLAN)["step_s"] == wanted.step_s
    assert mpsim.Job(name="a", workload=str(path), plan="pp=2").plan == mpsim.Plan(pp=2)
    assert mpsim.draw(CHAIN) == mpsim.draw(network)
    assert mpsim.simulate(work, "chain:2,link=1GB/s@2us,device=T4", PLAN, by_type={"T4": path}).step_s == wanted.step_s


def test_a_found_plan_goes_back_into_a_call(work, network):
    found = mpsim.best(mpsim.Study(work, network), batch=4, processes=1)
    assert mpsim.simulate(work, network, found.plan).step_s == found.best["step_s"]
    assert mpsim.simulate(work, network, f"{found.best['plan']} batch=4").step_s == found.best["step_s"]


def test_a_rows_plan_is_of_the_rows_batch_and_runtime(tmp_path):
    """Its text, as it stands in a table, says neither: given back, it would else be of another step, silently."""
    layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "ab"]
    layers = [replace(one, costs=(*one.costs, replace(one.costs[0], microbatch=2))) for one in layers]
    work = mpsim.Workload.chain("two", layers, activation_bytes=1024)
    path = tmp_path / "table.csv"
    found = mpsim.sweep(work, CHAIN, batch=16, microbatches=[4], runtime="torch-gloo", processes=1, output=path)
    tables = [found, mpsim.load_sweep(path), pickle.loads(pickle.dumps(found)), found.groups[0]]
    for table in tables:
        for row in table.ranked:
            result = mpsim.simulate(work, CHAIN, row["plan"])
            assert (result.global_batch, result.runtime, result.step_s) == (16, "torch-gloo", row["step_s"])
            assert mpsim.summary(result).splitlines()[0] == f"two | {row['plan']} | {CHAIN} | batch 16"
            again = mpsim.simulate(work, CHAIN, result.plan)
            assert (again.global_batch, again.step_s) == (16, row["step_s"])
            other = replace(result, global_batch=8, runtime="ideal").plan
            assert mpsim.simulate(work, CHAIN, other).global_batch == 8
    text = str(found.best["plan"])
    assert found.best["plan"] == text
    assert repr(found.best["plan"]) == repr(text)
    # What was copied from a page says in its first line of what batch it is.
    assert mpsim.simulate(work, CHAIN, "".join(text)).global_batch == 8


@settings(max_examples=25)
@given(
    pp=st.sampled_from([1, 2, 4]), dp=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2]),
    microbatches=st.sampled_from([2, 8]), schedule=st.sampled_from(["1f1b", "gpipe", "zb-h1"]),
    algorithm=st.sampled_from(["ring", "trees", "hierarchical:2"]), launch=st.sampled_from(["", "graphs"]),
    bucket=st.sampled_from([25, 50]), zero=st.sampled_from([0, 1, 3]), recompute=st.sampled_from(["", "full", "h.*,3"]),
)  # fmt: skip
def test_a_plan_is_read_from_its_text(pp, dp, tp, microbatches, schedule, algorithm, launch, bucket, zero, recompute):
    plan = mpsim.Plan(
        pp=pp, dp=dp, tp=tp, microbatches=microbatches, schedule=schedule, algorithm=algorithm, launch=launch,
        bucket_bytes=bucket * 2**20, sharding=mpsim.Sharding(zero=zero if dp > 1 else 0, recompute=recompute),
        devices=tuple(reversed(range(pp * dp * tp))), boundaries=tuple(range(1, pp)) or None,
    )  # fmt: skip
    assert mpsim.Plan.of(plan.text).text == plan.text


# Names


def test_schedules_by_any_case():
    assert mpsim.Plan(pp=2, schedule="1F1B") == mpsim.Plan(pp=2, schedule="1f1b")
    assert mpsim.Axes(schedules=("GPipe", "ZB_V")).schedules == ("gpipe", "zb-v")
    assert mpsim.Plan(runtime="Torch-NCCL").runtime == "torch-nccl"


def test_dir_has_the_public_names_alone():
    assert dir(mpsim) == sorted(mpsim.__all__)
    assert {"trace", "plotting", "ModelSplitter", "Example", "Sharding", "SweepResult"} <= {*dir(mpsim)}


# One line


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda w, t: mpsim.simulate(t, w, PLAN), "workload is a Topology, expected a Workload or the path of its file;"
         " it is what topology takes: give workload before topology, or each by its name"),
        (lambda w, t: mpsim.simulate(w, PLAN, t), "topology is a Plan, .* it is what plan takes"),
        (lambda w, t: mpsim.simulate(w, t), "no plan is given, expected a Plan, .* mpsim.best.*plan is the fastest"),
        (lambda w, t: mpsim.simulate(w, t, None), "plan is None, expected a Plan, .* is the fastest"),
        (lambda w, t: mpsim.simulate(CHAIN, w, PLAN), "topology is a Workload, .* it is what workload takes"),
        (lambda w, t: mpsim.simulate(CHAIN, "w.json", PLAN), "is a topology where a workload is due: give the work"),
        (lambda w, t: mpsim.simulate("gpt2", t, PLAN), "'gpt2' is a model, not a workload file: mpsim trace gpt2"),
        (lambda w, t: mpsim.simulate(w, t, PLAN, trails=3), "simulate takes no 'trails'; did you mean 'trials'"),
        (lambda w, t: mpsim.simulate(w, t, PLAN, 3), "4 values are given by place, it takes 3: give the others by nam"),
        (lambda w, t: mpsim.simulate(w, t, PLAN, workload=w), "workload is given twice, by place and by name"),
        (lambda w, t: mpsim.simulate(w, t, PLAN, trials="3"), "trials is '3', expected a whole number: write 3"),
        (lambda w, t: mpsim.simulate(w, t, "pp=2 microbatch=2"), "unknown word 'microbatch'; did you mean"),
        (lambda w, t: mpsim.simulate(w, t, "no.json"), "no file 'no.json'"),
        (lambda w, t: mpsim.sweep(w, t, batch=8.0), "batch is 8.0, expected a whole number or a list of .*: write 8"),
        (lambda w, t: mpsim.sweep(w, t, batch=8, microbatches=4), "microbatches is 4, expected a list .*: write .4."),
        (lambda w, t: mpsim.sweep(w, t, batch=8, schedules="gpipe"), r"schedules is 'gpipe', .*: write \['gpipe'\]"),
        (lambda w, t: mpsim.Study(t, w), "Study: workload is a Topology"),
        (lambda w, t: mpsim.best(w, t, batch=2), r"study is a Workload, expected mpsim.Study\(workload, topology\)"),
        (lambda w, t: mpsim.Plan(pp=2.0), "pp is 2.0, expected a whole number of 1 or more: write 2"),
        (lambda w, t: mpsim.Plan(dp="2"), "dp is '2', expected a whole number of 1 or more: write 2"),
        (lambda w, t: mpsim.Plan(4), "Plan: 1 value is given by place, it takes none: give the others by name, as dp="),
        (lambda w, t: mpsim.Plan(stages=4), "Plan takes no 'stages'"),
        (lambda w, t: mpsim.Link(source="a", target="b", bandwidth_bytes_per_s="1GB/s"), "is '1GB/s', expected a numb"),
        (lambda w, t: mpsim.Topology(name="t", devices=["d0"]), "devices holds 'd0', expected a list of mpsim.Device"),
        (lambda w, t: mpsim.Workload.load(5), "path is 5, expected text or a path"),
        (lambda w, t: w.index(5), "layer is 5, expected text"),
        (lambda w, t: mpsim.load_plan(t), "path is a Topology, expected text or a path"),
    ],
)  # fmt: skip
def test_refused_in_one_line(work, network, call, line):
    with pytest.raises(MpsimError, match=line) as refused:
        call(work, network)
    assert "\n" not in str(refused.value)


def test_lists_do_for_tuples(network):
    made = mpsim.Topology(name="t", devices=[*network.devices], links=[*network.links])
    assert type(made.devices) is type(made.links) is tuple


# Saved and loaded


def test_saved_by_method_or_function_in_either_order(work, network, tmp_path):
    result = mpsim.simulate(work, network, PLAN)
    failing = {"failures": mpsim.Failures(mtbf_s="1h"), "checkpoints": mpsim.Checkpoints(every_s=9.0, write_s=1.0)}
    lost = mpsim.goodput(work, network, PLAN, **failing, horizon="1h", trials=2)
    found = mpsim.sweep(work, network, batch=2, processes=1)
    values = {"workload": work, "topology": network, "plan": PLAN, "result": result, "goodput": lost, "sweep": found}
    for noun, value in values.items():
        save, load = getattr(mpsim, f"save_{noun}"), getattr(mpsim, f"load_{noun}")
        paths = [tmp_path / f"{noun}{i}.{'csv' if noun == 'sweep' else 'json'}" for i in range(3)]
        value.save(paths[0])
        save(paths[1], value)
        save(value, str(paths[2]))
        assert paths[0].read_bytes() == paths[1].read_bytes() == paths[2].read_bytes()
        assert type(value).load(paths[0]) == load(str(paths[1])) == type(value).of(paths[2])
        with pytest.raises(MpsimError, match=f"save_{noun}: "):
            save(paths[0], 5)
        with pytest.raises(MpsimError, match="were given, expected a path and a"):
            save(value, value)
    result.save(tmp_path / "small.json", spans=False)
    assert not mpsim.Result.load(tmp_path / "small.json").spans


# Whatever a call is given


def drawn(cases, wrong, count):
    """Return calls with one argument, or two of a call's exchanged, replaced by what is drawn; the same each time."""
    rng = random.Random(20)
    for _ in range(count):
        name = rng.choice(sorted(cases))
        arguments = dict(cases[name])
        key, other = rng.choice([*arguments]), rng.choice([*arguments])
        if rng.random() < 0.2:
            arguments[key], arguments[other] = arguments[other], arguments[key]
        else:
            arguments[key] = rng.choice(wrong)
        yield name, arguments, key


def refuse_or_run(cases, wrong, count):
    """Make the calls that are drawn; return how many were refused, each in a line."""
    refused = 0
    for name, arguments, key in drawn(cases, wrong, count):
        if key in ("progress", "analytical"):  # a caller's own function; a model that would be run
            continue
        try:
            attrgetter(name)(mpsim)(**arguments)
        except MpsimError as error:
            refused += "\n" not in str(error)
        except Exception as error:
            pytest.fail(f"mpsim.{name}, {key}={arguments[key]!r:.80}: {type(error).__name__}: {error}")
    return refused


def test_valid_calls_are_there_for_all_that_is_public(tmp_path):
    names = {*call_cases.arguments(tmp_path), *call_cases.NEED_TORCH, "plotting"}
    assert names == {*mpsim.__all__}


def test_a_thousand_wrong_calls_raise_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # text that is a path for one call is written to by another
    wrong = call_cases.wrong_values(tmp_path)
    assert refuse_or_run(call_cases.arguments(tmp_path), wrong, 1000) > 600


def test_wrong_calls_with_models_raise_nothing_else(tmp_path, monkeypatch):
    cases = call_cases.arguments_of_models()
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refuse_or_run(cases, call_cases.wrong_values(tmp_path), 60) > 30


def test_wrong_calls_of_rooms_raise_nothing_else(tmp_path, monkeypatch):
    cases = call_cases.arguments_of_rooms(tmp_path)
    rooms = {f"{room}.{name}" for room in ("emulate", "interchange") for name in import_module(f"mpsim.{room}").__all__}
    known = {"emulate.Emulation", "emulate.ModelSplitter", "emulate.ParallelTrainer", "interchange.Losses"}
    assert {*cases} == rooms - known
    monkeypatch.chdir(tmp_path)
    assert refuse_or_run(cases, call_cases.wrong_values(tmp_path), 400) > 200


def test_methods_called_otherwise_raise_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases, rng = call_cases.arguments(tmp_path), random.Random(21)
    values = [
        *(cases["explain"][name] for name in ("workload", "topology", "plan")), cases["summary"]["result"],
        cases["best"]["study"], cases["save_sweep"]["result"], cases["save_goodput"]["found"],
        mpsim.best(**cases["best"]), mpsim.explain(**cases["explain"]), cases["Layer"]["shards"][0],
        cases["explain"]["workload"].layers[0], cases["Plan"]["sharding"], DeviceSpec.of("T4"),
    ]  # fmt: skip
    methods = [getattr(one, name) for one in values for name in dir(one) if name[0] != "_"]
    methods = [one for one in methods if inspect.ismethod(one) and one.__name__ != "plot"]
    wrong = call_cases.wrong_values(tmp_path)
    for _ in range(300):
        method, given = rng.choice(methods), [rng.choice(wrong) for _ in range(rng.choice([1, 1, 2, 4]))]
        try:
            method(*given)
        except MpsimError as error:
            assert "\n" not in str(error)  # noqa: PT017
        except Exception as error:
            pytest.fail(f"{method.__qualname__}({given!r:.90}): {type(error).__name__}: {error}")


def test_figures_of_anything_else_are_refused(tmp_path):
    pictures = [getattr(mpsim.plotting, name) for name in mpsim.plotting.__all__]
    for value in call_cases.wrong_values(tmp_path):
        for draw in pictures:
            two = draw.__name__ in ("goodput", "save_figure")
            if draw is mpsim.plotting.network and isinstance(value, mpsim.Topology):
                continue
            with pytest.raises(MpsimError):
                draw(*[value] * (1 + two))


def test_what_a_new_user_stumbles_on_is_one_line(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work.save("mine.json")
    (tmp_path / "out").mkdir()
    lines = {
        "no file 'dgx_h200': a workload is the path": lambda: mpsim.simulate("dgx_h200", "mine.json", "dp=8"),
        "no file 'mine.jsn'; did you mean 'mine.json'": lambda: mpsim.load_workload("mine.jsn"),
        "workload 'a' has no layers": lambda: mpsim.Workload.chain("a", []),
        "cannot write a page to 'r.pdf': its suffix": lambda: mpsim.simulate(work, CHAIN, PLAN).report("r.pdf"),
    }
    for line, call in lines.items():
        with pytest.raises(MpsimError, match=line) as refused:
            call()
        assert "\n" not in str(refused.value)
    for i in range(20):
        (tmp_path / f"other-{i:09d}.json").touch()
    with pytest.raises(MpsimError, match=r"^no file 'zzz.json'$"):
        mpsim.load_workload("zzz.json")
