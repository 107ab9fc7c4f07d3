"""One valid file of every kind that mpsim reads, each a few kilobytes: what the fuzzer begins with."""

import csv
import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mpsim.interchange.chakra_export import save_chakra
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan, save_plan
from mpsim.plan.schedule_file import write_schedule
from mpsim.plan.schedules import rows_for
from mpsim.result.file import save_result
from mpsim.result.perfetto import save_perfetto
from mpsim.simulation import simulate
from mpsim.sweeps import save_sweep, sweep
from mpsim.topology.file import save_topology
from mpsim.topology.spec import parse_topology
from mpsim.validate.published.replaying import COMMITTED as PUBLISHED
from mpsim.validate.steps_file import COMMITTED as STEPS
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.layers import Fidelity
from mpsim.workload.model import Layer, Workload

__all__ = ["seeds"]

DATA = Path(__file__).parents[1] / "data"
NETWORK = "topology: [ Ring, Switch ]\nnpus_count: [ 2, 2 ]\nbandwidth: [ 400.0, 50.0 ]\nlatency: [ 500.0, 2000.0 ]\n"
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
RANKS = "# all_reduce_perf\n#  Rank  0 Group  0 Pid 1 on host device  0 [0x00] GPU\n#  Rank  1 Group  0 Pid 1 on host\n"
HEAD = "#  size count type redop root time algbw busbw #wrong\n#  (B) (elements) (us) (GB/s) (GB/s)\n"


def seeds(folder: Path) -> dict[str, bytes]:
    """Return valid files by name; `folder` is one to write them in meanwhile."""
    box = parse_topology("switch:2,link=nvlink4,memory=1GiB")
    hand = load_workload(DATA / "hand.workload.json")
    small = Workload.chain(
        "small",
        [Layer.given(name, forward_s=1e-3, backward_s=2e-3, parameter_bytes=64, saved_bytes=8) for name in "abcd"],
        activation_bytes=16,
    )
    plan = Plan(pp=2, microbatches=2)
    result = simulate(small, box, plan)
    program = program_of(lower(small, box, plan))
    save_workload(folder / "small.json", small)
    rough = [replace(one, costs=(replace(one.costs[0], fidelity=Fidelity.ANALYTICAL),)) for one in small.layers]
    save_workload(folder / "rough.json", replace(small, layers=tuple(rough), device="T4"))
    save_topology(folder / "t4.json", parse_topology("switch:2,link=nvlink4,device=T4"))
    save_topology(folder / "box.json", box)
    save_topology(folder / "costs.json", parse_topology("dgx_h100:1"))
    save_plan(folder / "plan.json", plan)
    save_result(folder / "result.json", result)
    save_perfetto(folder / "perfetto.json", result)
    write_schedule(folder / "rows.csv", rows_for("1f1b", 2, 3))
    found = sweep(hand, box, batch=8, processes=1, microbatches=[2], schedules=["gpipe"])
    save_sweep(folder / "sweep.csv", found)
    if find_spec("pyarrow") is not None:
        save_sweep(folder / "sweep.parquet", found)
    save_chakra(folder / "step", program, box)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files["hand.json"] = (DATA / "hand.workload.json").read_bytes()
    files["real.json"] = (DATA / "result-2.json").read_bytes()
    files["alien.0.et"] = (DATA / "chakra" / "one_comp_node.0.et").read_bytes()
    files["one.0.et"] = (DATA / "chakra" / "ALL_GATHER.0.et").read_bytes()
    files |= {name: text.encode() for name, text in _texts().items()}
    return files | _tables()


def _texts() -> dict[str, str]:
    return {
        "network.yml": NETWORK,
        "config.json": json.dumps(CONFIG),
        "kineto.json": json.dumps({"schemaVersion": 1, "traceEvents": _events()}),
        "nccl.log": RANKS + HEAD + _rows(" ", ""),
        "nccl.csv": "collective,gpus,size,inplace,time,algbw,busbw\n" + _rows(",", "AllReduce,2,"),
        "nccl.json": json.dumps([
            {"name": "AllReduce", "ranks": 2, "size": 2**i, "inPlace": 0, "time": us, "algBw": bw, "busBw": bw}
            for i, us, bw in _measured()
        ]),
        "steps.json": json.dumps({"about": "", "rows": json.loads(STEPS.read_text())["rows"][:1]}),
    }  # fmt: skip


def _measured() -> list[tuple[int, float, float]]:
    found = []
    for i in range(10, 16):
        us = round(10 + 2**i / 1e5, 2)
        found.append((i, us, round(2**i / us / 1e3, 2)))
    return found


def _rows(between: str, before: str) -> str:
    lines = []
    for i, us, bw in _measured():
        cells = [2**i, 0, us, bw, bw] if before else [2**i, 2**i // 4, "float", "sum", -1, us, bw, bw, 0]
        lines.append(before + between.join(map(str, cells)) + "\n")
    return "".join(lines)


def _events() -> list[dict[str, object]]:
    """Two steps of a Linear under a module, forward and backward."""
    events: list[dict[str, object]] = []

    def add(name: str, start: float, lasts: float, category: str = "cpu_op", **args: object) -> None:
        named = {key.replace("_", " "): value for key, value in args.items()}
        events.append({"ph": "X", "cat": category, "name": name, "pid": 1, "tid": 1, "ts": start, "dur": lasts} |
                      {"args": named})  # fmt: skip

    for at in (1000, 2000):
        add("nn.Module: Net_0", at, 100, "python_function")
        add("nn.Module: Linear_0", at + 5, 45, "python_function")
        shapes = {"Input_Dims": [[8, 4], [], []], "Input_type": ["float", "Scalar", "Scalar"]}
        add("aten::linear", at + 8, 30, Sequence_number=at + 1, **shapes)
        add("aten::addmm", at + 9, 20, Sequence_number=at + 2)
        add(
            "autograd::engine::evaluate_function: AddmmBackward0", at + 145, 50, Sequence_number=at + 2, Fwd_thread_id=1
        )
        add("Optimizer.step#SGD.step", at + 250, 10, "user_annotation")
    return events


def _tables() -> dict[str, bytes]:
    """The heads of published tables, whose other files are the ones that come with mpsim."""
    files = {}
    for name in ("simumax_b200", "torchtitan", "zero_bubble_throughput", "torchgpipe_speed", "sailor_measured"):
        lines = (PUBLISHED / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith("#")][:3]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(csv.reader(kept))
        files[f"{name}.csv"] = text.getvalue().encode()
    return files
