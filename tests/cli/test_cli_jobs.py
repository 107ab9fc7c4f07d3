"""``mpsim jobs``: several jobs at once on one cluster."""

import json

from mpsim import Layer, Plan, Workload, save_plan, save_workload


def files(folder):
    """Write two alike jobs that cross a switch, and return their words."""
    for name, devices in (("x", (0, 2)), ("y", ())):
        layers = [Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=10**6)]
        save_workload(folder / f"{name}.json", Workload.chain(name, layers))
        save_plan(folder / f"{name}.plan.json", Plan(dp=2, devices=devices))
    return "x.json=x.plan.json", "y.json=y.plan.json"


def test_each_job_has_a_row_and_a_slowdown(mpsim, tmp_path):
    words = ("jobs", "switch:4,link=1MB/s@0ms", *files(tmp_path))
    told = json.loads(mpsim(*words, "--json").stdout)["jobs"]
    assert [(one["name"], one["devices"], one["step_s"], one["slowdown"]) for one in told] == [
        ("x", [0, 2], 4.0, 1.0), ("y", [1, 3], 4.0, 1.0),
    ]  # fmt: skip
    table = mpsim(*words).stdout.splitlines()
    assert table[0].split()[:3] == ["job", "plan", "devices"]
    assert [row.split()[0] for row in table[1:]] == ["x", "y"]


def test_a_workload_twice_is_two_jobs(mpsim, tmp_path):
    files(tmp_path)
    words = ["x.json=y.plan.json"] * 2
    told = json.loads(mpsim("jobs", "switch:4,link=1MB/s@0ms", *words, "--json").stdout)["jobs"]
    assert [one["name"] for one in told] == ["x", "x 2"]


def test_a_word_that_is_no_job_is_one_line(mpsim, tmp_path):
    files(tmp_path)
    for words, message in (
        (["x.json"], "'x.json' is no job: write WORKLOAD=PLAN, two files"),
        (["x.json=x.plan.json", "x.json=x.plan.json"], "jobs 'x' and 'x 2' both have device 0: give each its own"),
        (["x.json=x.plan.json", "--steps", "0"], "steps is 0, expected 1 or more"),
    ):
        done = mpsim("jobs", "switch:4,link=1MB/s@0ms", *words)
        assert (done.exit_code, done.stderr) == (2, f"mpsim: error: {message}\n")
