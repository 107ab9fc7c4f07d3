"""``mpsim emulate``: what it refuses before any process starts, and one run from end to end."""

import json

import pytest
from cli_inputs import HAND, RING

from mpsim import load_result, load_topology

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "emulate takes a WORKLOAD or MODEL and a TOPOLOGY: see"),
        ((HAND, RING, "more"), "emulate takes a WORKLOAD or MODEL and a TOPOLOGY, got 3"),
        (("nothing.json", RING), "no file 'nothing.json'"),
        (("nothing:build", RING), "cannot import 'nothing' of 'nothing:build'"),
        ((HAND, RING, "--pp", "2", "--runtime", "ideal"), "--runtime is 'ideal', what runs here is torch-gloo"),
        ((HAND, RING, "--pp", "2", "--jitter", "1 ms"), "a jitter of 0.001 s cannot be imposed"),
        ((HAND, RING, "--pp", "2", "--fabric", "cloud"), "unknown fabric 'cloud'"),
        ((HAND, RING, "--pp", "2", "--compute", "some"), "'some' is not one of 'replay', 'real'"),
        ((HAND, RING, "--pp", "2", "--compute", "real"), "named 'hand', which is no model of the zoo"),
        ((HAND, RING, "--pp", "2", "--depth", "deep"), "--depth 'deep' is neither 'auto' nor a whole number"),
        ((HAND, RING, "--pp", "2", "--trials", "0"), "trials is 0"),
        ((HAND, RING, "--links", "l.json"), "--links 'l.json': the plan has one rank"),
        ((HAND, RING, "--links", "a.json", "-o", "a.json"), "--output and --links both write 'a.json'"),
        (
            ("--collectives", "64", RING, "--algorithm", "ring"),
            "--collectives has no workload to split: leave out --algo",
        ),
        (
            ("--collectives", "64", RING, "--compute", "real"),
            "--collectives has no workload to split: leave out --comp",
        ),
        (("--collectives", "64", RING, "--devices", "1"), "1 devices asked for"),
        (("--collectives", "64", RING, "--jitter", "1 ms"), "--collectives has no computations to slow down"),
    ],
)
def test_what_is_refused_in_one_line(mpsim, words, message):
    result = mpsim("emulate", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("mpsim: error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_is_written_and_printed_as_a_prediction_is(mpsim):
    words = (HAND, RING, "--pp", "2", "--microbatches", "2", "--json")
    files = ("-o", "r.json", "--links", "l.json", "--plot", "r.png", "--perfetto", "p.json", "--save-plan", "plan.json")
    result = mpsim("emulate", *words, *files)
    assert result.exit_code == 0, result.stderr
    found, predicted = json.loads(result.stdout), json.loads(mpsim("simulate", *words).stdout)
    assert found.keys() == predicted.keys()
    assert found["made_by"] == "emulate"
    assert found["free_step_s"] is None
    assert found["stages"] == predicted["stages"]
    assert load_result("r.json").step_s == found["step_s"]
    assert len(load_topology("l.json").devices) == 4
    again = mpsim("simulate", HAND, "l.json", "--plan", "plan.json", "--runtime", "torch-gloo")
    assert again.exit_code == 0, again.stderr
    assert "real run" in mpsim("show", "r.json").stdout


@pytest.mark.slow
def test_the_workshop_of_collectives(mpsim):
    result = mpsim("emulate", "--collectives", "2600,33024", "--devices", "2", "--trials", "3")
    assert result.exit_code == 0, result.stderr
    assert "2 collectives of 35624 bytes | all_reduce over 2 devices" in result.stdout
    assert "3 run" in result.stdout
