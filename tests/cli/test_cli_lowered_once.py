"""A command lowers a plan once; what it lowers beside it are other plans: a baseline, no launches, other placements."""

import sys
from dataclasses import replace

import pytest
from cli_inputs import HAND, RING

from mpsim import Plan, load_workload, parse_topology, save_plan, save_topology, save_workload
from mpsim.errors import MpsimError
from mpsim.lowering.lower import lower


@pytest.fixture
def lowered(monkeypatch) -> list[Plan]:
    """The plans that are lowered, whoever asks for it."""
    plans: list[Plan] = []

    def counted(workload, topology, plan, **how):
        plans.append(plan)
        return lower(workload, topology, plan, **how)

    for module in ("cli.emulate", "cli.export", "cli.simulate", "sweeps.run", "simulation.jobs", "emulate.run"):
        __import__(f"mpsim.{module}")
    for name, module in sys.modules.items():
        if name.startswith("mpsim.") and getattr(module, "lower", None) is lower:
            monkeypatch.setattr(module, "lower", counted)
    return plans


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--pp", 2, "--microbatches", 4], 1),
        (["--pp", 2, "--microbatches", 4, "--trials", 3, "--jitter", "1us", "-o", "result.json", "--json"], 1),
        (["--pp", 2, "--stages", 1, "--save-plan", "plan.json"], 1),
        (["--pp", 2, "--microbatches", 4, "--baseline", "naive"], 2),
    ],
)
def test_simulate(mpsim, lowered, words, count):
    assert mpsim("simulate", HAND, RING, *words).exit_code == 0
    assert len(lowered) == len(set(lowered)) == count


def test_simulate_where_hosts_launch(mpsim, lowered, tmp_path):
    """The second plan is the one whose hosts launch for nothing."""
    work = load_workload(HAND)
    layers = [replace(one, costs=tuple(replace(cost, host=cost.samples) for cost in one.costs)) for one in work.layers]
    save_workload(tmp_path / "two_clocks.json", replace(work, layers=tuple(layers)))
    assert mpsim("simulate", "two_clocks.json", RING, "--pp", 2).exit_code == 0
    assert [plan.launch for plan in lowered] == ["", "graphs"]


def test_a_sweep_of_like_devices_lowers_each_plan(mpsim, lowered):
    found = mpsim("sweep", HAND, RING, "--batch", 8, "--processes", 1, "--json")
    assert found.exit_code == 0
    assert len(lowered) == len(set(lowered)) > 1


def test_a_sweep_of_unlike_devices_lowers_each_placement(mpsim, lowered, tmp_path):
    topology = parse_topology("switch:3,link=eth_10g")
    fast = replace(topology.devices[2], speed=2.0)
    save_topology(tmp_path / "unlike.json", replace(topology, devices=(*topology.devices[:2], fast)))
    assert mpsim("sweep", HAND, "unlike.json", "--batch", 4, "--processes", 1).exit_code == 0
    assert {plan.devices for plan in lowered} > {(), (2,)}
    assert len(lowered) == len(set(lowered))


def test_export(mpsim, lowered):
    assert mpsim("export", HAND, RING, "--pp", 2, "-o", "step").exit_code == 0
    assert len(lowered) == 1


def test_jobs(mpsim, lowered, tmp_path):
    save_plan(tmp_path / "plan.json", Plan(dp=2))
    assert mpsim("jobs", RING, f"{HAND}=plan.json", f"{HAND}=plan.json").exit_code == 0
    assert [plan.devices for plan in lowered] == [(0, 1), (2, 3)]


def test_emulate(mpsim, lowered, monkeypatch):
    """As far as its processes, which are told what to run and lower nothing."""

    def launched(*order):
        raise MpsimError("launched")

    monkeypatch.setattr("mpsim.emulate.run.launch", launched)
    found = mpsim("emulate", HAND, "ring:2,link=eth_10g", "--pp", 2, "--microbatches", 2)
    assert found.output == "mpsim: error: launched\n"
    assert len(lowered) == 1
