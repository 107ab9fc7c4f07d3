"""A device's speed beside its roofline: from one measured step or layer, back to exactly what was measured."""

from dataclasses import replace

import pytest

from mpsim import (
    Layer,
    MpsimError,
    Plan,
    Workload,
    calibrate_compute,
    parse_topology,
    save_plan,
    save_workload,
    simulate,
)
from mpsim.workload.layers import ShardCollective
from mpsim.workload.model import Fidelity

BOX = parse_topology("chain:4,link=1GB/s@1ms,device=T4")


def roofline(fidelity: Fidelity = Fidelity.ANALYTICAL) -> Workload:
    layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=400_000_000) for name in "abcd"]
    layers = [replace(one, costs=(replace(one.costs[0], fidelity=fidelity),)) for one in layers]
    return replace(Workload.chain("w", layers, activation_bytes=10_000_000), device="T4")


@pytest.mark.parametrize("speed", [0.3, 0.77, 1.0, 1.9, 5.0])
@pytest.mark.parametrize("plan", [Plan(), Plan(pp=4, microbatches=8), Plan(dp=2, pp=2, microbatches=3, batch=6)])
def test_a_step_gives_its_speed_back(speed, plan):
    """What a speed in the topology makes the step, calibration finds again, communication and bubbles and all."""
    fast = replace(BOX, devices=tuple(replace(one, speed=speed, speed_of="roofline") for one in BOX.devices))
    step_s = simulate(roofline(), fast, plan).step_s
    found = calibrate_compute(roofline(), BOX, step_s=step_s, plan=plan)
    assert found.speed == pytest.approx(speed, rel=1e-7)
    assert simulate(roofline(), found.topology, plan).step_s == pytest.approx(step_s, rel=1e-8)
    assert "of the roofline of T4: a step under" in found.topology.provenance.source


def test_layers_by_hand():
    found = calibrate_compute(roofline(), BOX, layers_s={"b": 4.0, "c": 8.0})
    assert (found.speed, found.modelled_s, found.measured_s) == (0.5, 6.0, 12.0)
    result = simulate(roofline(), found.topology, Plan())
    assert (result.step_s, result.fidelity) == (24.0, "analytical")
    assert "scaled by the devices' speeds in the topology: 0.5" in result.caveats


def test_layers_that_ranks_share_are_measured_with_what_they_exchange():
    """A block of 1 s and 2 s on two ranks that all-reduce 1 GB each way, 1 s each over two links of 1 GB/s.

    Measured at 8 s, of which 2 s are exchanged, it computes for 6 s: half the speed of its roofline.
    """
    shards = {2: {"forward_s": 1.0, "backward_s": 2.0, "collectives": [("all_reduce", 10**9)]}}
    layers = [Layer.given(name, forward_s=2.0, backward_s=4.0, optimizer_s=9.0, shards=shards) for name in "ab"]
    costs = [tuple(replace(cost, fidelity=Fidelity.ANALYTICAL) for cost in layer.costs) for layer in layers]
    layers = [replace(layer, costs=cost) for layer, cost in zip(layers, costs, strict=True)]
    work = replace(Workload.chain("w", layers, activation_bytes=8, sends="whole"), device="T4")
    ring = parse_topology("ring:2,bandwidth=1GB/s,latency=0s,device=T4")
    found = calibrate_compute(work, ring, layers_s={"b": 8.0}, plan=Plan(tp=2, microbatches=7))
    assert found.speed == pytest.approx(0.5, rel=1e-8)
    assert found.modelled_s == pytest.approx(5.0, rel=1e-12)
    assert "forward and backward of b under tp=2" in found.source


@pytest.mark.parametrize(
    ("split", "plan", "call"),
    [
        ("ep=2", Plan(dp=4, ep=2, microbatches=3), ("all_to_all", 2 * 10**9)),
        ("cp=2,ep=2", Plan(dp=2, cp=2, ep=2, pp=2), ("all_gather", 2 * 10**9)),
        ("cp=2", Plan(dp=2, cp=2), ("all_gather", 2 * 10**9)),
    ],
)
def test_experts_are_shared_and_no_gradients_reduced(split, plan, call):
    """A pass exchanges 1 GB in 1 s beside 1 s and 2 s of computation: measured at 8 s it computes for 6 s.

    Whole layers are traced at cp=2 too, which are not those that share experts.
    """
    axis = split[:2]
    calls = [ShardCollective(kind=call[0], bytes=call[1], phase=phase, axis=axis) for phase in ("forward", "backward")]
    shards = {"cp=2": {"forward_s": 3.0, "backward_s": 6.0}, split: {"collectives": calls}}
    layer = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=4 * 10**9, shards=shards)
    layer = replace(layer, costs=tuple(replace(cost, fidelity=Fidelity.ANALYTICAL) for cost in layer.costs))
    work = replace(Workload.chain("w", [layer]), device="T4")
    box = parse_topology("fully_connected:4,bandwidth=1GB/s,latency=0s,device=T4")
    found = calibrate_compute(work, box, layers_s={"a": 8.0}, plan=plan)
    assert found.speed == pytest.approx(0.5, rel=1e-8)


def test_costs_that_were_measured_do_not_mind():
    found = calibrate_compute(roofline(), BOX, layers_s={"b": 4.0})
    measured = simulate(roofline(Fidelity.MEASURED), found.topology, Plan())
    assert (measured.step_s, measured.fidelity, measured.caveats) == (12.0, "measured", ())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"layers_s": {"e": 1.0}}, "no layer 'e'"),
        ({"layers_s": {"a": 0.0}}, "measured layer 'a' is 0.0 s"),
        ({"layers_s": {}}, "no time in the workload"),
        ({"step_s": 1.0}, "either a measured step with its plan, or measured layers"),
        ({}, "either a measured step"),
        ({"step_s": float("nan"), "plan": Plan()}, "measured step is nan"),
        ({"step_s": 0.1, "plan": Plan(dp=4)}, "its communication alone takes"),
    ],
)
def test_what_cannot_be(how, message):
    with pytest.raises(MpsimError, match=message):
        calibrate_compute(roofline(), BOX, **how)


def test_other_costs_and_other_devices():
    with pytest.raises(MpsimError, match="no roofline costs to calibrate"):
        calibrate_compute(roofline(Fidelity.MEASURED), BOX, layers_s={"a": 1.0})
    with pytest.raises(MpsimError, match="devices of type L4, the costs are of T4"):
        calibrate_compute(roofline(), parse_topology("ring:2,link=eth_10g,device=L4"), layers_s={"a": 1.0})


def test_from_the_command_line(tmp_path):
    from click.testing import CliRunner

    from mpsim.cli.program import cli

    save_workload(tmp_path / "w.json", roofline())
    save_plan(tmp_path / "p.json", Plan(pp=2))
    box, out = "chain:4,link=1GB/s@1ms,device=T4", str(tmp_path / "out.json")
    words = ["calibrate", "--compute", str(tmp_path / "w.json"), "--topology", box, "-o", out]
    done = CliRunner().invoke(cli, [*words, "--layer", "a=4 s"])
    assert (done.exit_code, done.stdout.split(";")[0]) == (0, "T4: speed 0.75 of its roofline")
    assert CliRunner().invoke(cli, [*words, "--step", "24.2 s", "--plan", str(tmp_path / "p.json")]).exit_code == 0
    for more in (
        ["--step", "1 s"],
        ["--layer", "a"],
        ["--layer", "a=4"],
        ["--layer", "a=4 s", "--layer", "a=5 s"],
        ["a.log", "--layer", "a=4 s"],
        [],
    ):
        refused = CliRunner().invoke(cli, [*words, *more])
        assert refused.exit_code == 2, more
        assert refused.stderr.count("\n") == 1
