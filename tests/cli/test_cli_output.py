"""What the commands print and write."""

import csv
import json
import math
from importlib import metadata
from pathlib import Path

import pytest
from cli_inputs import HAND, RING

import mpsim as package
from mpsim.sweeps import load_sweep


def printed(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_help_needs_no_command(mpsim) -> None:
    for words in ((), ("--help",)):
        result = mpsim(*words)
        assert result.exit_code == 0
        for name in ("trace", "show", "simulate", "emulate", "sweep", "plot", "topology"):
            assert f"  {name} " in result.stdout


@pytest.mark.parametrize("command", ["demo", "trace", "show", "simulate", "emulate", "sweep", "plot", "topology"])
def test_every_command_has_help(mpsim, command) -> None:
    result = mpsim(command, "--help")
    assert result.exit_code == 0
    assert f"mpsim {command}" in result.stdout


def test_version(mpsim) -> None:
    torch = f"torch {metadata.version('torch')}"
    assert mpsim("--version").stdout == f"mpsim {package.__version__}, {torch}\n"


def test_version_without_torch(mpsim, monkeypatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert mpsim("--version").stdout.startswith(f"mpsim {package.__version__}, no torch")


def test_simulate_as_json(mpsim) -> None:
    found = printed(mpsim("simulate", HAND, RING, "--pp", "4", "--microbatches", "8", "--json"))
    keys = {"step_s", "speedup", "communication_overhead_fraction", "peak_memory_bytes", "fits", "fidelity", "devices"}
    assert keys <= found.keys()
    assert found["fits"] is True
    assert found["fidelity"] == "measured"
    assert len(found["peak_memory_bytes"]) == len(found["devices"]) == 4
    for device in found["devices"]:
        parts = (device["compute_s"], device["exposed_communication_s"], device["idle_s"])
        assert math.isclose(math.fsum(parts), found["step_s"], rel_tol=1e-12)
    assert found["stages"] == [["fc1"], ["fc2"], ["fc3"], ["fc4"]]
    assert (found["strategy"], found["dp"], found["pp"], found["tp"], found["schedule"]) == ("1f1b", 1, 4, 1, "1f1b")


def test_simulate_is_what_the_library_says(mpsim) -> None:
    words = ("--dp", "2", "--tp", "2", "--batch", "16", "--microbatches", "2", "--bucket", "64 KiB", "--trials", "3")
    found = printed(mpsim("simulate", HAND, RING, *words, "--jitter", "10 us", "--seed", "5", "--json"))
    plan = package.Plan(dp=2, tp=2, batch=16, microbatches=2, bucket_bytes=65536)
    work, ring = package.load_workload(HAND), package.parse_topology(RING)
    jitter = package.Variability(link_jitter_s=10e-6)
    result = package.simulate(work, ring, plan, trials=3, rng=5, variability=jitter)
    assert (found["step_s"], found["speedup"]) == (result.step_s, result.speedup)


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        (("--strategy", "naive"), "pp=4 naive"),
        (("--strategy", "gpipe", "--microbatches", "8"), "pp=4 micro-batches=8 gpipe"),
        (("--strategy", "1f1b", "--microbatches", "8"), "pp=4 micro-batches=8 1f1b"),
        (("--strategy", "data"), "dp=4"),
        (("--strategy", "tensor", "--devices", "2"), "tp=2"),
        (("--stages", "fc2,fc4"), "pp=3 naive stages=1,3"),
        (("--stages", "1,3", "--microbatches", "2"), "pp=3 micro-batches=2 1f1b stages=1,3"),
        (("--dp", "2", "--tp", "2", "--place", "0,2,1,3"), "dp=2 tp=2 place=0,2,1,3"),
        (("--fsdp", "--dp", "4"), "dp=4 zero=3"),
        (("--fsdp", "--dp", "4", "--gather-ahead", "0"), "dp=4 zero=3 ahead=0"),
        (
            ("--fsdp", "--dp", "4", "--shards", "2", "--fsdp-units", "fc1,fc3", "--gather-ahead", "2", "--accumulate"),
            "dp=4 zero=3 shards=2 ahead=2 units=fc1,fc3 accumulated",
        ),
        (
            ("--fsdp", "--dp", "4", "--reshard", "none", "--gather-dtype", "bfloat16", "--reduce-dtype", "float32"),
            "dp=4 zero=3 reshard=none gather=bfloat16 reduce=float32",
        ),
    ],
)
def test_plans_by_their_options(mpsim, words, plan) -> None:
    assert printed(mpsim("simulate", HAND, RING, *words, "--json"))["plan"] == plan


def test_a_plan_file_can_be_changed_beside(mpsim) -> None:
    words = ("simulate", HAND, RING, "--json")
    first = printed(mpsim(*words, "--pp", "2", "--microbatches", "4", "--batch", "16", "--save-plan", "p.json"))
    again = printed(mpsim(*words, "--plan", "p.json"))
    assert again == first
    changed = printed(mpsim(*words, "--plan", "p.json", "--schedule", "gpipe"))
    assert changed["plan"] == first["plan"].replace("1f1b", "gpipe")
    assert mpsim("show", "p.json").stdout.startswith(first["plan"])


def test_trials_of_epochs_count_the_last_short_batch(mpsim) -> None:
    # 60 samples an epoch in batches of 16: 4 steps.
    words = ("simulate", HAND, RING, "--dp", "4", "--batch", "16", "--json")
    assert printed(mpsim(*words, "--epochs", "2"))["trials"] == 8
    assert printed(mpsim(*words, "--epochs", "2", "--samples", "64"))["trials"] == 8
    assert printed(mpsim(*words, "--epochs", "2", "--samples", "65"))["trials"] == 10


def test_baselines(mpsim) -> None:
    words = ("simulate", HAND, RING, "--pp", "4", "--batch", "16", "--microbatches", "8")
    assert printed(mpsim(*words, "--json"))["baseline"].startswith("one device")
    assert printed(mpsim(*words, "--json", "--baseline", "none"))["speedup"] is None
    naive = printed(mpsim(*words, "--json", "--baseline", "naive", "-o", "r.json"))
    assert naive["baseline"] == "pp=4 micro-batches=4 naive"  # 4 is the largest micro-batch measured
    assert naive["speedup"] > 1
    assert printed(mpsim(*words, "--json", "--baseline", "r.json"))["speedup"] == 1.0
    refused = mpsim(*words[:-4], "--batch", "8", "--microbatches", "4", "--baseline", "r.json")
    assert refused.exit_code == 2
    assert "global batch of 16, the plan 8" in refused.stderr


def test_a_workload_for_each_type(mpsim) -> None:
    box = "switch:2,link=eth_10g,type=fast*1+slow*1"
    costs = ("--costs", f"fast={HAND}", "--costs", f"slow={HAND}")
    alone = printed(mpsim("simulate", HAND, "switch:2,link=eth_10g", "--pp", "2", "--json"))
    both = printed(mpsim("simulate", HAND, box, "--pp", "2", *costs, "--json"))
    assert both["step_s"] == alone["step_s"]
    refused = mpsim("simulate", HAND, box, "--pp", "2", *costs[:2])
    assert refused.exit_code == 2
    assert "times of a desk, device 'd1' is of type slow" in refused.stderr
    half = printed(mpsim("simulate", HAND, box, "--pp", "2", *costs[:2], "--speed", "0.5", "--json"))
    assert half["step_s"] > both["step_s"]
    assert half["caveats"] == ["scaled from a desk to slow by speed: times × 2"]
    assert half["scalings"][0]["median"] == 2.0


def test_collectives_say_what_they_took(mpsim) -> None:
    words = ("--collectives", "2600,33024,131584,803840", "--algorithm", "ring", "--devices", "4", "--trials", "8")
    found = printed(mpsim("simulate", *words, "--json"))
    # Each of four: 6 rounds of 50 us, and 6/4 of its bytes at 85 % of 10 Gbit/s.
    expected = 4 * 6 * 50e-6 + 1.5 * 971_048 / (0.85 * 1.25e9)
    assert math.isclose(found["step_s"], expected, rel_tol=1e-9)
    assert found["trials"] == 8
    assert found["topology"] == "ring:4,link=eth_10g"
    assert "ring:4,link=eth_10g" in found["notes"][0]
    assert "note: no topology given" in mpsim("simulate", *words).stdout
    given = printed(mpsim("simulate", "ring:4,link=eth_10g", *words, "--json"))
    assert (given["step_s"], given["notes"]) == (found["step_s"], [])


def test_a_note_says_that_devices_stand_idle(mpsim) -> None:
    assert "the plan uses 1 of 4 devices" in mpsim("simulate", HAND, RING).stdout
    assert "note:" not in mpsim("simulate", HAND, RING, "--dp", "4").stdout


def test_everything_can_be_written_at_once(mpsim) -> None:
    files = ("-o", "r.json", "--perfetto", "trace.json", "--plot", "t.png", "--save-plan", "p.json")
    result = mpsim("simulate", HAND, RING, "--pp", "4", "--microbatches", "8", "--json", *files)
    assert printed(result)["step_s"] == package.load_result("r.json").step_s
    assert result.stderr.splitlines() == ["wrote r.json", "wrote p.json", "wrote trace.json", "wrote t.png"]
    assert json.loads(Path("trace.json").read_text())["traceEvents"]
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    assert printed(mpsim("show", "r.json", "--json"))["step_s"] == package.load_result("r.json").step_s


def test_show_a_workload_as_json(mpsim) -> None:
    found = printed(mpsim("show", HAND, "--json"))
    names = ("name", "parameter_bytes", "gradient_bytes", "output_bytes", "saved_bytes")
    assert [tuple(layer[name] for name in names) for layer in found["layers"]] == [
        ("fc1", 262144, 262144, 4096, 4096),
        ("fc2", 262144, 262144, 4096, 4096),
        ("fc3", 131072, 131072, 2048, 4096),
        ("fc4", 8192, 8192, 256, 4096),
    ]
    assert found["parameter_bytes"] == found["gradient_bytes"] == 663552
    assert (found["input_bytes"], found["target_bytes"], found["output_bytes"]) == (4096, 32, 256)
    assert found["checks"][0]["layers_over_whole_fraction"] == 1.0


def test_show_a_workload_at_a_point(mpsim) -> None:
    found = printed(mpsim("show", HAND, "--json", "--microbatch", "2", "--tensor", "2"))
    assert (found["microbatch"], found["tp"]) == (2, 2)
    assert (found["input_bytes"], found["gradient_bytes"]) == (2048, 331776)
    assert found["layers"][1]["collectives"] == [{"kind": "all_reduce", "bytes": 2048, "phase": "forward"}]
    # 2**-12 · 3 · 2/4, the middle of samples at 1, 1.0625 and 1.125 of that
    assert found["layers"][1]["forward_s"] == 1.0625 * 3 * 2**-13
    assert found["layers"][1]["tensor_parallel"] == [1, 2]


@pytest.mark.parametrize(
    ("thing", "key", "value"),
    [
        ("torus:4x4,link=nvlink4", "device_count", 16),
        ("nvlink4", "name", "nvlink4"),
        ("h100-sxm5-80gb", "memory_bytes", 80_000_000_000),
        ("mnist-mlp", "parameters", 242_762),
    ],
)
def test_show_by_name(mpsim, thing, key, value) -> None:
    assert printed(mpsim("show", thing, "--json"))[key] == value
    assert mpsim("show", thing).stdout.strip()


def test_show_the_catalog_and_several(mpsim) -> None:
    found = printed(mpsim("show", "catalog", "--json"))
    assert all(one["source"] for one in (*found["devices"], *found["links"]))
    text = mpsim("show", "catalog").stdout
    assert all(one["name"] in text for one in (*found["devices"], *found["links"]))
    assert len(printed(mpsim("show", HAND, "nvlink4", "--json"))["shown"]) == 2


def test_the_zoo_is_listed_without_a_model(mpsim) -> None:
    models = printed(mpsim("trace", "--list", "--json"))["models"]
    assert {"mnist-mlp", "unet", "t5-small"} <= {model["name"] for model in models}
    assert "242,762" in mpsim("trace", "--list").stdout


def test_a_topology_file_is_its_builder(mpsim) -> None:
    assert mpsim("topology", RING, "-o", "ring.json").exit_code == 0
    words = ("--pp", "4", "--microbatches", "8", "--json")
    from_file, built = (printed(mpsim("simulate", HAND, text, *words)) for text in ("ring.json", RING))
    assert from_file == built


SWEEP = ("sweep", HAND, RING, "--batch", "16")


def test_sweep_prints_and_writes_the_same(mpsim) -> None:
    found = printed(mpsim(*SWEEP, "--json", "-o", "t.csv", "--processes", "2"))
    assert found["plans"] == len(found["rows"]) == 53
    assert found["processes"] == 2
    assert tuple(found["rows"]) == load_sweep("t.csv").rows
    assert found["best"]["rank"] == 1
    shown = mpsim("show", "t.csv", "--top", "1").stdout
    assert found["best"]["plan"] in shown
    with open("t.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 53


def test_sweep_as_text(mpsim) -> None:
    result = mpsim(*SWEEP, "--top", "2", "--processes", "1", "--baseline", "naive")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"hand | {RING} | batch 16"
    assert lines[2].split()[:3] == ["rank", "devices", "plan"]
    assert "2 of 50 plans that can be run and fit; speedup over pp=4 micro-batches=4 naive" in result.stdout
    assert lines[-1] == "53 plans, 1 process"
    assert "speedup" not in mpsim(*SWEEP, "--baseline", "none").stdout


def test_sweep_takes_a_restricted_grid(mpsim) -> None:
    words = ("--devices", "2", "--microbatches", "4,8", "--schedules", "1f1b", "--tensor", "1")
    found = printed(mpsim(*SWEEP, *words, "--json"))
    assert {(row["n_devices"], row["microbatches"], row["schedule"]) for row in found["rows"]} == {
        (1, 4, None), (1, 8, None), (2, 4, None), (2, 8, None), (2, 4, "1f1b"), (2, 8, "1f1b"),
    }  # fmt: skip


@pytest.fixture
def two_sweeps(mpsim) -> None:
    """``t.csv`` of two workloads and batches on a ring, ``o.csv`` of one of them on another."""
    Path("long.json").write_text(Path(HAND).read_text().replace('"name": "hand"', '"name": "long"'))
    few = ("--tensor", "1", "--schedules", "gpipe", "--processes", "1", "--no-cache")
    said = mpsim("sweep", HAND, "long.json", RING, "--batch", "16,8", "--top", "1", *few, "-o", "t.csv")
    assert said.stdout.splitlines()[0] == f"hand, long | {RING} | batch 8, 16"
    assert "long, batch 16: 1 of " in said.stdout
    assert mpsim("sweep", HAND, "ring:2,link=eth_1g", "--batch", "8", *few, "-o", "o.csv").exit_code == 0


def test_several_batches_and_tables_are_one_picture_and_one_table(mpsim, two_sweeps) -> None:
    for words in (("t.csv",), ("t.csv", "o.csv"), ("o.csv", "--kind", "scaling"), ("t.csv", "--kind", "speedup")):
        assert mpsim("plot", *words, "-o", "x.png").exit_code == 0
    rows = printed(mpsim("show", "t.csv", "o.csv", "--scaling", "--json"))["scaling"]
    assert [*dict.fromkeys(row["series"] for row in rows)] == [
        f"hand, {RING}",
        f"long, {RING}",
        "hand, ring:2,link=eth_1g",
    ]
    shown = mpsim("show", "t.csv", "o.csv", "--scaling").stdout.splitlines()
    assert len(shown) == 1 + len(rows) + 4
    assert shown[-1] == "each table has the fastest of the plans that its own sweep tried, which may have been others"
    (head, *_) = mpsim("show", "t.csv").stdout.splitlines()
    assert head.split()[:3] == ["series", "batch", "devices"]


UNLIKE = [
    (("plot", "t.csv", "./t.csv", "-o", "x.png"), "t.csv is given twice: leave one out"),
    (("plot", "t.csv", HAND, "-o", "x.png"), "give results of mpsim simulate -o"),
    (("show", "t.csv", HAND, "--scaling"), "is a workload: leave one out"),
    (("show", "t.csv", "--scaling", "--top", "1"), "leave the other options out"),
    (("sweep", HAND, "--batch", "8"), "WORKLOAD or TOPOLOGY is missing"),
    (("sweep", HAND, HAND, RING, "--batch", "8"), "two workloads are called 'hand'"),
    (("sweep", HAND, RING, "--batch", "8,16", "--epochs", "1", "--samples", "64"), "from 4 to 8 steps"),
    (("sweep", HAND, "long.json", RING, "--batch", "8", "--costs", "A=b"), "--costs is of one workload, 2 are"),
]


def test_what_does_not_compare_is_refused(mpsim, two_sweeps) -> None:
    for words, message in UNLIKE:
        refused = mpsim(*words)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert message in refused.stderr
        assert not Path("x.png").exists()


def test_a_bar_moves_where_it_is_asked_for(mpsim) -> None:
    assert "/53 [" in mpsim(*SWEEP, "--progress").stderr
    assert mpsim(*SWEEP).stderr == ""


@pytest.mark.parametrize("kind", ["timeline", "breakdown", "memory", "memory-over-time", "memory-by-holder", "cdf"])
def test_pictures_of_a_result(mpsim, kind) -> None:
    mpsim("simulate", HAND, RING, "--pp", "4", "--microbatches", "8", "--trials", "5", "-o", "r.json")
    result = mpsim("plot", "r.json", "--kind", kind, "-o", "x.svg")
    assert (result.exit_code, result.stderr) == (0, "wrote x.svg\n")
    assert "<svg" in Path("x.svg").read_text()


def test_pictures_of_several_and_of_sweeps(mpsim) -> None:
    for name, words in (("a", ("--pp", "4")), ("b", ("--dp", "4"))):
        mpsim("simulate", HAND, RING, "--batch", "16", "--microbatches", "4", *words, "-o", f"{name}.json")
    mpsim(*SWEEP, "-o", "t.csv")
    both = ("a.json", "b.json", "--kind")
    for files in (both[:2], (*both, "cdf"), (*both, "timeline"), ("t.csv",), ("a.json", "--part", "warm-up")):
        assert mpsim("plot", *files, "-o", "x.png").exit_code == 0
    for words, message in (
        ((*both, "memory-by-holder"), "a memory-by-holder draws one result, got 2"),
        (("b.json", "--part", "warm-up"), "has no warm-up"),
        (("a.json", "--part", "warm"), "unknown part of a timeline 'warm'; did you mean 'warm-up'?"),
        (("a.json", "--part", "whole", "--kind", "cdf"), "--part is of a timeline, not of cdf"),
        (("t.csv", "--part", "whole"), "it has nothing for timeline"),
    ):
        refused = mpsim("plot", *words, "-o", "y.png")
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert message in refused.stderr


def test_tables_of_predictions_and_measurements(mpsim) -> None:
    found = Path(__file__).parents[2] / "docs" / "data" / "validation-real.csv"
    assert mpsim("plot", str(found), "-o", "x.svg").exit_code == 0
    assert "relative error: mean" in Path("x.svg").read_text()
    for words, message in (((str(found), "--kind", "cdf"), "nothing for cdf"), ((str(found), HAND), "has no column")):
        refused = mpsim("plot", *words, "-o", "y.png")
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert message in refused.stderr


@pytest.mark.parametrize("option", ["-o", "--save-plan", "--perfetto"])
def test_nothing_is_written_over_what_is_read(mpsim, tmp_path, option):
    written = Path(HAND).read_bytes()
    (tmp_path / "w.json").write_bytes(written)
    made = mpsim("simulate", "w.json", RING, "--pp", "4", "--microbatches", "8", option, "./w.json")
    assert made.exit_code == 2
    assert made.stderr == (
        "mpsim: error: './w.json' is read, and written over it would be lost: name another file to write\n"
    )
    assert (tmp_path / "w.json").read_bytes() == written
