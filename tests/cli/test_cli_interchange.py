"""``mpsim import`` and ``mpsim export``."""

import json
from pathlib import Path

import pytest
from cli_inputs import HAND, RING

from mpsim.result.file import load_result
from mpsim.topology.file import load_topology

PLAN = ("--pp", "4", "--microbatches", "8")


def test_an_exported_plan_is_imported_with_the_same_step(mpsim) -> None:
    made = mpsim("export", HAND, RING, *PLAN, "-o", "step")
    assert made.exit_code == 0, made.stderr
    assert "wrote step.0.et to step.3.et and step.comm_groups.json" in made.stderr
    assert "not in the traces: memory resident" in made.stderr
    read = mpsim("import", "step", "--topology", RING, "-o", "read.json")
    assert read.exit_code == 0, read.stderr
    assert "not represented: memory" in read.stderr
    mpsim("simulate", HAND, RING, *PLAN, "-o", "simulated.json")
    one, other = load_result("read.json"), load_result("simulated.json")
    assert one.step_s == other.step_s
    assert one.spans == other.spans


def test_a_network_becomes_a_topology(mpsim, tmp_path) -> None:
    (tmp_path / "net.yml").write_text("topology: [ Ring ]\nnpus_count: [ 4 ]\nbandwidth: [ 50 ]\nlatency: [ 500 ]\n")
    made = mpsim("import", "net.yml", "-o", "net.json")
    assert made.exit_code == 0, made.stderr
    assert len(load_topology("net.json").links) == 8


def test_a_network_in_json_becomes_a_topology(mpsim, tmp_path) -> None:
    net = {"topology": ["Ring"], "npus_count": [4], "bandwidth": [50], "latency": [500]}
    (tmp_path / "net.json").write_text(json.dumps(net))
    made = mpsim("import", "net.json", "-o", "out.json")
    assert made.exit_code == 0, made.stderr
    assert len(load_topology("out.json").links) == 8
    again = mpsim("import", "net.json", "-o", "net.json")
    assert again.exit_code == 2
    assert "'net.json' is read, and written over it would be lost" in again.stderr
    assert json.loads((tmp_path / "net.json").read_text()) == net


def test_a_perfetto_trace_becomes_a_result_again(mpsim) -> None:
    mpsim("simulate", HAND, RING, *PLAN, "-o", "a.json", "--perfetto", "trace.json")
    made = mpsim("import", "trace.json", "-o", "b.json")
    assert made.exit_code == 0, made.stderr
    assert load_result("b.json").step_s == load_result("a.json").step_s


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "step"), "Chakra traces say nothing of links: give --topology"),
        (("import", "step", "--topology", RING), "no trace 'step'"),
        (("import", "step", "--topology", RING, "--depth", "1"), "--depth says nothing of Chakra traces"),
        (("import", "none.yml"), "cannot read 'none.yml'"),
        (("import", "none.json"), "cannot read 'none.json'"),
        (("import", "a.yml", "b.yml"), "one is read at a time"),
        (("import", "k.json"), "give --microbatch"),
        (("import", "k.json", "--microbatch", "4", "--ranks", "2"), "--ranks says nothing of a Kineto trace"),
        (("import", "o.json"), "o.json is a Chrome trace of neither torch.profiler nor mpsim"),
        (("export", HAND, RING, "-o", "nowhere/x"), "there is no folder 'nowhere'"),
        (("export", HAND, RING, "--pp", "8", "-o", "x"), "8 devices"),
        (("export", HAND, RING, *PLAN, "-o", "."), "'.' is a folder: name what stands before .0.et too, as in step"),
        (("export", HAND, RING, *PLAN, "-o", ""), "'' is a folder"),
        (("export", HAND, RING, *PLAN, "-o", "full"), "cannot write 'full.2.et': it is no file"),
        (("export", HAND, RING, *PLAN, "-o", "more"), "'more.4.et' is of an earlier trace of more ranks"),
        (("export", "w.0.et", RING, *PLAN, "-o", "w"), "'w.0.et' is read, and written over it would be lost"),
        (("import", "w", "--topology", RING, "-o", "w.0.et"), "'w.0.et' is read, and written over it would be lost"),
        (("import", "w.0.et", "--topology", "o.json", "-o", "o.json"), "'o.json' is read, and written over it"),
        (("import", "late.json"), "late.json names no device"),
    ],
)
def test_bad_input_is_one_line(mpsim, tmp_path, words, message) -> None:
    (tmp_path / "k.json").write_text(json.dumps({"schemaVersion": 1, "traceEvents": []}))
    (tmp_path / "o.json").write_text(json.dumps({"traceEvents": []}))
    about = {"workload": "w", "plan": "p", "made_by": "simulate", "step_s": 1.0}
    (tmp_path / "late.json").write_text(json.dumps({"traceEvents": [], "otherData": about}))
    (tmp_path / "full.2.et").mkdir()
    (tmp_path / "more.4.et").write_bytes(b"")
    (tmp_path / "w.0.et").write_bytes(Path(HAND).read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    made = mpsim(*words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert made.exit_code == 2
    assert message in made.stderr
    assert made.stderr.count("\n") == 1
    assert made.stdout == ""
