"""Random failures of a plan's own devices, nodes and links, and what is refused."""

import math
from pathlib import Path

import pytest

from mpsim import (
    Checkpoints,
    Event,
    Failures,
    Goodput,
    Layer,
    Plan,
    Recovery,
    Stragglers,
    Workload,
    goodput,
    parse_topology,
)
from mpsim.errors import MpsimError
from mpsim.failures.file import load_goodput, save_goodput
from mpsim.failures.text import goodput_summary

NODES = "nodes:4,per_node=2,nics=2,inside=nvlink4,between=ib_ndr,device=A100-SXM4-80GB"
HOUR = 3600.0


def run(plan=None, **given):
    layers = [Layer.given(n, forward_s=0.1, backward_s=0.2, parameter_bytes=1 << 20) for n in "ab"]
    settings = {
        "failures": Failures(mtbf_s="800h"),
        "checkpoints": Checkpoints(storage_bytes_per_s=1e6),
        "recovery": Recovery(restart_s=60.0, detect_s=10.0, repair_s=600.0),
        "horizon": "20 days",
        "trials": 40,
        "speed": 1.0,
    }
    work = Workload.chain("two", layers, activation_bytes=1 << 16)
    return goodput(work, parse_topology(NODES), plan or Plan(dp=4, pp=2, microbatches=2), **settings | given)


def test_rates_add_up():
    """Eight devices at 800 h, four nodes at 2,000 h: a failure every 83.3 h."""
    both = run(failures=Failures(mtbf_s="800h", node_mtbf_s="2000h"))
    assert both.mtbf_s == pytest.approx(HOUR / (8 / 800 + 4 / 2000), rel=1e-12)
    assert (both.n_devices, both.nodes) == (8, 4)
    of_type = run(failures=Failures(by_type={"A100-SXM4-80GB": "400h"}, mtbf_s="1h"))
    assert of_type.mtbf_s == pytest.approx(50 * HOUR, rel=1e-12)
    links = run(failures=Failures(link_mtbf_s="1000h"))
    # Each device's wire to its node's switch, and its card's to the network: what of them the plan's bytes take.
    assert links.mtbf_s < 1000 * HOUR


def test_a_smaller_plan_does_more_than_waiting_and_spares_more_still():
    slow = Recovery(restart_s=60.0, repair_s=36000.0)
    waits = run(recovery=slow)
    smaller = run(recovery=Recovery(restart_s=60.0, repair_s=36000.0, smaller=True))
    spares = run(recovery=Recovery(restart_s=60.0, repair_s=36000.0, spares=8))
    assert waits.goodput < smaller.goodput < spares.goodput < 1
    assert waits.parts["repair"] > 0 == spares.parts["repair"]
    assert smaller.parts["slowed"] > 0 == waits.parts["slowed"]
    assert smaller.replayed[0].what == "undisturbed"
    assert {one.what.split()[0] for one in smaller.replayed[1:]} <= {"replica", "replicas"}
    assert "a smaller plan goes on" in smaller.formula.misses


def test_slow_devices_are_replayed_alike_where_there_are_many():
    spells = Stragglers(every_s="100h", factor=1.5, lasting_s="2h")
    found = run(stragglers=spells, failures=Failures(), checkpoints=Checkpoints(every_s=600.0, write_s=1.0))
    assert found.best is None
    assert found.parts["slowed"] > 0
    assert any("replicas are taken to be alike" in note for note in found.notes)
    assert all(one.step_s >= one.useful_s for one in found.replayed)


def test_parts_of_every_trial_add_up_and_go_to_a_file_and_back(tmp_path):
    found = run(stragglers=Stragglers(every_s="400h", factor=1.5, lasting_s="2h"), tokens_per_sample=512)
    frame = found.to_frame()
    parts = frame[[f"{name}_s" for name in found.parts]]
    assert all(sum(row) == found.horizon_s for row in parts.itertuples(index=False))
    assert math.isclose(sum(found.parts.values()), 1.0)
    assert found.quantile(0.05) < found.goodput < found.quantile(0.95)
    assert found.throughput_tokens_per_s == 512 * found.throughput_samples_per_s
    save_goodput(tmp_path / "g.json", found)
    assert load_goodput(tmp_path / "g.json") == found
    assert goodput_summary(found).startswith(
        "caution: given, not measured: a device fails every 33.3 days, exponential"
    )
    assert [ax.get_ylabel() for ax in found.plot().axes] == ["part of the wall time", "fraction of trials", "goodput"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"failures": Failures()}, "nothing fails: nobody measured how often these devices do"),
        (
            {"failures": Failures(by_type={"A100": 9.0})},
            "no device of topology .* has type 'A100'; known: A100-SXM4-80GB",
        ),
        ({"failures": Failures(link_by_type={"nvlink": 9.0})}, "has type 'nvlink'; did you mean 'nvlink4'"),
        (
            {"failures": Failures(mtbf_s=1e-3)},
            "a trial has about 13,824,000,000 failures and slow spells, 50,000 can be",
        ),
        ({"failures": Failures(listed=(Event(at_s=1.0, what="d77"),))}, "no device, node or link 'd77'"),
        ({"trials": 90_000, "failures": Failures(mtbf_s="10h")}, "90,000 trials have about 34,560,000 failures"),
        ({"failures": "50000h"}, r"failures is '50000h', expected mpsim\.Failures"),
        ({"stragglers": 3}, "stragglers is 3, expected mpsim"),
        ({"trials": 0}, "trials is 0, expected 1 to 100,000"),
        ({"trials": 10**12}, "expected 1 to 100,000"),
        ({"horizon": 0.0}, "horizon is 0 s, expected more than 0"),
        ({"horizon": "200 h 3"}, "is not a time"),
        ({"horizon": math.nan}, "horizon is nan s"),
        ({"tokens_per_sample": -1}, "expected 0 or more"),
        ({"checkpoints": Checkpoints(kind="async", storage_bytes_per_s=1e9)}, "have no hosts to copy to"),
        ({"failures": Failures(mtbf_s=1e300), "horizon": 60.0}, "no trial is stopped, so no time between checkpoints"),
        ({"plan": Plan(pp=2, dp=4, microbatches=2, schedule="pipedream")}, "has no end of a step"),
    ],
)
def test_what_cannot_be_answered_is_refused(given, message):
    with pytest.raises(MpsimError, match=message):
        run(**given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Failures(mtbf_s="0h"), "mtbf is 0 s, expected more than 0"),
        (lambda: Failures(mtbf_s="5"), "has no unit"),
        (lambda: Failures(mtbf_s=math.nan), "mtbf is nan s"),
        (lambda: Failures(shape=0.0), "shape is 0, expected 0.2 to 10"),
        (lambda: Event(at_s=-1.0, what="d0"), "time of 'd0' is -1 s"),
        (lambda: Event(at_s=1.0, what="d0", factor=0.5), "factor of 'd0' is 0.5"),
        (lambda: Event(at_s=1.0, what="d0", factor=2.0), "how long 'd0' is slow is 0 s"),
        (lambda: Event(at_s=1.0, what="d0", lasting_s=2.0), "lasts 2 s but has no factor"),
        (lambda: Checkpoints(), "nothing says what a checkpoint takes"),
        (lambda: Checkpoints(kind="shard", write_s=1.0), "unknown kind of checkpoint 'shard'; did you mean 'sharded'"),
        (lambda: Checkpoints(write_s=1.0, storage_bytes_per_s=1.0), "both given"),
        (lambda: Checkpoints(write_s=math.inf), "write of a checkpoint is inf s"),
        (lambda: Checkpoints(write_s=1.0, copy_s=1.0), "a sharded checkpoint makes no copies"),
        (lambda: Checkpoints(kind="async", storage_bytes_per_s=1.0, copy_s=1.0), "how long copying takes is given"),
        (lambda: Checkpoints(every_s=0.0, write_s=1.0), "time between checkpoints is 0 s"),
        (lambda: Recovery(spares=-1), "spares is -1"),
        (lambda: Recovery(spares=2), "2 spares stand by while failed nodes are repaired in 0 s"),
        (lambda: Recovery(restart_s=math.nan), "restart is nan s"),
        (lambda: Recovery(restart_s=[3]), r"restart is \[3\], expected seconds, or text"),
        (lambda: Recovery(detect_s="3"), "has no unit"),
        (lambda: Failures(mtbf_s=None), "mtbf is None, expected seconds"),
        (lambda: Checkpoints(write_s=True), "write of a checkpoint is True, expected seconds"),
        (lambda: Event(at_s="soon", what="d0"), "is not a number with a unit"),
        (lambda: Stragglers(every_s="1h", factor=1.0, lasting_s="1min"), "expected more than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(MpsimError, match=message):
        make()


def test_the_first_version_is_read():
    found = load_goodput(Path(__file__).parents[1] / "data" / "goodput-1.json")
    assert (found.trials, found.stops, found.interval_steps, found.formula.misses[0]) == (
        3,
        (3, 6, 7),
        4,
        "some are listed",
    )
    assert sum(getattr(found, f"{name}_s")[1] for name in found.parts) == found.horizon_s


def test_a_goodput_of_trials_that_miss_a_part_is_no_goodput(tmp_path):
    found = run(trials=3)
    text = (tmp_path / "g.json", tmp_path / "bad.json")
    save_goodput(text[0], found)
    assert isinstance(load_goodput(text[0]), Goodput)
    text[1].write_text(text[0].read_text().replace('"stops": [', '"stops": [7, ', 1))
    with pytest.raises(MpsimError, match="not of the same trials"):
        load_goodput(text[1])
