"""Calibration: logs read, parameters found again, levels told apart, NVLS found, and bad logs refused in one line."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from mpsim.calibration import Measurement, calibrate, read_log
from mpsim.calibration.between import find_gaps
from mpsim.calibration.run import geometric_mean_error
from mpsim.collectives.choice import alone_s, choose
from mpsim.errors import MpsimError
from mpsim.topology.builders import nodes, switch
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.topology.file import load_topology
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

NVLINK, NETWORK = Wire(2e11, 1e-6, "nvlink4"), Wire(2e10, 1e-5, "ib_ndr")
SIZES = [2**i for i in range(10, 31)]
SMALL = Regime(least_bytes=2**10, most_bytes=2**18, launch_s=8e-6, step_s=1e-6, bandwidth_bytes_per_s=5e10)
LARGE = Regime(least_bytes=2**19, most_bytes=2**30, launch_s=3e-5, bandwidth_bytes_per_s=2e11)

HEAD = """# nThread 1 nGpus 1 minBytes 1024 maxBytes 1048576 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
{ranks}
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""


def log_text(points, n: int, ranks: bool = True, twice: int = 2) -> str:
    told = "\n".join(f"#  Rank {i:2} Group  0 Pid 99 on host device {i:2} [0x{i:02}] GPU" for i in range(n))
    rows = [
        f"{size:12} {size // 4:12}     float     sum      -1 {us:8.2f} {size / us / 1e3:7.2f}"
        f" {size / us / 1e3 * twice * (n - 1) / n:7.2f}      0      N/A     N/A     N/A    N/A"
        for size, us in points
    ]
    return HEAD.format(ranks=told if ranks else "") + "\n".join(rows) + "\n# Avg bus bandwidth    : 41.9\n"


def truth(topology, counts, kind="all_reduce", sizes=SIZES):
    routes = Routes(topology)
    return [
        Measurement(
            kind=kind,
            ranks=n,
            bytes=size,
            seconds=alone_s(routes, kind, choose(routes, kind, tuple(range(n)), size), tuple(range(n)), size),
            source="made:1",
        )
        for n in counts
        for size in sizes
    ]


def errors(topology, points):
    routes = Routes(topology)
    found = []
    for one in points:
        ranks = tuple(range(one.ranks))
        name = choose(routes, one.kind, ranks, one.bytes)
        found.append(alone_s(routes, one.kind, name, ranks, one.bytes) / one.seconds - 1)
    return found


# Logs.


def test_a_table_of_nccl_tests_is_read(tmp_path):
    path = tmp_path / "all_reduce_perf.log"
    path.write_text(log_text([(0, 20.0), (1024, 22.5), (2048, 23.0)], 4))
    first, second = read_log(path)
    assert (first.kind, first.ranks, first.bytes) == ("all_reduce", 4, 1024)
    assert first.seconds == pytest.approx(22.5e-6, rel=1e-12)
    assert second.source == f"{path}:13"


@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_ranks_follow_from_the_bandwidths_where_no_line_tells_them(tmp_path, n):
    path = tmp_path / "all_reduce.txt"
    path.write_text(log_text([(2**20, 5.0), (2**30, 5000.0)], n, ranks=False))
    assert {one.ranks for one in read_log(path)} == {n}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "nothing here\n", "no table of nccl-tests in it"),
        (lambda text: text.replace("(us)", "(ms)"), r"a.log:9: the table is in \(ms\) where \(us\) is due"),
        (lambda text: text + "  4096  1024 float\n", "a.log:14: '4096 1024 float' is no row of size count"),
        (lambda text: text.replace("22.50", " 0.00"), "a.log:11: 2048 bytes in 0.0 us: expected more than 0"),
        (lambda text: text.replace("  Rank  1", ""), "all_reduce over 1 rank: it takes at least 2"),
        (lambda text: text.replace("# all_reduce_perf", "#"), "neither the log nor its name tells the collective"),
        (lambda text: "{}", "schema is None"),
        (lambda text: text.replace("(us)", ""), "a.log:8: the table has no line of units"),
        (lambda text: text.replace("(us)", "(min)"), "a.log:8: the table has no line of units"),
        (lambda text: text + "  -4096  1024 float sum -1 5 1 1 0 5 1 1 0\n", "a.log:14: '-4096 1024 .* cut or edited"),
        (lambda text: text + "  64K  1024 float sum -1 5 1 1 0 5 1 1 0\n", "a.log:14: '64K 1024 .* cut or edited"),
        (lambda text: text + "  ²  1024 float sum -1 5 1 1 0 5 1 1 0\n", "a.log:14: '² 1024 .* cut or edited"),
        (lambda text: text.replace("2048 ", "9" * 400 + " "), "a.log:11: a size of 400 digits"),
        (lambda text: text.replace("2048 ", "9" * 5000 + " "), "a.log:11: a size of 5000 digits"),
        (lambda text: text.replace("22.50", "1e400"), "a.log:11: 2048 bytes in inf us"),
        (lambda text: text.replace("22.50", "1e-300"), "a.log:11: 2048 bytes in 1e-300 us"),
        (lambda text: text.replace("22.50", "nan"), "a.log:11: 2048 bytes in nan us"),
        (
            lambda text: text.replace("22.50    0.09    0.09      0", "22.50    0.09    0.09      3"),
            "a.log:11: 3 values came out wrong",
        ),
        (lambda text: text.replace("  Rank  0", "  Rank  2"), "go to 2 and tell no rank 0: the log was cut"),
    ],
)
def test_bad_logs_are_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "a.log"
    text = "# all_reduce_perf\n" + log_text([(1024, 20.0), (2048, 22.5), (4096, 23.0)], 2)
    path.write_text(change(text))
    with pytest.raises(MpsimError, match=message) as error:
        read_log(path)
    assert "\n" not in str(error.value)


def test_a_log_of_several_runs_has_tables_of_their_own_kinds_and_ranks(tmp_path):
    path = tmp_path / "runs.log"
    runs = [("all_reduce", 4), ("all_gather", 8), ("all_gather", 2)]
    text = "".join(
        f"$ sweep gather_perf {kind}_perf\n# Collective test starting: {kind}_perf\n"
        f"{log_text([(2**20, 9.0)], n, twice=1 + (kind == 'all_reduce'))}"
        f"# Collective test concluded: {kind}_perf\n"
        for kind, n in runs
    )
    path.write_text(text)
    assert [(one.kind, one.ranks) for one in read_log(path)] == runs


def test_a_run_that_began_twice_counts_its_ranks_once(tmp_path):
    path = tmp_path / "all_reduce.log"
    crashed = log_text([], 8).split("#\n")[0]
    path.write_text(crashed + log_text([(2**20, 9.0)], 4))
    assert [one.ranks for one in read_log(path)] == [4]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "".join(f"[1,0]<stdout>:{line}\n" for line in text.splitlines()),
        lambda text: text.replace(
            "\n#        (B)", "\nnode1:99:99 [0] NCCL INFO Channel 00/08 : 0 1 2 3\n#        (B)"
        ),
        lambda text: text + text,
    ],
)
def test_what_says_nothing_of_the_times_changes_nothing(tmp_path, change):
    path = tmp_path / "all_reduce.log"
    text = log_text([(1024, 20.0), (2048, 22.5), (4096, 23.0)], 4)
    path.write_text(text)
    plain = {(one.kind, one.ranks, one.bytes, one.seconds) for one in read_log(path)}
    path.write_bytes(change(text).encode())
    assert {(one.kind, one.ranks, one.bytes, one.seconds) for one in read_log(path)} == plain


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"kind": "allreduce"}, "made:1: unknown kind of collective 'allreduce'; did you mean 'all_reduce'"),
        ({"ranks": 1}, "made:1: all_reduce over 1 rank"),
        ({"bytes": 0}, "made:1: bytes is 0"),
        ({"bytes": -8}, "made:1: bytes is -8"),
        ({"seconds": math.nan}, "made:1: seconds is nan"),
        ({"seconds": math.inf}, "made:1: seconds is inf"),
        ({"seconds": 0.0}, "made:1: seconds is 0.0"),
        ({"seconds": -1.0}, "made:1: seconds is -1.0"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(field, message):
    with pytest.raises(MpsimError, match=message):
        Measurement(**{"kind": "all_reduce", "ranks": 2, "bytes": 8, "seconds": 1.0, "source": "made:1", **field})


def test_a_missing_log_and_one_that_is_no_text_are_refused(tmp_path):
    (tmp_path / "b.log").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MpsimError, match=r"it is not text.*; name a log"):
        read_log(tmp_path / "b.log")
    with pytest.raises(MpsimError, match="No such file or directory"):
        read_log(tmp_path / "c.log")


def test_too_few_points_too_many_ranks_and_links_without_a_type_are_refused():
    with pytest.raises(MpsimError, match="all_reduce over 'nvlink4' has 3 sizes, a curve has 4 parameters"):
        calibrate(switch(4, link=NVLINK), truth(switch(4, link=NVLINK), [2, 4], sizes=SIZES[:3]))
    with pytest.raises(MpsimError, match="made:1: 8 ranks, topology 'switch:4' has 4 devices"):
        calibrate(switch(4, link=NVLINK), truth(switch(8, link=NVLINK), [8]))
    with pytest.raises(MpsimError, match="has no type, by which its costs could be kept"):
        calibrate(switch(4, link="50GB/s@2us"), truth(switch(4, link=NVLINK), [2, 4]))


# Fits.


def test_what_made_the_times_is_found_again():
    made = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=8)
    topology = replace(switch(8, link=NVLINK), costs=(made,))
    found = calibrate(switch(8, link=Wire(3e11, 1e-6, "nvlink4")), truth(topology, [2, 8]))
    (cost,) = found.topology.costs
    assert (cost.least_ranks, cost.most_ranks, cost.link, cost.algorithm) == (2, 8, "nvlink4", "ring")
    assert cost.regimes[0].launch_s == pytest.approx(8e-6, rel=0.02)
    assert cost.regimes[0].step_s == pytest.approx(1e-6, rel=0.02)
    assert all(link.bandwidth_bytes_per_s == pytest.approx(2e11, rel=0.01) for link in found.topology.links)
    assert geometric_mean_error([one.error_fraction for one in found.residuals]) < 0.01
    assert geometric_mean_error(errors(found.topology, truth(topology, [4]))) < 0.01


def test_links_of_one_type_that_are_not_alike_keep_their_proportion():
    """Single and double NVLinks of a DGX-1, all at 0.8 of what is thought."""
    thought = parse_topology("dgx1_v100:costs=none")
    links = [replace(one, bandwidth_bytes_per_s=0.8 * one.bandwidth_bytes_per_s) for one in thought.links]
    slow = replace(thought, links=tuple(links))
    found = calibrate(thought, truth(slow, [8]))
    for one, other in zip(found.topology.links, slow.links, strict=True):
        assert one.bandwidth_bytes_per_s == pytest.approx(other.bandwidth_bytes_per_s, rel=1e-6)
    assert max(abs(one.error_fraction) for one in found.residuals) < 1e-6


def test_one_wild_point_hardly_moves_a_fit():
    made = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=8)
    points = truth(replace(switch(8, link=NVLINK), costs=(made,)), [2, 4, 8])
    wild = [replace(one, seconds=one.seconds * 5) if (one.ranks, one.bytes) == (4, 2**25) else one for one in points]
    found = calibrate(switch(8, link=NVLINK), wild)
    assert geometric_mean_error(errors(found.topology, points)) < 0.02


def test_levels_are_calibrated_from_the_inside():
    inner = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=4)
    wide = Regime(least_bytes=2**10, most_bytes=2**30, launch_s=4e-5, step_s=9e-6, bandwidth_bytes_per_s=2e10)
    outer = CollectiveCost(link="ib_ndr", kind="all_reduce", algorithm="ring", regimes=(wide,), most_ranks=16)
    blank = nodes(4, per_node=4, nics=4, inside=NVLINK, between=NETWORK)
    topology = replace(blank, costs=(inner, outer))
    found = calibrate(blank, truth(topology, [2, 4, 8, 16]))
    assert [cost.link for cost in found.topology.costs] == ["nvlink4", "ib_ndr"]
    assert geometric_mean_error(errors(found.topology, truth(topology, [2, 16]))) < 0.01
    # Over an odd number of nodes each ring crosses between places once more.
    assert geometric_mean_error(errors(found.topology, truth(topology, [12]))) < 0.03


def test_trees_of_small_sizes_are_told_from_rings_of_large_ones():
    quick = Regime(least_bytes=2**10, most_bytes=2**18, launch_s=2e-5, step_s=8e-6, bandwidth_bytes_per_s=1e10)
    wide = Regime(least_bytes=2**19, most_bytes=2**30, launch_s=9e-5, step_s=9e-6, bandwidth_bytes_per_s=2e10)
    costs = [
        CollectiveCost(link="ib_ndr", kind="all_reduce", algorithm=name, regimes=(regime,), most_ranks=64)
        for name, regime in (("trees", quick), ("ring", wide))
    ]
    blank = nodes(16, per_node=2, nics=2, inside=NVLINK, between=NETWORK)
    points = truth(replace(blank, costs=tuple(costs)), [8, 16, 32])
    found = calibrate(blank, points).topology
    assert {cost.algorithm for cost in found.costs} == {"trees", "ring"}
    assert geometric_mean_error(errors(found, points)) < 0.02


def test_reduction_by_the_switch_is_told_from_the_ring():
    nvls = Regime(least_bytes=2**20, most_bytes=2**30, launch_s=3e-5, bandwidth_bytes_per_s=1.7e11)
    costs = (
        CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=8),
        CollectiveCost(
            link="nvlink4", kind="all_reduce", algorithm="nvls", regimes=(nvls,), least_ranks=8, most_ranks=8
        ),
    )
    blank = replace(switch(8, link=NVLINK), reducing=("switch",))
    points = truth(replace(blank, costs=costs), [2, 4, 8])
    found = calibrate(blank, points).topology
    assert {cost.algorithm for cost in found.costs} == {"ring", "nvls"}
    assert choose(Routes(found), "all_reduce", tuple(range(8)), 2**28) == "nvls"
    assert choose(Routes(found), "all_reduce", tuple(range(4)), 2**28) == "ring"
    assert geometric_mean_error(errors(found, points)) < 0.03


def test_other_kinds_costs_are_kept_and_the_same_are_replaced():
    made = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=8)
    topology = replace(switch(8, link=NVLINK), costs=(made, replace(made, kind="broadcast")))
    found = calibrate(topology, truth(topology, [2, 8]))
    assert sorted(cost.kind for cost in found.topology.costs) == ["all_reduce", "broadcast"]
    assert replace(made, kind="broadcast") in found.topology.costs


def test_the_command_writes_a_topology_that_says_where_it_comes_from(tmp_path):
    for n in (2, 4):
        points = [(size, 10 + n + size / 1e5 * (n - 1) / n) for size in SIZES]
        (tmp_path / f"all_reduce_perf.{n}.log").write_text(log_text(points, n))
    logs = [f"all_reduce_perf.{n}.log" for n in (2, 4)]
    spec = ["--topology", "switch:4,link=nvlink4", "-o", "node.json"]
    done = subprocess.run(
        [sys.executable, "-m", "mpsim", "calibrate", *logs, *spec], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all_reduce (ring) over nvlink4, 2 to 4 ranks, fit within" in done.stdout
    assert "all_reduce over 4: mean" in done.stdout
    found = load_topology(tmp_path / "node.json")
    assert found.provenance.made_by.startswith("mpsim ")
    assert found.provenance.source == "all_reduce_perf.2.log, all_reduce_perf.4.log"
    assert math.isclose(found.links[0].bandwidth_bytes_per_s, 2e11, rel_tol=0.1)


def test_a_level_that_was_not_measured_between_two_that_were_lies_in_their_middle():
    box = replace(parse_topology("pcie_box"), costs=())
    fast, slow = (replace(LARGE, least_bytes=2**10, launch_s=0.0, bandwidth_bytes_per_s=b) for b in (2e10, 2e10 / 16))
    known = tuple(
        CollectiveCost(link=link, kind="all_gather", algorithm="ring", regimes=(regime,), most_ranks=8)
        for link, regime in (("pcie4_x16", fast), ("socket", slow))
    )
    points = truth(replace(box, costs=known), [2, 8], kind="all_gather")
    found = calibrate(box, points).topology
    (middle,) = (cost for cost in found.costs if cost.link == "pcie_host")
    assert [cost.link for cost in found.costs] == ["pcie4_x16", "pcie_host", "socket"]  # From the inside.
    assert middle.source == "not measured: the middle between pcie4_x16 and socket"
    assert middle.error_fraction == pytest.approx(3, rel=1e-3)  # The square root of 16, less 1.
    expected = 2**26 * 3 / 4 / (2e10 / 4)
    assert alone_s(Routes(found), "all_gather", "ring", (0, 1, 2, 3), 2**26) == pytest.approx(expected, rel=1e-3)
    assert max(map(abs, errors(found, points))) < 1e-3


def test_a_level_that_was_measured_is_no_gap():
    assert [gap.link for gap in find_gaps({"a": (2,), "b": (4,), "c": (8,)}, ["a", "b"])] == []
