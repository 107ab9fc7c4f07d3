"""``mpsim goodput``: what it prints, what it writes, what it refuses in one line."""

import json

import pytest

from mpsim import Layer, Workload, save_workload

PAIR = "chain:2,link=1GB/s@0"


@pytest.fixture
def work(tmp_path):
    """A step of 1 s; its state takes 2 s to write at 512 bytes a second."""
    layers = [Layer.given("a", forward_s=0.25, backward_s=0.75, parameter_bytes=1024)]
    save_workload(tmp_path / "w.json", Workload.chain("work", layers))
    (tmp_path / "events.csv").write_text("at,what\n15s,d0\n")
    return ("goodput", "w.json", PAIR)


LISTED = ("--failures", "events.csv", "--checkpoint", "4s", "--detect", "1s", "--restart", "3s", "--for", "32s")


def test_a_listed_failure_as_worked_by_hand(mpsim, work):
    """As in tests/failures: 16 of 32 s are useful."""
    done = mpsim(*work, *LISTED, "--storage", "512B/s", "-o", "g.json", "--plot", "g.png", "--json")
    told = json.loads(done.stdout)
    assert told["goodput"] == told["goodput_p50"] == 0.5
    assert told["parts"] == {
        "useful": 0.5, "lost": 3 / 32, "checkpoint": 7 / 32, "restart": 6 / 32, "repair": 0, "slowed": 0,
    }  # fmt: skip
    assert (told["interval_s"], told["checkpoint_bytes"], told["mtbf_s"], told["deterministic"]) == (
        4,
        1024,
        None,
        True,
    )
    shown = mpsim("show", "g.json").stdout
    assert shown == mpsim(*work, *LISTED, "--storage", "512B/s").stdout
    assert json.loads(mpsim("show", "g.json", "--json").stdout) == told
    assert mpsim("plot", "g.json", "-o", "again.png").exit_code == 0


def test_the_first_line_says_what_it_rests_on(mpsim, work):
    text = mpsim(*work, "--dp", "2", "--mtbf", "50h", "--storage", "1MB/s", "--trials", "20", "--for", "10 days").stdout
    first, head = text.splitlines()[:2]
    assert first.startswith(
        "caution: given, not measured: a device fails every 50 h, exponential; detection, a restart"
    )
    assert head.startswith("work | dp=2")
    assert "Young and Daly" in text
    assert "best interval" in text
    assert "20 trials" in text


def test_types_and_both_kinds_of_spells(mpsim, work):
    words = (
        "--mtbf",
        "T4=50h",
        "--mtbf",
        "80h",
        "--node-mtbf",
        "90h",
        "--link-mtbf",
        "100h",
        "--checkpoint-cost",
        "2s",
    )
    slow = ("--slow-every", "50h", "--slow-factor", "2", "--slow-lasting", "1h", "--trials", "5", "--for", "5 days")
    topology = "switch:2,link=1GB/s@0,type=T4"
    told = json.loads(mpsim(*work[:2], topology, "--dp", "2", "--speed", "1", *words, *slow, "--json").stdout)
    assert told["parts"]["slowed"] > 0
    # Two devices, two nodes of one each, two wires to the switch.
    assert told["mtbf_s"] == pytest.approx(3600 / (2 / 50 + 2 / 90 + 2 / 100))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing says what a checkpoint takes: give --storage, as in 10GB/s, or --checkpoint-cost"),
        (("--storage", "1GB/s"), "nothing fails: nobody measured how often these devices do, so give a mean time"),
        (("--storage", "1GB"), "--storage '1GB' is not bytes per second"),
        (("--storage", "1GB/s", "--mtbf", "50000"), "--mtbf '50000' has no unit"),
        (("--storage", "1GB/s", "--mtbf", "5h", "--mtbf", "6h"), "--mtbf is given twice for all types"),
        (("--storage", "1GB/s", "--mtbf", "T4=5h"), "no device of topology 'chain:2,link=1GB/s@0' has type 'T4'"),
        (("--storage", "1GB/s", "--checkpoint-cost", "1s", "--mtbf", "5h"), "both given"),
        (("--checkpoint-cost", "1s", "--mtbf", "5h", "--spares", "1"), "1 spares stand by while failed nodes"),
        (("--checkpoint-cost", "1s", "--mtbf", "5h", "--slow-every", "1h"), "slow devices need all of --slow-every"),
        (("--checkpoint-cost", "1s", "--failures", "none.csv"), "no file 'none.csv'"),
        (("--checkpoint-cost", "1s", "--failures", "events.csv", "-o", "w.json"), "would be lost"),
        (("--checkpoint-cost", "1s", "--mtbf", "5h", "--trials", "1000000000000"), "trials is 1000000000000"),
        (("--checkpoint-cost", "1s", "--mtbf", "1us"), "50,000 can be played: ask for a shorter run"),
        (("--checkpoint-cost", "1s", "--mtbf", "5h", "--dp", "3"), "needs dp(3)"),
    ],
)
def test_what_cannot_be_is_one_line(mpsim, work, words, message):
    done = mpsim(*work, *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
