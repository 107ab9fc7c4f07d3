"""The rows of a sweep: equal to single simulations, whatever the processes; ranked; nothing lost."""

import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import mpsim
from mpsim.plan.schedules import SCHEDULES, gpipe
from mpsim.result.frames import summary_row
from mpsim.result.model import DeviceUse
from mpsim.sweeps import SweepInterrupted, SweepResult, load_sweep, save_sweep, sweep, table
from mpsim.sweeps.model import COLUMNS, finish

HAND = str(Path(__file__).parents[1] / "data" / "hand.workload.json")


@pytest.fixture(scope="module")
def work() -> mpsim.Workload:
    return mpsim.load_workload(HAND)


@pytest.fixture(scope="module")
def ring() -> mpsim.Topology:
    return mpsim.parse_topology("ring:4,link=eth_10g,memory=1GiB")


@pytest.fixture(scope="module")
def found(work: mpsim.Workload, ring: mpsim.Topology) -> SweepResult:
    return sweep(work, ring, batch=16, trials=5, processes=1)


def row_of(found: SweepResult, plan: str) -> dict:
    (row,) = (row for row in found.rows if row["plan"] == plan)
    return row


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_do_not_matter(work, ring, found, processes) -> None:
    assert sweep(work, ring, batch=16, trials=5, processes=processes) == found


def test_a_generator_seeds_once(work, ring) -> None:
    import numpy as np

    first, second = (
        sweep(work, ring, batch=4, trials=3, rng=np.random.default_rng(7), processes=n, devices=2) for n in (1, 2)
    )
    assert first == second


def test_rows_are_those_of_single_simulations(work, ring, found) -> None:
    plan = mpsim.Plan(pp=2, tp=2, batch=16, microbatches=4, schedule="gpipe")
    alone = summary_row(mpsim.simulate(work, ring, plan, trials=5))
    row = row_of(found, plan.text)
    # One baseline for all rows, which need not be the plan's own; and what steps in a row take no sweep replays.
    ours = {"baseline", "baseline_step_s", "speedup", "steady_s"}
    assert (row["steady_s"], alone["steady_s"] is None) == (None, False)
    assert {key: row[key] for key in alone if key not in ours} == {k: v for k, v in alone.items() if k not in ours}


def test_all_rows_have_the_same_columns_and_one_baseline(found) -> None:
    assert all(tuple(row) == COLUMNS for row in found.rows)
    ran = [row for row in found.rows if row["step_s"]]
    assert len({(row["baseline"], row["baseline_step_s"]) for row in ran}) == 1
    assert all(row["speedup"] == row["baseline_step_s"] / row["step_s"] for row in ran)


def test_the_rank_follows_the_step(found) -> None:
    ranked = found.ranked
    assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
    assert [row["step_s"] for row in ranked] == sorted(row["step_s"] for row in ranked)
    assert found.best is ranked[0]
    assert found.best["tie"] is False
    assert len(ranked) + sum(count for _, count in found.reasons) == found.planned == len(found.rows)


def test_ties_are_overlapping_intervals(found) -> None:
    best = found.best
    for row in found.ranked[1:]:
        assert row["tie"] == (row["step_p5_s"] <= best["step_p95_s"] and best["step_p5_s"] <= row["step_p95_s"])
    assert any(row["tie"] for row in found.ranked)


def test_plans_that_cannot_be_run_say_why(found) -> None:
    row = row_of(found, "dp=3")
    assert row["reason"].startswith("batch of 16 does not divide into dp(3)")
    assert row["step_s"] is row["rank"] is row["fits"] is row["microbatch_size"] is None
    assert (row["global_batch"], row["n_devices"], row["strategy"]) == (16, 3, "data")
    untraced = row_of(found, "tp=3")
    assert "trace again with --tensor 1,2,3" in untraced["reason"]


def test_plans_that_do_not_fit_have_numbers_and_no_rank(work) -> None:
    # 256 KiB of weights and three times that beside them cannot stand whole on a device of 2 MiB.
    small = mpsim.parse_topology("ring:2,link=eth_10g,memory=2MiB")
    found = sweep(work, small, batch=4, processes=1)
    whole = row_of(found, "dp=1")
    assert (whole["fits"], whole["rank"]) == (False, None)
    assert whole["step_s"] > 0
    assert whole in found.too_large
    assert found.best["fits"] is True
    assert "would run but do not fit" in table(found)


def test_equal_steps_put_fewer_devices_first_and_tie() -> None:
    def row(n: int, step_s: float) -> dict:
        steps = dict.fromkeys(("step_s", "step_p5_s", "step_p95_s"), step_s)
        return dict.fromkeys(COLUMNS) | steps | {"n_devices": n, "plan": str(n)}

    rows = finish([row(4, 1.0), row(2, 1.0 + 1e-15), row(1, 2.0)], 3, 1).rows
    assert [(r["plan"], r["rank"], r["tie"]) for r in rows] == [("4", 2, True), ("2", 1, False), ("1", 3, False)]


def test_a_given_baseline_is_everyones(work, ring) -> None:
    naive = mpsim.simulate(work, ring, mpsim.Plan(pp=4, batch=4, schedule="naive"))
    found = sweep(work, ring, batch=4, baseline=naive, processes=1)
    assert row_of(found, naive.plan)["speedup"] == 1.0
    assert {row["baseline"] for row in found.rows if row["step_s"]} == {naive.plan}
    with pytest.raises(mpsim.MpsimError, match="global batch of 4, the sweep 8"):
        sweep(work, ring, batch=8, baseline=naive)


def like_gpipe(stages: int, microbatches: int) -> list:
    return gpipe(stages, microbatches)


def test_a_function_is_a_schedule_in_every_process(work, ring) -> None:
    for processes in (1, 2):
        found = sweep(work, ring, batch=8, schedules=[like_gpipe, "gpipe"], tensor=[1], processes=processes)
        own, known = (row_of(found, f"pp=4 micro-batches=8 {name}")["step_s"] for name in ("like_gpipe", "gpipe"))
        assert own == known


def test_a_registered_schedule_joins_the_grid(work, ring, monkeypatch) -> None:
    monkeypatch.setitem(SCHEDULES, "mine", lambda stages, microbatches: gpipe(stages, microbatches))
    found = sweep(work, ring, batch=8, tensor=[1], devices=2, processes=2)
    assert row_of(found, "pp=2 micro-batches=8 mine")["step_s"] > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"trials": 0}, "trials is 0"),
        ({"processes": 0}, "processes is 0"),
        ({"devices": 5}, "5 devices asked for, topology .* has 4"),
        ({"devices": 0}, "0 devices asked for"),
        ({"microbatches": [2, 0]}, "microbatches is 0"),
        ({"tensor": [0]}, "tensor size is 0"),
        ({"tensor": [8]}, "need more than the 4 devices"),
        ({"schedules": ["gpip"]}, "did you mean 'gpipe'"),
        ({"algorithm": "rign"}, "did you mean 'ring'"),
        ({"runtime": "idael"}, "did you mean 'ideal'"),
        ({"rng": -1}, "seed is -1"),
    ],
)
def test_what_makes_no_sense_for_any_plan_is_refused(work, ring, asked, message) -> None:
    with pytest.raises(mpsim.MpsimError, match=message):
        sweep(work, ring, **({"batch": 16} | asked))


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_to_the_end(work, ring, processes) -> None:
    calls: list[tuple[int, int]] = []
    found = sweep(work, ring, batch=8, processes=processes, progress=lambda *call: calls.append(call))
    assert calls == [(i, found.planned) for i in range(1, found.planned + 1)]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_what_is_done(work, ring, found, processes) -> None:
    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(SweepInterrupted) as caught:
        sweep(work, ring, batch=16, trials=5, processes=processes, progress=stop)
    partial = caught.value.result
    assert not partial.complete
    assert partial.planned == found.planned
    assert 7 <= len(partial.rows) < found.planned
    steps = {row["plan"]: row["step_s"] for row in found.rows}
    assert all(row["step_s"] == steps[row["plan"]] for row in partial.rows)
    assert table(partial).startswith(f"interrupted: {len(partial.rows)} of {found.planned}")


def test_a_signal_interrupts_the_pool(work, ring) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SweepInterrupted):
        sweep(work, ring, batch=16, trials=100_000, processes=2)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_gives_back_every_digit(found, tmp_path, suffix) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"table.{suffix}"
    save_sweep(path, found)
    assert load_sweep(path) == found
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_pandas_reads_the_csv(found, tmp_path) -> None:
    import pandas as pd

    save_sweep(tmp_path / "table.csv", found)
    frame = pd.read_csv(tmp_path / "table.csv")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["step_s"].notna().sum() == len(found.ranked)
    assert math.isclose(frame.loc[frame["rank"] == 1, "step_s"].item(), found.best["step_s"], rel_tol=1e-15)


def test_a_frame_has_one_type_a_column(found) -> None:
    frame = found.to_frame()
    assert len(frame) == found.planned
    assert str(frame.dtypes["rank"]) == "Int64"
    assert str(frame.dtypes["fits"]) == "boolean"
    assert str(frame.dtypes["step_s"]) == "float64"
    assert frame.loc[frame["rank"] == 1, "plan"].item() == found.best["plan"]


def test_edited_tables_are_refused(found, tmp_path) -> None:
    path = tmp_path / "table.csv"
    save_sweep(path, found)
    whole = path.read_text()
    for text, message in [
        (whole[: len(whole) // 2], "cells as columns|ends within a line"),
        (whole[:-1], "ends within a line"),
        (whole.replace("step_s", "stepp_s"), "no column 'step_s'"),
        (whole.replace("True", "yes"), "'yes' is not what this column holds"),
        ("a,b\n1,2\n", "not a table that mpsim sweep -o wrote"),
        ("", "not a table"),
    ]:
        path.write_text(text)
        with pytest.raises(mpsim.MpsimError, match=message):
            load_sweep(path)


def test_other_suffixes_are_refused(found, tmp_path) -> None:
    with pytest.raises(mpsim.MpsimError, match=r"expected \.csv or \.parquet"):
        save_sweep(tmp_path / "table.xlsx", found)
    assert not list(tmp_path.iterdir())


def test_the_table_groups_reasons(found) -> None:
    text = table(found, top=3)
    lines = text.splitlines()
    assert [line.split()[0].rstrip("=") for line in lines[:4]] == ["rank", "1", "2", "3"]
    assert f"3 of {len(found.ranked)} plans that can be run and fit" in text
    assert sum(" × " in line and line.startswith("  ") for line in lines) == len(found.reasons)
    assert len(table(found, top=0).splitlines()) > len(found.ranked)


def test_every_plan_of_a_sweep_may_compute_again(work, ring):
    plain = sweep(work, ring, batch=8, processes=1)
    again = sweep(work, ring, batch=8, recompute="full", processes=1)
    steps = [{row["plan"]: row["step_s"] for row in found.rows if row["step_s"]} for found in (plain, again)]
    assert {f"{plan} recompute=full" for plan in steps[0]} == set(steps[1])
    assert all(steps[1][f"{plan} recompute=full"] > seconds for plan, seconds in steps[0].items())
    with pytest.raises(ValueError, match="recompute names layer 'nobody'"):
        sweep(work, ring, batch=8, recompute="nobody", processes=1)


def test_a_renamed_column_is_not_read_as_none(found, tmp_path):
    save_sweep(tmp_path / "table.csv", found)
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace("idle_fraction", "idle", 1))
    with pytest.raises(mpsim.MpsimError, match="has a column 'idle' and none 'idle_fraction': was it renamed"):
        load_sweep(tmp_path / "table.csv")


def test_text_that_is_a_formula_comes_back_and_is_none_in_the_file(found, tmp_path):
    rows = [dict(found.rows[0], reason="=cmd()"), *found.rows[1:]]
    save_sweep(tmp_path / "table.csv", SweepResult(rows=tuple(rows), planned=found.planned))
    assert ",'=cmd()" in (tmp_path / "table.csv").read_text()
    assert load_sweep(tmp_path / "table.csv").rows[0]["reason"] == "=cmd()"


def test_the_table_says_in_which_units_people_plan_and_how_far_to_trust_them_once_where_that_is_one(found):
    result = mpsim.Result(
        workload="by hand", topology="pair", plan="dp=2", global_batch=8, tokens_per_sample=64, flops_per_sample=10**13,
        peak_flops_per_s=1e14, step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0, fidelity="measured",
        devices=tuple(DeviceUse(name=name, compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0) for name in "ab"),
    )  # fmt: skip
    rows = [
        dict.fromkeys(COLUMNS) | summary_row(replace(result, plan=plan, fidelity=fidelity)) | {"fits": True}
        for plan, fidelity in (("dp=2", "measured"), ("pp=2", "scaled"))
    ]
    several = table(finish(rows, 2, 1)).splitlines()
    assert several[0].split() == [
        "rank", "devices", "plan", "step", "tokens/s", "TFLOP/s/device", "MFU", "communication", "bubble", "peak",
        "memory", "fits", "fidelity",
    ]  # fmt: skip
    assert several[1].split()[5:9] == ["256", "20.0", "20.0", "%"]
    alike = table(finish(rows[:1], 1, 1))
    assert "fidelity: measured" in alike.splitlines()[-1]
    assert "fidelity" not in alike.splitlines()[0]
    assert not {"tokens/s", "MFU"} & set(table(found).splitlines()[0].split())  # of what does not know them
