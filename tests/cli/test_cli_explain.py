"""``mpsim explain`` as a user calls it."""

import csv
import itertools
import json

import pytest
from cli_inputs import HAND, RING

from mpsim import Plan, explain, load_workload, parse_topology, save_plan

PIPELINE = ("explain", HAND, RING, "--pp", 4, "--microbatches", 4, "--batch", 4)


def test_it_says_what_the_function_does(mpsim):
    done = mpsim(*PIPELINE, "--no-what-ifs")
    found = explain(load_workload(HAND), parse_topology(RING), Plan(pp=4, microbatches=4, batch=4), what_ifs=False)
    assert (done.exit_code, done.output) == (0, f"{found}\n")


def test_the_path_is_written_task_by_task(mpsim, tmp_path):
    done = mpsim(*PIPELINE, "--no-what-ifs", "-o", "path.csv", "--json")
    assert done.exit_code == 0, done.output
    with open(tmp_path / "path.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    told = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [row["name"] for row in told["critical_path"]]
    assert float(rows[0]["start_s"]) == 0.0
    assert float(rows[-1]["end_s"]) == told["result"]["step_s"]
    assert all(one["end_s"] == other["start_s"] for one, other in itertools.pairwise(rows))


def test_another_plan_is_a_file_or_its_options(mpsim, tmp_path):
    save_plan(tmp_path / "other.json", Plan(dp=4, batch=4))
    said = [mpsim(*PIPELINE, "--no-what-ifs", "--against", other) for other in ("other.json", "--dp 4", "dp=4")]
    assert said[0].output == said[1].output == said[2].output
    assert "\nB: dp=4\n" in said[0].output
    what_ifs = json.loads(mpsim(*PIPELINE, "--json", "--against", "--dp 2 --tp 2").stdout)["what_ifs"]
    assert {"no latency", "one more node", "eth_10g twice as fast"} <= {one["name"] for one in what_ifs}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--against", ""),
            "--against: '' has no options of a plan: name a file, or write them, as in '--dp 4 --tp 2'",
        ),
        (
            ("--against", "other"),
            "--against: 'other': got unexpected extra argument (other): name a plan's file, or its options",
        ),
        (
            ("--against", "--pp"),
            "--against: '--pp': option '--pp' requires an argument: name a plan's file, or its options",
        ),
        (("--against", "--dpp 4"), "--against: '--dpp 4': no such option '--dpp'"),
        (("--against", "--dp '4"), "No closing quotation: write its options as for a shell"),
        (("--against", "other.json"), "--against: no file 'other.json'"),
        (("--against", "--dp 3"), "--against: batch of 4 does not divide into dp(3)"),
        (("--against", "--dp 4 --batch 8"), "the plan's batch is 4, that of the one it is held against 8: give both"),
        (("-o", "path.json"), "its suffix is '.json', expected .csv"),
    ],
)
def test_bad_words_are_one_line(mpsim, words, said):
    done = mpsim(*PIPELINE, "--no-what-ifs", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1
