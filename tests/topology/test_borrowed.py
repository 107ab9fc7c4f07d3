"""Costs that links borrow from the nearest that were measured, and what a result says of it."""

from dataclasses import replace

import pytest

from mpsim.collectives.choice import alone_s
from mpsim.result.text import summary
from mpsim.simulation.collectives import simulate_collectives
from mpsim.topology.borrowed import with_borrowed
from mpsim.topology.builders import switch
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

ONE = Regime(least_bytes=1, most_bytes=2**30, launch_s=9e-6, step_s=1e-6, bandwidth_bytes_per_s=1e11)


def cost(link, algorithm="ring", kind="all_reduce"):
    return CollectiveCost(
        link=link, kind=kind, algorithm=algorithm, regimes=(ONE,), link_bytes_per_s=1e11, source=f"{link}.log"
    )


def test_a_link_three_times_as_wide_takes_a_third_for_its_bytes():
    topology = switch(2, link=Wire(3e11, 1e-5, "nvlink5"))
    lent = replace(topology, costs=tuple(with_borrowed(topology, [cost("nvlink4")])))
    assert alone_s(Routes(lent), "all_reduce", "ring", (0, 1), 3 * 2**30) == pytest.approx(9e-6 + 2e-6 + 2**30 / 1e11)
    assert [one.source for one in lent.costs] == ["not measured: nvlink5 as nvlink4, latencies x 1, bandwidths x 3"]


def test_latencies_go_as_the_catalogs():
    (lent,) = with_borrowed(switch(2, link="efa_v1_p4d"), [cost("ib_ndr")])
    assert lent.regimes[0].launch_s == pytest.approx(9e-6 * 30 / 20)
    assert lent.regimes[0].step_s == pytest.approx(1e-6 * 30 / 20)


@pytest.mark.parametrize(
    ("link", "measured", "donors"),
    [
        ("nvlink5", ["nvlink3", "nvlink4"], ["nvlink4"]),
        ("nvlink2", ["nvlink3", "nvlink4"], ["nvlink3"]),
        ("ib_hdr", ["efa_v2_p5", "ib_ndr"], ["ib_ndr"]),
        ("efa_v1_p4d", ["efa_v2_p5", "ib_ndr"], ["efa_v2_p5"]),
        ("gcp_tcpx_a3_high", ["efa_v2_p5", "ib_ndr"], ["efa_v2_p5"]),
        ("slingshot_200", ["efa_v2_p5", "ib_ndr"], ["ib_ndr"]),
        ("nvlink5", ["ib_ndr", "pcie4_x16"], []),
        ("eth_10g", ["ib_ndr", "nvlink4"], []),
        ("ici_v4", ["ib_ndr", "nvlink4"], []),
        ("mine", ["ib_ndr", "nvlink4"], []),
        ("nvlink5", ["nvlink5", "nvlink4"], ["nvlink5"]),
    ],
)
def test_the_nearest_of_a_kind_lends(link, measured, donors):
    found = with_borrowed(switch(2, link=Wire(1e11, 1e-6, link)), [cost(one) for one in measured])
    assert [one.source.partition(" as ")[2].partition(",")[0] or one.link for one in found] == donors


def test_each_algorithm_has_its_own_nearest():
    measured = [cost("ib_ndr", "trees"), cost("efa_v2_p5", "ring"), cost("efa_v2_p5", "trees")]
    found = list(with_borrowed(switch(2, link="ib_hdr"), measured))
    assert [(one.algorithm, one.source.split(" as ")[1].split(",")[0]) for one in found] == [
        ("trees", "ib_ndr"),
        ("ring", "efa_v2_p5"),
    ]


@pytest.mark.parametrize("name", ["dgx_b200", "gb200_nvl72", "dgx1_v100", "gcp_a3_high:2", "azure_nd_a100:2"])
def test_a_result_says_in_one_line_what_was_not_measured(name):
    topology = parse_topology(name)
    assert any(one.unmeasured for one in topology.costs)
    result = simulate_collectives([2**20, 2**26], topology, algorithm="auto")
    said = {one for count in result.traffic for one in count.unmeasured.split("; ")}
    assert set(result.caveats) == {f"costs of all_reduce were {one}" for one in said}
    assert summary(result).startswith(f"caution: {'; '.join(result.caveats[:3])}")


def test_what_was_measured_needs_no_word():
    result = simulate_collectives([2**20], parse_topology("dgx_h100"), algorithm="auto")
    assert result.caveats == ()
    assert "caution:" not in summary(result)
