"""Schedules run for real, against their predictions: ``python benchmarks/real_schedules.py`` writes the page.

    python benchmarks/real_schedules.py --run [--fabric host]    runs first what is not in the rows (some minutes)

Each process sleeps as long as its layers take and sends every byte, over namespaces with the links imposed (root). The
links are measured before each run; the prediction knows them, the times and the bytes, and nothing of the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mpsim import Layer, Plan, Workload
from mpsim.documents import write_text
from mpsim.plan.schedule_file import read_schedule, rows_schedule
from mpsim.validate import Case, Comparison, load_rows, save_rows
from mpsim.validate.cases import LINKS
from mpsim.validate.model import Validation, summarize
from mpsim.validate.run import validate_emulated
from mpsim.validate.text import percent
from mpsim.workload.file import load_workload

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "data", ROOT / "docs" / "real-schedules.md"
ROWS = DATA / "real-schedules.csv"
JUDGED = ("gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "own")
OTHERS = (
    "gpipe-accumulated", "eager-1f1b", "zb-h2", "looped-bfs", "interleaved-zb", "v-half", "v-min", "dualpipe-v",
    "dualpipe", "chimera", "pipedream",
)  # fmt: skip
WIRES = ("200Mbit/s@1ms", "1Gbit/s@0ms")
MICROBATCHES = 8
HEAD = """# Schedules that were run

Made by `python benchmarks/real_schedules.py --run`. Every schedule was run by `mpsim.emulate`: one process a device,
joined by `torch.distributed` over gloo, each in a network namespace of its own, on links of the bandwidth and latency
stated; 8 micro-batches; computations slept through, every byte sent. The links were measured before each run; the
prediction is made from them by the runtime `torch-gloo`, and nothing is fitted to these rows. *Error* is predicted over
measured less one, measured being the median of 5 steps; *of it compute* is the part of the error that arises because
the sleeps themselves took longer than they should, which a busy machine adds and no prediction knows; *ideal* is the
error of a replay that knows nothing of the runtime. *uniform* is 16 layers of 5 ms forward and 10 ms backward, 250 kB
between them; *llama* the trace in `workloads/`, whose last layer takes as long as all others together. *own* are rows
of a CSV of one's own (`data/own-schedule-2.csv`, `data/own-schedule-4.csv`): two stages a rank in an order that no
schedule here has, every other backward in halves.
"""


def uniform() -> Workload:
    """Return layers that are alike, with F = I = W."""
    layers = [Layer.given(f"l{i}", forward_s=5e-3, backward_s=10e-3) for i in range(16)]
    return Workload.chain("uniform", layers, activation_bytes=250_000)


def plan_of(name: str, ranks: int) -> Plan:
    """Return a schedule's plan, by its name or from the file of one's own."""
    schedule = rows_schedule(read_schedule(DATA / f"own-schedule-{ranks}.csv")) if name == "own" else name
    return Plan(pp=ranks, batch=MICROBATCHES, microbatches=MICROBATCHES, schedule=schedule)


def cases() -> list[Case]:
    """Return what is judged, on every link; then what else there is, on one."""
    judged = [
        Case(model=model, plan=plan_of(name, ranks), wire=LINKS[wire])
        for model in ("uniform", "llama")
        for wire in WIRES
        for ranks in (2, 4)
        for name in JUDGED
    ]
    others = [Case(model="uniform", plan=plan_of(name, 4), wire=LINKS[WIRES[0]]) for name in OTHERS]
    return judged + others


def run(fabric: str) -> None:
    """Run the cases whose rows are not there yet."""
    found = validate_emulated(
        cases(),
        {"uniform": uniform(), "llama": load_workload(ROOT / "workloads" / "llama.cpu.json")},
        fabric=fabric,
        done=load_rows(ROWS, Comparison) if ROWS.is_file() else (),
        keep=lambda rows: _keep(rows),
    )
    for name, why in found.failures:
        print(f"not run: {name}: {why}", flush=True)


def _keep(rows: Sequence[Comparison]) -> None:
    save_rows(ROWS, Comparison, rows)
    print(f"{rows[-1].name}: {percent(rows[-1].error_fraction)}", flush=True)


def name_of(row: Comparison) -> str:
    """Return the schedule of a row; rows from a file have no name."""
    return "own" if row.kind == "rows" else row.kind


def page(rows: Sequence[Comparison]) -> str:
    """Return the page of all rows that are there."""
    judged = [row for row in rows if name_of(row) in JUDGED]
    others = [row for row in rows if name_of(row) not in JUDGED]
    text = f"{HEAD}\n{table(summaries(judged))}\n## Each run\n\n{table(lines(judged))}"
    if others:
        text += f"\n## The other schedules, on one kind of link\n\n{table(lines(others))}"
    return text


def summaries(rows: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Return the errors of each schedule, and of all."""
    kinds = Validation(rows=tuple(rows), planned=len(rows)).kinds
    named = [("own" if kind == "rows" else kind, one) for kind, one in kinds.items()]
    heads = ("schedule", "runs", "mean error", "worst", "mean with its sign", "ideal: mean", "worst")
    found = []
    for name, one in (*named, ("**all**", summarize(rows))):
        if one is not None:
            sizes = (one.mean_fraction, one.worst_fraction)
            ideal = (one.ideal_mean_fraction, one.ideal_worst_fraction)
            found.append(
                (name, str(one.count), *(percent(size)[1:] for size in sizes), percent(one.bias_fraction),
                 *(percent(size)[1:] for size in ideal))
            )  # fmt: skip
    return [heads, *found]


def lines(rows: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Return a line a run."""
    heads = (
        "schedule",
        "ranks",
        "model",
        "link",
        "measured (s)",
        "5-95 %",
        "predicted (s)",
        "error",
        "of it compute",
        "ideal",
    )
    return [
        heads,
        *(
            (name_of(row), str(row.processes), row.model, row.wire, f"{row.measured_s:.3f}",
             f"{row.measured_p5_s:.3f} to {row.measured_p95_s:.3f}", f"{row.predicted_s:.3f}",
             percent(row.error_fraction), percent(row.compute_fraction), percent(row.ideal_error_fraction))
            for row in rows
        ),
    ]  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of heads and lines."""
    found = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in found) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run what is not there first")
    parser.add_argument("--fabric", default="namespaces")
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.fabric)
    write_text(PAGE, page(load_rows(ROWS, Comparison)))
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
