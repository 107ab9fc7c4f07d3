"""Whose times a device is given: refused, rescaled by rooflines, or sped by a factor; by hand, and over the catalog."""

from dataclasses import replace
from pathlib import Path

import pytest

from mpsim import Layer, MpsimError, Plan, Workload, load_workload, parse_topology, simulate, sweep
from mpsim.lowering.rescaling import rescaled, roofline_of
from mpsim.simulation import Job, simulate_jobs
from mpsim.topology.catalog import device, device_names
from mpsim.topology.reported import catalog_name
from mpsim.workload.layers import TIMES, Cost, Samples
from mpsim.workload.model import Fidelity, Precision
from mpsim.workload.precision import PRECISIONS, product_rate

H100, A100 = "H100-SXM5-80GB", "A100-SXM4-80GB"


def traced(on: str = "NVIDIA H100 80GB HBM3", flops: int = 0, dtype: str = "", **sizes: int) -> Workload:
    """One layer of one second a pass, measured."""
    layer = Layer.given("a", forward_s=1.0, backward_s=2.0, optimizer_s=1.0, parameter_bytes=sizes.pop("parameters", 0))
    cost = replace(layer.costs[0], fidelity=Fidelity.MEASURED, flops=flops, **sizes)
    work = Workload.chain("w", [replace(layer, costs=(cost,))])
    return replace(work, device=on, precision=Precision(name="x", compute=dtype) if dtype else Precision())


def boxes(kind: str, n: int = 2):
    return parse_topology(f"switch:{n},link=inf@0,device={kind}")


REPORTED = {
    "NVIDIA H200": "H200-SXM-141GB",
    "NVIDIA H100 80GB HBM3": H100,
    "NVIDIA H100 PCIe": "H100-PCIe-80GB",
    "NVIDIA H100 NVL": None,
    "NVIDIA A100-SXM4-80GB": A100,
    "NVIDIA A100-SXM4-40GB": "A100-SXM4-40GB",
    "A100-SXM4-40GB": "A100-SXM4-40GB",
    "NVIDIA A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA A100 80GB PCIe": "A100-PCIe-80GB",
    "Tesla V100-SXM2-16GB": "V100-SXM2-16GB",
    "Tesla V100-PCIE-16GB": None,
    "Tesla T4": "T4",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": None,
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA GH200 480GB": "GH200-96GB",
    "NVIDIA GH200 144G HBM3e": None,
    "NVIDIA B200": "B200-SXM",
    "NVIDIA GB200": "GB200",
    "AMD Instinct MI300X": "MI300X",
    "AMD Instinct MI250X": None,  # one die of the two that the catalog's entry has
    "AMD EPYC 9V74 80-Core Processor": None,
    "Intel(R) Xeon(R) Platinum 8480+": None,
    "": None,
}


@pytest.mark.parametrize(("reported", "name"), REPORTED.items())
def test_names_that_drivers_report(reported, name):
    assert catalog_name(reported) == name


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_itself_by_both_of_its_names(name):
    if name != "MI250X":
        for spelled in (name, name.upper(), *device(name).reported.split(";")):
            assert catalog_name(spelled or name) == name
        assert len(simulate(traced(name), boxes(name), Plan(dp=2)).caveats) == 0


@pytest.mark.parametrize("name", device_names())
def test_a_device_rescaled_onto_itself_is_exactly_itself(name):
    """Equal bits, in every type that the catalog has for it, whatever the layer does."""
    by_rate = {product_rate(one): one for one in PRECISIONS.values()}
    for rate in roofline_of(name).peak_flops_per_s.keys() - {"float4"}:  # of which no precision makes use
        precision = by_rate.get(rate) or Precision(name="x", compute=rate)
        for flops in (0, 7, 10**9, 3 * 10**13):
            for saved in (0, 10**5, 10**9 + 1):
                work = replace(traced(name, flops=flops, saved_bytes=saved), precision=precision)
                times = Samples(**dict.fromkeys(TIMES, (0.1, 1 / 3, 7e-06)))
                cost = replace(work.layers[0].costs[0], samples=times)
                work = replace(work, layers=(replace(work.layers[0], costs=(cost,)),))
                assert rescaled(replace(work, device=name), name, name).layers[0].costs[0].samples == times
    if name != "MI250X":
        assert rescaled(traced(name), name, name).scaling.median == 1.0


def test_by_hand_where_flops_decide_and_where_bytes_do():
    """1e15 FLOPs in bfloat16 on H100 and A100, and 3.35 TB: the floor of 5 us stands beside a second."""
    busy = rescaled(traced(flops=10**15, dtype="bfloat16"), H100, A100).layers[0].costs[0].samples
    h100 = 10**15 / (989e12 * device(H100).matmul_fraction) + 5e-6
    a100 = 10**15 / (312e12 * device(A100).matmul_fraction) + 5e-6
    assert busy.forward_s == busy.backward_input_s == busy.backward_weight_s == (a100 / h100,)
    assert busy.optimizer_s == (1.0,)  # nothing to update: a kernel's floor on both
    wide = rescaled(traced(saved_bytes=1_675_000_000_000), H100, A100)
    times = wide.layers[0].costs[0].samples
    assert times.forward_s == ((5e-6 + 3350 / 2039) / (5e-6 + 1),)  # written and read
    assert times.backward_input_s == ((5e-6 + 5025 / 2039) / (5e-6 + 1.5),)  # read, and its gradient as forward
    assert times.backward_weight_s == ((5e-6 + 1675 / 2039) / (5e-6 + 0.5),)
    assert wide.layers[0].costs[0].fidelity is Fidelity.SCALED
    assert (wide.scaling.low, wide.scaling.high) == (1.0, times.backward_input_s[0])


def test_the_type_of_numbers_decides_the_peak():
    def factor(dtype: str) -> float:
        work = traced(flops=10**16, dtype=dtype)
        return rescaled(work, H100, A100).scaling.high

    assert factor("float32") == pytest.approx(67 * 0.803 / (19.5 * 0.869), rel=1e-4)
    assert factor("bfloat16") == pytest.approx(989 * 0.803 / (312 * 0.869), rel=1e-4)
    with pytest.raises(MpsimError, match=r"cannot rescale 'w' from .*'A100-SXM4-80GB' has no peak for float8_e4m3fn"):
        factor("float8_e4m3fn")
    with pytest.raises(MpsimError, match=r"'TPUv4' has no peak for float32"):
        rescaled(traced(flops=1), H100, "TPUv4")


def test_a_trace_never_passes_for_another_device():
    for call in (
        lambda **how: simulate(traced(), boxes(A100), Plan(dp=2), **how),
        lambda **how: sweep(traced(), boxes(A100), batch=2, processes=1, **how),
        lambda **how: simulate_jobs([Job(name="w", workload=traced(), plan=Plan(dp=2))], boxes(A100), **how),
    ):
        with pytest.raises(MpsimError, match=r"NVIDIA H100 80GB HBM3, device 'd0' is of type A100-SXM4-80GB.*--resc"):
            call()
        call(rescale="roofline")
        call(speed=0.5)
        for wrong in (0, -1, float("nan"), float("inf")):
            with pytest.raises(MpsimError, match="expected a number above 0"):
                call(speed=wrong)
        with pytest.raises(MpsimError, match="both given"):
            call(speed=1.0, rescale="roofline")


def test_a_speed_is_what_the_topology_could_have_stated():
    stated = parse_topology(f"switch:2,link=inf@0,device={A100},speed=4")
    asked = simulate(traced(), boxes(A100), Plan(dp=2), speed=4.0)
    assert asked.step_s == simulate(traced(), stated, Plan(dp=2)).step_s == 1.0
    assert asked.fidelity == "scaled"
    assert asked.scalings[0].median == 0.25
    assert asked.caveats == ("scaled from NVIDIA H100 80GB HBM3 to A100-SXM4-80GB by speed: times × 0.25",)


def test_a_speed_that_nothing_needs_is_no_answer():
    with pytest.raises(MpsimError, match=r"speed is 2.0, but every device .* as traced"):
        simulate(traced(), boxes(H100), Plan(dp=2), speed=2.0)
    untyped = parse_topology("switch:2,link=inf@0")
    assert simulate(traced(), untyped, Plan(dp=2), speed=2.0).step_s == 2.0
    with pytest.raises(MpsimError, match="devices without a type"):
        simulate(traced(), untyped, Plan(dp=2), rescale="roofline")
    assert simulate(traced(), boxes(H100), Plan(dp=2), rescale="roofline").step_s == 4.0


def test_a_mixed_topology_rescales_only_what_was_not_traced():
    mixed = parse_topology(f"switch:2,link=inf@0,device={H100}+{A100}")
    result = simulate(traced(saved_bytes=3_350_000_000_000), mixed, Plan(dp=2), rescale="roofline")
    assert [one.target for one in result.scalings] == [A100]
    fast, slow = (use.compute_s for use in result.devices)
    assert fast == 4.0 < slow


def test_costs_by_type_must_be_of_that_type():
    with pytest.raises(MpsimError, match="times of AMD EPYC"):
        simulate(traced(), boxes(A100), Plan(dp=2), by_type={A100: traced("AMD EPYC")})
    assert simulate(traced(), boxes(A100), Plan(dp=2), by_type={A100: traced("NVIDIA A100-SXM4-80GB")}).step_s == 4.0


def test_given_and_untyped_stay_as_they_are():
    given = Workload.chain("g", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    result = simulate(given, boxes(A100), Plan(dp=2))
    assert (result.step_s, result.fidelity, result.caveats) == (3.0, "given", ())
    cpu = load_workload("workloads/lenet5.cpu.json")
    assert simulate(cpu, parse_topology("switch:2,link=eth_10g"), Plan(dp=2, batch=512)).measured_on == "AMD EPYC"


def test_a_device_of_no_catalog_has_no_roofline():
    cpu = load_workload("workloads/lenet5.cpu.json")
    with pytest.raises(MpsimError, match=r"no roofline of AMD EPYC.*trace it on H100.*--speed F.*--analytical H100"):
        simulate(cpu, boxes(H100), Plan(dp=2, batch=512), rescale="roofline")
    given = Workload.chain("g", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    with pytest.raises(MpsimError, match=r"no roofline of given"):
        simulate(given, boxes(H100), Plan(dp=2), rescale="roofline")


def test_what_is_scaled_is_not_scaled_again():
    once = rescaled(traced(saved_bytes=10**12), H100, A100)
    assert simulate(once, boxes(A100), Plan(dp=2)).scalings == (once.scaling,)
    with pytest.raises(MpsimError, match=r"costs of 'w' are scaled from H100.*scale those measured"):
        rescaled(once, A100, "L4")


def test_host_times_stay():
    work = traced()
    cost: Cost = replace(work.layers[0].costs[0], host=Samples(**dict.fromkeys(TIMES, (0.5,))))
    work = replace(work, layers=(replace(work.layers[0], costs=(cost,)),))
    assert rescaled(work, H100, A100).layers[0].costs[0].host == cost.host


def test_a_trace_with_two_clocks_is_rescaled_and_launched():
    """Kernels take as long as on the other device, hosts what they took; `host_speed` is what changes theirs."""
    work, plan = load_workload(Path(__file__).parents[2] / "workloads" / "gpt2.h200.json"), Plan(pp=2, batch=1)

    def seconds(*kinds: str, on: str, **given) -> float:
        result = simulate(work, boxes(on), plan, **given)
        assert result.launch == "eager"
        spans = result.spans
        rows = zip(spans.kind, spans.start_s, spans.end_s, strict=True)
        return sum(end - start for kind, start, end in rows if kind in kinds)

    there = {"on": H100, "rescale": "roofline"}
    assert seconds("launch", **there) == pytest.approx(seconds("launch", on="H200-SXM-141GB"))
    assert seconds("launch", **there, host_speed=2) == pytest.approx(seconds("launch", **there) / 2)
    assert seconds("forward", "backward", **there) > seconds("forward", "backward", on="H200-SXM-141GB")
    assert (
        simulate(work, boxes(H100), plan, rescale="roofline").caveats[0].startswith("scaled from NVIDIA H200 to H100")
    )


def test_a_result_names_the_device_whose_costs_it_used():
    other = replace(traced(on="NVIDIA A100-SXM4-80GB"), name="w")
    assert simulate(traced(), boxes(A100), Plan(dp=2), by_type={A100: other}).measured_on == "NVIDIA A100-SXM4-80GB"
    assert simulate(traced(), boxes(H100), Plan(dp=2)).measured_on == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Workload.chain("w", [Layer.given(x, forward_s=1, backward_s=2) for x in "ab"], activation_bytes=9), "gives"),
        (Workload.chain("w", [Layer.given(x, forward_s=1, backward_s=2, parameter_bytes=8) for x in "ab"]), "holds"),
    ],
)
def test_costs_of_the_same_layers_at_other_sizes_are_refused(other, what):
    """Such as those of a model traced with sequences of another length: the names are the same."""
    layers = [Layer.given(x, forward_s=1, backward_s=2, parameter_bytes=4) for x in "ab"]
    work = Workload.chain("w", layers, activation_bytes=8)
    with pytest.raises(MpsimError, match=f"layer 'a' {what}.*trace the same model at the same sizes"):
        simulate(work, boxes(A100), Plan(dp=2), by_type={A100: other})
