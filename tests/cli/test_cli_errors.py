"""What bad input gets: one line that says what is wrong and what to do, exit code 2, no file."""

import json
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from cli_inputs import HAND, RING


def check(result, message: str) -> None:
    """The command refused, in one line that holds `message`, and printed nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("mpsim: error: ")
    assert message in line
    assert "Traceback" not in line


SIMULATE = ("simulate", HAND, RING)
DRAW = ("plot", "-o", "x.png", "--microbatches", "4", "--schedule")
SWEEP = ("sweep", HAND, RING, "--batch", "16")
NAMES = [
    (("simulat",), "no command 'simulat'; did you mean 'simulate'?"),
    (("--bogus",), "no option '--bogus'"),
    (("simulate", "--devics", "4"), "no option '--devics'; did you mean '--devices'?"),
    (("trace", "gtp2"), "unknown model 'gtp2'; did you mean 'gpt2'?"),
    (("trace", "gpt2", "--set", "n_leyer=2"), "no size 'n_leyer'; did you mean 'n_layer'?"),
    (("trace", "gpt2", "--analytical", "H10"), "unknown device 'H10'"),
    (("trace", "no_such_module:factory"), "cannot import 'no_such_module'"),
    (("simulate", "mnist-mlp", RING), "mpsim trace mnist-mlp -o mnist-mlp.json makes one"),
    (("simulate", "none.json", RING), "no file 'none.json'"),
    (("simulate", RING, HAND), "give the workload first"),
    (("simulate", HAND, "none.json"), "no file 'none.json'"),
    (("simulate", HAND, "rng:4,link=eth_10g"), "did you mean 'ring'?"),
    (("simulate", HAND, "ring:4,link=nvlnk4"), "did you mean 'nvlink4'?"),
    (("simulate", HAND, "ring:4,link=nvlink4,device=H10"), "unknown device 'H10'"),
    ((*SIMULATE, "--schedule", "gpip"), "unknown schedule 'gpip'; did you mean 'gpipe'?"),
    ((*SIMULATE, "--strategy", "tensr"), "unknown strategy 'tensr'; did you mean 'tensor'?"),
    ((*SIMULATE, "--runtime", "idael"), "unknown runtime 'idael'; did you mean 'ideal'?"),
    ((*SIMULATE, "--launch", "graph"), "unknown way of launching 'graph'; did you mean 'graphs'?"),
    ((*SIMULATE, "--launch", "eager"), "launch=eager needs to know what launching takes"),
    ((*SIMULATE, "--host-speed", "0"), "host speed is 0.0, expected more than 0"),
    ((*SWEEP, "--launch", "graph"), "unknown way of launching 'graph'; did you mean 'graphs'?"),
    ((*SWEEP, "--host-speed", "-1"), "host speed is -1.0, expected more than 0"),
    (("validate", "steps", HAND), "is no file of measured steps: it has no list of rows"),
    (("validate", "steps", "none.json"), "no file 'none.json'"),
    (("validate", "published", "none"), "no folder 'none'"),
    (("validate", "published", "."), "no .csv file in '.'"),
    (("validate", "published", "--file", "none"), "no file of steps 'none'"),
    (("validate", "recipes", "--file", "none"), "unknown file of recipes 'none'"),
    (("validate", "recipes", "--match", "GPT-5"), "no recipe has 'GPT-5' in its name"),
    ((*SIMULATE, "--dp", "2", "--algorithm", "rign"), "did you mean 'ring'?"),
    ((*SIMULATE, "--algorithm", "rign"), "unknown all_reduce algorithm 'rign'; did you mean 'ring'?"),
    ((*SIMULATE, "--stages", "fc9"), "unknown layer 'fc9'"),
    ((*SIMULATE, "--baseline", "nave"), "did you mean 'naive'?"),
    ((*SIMULATE, "--costs", f"A100={HAND}"), "no device of type 'A100'"),
    ((*SIMULATE, "--plan", HAND), "is a workload (mpsim.workload/1), expected a plan"),
    ((*SWEEP, "--schedules", "gpip"), "unknown schedule 'gpip'; did you mean 'gpipe'?"),
    (("plot", "none.json", "-o", "x.png"), "no file 'none.json'"),
    (("plot", HAND, "-o", "x.png"), "is a workload: give results"),
    (("plot", HAND, "-o", "x.png", "--kind", "timelin"), "did you mean 'timeline'?"),
    (("show", "gpt3"), "nothing is called 'gpt3'; did you mean 'gpt2'?"),
    (("show", "none.json"), "no file 'none.json'"),
    (("simulate", "--collectives", "8", "--devices", "2", "--collective", "all_reduc"), "did you mean 'all_reduce'?"),
]
VALUES = [
    (("simulate",), "simulate takes a WORKLOAD and a TOPOLOGY"),
    (("simulate", HAND), "simulate takes a WORKLOAD and a TOPOLOGY, got 1"),
    (("sweep", HAND, RING), "--batch is missing"),
    (("plot", "-o", "x.png"), "FILE is missing"),
    (("plot", "-o", "x.png", "--stages", "4"), "--stages is of a schedule: name it with --schedule"),
    (("plot", HAND, "-o", "x.png", "--schedule", "1f1b"), "--schedule draws a schedule alone: leave out"),
    (("plot", "-o", "x.png", "--schedule", "1f1b", "--kind", "cdf"), "draws a schedule alone: leave out --kind"),
    (("plot", "-o", "x.png", "--schedule", "zbv"), "unknown schedule 'zbv'; did you mean 'zb-v'?"),
    (("plot", "-o", "x.png", "--schedule", "1f1b", "--stages", "4"), "--schedule 1f1b needs --microbatches"),
    (("plot", "-o", "x.png", "--schedule", "none.csv"), "cannot read 'none.csv': No such file"),
    ((*DRAW, "1f1b", "--stages", "0"), "0 ranks, expected 1 or more"),
    ((*DRAW, "1f1b", "--stages", "2", "--chunks", "2"), "schedule '1f1b' has one stage a rank: leave the 2 chunks out"),
    ((*DRAW, "zb-v", "--stages", "2", "--chunks", "3"), "zb-v has 2 stages a rank, 3 were asked for"),
    ((*DRAW, "chimera", "--stages", "3"), "chimera pairs each rank with its mirror, 3 ranks leave one alone"),
    ((*SIMULATE, "--pp", "5"), "dp(1) × pp(5) × tp(1) = 5 devices, topology has 4"),
    ((*SIMULATE, "--pp", "4", "--devices", "2"), "needs 4 devices, --devices allows 2"),
    ((*SIMULATE, "--devices", "9"), "--devices asks for 9, topology has 4"),
    ((*SWEEP, "--devices", "9"), "9 devices asked for, topology"),
    ((*SIMULATE, "--pp", "x"), "'x' is not a valid integer"),
    ((*SIMULATE, "--pp", "0"), "pp is 0, expected 1 or more"),
    ((*SIMULATE, "--batch", "0"), "--batch is 0"),
    ((*SIMULATE, "--batch", "64"), "measured at micro-batch 1,2,4 (tp=1), the plan needs 64"),
    ((*SIMULATE, "--tp", "4"), "measured at tp 1,2, the plan needs tp=4: trace again with --tensor 1,2,4"),
    ((*SIMULATE, "--batch", "10", "--dp", "4"), "batch of 10 does not divide into dp(4) × micro-batches(1) = 4"),
    ((*SWEEP, "--microbatches", "3"), "none of 23 plans can be run"),
    ((*SIMULATE, "--bucket", "25"), "--bucket '25' has no unit: write '25 MiB'"),
    ((*SWEEP, "--bucket", "25"), "--bucket '25' has no unit: write '25 MiB'"),
    ((*SIMULATE, "--jitter", "10"), "--jitter '10' has no unit"),
    ((*SIMULATE, "--dp", "4", "--gather-ahead", "2"), "zero is 0: nothing is gathered, gather_ahead needs zero=3"),
    ((*SIMULATE, "--dp", "4", "--fsdp", "--reshard", "block"), "reshard after forward 'block'; did you mean 'blocks'?"),
    ((*SIMULATE, "--dp", "4", "--fsdp", "--gather-dtype", "bf16"), "gather_dtype: unknown dtype 'bf16'"),
    ((*SIMULATE, "--dp", "4", "--gather-dtype", "bfloat16"), "gather_dtype and reduce_dtype are of sharded replicas"),
    (("simulate", HAND, "ring:4,bandwidth=50,latency=2us"), "bandwidth '50' has no unit: write '50 GB/s'"),
    (("simulate", HAND, "ring:4,bandwidth=50GB/s,latency=2"), "latency '2' has no unit"),
    (("simulate", HAND, "ring:4"), "has no link"),
    (("simulate", "--collectives", "8,x", "--devices", "4"), "--collectives 'x'"),
    (("simulate", "--collectives", "9" * 5000, "--devices", "4"), "is not a number"),
    (("simulate", "--collectives", "9" * 19, "--devices", "4"), "has more than 9223372036854775807 bytes"),
    (("simulate", "--collectives", "8", "--devices", "1"), "--devices is 1: a collective takes 2 devices or more"),
    (("simulate", "--collectives", "0", "--devices", "4"), "all_reduce of 0 bytes: expected more than 0"),
    (("simulate", "--collectives=-8", "--devices", "4"), "'-8' has no unit"),
    (("simulate", "--collectives", "nan", "--devices", "4"), "'nan' is not a number with a unit"),
    (("simulate", "--collectives", "8", "ring:2,link=eth_10g", "--devices", "3"), "--devices asks for 3"),
    (("simulate", "--collectives", "8"), "--collectives needs a TOPOLOGY, or --devices N"),
    (("simulate", "--collectives", "8", "--devices", "4", "--pp", "2"), "leave out --pp"),
    ((*SIMULATE, "--strategy", "gpipe"), "--strategy gpipe needs --microbatches"),
    ((*SIMULATE, "--strategy", "data", "--dp", "2"), "leave out --dp"),
    ((*SIMULATE, "--stages", "fc3,fc2"), "must ascend"),
    ((*SIMULATE, "--pp", "2", "--stages", "fc2,fc3"), "2 stage boundaries, pp=2 needs 1"),
    ((*SIMULATE, "--pp", "2", "--place", "0,9"), "device 9, topology has 0 to 3"),
    ((*SIMULATE, "--place", "0;1"), "is not whole numbers with commas between"),
    ((*SIMULATE, "--trials", "0"), "trials is 0"),
    ((*SIMULATE, "--trials", "2", "--epochs", "2"), "leave one out"),
    ((*SIMULATE, "--epochs", "0"), "0 epochs of 60 samples"),
    ((*SIMULATE, "--straggler-probability", "0.5"), "a straggler needs both"),
    ((*SIMULATE, "--straggler-probability", "2", "--straggler-factor", "2"), "expected 0 to 1"),
    ((*SIMULATE, "--baseline", "naive"), "need 2 or more"),
    (("show", HAND, "--microbatch", "9"), "measured at micro-batch 1,2,4"),
    (("show", RING, "--microbatch", "1"), "choose a point of a workload file"),
    (("show", RING, "--each"), "--each shows each layer of a workload file"),
    (("show", RING, "--scaling", "--each"), "leave the other options out"),
    (("trace", "gpt2", "--batch", "1,b"), "--batch '1,b' is not whole numbers"),
    (("trace", "gpt2", "--depth", "x"), "--depth 'x'"),
    ((*SIMULATE, "--plan", ""), "--plan is '', expected a value"),
    ((*SIMULATE, "--strategy", ""), "--strategy is '', expected a value"),
    ((*SIMULATE, "--pp", "2", "--stages", ""), "--stages is '', expected a value"),
    ((*SIMULATE, "--recompute", ""), "--recompute is '', expected a value"),
    ((*SIMULATE, "--offload", " "), "--offload is ' ', expected a value"),
    ((*SIMULATE, "--dp", "4", "--fsdp", "--gather-dtype", ""), "--gather-dtype is '', expected a value"),
    ((*SIMULATE, "--dp", "4", "--gather-ahead", "0"), "zero is 0: nothing is gathered, gather_ahead needs zero=3"),
    ((*SIMULATE, "--microbatches", "1000000000"), "microbatches is 1000000000, more than 1,000,000 are too many"),
    ((*SIMULATE, "--place", "٣,1"), "is not whole numbers with commas between"),
    ((*SWEEP, "--schedules", ""), "unknown schedule ''"),
    (("sweep", HAND, RING, "--batch", "99999999999999999999"), "more than 1,000,000 are too many"),
    (
        ("simulate", HAND, "ring:99999999999,link=eth_10g"),
        "ring has a size of 11 digits: 500,000 devices at most are built: ask for fewer",
    ),
    (("simulate", HAND, "torus:2000x2000,link=eth_10g"), "4,000,000 devices and 16,000,000 links"),
    (("simulate", HAND, "ring:४,link=eth_10g"), "'४' is not a size"),
    (("simulate", "--collectives", "8", "--devices", "4", "--runtime", "idael"), "unknown runtime 'idael'"),
    (("simulate", "--collectives", "8", "--devices", "4", "--baseline", "naive"), "leave out --baseline"),
    (
        ("simulate", "--collectives", "8", "--devices", "4", "--epochs", "2"),
        "has no epochs, --epochs is 2: give --trials",
    ),
    (("show", HAND, "--tensor", "0"), "--tensor is 0, expected 1 or more"),
    (("show", HAND, "--microbatch", "-5"), "--microbatch is -5, expected 1 or more"),
    (("show", HAND, "--top", "-1"), "--top is -1, expected 0 or more"),
    (("show", HAND, "--top", "3"), "--top counts the plans of a sweep"),
    (("simulate", ".", RING), "cannot read '.': it is a folder, no file; name a file of mpsim's"),
]
OUTPUTS = [
    ((*SIMULATE, "-o", "none/r.json"), "-o 'none/r.json': there is no folder 'none'"),
    ((*SIMULATE, "-o", "."), "is not a file"),
    ((*SIMULATE, "-o", "/dev/null"), "is not a file"),
    ((*SIMULATE, "-o", "r.csv"), "its suffix is '.csv', expected .json"),
    ((*SIMULATE, "--plot", "r.gif"), "expected .png or .svg or .pdf"),
    ((*SIMULATE, "-o", "a.json", "--perfetto", "./a.json"), "both write"),
    ((*SWEEP, "-o", "table.json"), "expected .csv or .parquet"),
    ((*SWEEP, "-o", "none/table.csv"), "there is no folder 'none'"),
    (("plot", HAND, "-o", "none/x.png"), "there is no folder 'none'"),
    (("trace", "mnist-mlp", "-o", "none/w.json"), "there is no folder 'none'"),
    (("topology", RING, "-o", "none/t.json"), "there is no folder 'none'"),
]


@pytest.mark.parametrize(("words", "message"), [*NAMES, *VALUES, *OUTPUTS])
def test_refused_in_one_line(mpsim, words, message) -> None:
    check(mpsim(*words), message)
    assert not list(Path().iterdir())


def broken(change) -> str:
    """Return the hand-made workload with a change, as text."""
    body = deepcopy(json.loads(Path(HAND).read_text()))
    change(body)
    return json.dumps(body)


def first_samples(body: dict) -> dict:
    return body["layers"][0]["costs"][0]["samples"]


FILES = {
    "truncated": (lambda: Path(HAND).read_text()[:4000], "is not whole JSON (line "),
    "empty": (lambda: "", "is not whole JSON"),
    "a list": (lambda: "[1]", "expected one JSON object"),
    "no schema": (lambda: broken(lambda body: body.pop("schema")), "schema is None"),
    "wrong schema": (lambda: broken(lambda body: body.update(schema="mpsim.plan/1")), "is a plan (mpsim.plan/1)"),
    "future": (lambda: broken(lambda body: body.update(schema="mpsim.workload/9")), "reads up to mpsim.workload/3"),
    "misspelt": (lambda: broken(lambda body: body.update(microbtach=4)), "did you mean 'microbatch'?"),
    "a text for a number": (lambda: broken(lambda body: body.update(microbatch="4")), "expected a whole number"),
    "NaN": (lambda: broken(lambda body: first_samples(body).update(forward_s=[float("nan")])), "it holds NaN"),
    "infinite": (lambda: broken(lambda body: first_samples(body).update(forward_s=[1e999])), "Infinity"),
    "negative": (lambda: broken(lambda body: first_samples(body).update(forward_s=[-1.0])), "forward_s holds -1.0"),
    "no samples": (lambda: broken(lambda body: first_samples(body).update(forward_s=[])), "forward_s is missing"),
    "missing cost": (lambda: broken(lambda body: body["layers"][1].pop("costs")), "layer 'fc2' has no costs"),
    "missing field": (lambda: broken(lambda body: body["layers"][1]["costs"][0].pop("samples")), "'samples' is miss"),
    "two of a name": (lambda: broken(lambda body: body["layers"][1].update(name="fc1")), "two layers named 'fc1'"),
    "a check of nothing": (
        lambda: broken(lambda body: body.update(checks=[{"microbatch": 4, "whole_s": [0.0], "layers_s": [1.0]}])),
        "whole step of 0 s",
    ),
    "renamed layer": (lambda: broken(lambda body: body["layers"][1].update(name="fc22")), "names layer 'fc2'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_workload_file(mpsim, kind) -> None:
    text, message = FILES[kind]
    Path("w.json").write_text(text())
    check(mpsim("simulate", "w.json", RING), message)
    check(mpsim("sweep", "w.json", RING, "--batch", "4", "-o", "t.csv"), message)
    shown = mpsim("show", "w.json")
    assert (shown.exit_code, len(shown.stderr.splitlines())) in {(2, 1), (0, 0)}
    assert [item.name for item in Path().iterdir()] == ["w.json"]


def test_costs_that_add_up_to_infinity(mpsim) -> None:
    def change(body: dict) -> None:
        for cost in body["layers"][0]["costs"]:
            cost["samples"] |= {"forward_s": [1e308], "backward_weight_s": [1e308]}

    Path("w.json").write_text(broken(change))
    check(mpsim("simulate", "w.json", RING, "--baseline", "none"), "1e+308 is not a number that was measured")


TABLES = {
    "NaN": (",0.0,0.0,", ",nan,0.0,", "'nan' is not what this column holds"),
    "negative": (",1.0,0.0,", ",-1.0,0.0,", "'-1.0' is not what this column holds"),
    "infinite": (",0.0,0.0,", ",1e999,0.0,", "'1e999' is not what this column holds"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_bad_table(mpsim, kind) -> None:
    right, wrong, message = TABLES[kind]
    assert mpsim(*SWEEP, "-o", "t.csv").exit_code == 0
    text = Path("t.csv").read_text()
    assert right in text
    Path("t.csv").write_text(text.replace(right, wrong, 1))
    check(mpsim("show", "t.csv", "--json"), message)
    check(mpsim("plot", "t.csv", "-o", "t.png"), message)
    assert [item.name for item in Path().iterdir()] == ["t.csv"]


TOPOLOGIES = {
    "unreachable": ({"links": []}, "no way from device 'a' to 'b'"),
    "bare bandwidth": ({"links": [{"bandwidth": 5, "latency": "1 us"}]}, "bandwidth 5 has no unit"),
    "bare latency": ({"links": [{"bandwidth": "1 GB/s", "latency": 5}]}, "latency 5 has no unit"),
    "no latency": ({"links": [{"bandwidth": "1 GB/s"}]}, "no latency"),
    "unknown link": ({"links": [{"link": "nvlnk4"}]}, "did you mean 'nvlink4'?"),
    "unknown device": ({"devices": [{"name": "a", "device": "H10"}]}, "unknown device 'H10'"),
    "bare memory": ({"devices": [{"name": "a", "memory": 24}]}, "memory 24 has no unit"),
    "misspelt": ({"swithes": []}, "did you mean 'switches'?"),
}


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_a_bad_topology_file(mpsim, kind) -> None:
    change, message = TOPOLOGIES[kind]
    body = {"schema": "mpsim.topology/1", "name": "two", "devices": [{"name": "a"}, {"name": "b"}]} | change
    ends = {"source": "a", "target": "b", "both_ways": True}
    body["links"] = [ends | link for link in body.get("links", [{"link": "eth_10g"}])]
    Path("t.json").write_text(json.dumps(body))
    check(mpsim("simulate", HAND, "t.json"), message)
    check(mpsim("show", "t.json"), message)


def test_a_failed_command_leaves_an_earlier_file_alone(mpsim) -> None:
    Path("r.json").write_text("precious")
    check(mpsim(*SIMULATE, "--pp", "9", "-o", "r.json"), "topology has 4")
    assert Path("r.json").read_text() == "precious"


def test_parquet_without_pyarrow_is_refused_before_anything_runs(mpsim, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check(mpsim("sweep", "none.json", RING, "--batch", "16", "-o", "t.parquet"), "pip install 'mpsim[parquet]'")


def test_a_sweep_without_any_plan_writes_nothing(mpsim) -> None:
    check(mpsim(*SWEEP, "--microbatches", "3", "-o", "t.csv"), "none of 23 plans can be run")
    assert not list(Path().iterdir())
