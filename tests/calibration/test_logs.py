"""Logs as people have them: beginnings of lines, blank cells, groups, names, JSON, CSV, and contradictions."""

import csv
import io
import json
from dataclasses import dataclass

import pytest

from mpsim.calibration import calibrate, read_log
from mpsim.errors import MpsimError
from mpsim.topology.spec import parse_topology

SIZES = [2**i for i in range(12, 31, 3)]
NAMES = ["size", "count", "type", "redop", "root", *["time", "algbw", "busbw", "#wrong"] * 2]
UNITS = ["(B)", "(elements)", "", "", "", *["(us)", "(GB/s)", "(GB/s)", ""] * 2]
WIDTHS = [12, 12, 8, 6, 6, *[7, 6, 6, 6] * 2]
ONE_SHARE = ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")


def ratio(kind, n):
    return 2 * (n - 1) / n if kind == "all_reduce" else (n - 1) / n if kind in ONE_SHARE else 1.0


@dataclass
class Log:
    """A run, and how it is printed."""

    kind: str = "all_reduce"
    ranks: int = 8
    program: str = "all_reduce_perf"
    groups: tuple = ()
    blank: tuple = ()
    order: tuple = tuple(range(13))
    more: tuple = ("", "", "")

    def us(self, size):
        return 17.3 + size / 1.37e5

    def side(self, size, us, wrong="0"):
        rate = size / us / 1e3
        return [f"{us:.2f}", f"{rate:.2f}", f"{rate * ratio(self.kind, self.ranks):.2f}", wrong]

    def cells(self, size):
        start = [str(size), str(size // 4), "float", "sum", "-1"]
        made = start + self.side(size, self.us(size)) + self.side(size, 1.01 * self.us(size), "N/A")
        return [" " if i in self.blank else cell for i, cell in enumerate(made)]

    def line(self, cells, more, mark="  "):
        return mark + "  ".join(f"{cells[i]:>{WIDTHS[i]}}" for i in self.order) + more

    def lines(self):
        groups = self.groups or (0,) * self.ranks
        return [
            *([f"# Collective test starting: {self.program}"] if self.program else []),
            "# nThread 1 nGpus 1 minBytes 4096 maxBytes 1073741824 step: 8(factor) warmup iters: 1 iters: 20",
            "# Using devices",
            *(f"#  Rank {r:2} Group {g:2} Pid {900 + r} on node{r // 8} device {r % 8:2} [0000:{r:02x}:00] NVIDIA H100"
              for r, g in enumerate(groups)),
            "#",
            "#" + " " * 60 + "out-of-place                       in-place",
            self.line(NAMES, self.more[0], "# "), self.line(UNITS, self.more[1], "# "),
            *(self.line(self.cells(size), self.more[2]) for size in SIZES),
            "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 94.2 ", "#",
        ]  # fmt: skip

    def text(self):
        return "\n".join(self.lines()) + "\n"


def read(tmp_path, text, name="a.log"):
    path = tmp_path / name
    path.write_text(text)
    return read_log(path)


def check(found, log):
    assert {(one.kind, one.ranks) for one in found} == {(log.kind, log.ranks)}
    assert [one.bytes for one in found] == SIZES
    for one in found:
        assert one.seconds * 1e6 == pytest.approx(log.us(one.bytes), abs=0.006)


PREFIXES = {
    "srun -l": lambda i: f"{i % 3:>2}: ",
    "Open MPI 4 --tag-output": lambda i: "[1,0]<stdout>:",
    "Open MPI 5": lambda i: "[prterun-gpu-a01-4711@1,0]<stdout>: ",
    "Open MPI with moments": lambda i: f"Thu Jul 24 09:12:{10 + i} 2025[1,0]<stdout>:",
    "mpiexec -l": lambda i: "[0] ",
    "pdsh": lambda i: f"gpu-{i % 2:02}.cluster.example: ",
    "clush": lambda i: "gpu01: ",
    "docker compose": lambda i: "\x1b[36mtest-launcher-1  |\x1b[0m ",
    "kubectl --prefix": lambda i: "[pod/nccl-test-launcher-x7k2p/main] ",
    "kubectl --timestamps": lambda i: f"2026-02-03T10:11:{10 + i}.{i * 7919 % 1000000:06}Z ",
    "CRI": lambda i: f"2026-02-03T10:11:{10 + i}.5+01:00 stdout F ",
    "ts": lambda i: f"Feb  3 10:11:{10 + i} ",
    "journald": lambda i: f"Feb 03 10:11:{10 + i} gpu-a01 nccl[7100]: ",
    "Python logging": lambda i: f"2026-02-03 10:11:{10 + i},{i:03} INFO runner: ",
    "quoted": lambda i: "> ",
    "quoted twice": lambda i: "> > ",
    "logfmt": lambda i: f'time="2026-02-03T10:11:{10 + i}Z" level=info msg=',
    "line numbers": lambda i: f"{i + 1:>5}\t| ",
    "indent": lambda i: "\t  ",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("marks", ["kept", "lost"])
def test_what_stands_before_each_line_says_nothing(tmp_path, prefix, marks):
    log = Log()
    lines = log.lines() if marks == "kept" else [line.removeprefix("#") for line in log.lines()]
    check(read(tmp_path, "".join(f"{PREFIXES[prefix](i)}{line}\n" for i, line in enumerate(lines))), log)


def test_rows_that_others_printed_between_change_nothing(tmp_path):
    lines = [f"0: {line}" for line in Log().lines()]
    noise = ["3: node0:903:99 [3] NCCL INFO Channel 00/08 : 0 1 2 3 4 5 6 7", "1: NCCL WARN 8 GPUs"]
    made = [line for i, one in enumerate(lines) for line in (one, *noise[i % 2 : i % 2 + 1])]
    check(read(tmp_path, "\n".join(made)), Log())


def test_a_row_behind_a_beginning_of_another_form_is_not_lost(tmp_path):
    lines = [f"worker 0: {line}" for line in Log().lines()]
    lines[-5] = lines[-5].replace("worker 0:", "[worker] <0>")
    check(read(tmp_path, "\n".join(lines)), Log())


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace("#", ""),
        lambda line: line.replace("#", "\\#"),
        lambda line: " ".join(line.split()),
        lambda line: "\t".join(line.split()),
        lambda line: line.replace("  ", "\xa0 "),
        lambda line: "| " + " | ".join(line.split()) + " |",
        lambda line: line.replace("#wrong", "wrong"),
    ],
)
def test_tables_copied_from_pages_are_read(tmp_path, change):
    check(read(tmp_path, "\n".join(map(change, Log().lines()))), Log())


@pytest.mark.parametrize("blank", [(3,), (4,), (3, 4), (1,), (2, 3), (8, 12), (8,), (12,), (3, 4, 8, 12), (5, 6, 7, 8)])
@pytest.mark.parametrize("squeezed", [False, True])
def test_blank_cells_move_no_column(tmp_path, blank, squeezed):
    log = Log(blank=blank)
    text = log.text()
    text = "\n".join(" ".join(line.split()) for line in text.splitlines()) if squeezed else text
    found = read(tmp_path, text)
    if 5 in blank:  # Without a side out of place, as rccl-tests with -O 0, what is in place is what there is.
        assert [one.seconds * 1e6 for one in found] == pytest.approx([1.01 * log.us(s) for s in SIZES], abs=0.006)
    else:
        check(found, log)


def test_blank_cells_beside_columns_behind_move_no_column(tmp_path):
    log = Log(blank=(3,), more=("            timestamp", "    %Y-%m-%d %H:%M:%S", "  2026-02-03 10:11:12"))
    check(read(tmp_path, log.text()), log)


@pytest.mark.parametrize(
    "order",
    [
        (0, 2, 3, 4, 1, *range(5, 13)),
        (1, 2, 0, 3, 4, *range(5, 13)),
        (0, 1, 2, 3, 4, 7, 6, 5, 8, 11, 10, 9, 12),
        (0, 5, 6, 7),
        (2, 3, 0, 5, 6, 7, 8),
    ],
)
def test_columns_may_stand_in_any_order(tmp_path, order):
    log = Log(order=order)
    check(read(tmp_path, log.text()), log)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nccl_allreduce", "all_reduce"), ("AllReduce", "all_reduce"), ("all-reduce.8", "all_reduce"),
        ("ALLREDUCE-h100", "all_reduce"), ("ncclAllReduce", "all_reduce"), ("rcclallreduce", "all_reduce"),
        ("8gpu_all_reduce_v2", "all_reduce"), ("all reduce", "all_reduce"), ("nccl-bw_allgather", "all_gather"),
        ("AllGather", "all_gather"), ("all-gather", "all_gather"), ("reducescatter", "reduce_scatter"),
        ("Reduce-Scatter", "reduce_scatter"), ("nccl_reduce_scatter", "reduce_scatter"), ("alltoall", "all_to_all"),
        ("all2all_16", "all_to_all"), ("a2a", "all_to_all"), ("AllToAllv", "all_to_all"), ("all_to_all", "all_to_all"),
        ("bcast", "broadcast"), ("Broadcast", "broadcast"), ("nccl_reduce", "reduce"), ("gather", "gather"),
        ("nccl_scatter", "scatter"), ("send_recv", "send_receive"), ("SendRecv", "send_receive"),
    ],
)  # fmt: skip
def test_a_name_tells_the_collective_by_whole_words(tmp_path, name, kind):
    log = Log(kind=kind, program="")
    check(read(tmp_path, log.text(), f"{name}.log"), log)


def test_a_name_of_several_collectives_is_settled_by_the_bandwidths_or_refused(tmp_path):
    log = Log(kind="all_gather", program="")
    check(read(tmp_path, log.text(), "allgather_after_allreduce.log"), log)
    for name in ("gather_and_scatter", "preduced", "allreducer", "perf"):
        with pytest.raises(MpsimError, match="neither the log nor its name tells the collective"):
            read(tmp_path, log.text(), f"{name}.log")


def test_a_program_that_is_no_collective_of_ours_is_not_the_one_of_the_table_before(tmp_path):
    text = Log().text() + Log(kind="broadcast", program="hypercube_perf").text()
    with pytest.raises(MpsimError, match="tells the collective"):
        read(tmp_path, text, "two.log")


# Groups.


@pytest.mark.parametrize(
    ("groups", "n", "topology", "refused"),
    [
        ([r // 8 for r in range(16)], 8, "nodes:2,per_node=8,nics=8,inside=nvlink4,between=ib_ndr", None),
        ([r % 2 for r in range(8)], 4, "switch:8,link=nvlink4", None),
        ([r & 5 for r in range(8)], 2, "switch:8,link=nvlink4", None),
        ([r | 7 for r in range(16)], 8, "switch:16,link=nvlink4", None),
        ([0, 0, 0, 1, 1], 3, "switch:5,link=nvlink4", None),
        (
            [r % 8 for r in range(16)],
            2,
            "nodes:2,per_node=8,nics=8,inside=nvlink4,between=ib_ndr",
            "ranks 0, 8 of its group",
        ),
        ([r % 8 for r in range(16)], 2, "nodes:2,per_node=1,inside=nvlink4,between=ib_ndr", None),
    ],
)
def test_a_split_run_is_one_of_a_group(tmp_path, groups, n, topology, refused):
    log = Log(ranks=n, groups=tuple(groups))
    found = read(tmp_path, log.text())
    check(found, log)
    if refused:
        with pytest.raises(MpsimError, match=refused):
            calibrate(parse_topology(topology), found)
    else:
        calibrate(parse_topology(topology), found)


@pytest.mark.parametrize("kind", ["broadcast", "reduce"])
def test_groups_count_where_the_bandwidths_tell_no_ranks(tmp_path, kind):
    log = Log(kind=kind, ranks=4, program=f"{kind}_perf", groups=tuple(r % 2 for r in range(8)))
    check(read(tmp_path, log.text()), log)


# Rows held against themselves.


@pytest.mark.parametrize(
    ("kind", "program", "told", "message"),
    [
        ("all_reduce", "reduce_perf", 8, r"a\.log:\d+: busbw / algbw is 1\.\d+, of reduce over 8 ranks it is 1:"),
        ("all_gather", "all_reduce_perf", 8, "of all_reduce over 8 ranks it is 1.75"),
        ("all_reduce", "all_reduce_perf", 16, "of all_reduce over 16 ranks it is 1.875"),
        ("all_reduce", "all_reduce_perf", 4, "of all_reduce over 4 ranks it is 1.5"),
    ],
)
def test_a_log_of_another_collective_or_other_ranks_is_refused(tmp_path, kind, program, told, message):
    log = Log(kind=kind, program=program, groups=(0,) * told)
    with pytest.raises(MpsimError, match=message) as error:
        read(tmp_path, log.text())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", [0, 5, 6, 7, 9, 10, 11])
def test_one_cell_that_contradicts_the_others_names_its_row(tmp_path, column):
    log = Log()
    lines = log.lines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  ")) + 4
    cells = lines[at].split()
    cells[column] = str(int(cells[0]) * 2) if column == 0 else f"{float(cells[column]) * 1.03:.2f}"
    cells = ["0" if cell == "N/A" else cell for cell in cells]
    lines[at] = "  " + "  ".join(cells)
    with pytest.raises(MpsimError, match=rf"a\.log:{at + 1}: .*(do not match|busbw / algbw is)"):
        read(tmp_path, "\n".join(lines))


def test_columns_under_each_others_names_are_refused(tmp_path):
    lines = [line.replace("algbw", "xbw").replace("busbw", "algbw").replace("xbw", "busbw") for line in Log().lines()]
    with pytest.raises(MpsimError, match="do not match"):
        read(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("unit", ["(KB)", "(MiB)", "(ms)", "(s)", "(MB/s)", "(GiB/s)"])
def test_other_units_are_refused(tmp_path, unit):
    due = "(GB/s)" if "/s" in unit else "(B)" if "B" in unit else "(us)"
    text = Log().text().replace(due, unit, 1)
    with pytest.raises(MpsimError, match=rf"a\.log:\d+: the table is in \{unit[:-1]}\) where"):
        read(tmp_path, text)


def test_times_of_the_host_are_called_so(tmp_path):
    with pytest.raises(MpsimError, match="cputime"):
        read(tmp_path, Log().text().replace("   time", "cputime"))


def test_ranks_that_the_bandwidths_leave_open_are_not_guessed(tmp_path):
    lines = [line for line in Log(ranks=512).lines() if "Rank" not in line]
    with pytest.raises(MpsimError, match="does not tell the number of ranks"):
        read(tmp_path, "\n".join(lines))


# What the tests write for programs.


def nccl_json(log, *, devices=None, ngpus=1, **more):
    def side(us):
        rate = log.rate(us[0], us[1])
        return {"time": us[1], "alg_bw": rate, "bus_bw": rate * ratio(log.kind, log.ranks), "nwrong": 0.0}

    results = [
        {"size": size, "count": size // 4, "type": "float", "redop": "sum", "root": "    -1",
         "out_of_place": side((size, log.us(size))), "in_place": side((size, 1.01 * log.us(size))),
         "actual_iterations": 20, "experiment_name": ""}
        for size in SIZES
    ]  # fmt: skip
    told = [{"rank": r, "group": g} for r, g in devices or [(r, 0) for r in range(log.ranks)]]
    return {"version": 3, "args": [f"./build/{log.program}", "-J", "out.json"], "nccl_version": 22907,
            "config": {"nthreads": 1, "ngpus": ngpus, "devices": told}, "results": results} | more  # fmt: skip


Log.rate = staticmethod(lambda size, us: size / us / 1e3)


@pytest.mark.parametrize(
    ("devices", "ngpus"),
    [(None, 1), ([(0, 0)], 8), ([(0, 0), (4, 0)], 4), ([(r, r // 8) for r in range(16)], 1),
     ([(0, 0), (4, 0), (8, 1), (12, 1)], 4)],
)  # fmt: skip
def test_json_of_nccl_tests_is_read(tmp_path, devices, ngpus):
    """Of each process it has the first rank only."""
    check(read(tmp_path, json.dumps(nccl_json(Log(), devices=devices, ngpus=ngpus)), "out.json"), Log())


@pytest.mark.parametrize("kind", ["all_gather", "broadcast", "reduce_scatter"])
def test_json_of_nccl_tests_tells_its_program_before_its_name(tmp_path, kind):
    log = Log(kind=kind, program=f"{kind}_perf")
    check(read(tmp_path, json.dumps(nccl_json(log), indent=1), "all_reduce.json"), log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["results"][3]["out_of_place"].update(time=9.0), r"results\[3\]: .* do not match"),
        (lambda one: one["results"][3]["out_of_place"].update(bus_bw=9.0), r"results\[3\]: busbw / algbw is"),
        (lambda one: one["results"][3]["out_of_place"].update(nwrong=2.0), r"results\[3\]: 2.0 values came out wrong"),
        (lambda one: one["results"][3]["out_of_place"].update(cpu_time=2.0), r"results\[3\] has the host's time"),
        (lambda one: one["results"][3]["out_of_place"].update(time=None), r"results\[3\]: time is ''"),
        (
            lambda one: one["results"][3].update(out_of_place=None, in_place=None),
            r"results\[3\] has no size or no side",
        ),
        (lambda one: one["config"].update(devices=[{"rank": 0}, {"rank": 2}]), "devices are ranks 0, 2: some are"),
        (lambda one: one.update(results=[]), "no table of nccl-tests in it"),
    ],
)
def test_json_of_nccl_tests_that_contradicts_itself_is_refused(tmp_path, change, message):
    made = nccl_json(Log())
    change(made)
    with pytest.raises(MpsimError, match=message) as error:
        read(tmp_path, json.dumps(made), "out.json")
    assert "\n" not in str(error.value)


def rccl_records(log, name, *, per_rank=1, mpi=True):
    """One record a side, sizes as received."""
    part = log.ranks if log.kind in ("reduce_scatter", "scatter") else 1
    for size in SIZES:
        for inside, us in enumerate((log.us(size), 1.01 * log.us(size))):
            rate = size / us / 1e3
            ranks = {"nodes": 1, "ranks": log.ranks // per_rank, "ranksPerNode": 8 // per_rank, "gpusPerRank": per_rank}
            yield {
                "numCycle": 0, "name": name, **(ranks if mpi else {"gpus": log.ranks}), "size": size // part,
                "type": "float", "redop": "sum", "inPlace": inside, "time": round(us, 6), "algBw": round(rate, 6),
                "busBw": round(rate * ratio(log.kind, log.ranks), 6), "wrong": "0",
            }  # fmt: skip


RCCL = [
    ("AllReduce", "all_reduce"), ("AllGather", "all_gather"), ("ReduceScatter", "reduce_scatter"),
    ("AlltoAll", "all_to_all"), ("Broadcast", "broadcast"), ("Scatter", "scatter"), ("SendRecv", "send_receive"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), RCCL)
@pytest.mark.parametrize("form", ["lines", "list", "indented"])
def test_json_of_rccl_tests_is_read(tmp_path, name, kind, form):
    log = Log(kind=kind)
    records = list(rccl_records(log, name, per_rank=2 if form == "list" else 1, mpi=form != "indented"))
    lines = "\n".join(map(json.dumps, records))
    text = {
        "lines": lines,
        "list": "[\n" + lines.replace("}\n", "},\n") + "\n]\n",
        "indented": json.dumps(records, indent=2),
    }
    check(read(tmp_path, text[form], "out.json"), log)


@pytest.mark.parametrize(("name", "kind"), RCCL)
@pytest.mark.parametrize("mpi", [True, False])
@pytest.mark.parametrize("headed", ["whole", "short"])
def test_csv_of_rccl_tests_is_read(tmp_path, name, kind, mpi, headed):
    """Its head has no column for the nodes, its rows do."""
    log = Log(kind=kind)
    out = io.StringIO()
    records = [{k: v for k, v in one.items() if k != "numCycle"} for one in rccl_records(log, name, mpi=mpi)]
    names = [one for one in records[0] if not (one == "nodes" and headed == "short")]
    out.write(", ".join(["collective", *names[1:]]).lower().replace("wrong", "#wrong") + "\n")
    csv.writer(out, quoting=csv.QUOTE_NONNUMERIC).writerows(one.values() for one in records)
    check(read(tmp_path, out.getvalue().replace(",", ", "), "out.csv"), log)


def test_csv_without_a_side_out_of_place_is_of_what_is_in_place(tmp_path):
    log = Log()
    lines = [json.dumps(one) for one in rccl_records(log, "AllReduce") if one["inPlace"]]
    found = read(tmp_path, "\n".join(lines), "out.json")
    assert [one.seconds * 1e6 for one in found] == pytest.approx([1.01 * log.us(size) for size in SIZES], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.update(time=9.0), "record 7: .* do not match"),
        (lambda one: one.update(busBw=9.0), "record 7: busbw / algbw is"),
        (lambda one: one.update(wrong="3"), "record 7: 3 values came out wrong"),
        (lambda one: one.update(size="8M"), "record 7: size is '8M', expected bytes"),
        (lambda one: one.update(ranks="many"), "record 7: ranks is 'many', expected a number"),
        (lambda one: one.pop("algBw"), "record 7: algbw is '', expected a number"),
        (lambda one: one.update(time=float("nan")), "record 7: 2097152 bytes in nan us"),
    ],
)
def test_records_of_rccl_tests_that_contradict_themselves_are_refused(tmp_path, change, message):
    records = list(rccl_records(Log(), "AllReduce"))
    change(records[6])
    with pytest.raises(MpsimError, match=message) as error:
        read(tmp_path, json.dumps(records), "out.json")
    assert "\n" not in str(error.value)


def test_a_row_of_csv_that_was_cut_is_refused(tmp_path):
    text = "collective, gpus, size, inplace, time, algbw, busbw\nAllReduce, 8, 1048576, 0, 50.0\n"
    with pytest.raises(MpsimError, match=r"out\.csv:2: 5 cells below 7 columns"):
        read(tmp_path, text, "out.csv")
