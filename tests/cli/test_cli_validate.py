"""``mpsim validate``: bad input in one line, and rows that are there are printed without running anything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpsim.validate import LOOPBACK, QUICK, Comparison, save_rows
from mpsim.validate.cases import cases_on

TRACES = Path(__file__).parents[2] / "workloads"
EMULATED = ("validate", "emulated", "--workloads", TRACES)
ROW = Comparison(
    model="mnist-mlp", plan="", kind="gpipe", wire=LOOPBACK.text, batch=8192, processes=2, trials=5, fabric="host",
    compute="replay", latency_s=1e-3, bandwidth_bytes_per_s=1.2e8, predicted_s=1.1, ideal_s=0.7, measured_s=1.0,
    measured_p5_s=0.9, measured_p95_s=1.2, error_fraction=0.1, ideal_error_fraction=-0.3, error_in_spreads=1 / 3,
    compute_fraction=0.02, sends_fraction=0.05, tied_fraction=0.0, dp_fraction=0.0, tp_fraction=0.0,
    idle_fraction=0.03,
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fabric", "hst"), "unknown fabric 'hst'; did you mean 'host'?"),
        (("--models", "llama,mnist"), "unknown model 'mnist'; did you mean 'mnist-mlp'?"),
        (("--compute", "reel"), "unknown compute 'reel'; did you mean 'real'?"),
        (("--processes", "1"), "no case of the grid has 1 processes or fewer"),
        (("--workloads", "nowhere"), "no file 'nowhere/llama.cpu.json': name the folder"),
        (("-o", "rows.txt"), "-o 'rows.txt': its suffix is '.txt', expected .csv"),
        (("-o", "a.csv", "--figure", "none/a.png"), "there is no folder 'none'"),
    ],
)
def test_bad_input_is_refused_in_one_line(mpsim, words, message):
    result = mpsim(*EMULATED, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_rows_that_are_there_are_not_run_again(mpsim):
    rows = [
        replace(
            ROW,
            plan=case.plan.text,
            kind=case.plan.strategy,
            measured_s=1.0 + i,
            measured_p5_s=1.0 + i,
            measured_p95_s=1.0 + i,
            predicted_s=2.0 + i,
        )
        for i, case in enumerate(cases_on("host", QUICK))
    ]
    save_rows("rows.csv", Comparison, rows)
    result = mpsim(*EMULATED, "--quick", "--fabric", "host", "-o", "rows.csv", "--json", "--figure", "rows.png")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (found["cases"], found["not_run"], found["all"]["count"]) == (8, [], 8)
    assert [row["measured_s"] for row in found["rows"]] == [row.measured_s for row in rows]
    assert found["orders"][0]["rank_correlation"] == 1.0
    assert Path("rows.png").stat().st_size > 10_000


def test_without_a_command_it_says_what_there_is(mpsim):
    result = mpsim("validate")
    assert result.exit_code == 0
    assert "collectives" in result.stdout
    assert "emulated" in result.stdout


def test_measured_steps_are_predicted_without_running_anything(mpsim):
    printed = mpsim("validate", "steps").stdout
    assert "device-bound, back to back" in printed
    found = json.loads(mpsim("validate", "steps", "--json", "-o", "steps.csv").stdout)
    assert len(found["rows"]) == 32
    assert Path("steps.csv").read_text().count("\n") == 33
    assert {row["bound"] for row in found["rows"]} == {"device", "launch"}


def test_published_steps_are_replayed_without_running_anything(mpsim):
    words = ("validate", "published", "--file", "megatron_seqpar2022_layer", "--file", "sailor_measured.csv")
    printed = mpsim(*words).stdout
    assert "megatron_seqpar2022_layer  time" in printed
    assert "baseline no recompute sets A100's speed" in printed
    found = json.loads(mpsim(*words, "--json", "-o", "published.csv").stdout)
    assert [(one["file"], one["what"], one["count"]) for one in found["files"]] == [
        ("sailor_measured", "time", 15),
        ("sailor_measured", "memory", 15),
        ("megatron_seqpar2022_layer", "time", 4),
    ]
    assert Path("published.csv").read_text().count("\n") == 36


def test_a_launch_bound_plan_says_what_graphs_would_give(mpsim):
    words = ("simulate", TRACES / "gpt2.h200.json", "chain:1,link=1GB/s@0", "--batch", "1")
    eager = mpsim(*words).stdout
    assert eager.startswith("caution: launch-bound: hosts take")
    assert "exposed launch" in eager
    assert "back to back" in eager
    graphs = mpsim(*words, "--launch", "graphs").stdout
    assert "launch-bound" not in graphs
    assert "launch-bound" not in mpsim(*words[:-1], "8").stdout
