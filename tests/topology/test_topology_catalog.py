"""The catalog: every row has a source and figures that can be true, and the two latencies stay apart."""

import pytest

from mpsim.errors import MpsimError
from mpsim.topology import catalog
from mpsim.topology.wire import Wire

DEVICES = [catalog.device(name) for name in catalog.device_names()]
LINKS = [catalog.link(name) for name in catalog.link_names()]


def test_it_has_as_many_rows_as_its_source():
    assert (len(DEVICES), len(LINKS)) == (30, 37)


@pytest.mark.parametrize("row", [*DEVICES, *LINKS], ids=lambda row: row.name)
def test_every_row_says_where_it_is_from(row):
    assert row.source
    assert row.confidence in ("A", "B", "C")


@pytest.mark.parametrize("row", DEVICES, ids=lambda row: row.name)
def test_device_figures_are_in_si_units(row):
    assert 8e9 <= row.memory_bytes <= 1e12
    assert row.usable_memory_bytes is None or 0.9 < row.usable_memory_bytes / row.memory_bytes < 1.1
    assert 1e11 <= row.memory_bandwidth_bytes_per_s <= 1e13
    assert row.matmul_fraction is None or 0 < row.matmul_fraction <= 1
    peaks = [getattr(row, name) for name in row.__slots__ if name.endswith(("_flop_per_s", "_op_per_s"))]
    assert all(1e11 <= peak <= 1e17 for peak in peaks if peak is not None)
    assert any(peaks)
    for name in (row.inside_link, row.host_link, row.between_link):
        assert catalog.link(name).name == name
    assert 1e9 <= row.pair_bytes_per_s <= row.inside_bytes_per_s <= 1e12


@pytest.mark.parametrize("row", LINKS, ids=lambda row: row.name)
def test_link_figures_are_in_si_units(row):
    assert 1e8 <= row.bandwidth_bytes_per_s <= 2e12
    assert 0 < row.reachable_fraction <= 1
    assert 0 <= row.effective_latency_s <= 1e-3
    assert row.wire_latency_s is None or 0 <= row.wire_latency_s <= row.effective_latency_s


def test_a_wire_is_what_the_link_reaches():
    assert catalog.wire("nvlink4") == Wire(450e9 * 0.82, 10e-6, "nvlink4", per_message=True)
    assert catalog.wire("NVLink4", latency="wire") == Wire(450e9 * 0.82, 0.6e-6, "nvlink4")


def test_a_missing_wire_latency_is_never_the_effective_one():
    assert catalog.link("ib_ndr").wire_latency_s is None
    with pytest.raises(MpsimError, match="no wire latency for ib_ndr, its effective latency is 20 us"):
        catalog.wire("ib_ndr", latency="wire")


def test_peaks_by_type():
    h100 = catalog.device("H100-SXM5-80GB")
    assert h100.peak_flop_per_s("bfloat16") == 989e12
    assert h100.peak_flop_per_s("float32") == 67e12
    assert h100.peak_flop_per_s("float8_e4m3fn") == 1979e12
    with pytest.raises(MpsimError, match="no bfloat16 peak for P40, it has float64, float32, float16, int8"):
        catalog.device("P40").peak_flop_per_s("bfloat16")
    with pytest.raises(MpsimError, match="unknown dtype 'float33'; did you mean 'float32'"):
        h100.peak_flop_per_s("float33")


def test_usable_memory_where_it_is_known():
    assert catalog.topology_device("H200-SXM-141GB").memory_bytes == 139 * 2**30
    assert catalog.topology_device("H100-SXM5-80GB").memory_bytes == 80_000_000_000


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: catalog.device("h100"), "unknown device 'h100'; the catalog has H100-PCIe-80GB, H100-SXM5-80GB"),
        (lambda: catalog.device("H100-SMX5-80GB"), "did you mean 'H100-SXM5-80GB'"),
        (lambda: catalog.link("nvlnk4"), "unknown link 'nvlnk4'; did you mean 'nvlink4'"),
        (lambda: catalog.wire("nvlink4", latency="real"), "unknown latency 'real'; known: effective, wire"),
        (lambda: catalog.parse_wire("50GB/s"), "has no latency: write '50GB/s@2us'"),
        (lambda: catalog.parse_wire("50@2us"), "bandwidth '50' has no unit"),
        (lambda: catalog.parse_wire("50GB/s@2"), "latency '2' has no unit"),
        (lambda: catalog.parse_wire("nvlink4@2"), "latency '2' has no unit"),
        (lambda: catalog.parse_wire(""), "unknown link ''"),
    ],
)
def test_what_is_not_there_is_named(ask, message):
    with pytest.raises(MpsimError) as caught:
        ask()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wires_as_text():
    assert catalog.parse_wire("400Gbit/s@2us") == Wire(50e9, 2e-6)
    assert catalog.parse_wire("inf@0") == Wire(float("inf"))
    assert catalog.parse_wire("nvlink4@2us") == Wire(450e9 * 0.82, 2e-6, "nvlink4")
    assert catalog.parse_wire("nvlink4@wire") == catalog.wire("nvlink4", latency="wire")
    assert catalog.parse_wire(Wire(1.0)) == Wire(1.0)
