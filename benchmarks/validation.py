"""Predictions held against real runs, as a page: ``python benchmarks/validation.py`` writes docs/validation.md.

    python benchmarks/validation.py --run     runs everything first (about an hour, on a machine that does nothing else)

The rows lie in docs/data; what is there already is not run again. Links are measured before each run, traces come from
the files in workloads/ (with real computation: from traces made here, before, by --run).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mpsim.documents import write_text
from mpsim.plan.model import Plan
from mpsim.result import plotting
from mpsim.validate import Comparison, Validation, load_rows
from mpsim.validate.cases import LINKS, Case
from mpsim.validate.exchanges import Exchanged
from mpsim.validate.file import save_rows
from mpsim.validate.model import Summary, summarize
from mpsim.validate.run import validate_emulated
from mpsim.validate.text import percent
from mpsim.workload.file import load_workload
from mpsim.workload.machine import provenance

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "data", ROOT / "docs" / "validation.md"
REPLAYED, REAL, OTHER, COLLECTIVES = (
    DATA / f"validation-{name}.csv" for name in ("replayed", "real", "real-others", "collectives")
)
# Model and the micro-batches and shards that the grid needs of it, for the traces of real computation.
TRACED = {
    "mnist-mlp": ("--batch", "2048,4096,8192", "--tensor", "1,2"),
    "llama": ("--batch", "2,4,8", "--tensor", "1,2", "--set", "seq=64"),
    "resnet50": ("--batch", "1,2,4"),
}
# Models that nobody looked at while real computation was learnt to be predicted, small ones of their kind.
OTHERS = {
    "unet": ("--batch", "1,2,4", "--set", "image=96", "--set", "width=24"),
    "bert-base": (
        "--batch", "2,4,8", "--tensor", "1,2", "--set", "n_layer=4", "--set", "hidden=384", "--set", "n_head=6",
        "--set", "ffn=1536", "--set", "vocab=4000",
    ),
    "vit-b16": (
        "--batch", "2,4,8", "--set", "n_layer=4", "--set", "hidden=384", "--set", "n_head=6", "--set", "ffn=1536",
        "--set", "image=128",
    ),
}  # fmt: skip
# When the rows were measured: by the tracer and the lowering of that day.
MADE = {REPLAYED: "2026-11-21", COLLECTIVES: "2026-11-21", REAL: "2026-11-27", OTHER: "2026-11-27"}
HEAD = """# Predicted and measured

Made by `python benchmarks/validation.py --run` on {machine} ({software}).
Every plan was run for real: one process a device, joined by `torch.distributed` over gloo, each in a network namespace
of its own, on links of the bandwidth and latency stated (`mpsim.emulate.fabric`). Before each run the links were
measured; the prediction is made from that measurement and from a stored trace, by the runtime `torch-gloo`. Nothing is
fitted to these rows. *Error* is predicted over measured less one, measured being the median of the trials; *ideal* is
the error of the same replay when it knows nothing of the runtime.
"""


def mpsim(*words: str) -> None:
    """Run a command of mpsim, visibly."""
    print("mpsim", *words, flush=True)
    subprocess.run([sys.executable, "-m", "mpsim", *words], check=True, cwd=ROOT)


def other_cases() -> list[Case]:
    """Return the cases of models that are not in the grid."""
    found = []
    for model in OTHERS:
        batch = 4 if model == "unet" else 8
        plans = [
            Plan(pp=2, batch=batch, schedule="naive"),
            Plan(pp=2, batch=batch, microbatches=4, schedule="gpipe"),
            Plan(pp=2, batch=batch, microbatches=4, schedule="1f1b"),
            Plan(dp=2, batch=batch),
            *([Plan(tp=2, batch=batch)] if "--tensor" in OTHERS[model] else []),
        ]
        for wire in ("200Mbit/s@1ms", "1Gbit/s@0ms"):
            found += [Case(model=model, plan=plan, wire=LINKS[wire]) for plan in plans]
    return found


def run_others(folder: str) -> None:
    """Trace and run the models that are not in the grid."""
    for model, options in OTHERS.items():
        mpsim("trace", model, *options, "-o", f"{folder}/{model}.cpu.json")
    found = validate_emulated(
        other_cases(),
        {model: load_workload(f"{folder}/{model}.cpu.json") for model in OTHERS},
        fabric="namespaces",
        compute="real",
        done=load_rows(OTHER, Comparison) if OTHER.is_file() else (),
        keep=lambda rows: save_rows(OTHER, Comparison, rows),
    )
    for name, why in found.failures:
        print(f"not run: {name}: {why}", flush=True)


def run() -> None:
    """Run all grids; rows that are there are kept."""
    DATA.mkdir(exist_ok=True)
    mpsim("validate", "emulated", "--fabric", "namespaces", "-o", str(REPLAYED), "--no-progress")
    mpsim("validate", "collectives", "--fabric", "namespaces", "-o", str(COLLECTIVES), "--no-progress")
    with tempfile.TemporaryDirectory() as folder:
        for model, options in TRACED.items():
            mpsim("trace", model, *options, "-o", f"{folder}/{model}.cpu.json")
        mpsim(
            "validate", "emulated", "--fabric", "namespaces", "--compute", "real", "--workloads", folder,
            "--processes", "2", "-o", str(REAL), "--no-progress",
        )  # fmt: skip
        run_others(folder)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def kinds(rows: Sequence[Comparison]) -> str:
    """Return the errors by kind of plan."""
    found = Validation(rows=tuple(rows), planned=len(rows))
    whole = summarize(rows)
    assert whole is not None
    heads = ("plan", "cases", "mean error", "worst", "mean with its sign", "ideal: mean", "worst")
    return table(heads, [(name, *_numbers(one)) for name, one in [*found.kinds.items(), ("**all**", whole)]])


def _numbers(one: Summary) -> tuple[str, ...]:
    errors = (one.mean_fraction, one.worst_fraction)
    ideal = (one.ideal_mean_fraction, one.ideal_worst_fraction)
    return (
        str(one.count), *(percent(error)[1:] for error in errors), percent(one.bias_fraction),
        *(percent(error)[1:] for error in ideal),
    )  # fmt: skip


def orders(rows: Sequence[Comparison]) -> str:
    """Return how well the order of plans was predicted, for each model and link."""
    found = Validation(rows=tuple(rows), planned=len(rows)).orders
    lines = [
        (*key, str(count), f"{ours:.3f}", "" if ideal is None else f"{ideal:.3f}")
        for key, (count, ours, ideal) in found.items()
    ]
    return table(("model", "link", "plans", "rank correlation", "ideal"), lines)


def worst(rows: Sequence[Comparison], most: int = 8) -> str:
    """Return the cases with the largest errors, and where they arise."""
    lines = [
        (
            row.model, row.wire, row.plan, f"{row.predicted_s:.3f}", f"{row.measured_s:.3f}",
            f"{row.measured_p5_s:.3f} to {row.measured_p95_s:.3f}", percent(row.error_fraction),
            f"{row.largest} {percent(getattr(row, f'{row.largest}_fraction'))}",
        )
        for row in sorted(rows, key=lambda row: -abs(row.error_fraction))[:most]
    ]  # fmt: skip
    return table(("model", "link", "plan", "predicted (s)", "measured (s)", "5-95 %", "error", "most of it"), lines)


def collectives(rows: Sequence[Exchanged]) -> str:
    """Return the error of each number of ranks and link, size by size."""
    sizes = sorted({row.bytes for row in rows})
    groups = dict.fromkeys((row.processes, row.wire) for row in rows)
    at = {(row.processes, row.wire, row.bytes): percent(row.error_fraction) for row in rows}
    lines = [(str(ranks), wire, *(at.get((ranks, wire, size), "") for size in sizes)) for ranks, wire in groups]
    return table(("ranks", "link", *(_size(size) for size in sizes)), lines)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def page() -> str:
    """Return the page of all rows that are there."""
    about = provenance("")
    text = HEAD.format(machine=about.machine, software=about.software)
    if REPLAYED.is_file():
        rows = load_rows(REPLAYED, Comparison)
        text += f"\n## Replayed computation: {len(rows)} cases\n\n"
        text += f"Measured {MADE[REPLAYED]}. Each process sleeps as long as its layers were traced to take: the sharp"
        text += " judge.\n\n"
        text += f"![predicted against measured](images/validation.png)\n\n{kinds(rows)}\n{orders(rows)}\n"
        text += f"The largest errors, and the part of the step that adds most to each:\n\n{worst(rows)}"
        _draw(rows, "validation.png")
    if REAL.is_file():
        rows = load_rows(REAL, Comparison)
        text += f"\n## Real computation: {len(rows)} cases, two processes on two cores\n\n"
        text += (
            f"Measured {MADE[REAL]}. "
            "Each process runs its part of the model. Traces were made before all runs, one process alone; before each"
            " run, as the links, the ranks' own passes were timed without a message, and beside all-reduces: the"
            " device's speed, and its slowdown beside communication (see emulate.md). Machines like this one change"
            " their speed by a tenth from second to second; the README says what another run of these cases gave."
            f"\n\n{kinds(rows)}\n{orders(rows)}\n"
        )
        text += worst(rows)
    if OTHER.is_file():
        rows = load_rows(OTHER, Comparison)
        text += f"\n## Real computation, models that were not looked at: {len(rows)} cases\n\n"
        text += (
            f"Measured {MADE[OTHER]}. The way in which speed and slowdown are measured was found on the mnist-mlp and"
            " llama of the table above; its resnet50,"
            " and these models, small ones of their kind, were run only when it was finished.\n\n"
            f"{kinds(rows)}\n{orders(rows)}\n{worst(rows, 4)}"
        )
    if COLLECTIVES.is_file():
        found = load_rows(COLLECTIVES, Exchanged)
        errors = sorted(abs(row.error_fraction) for row in found)
        middle = percent(errors[len(errors) // 2])[1:]
        text += f"\n## Collectives by gloo: {len(found)} rows, median error {middle}\n\n"
        text += f"Measured {MADE[COLLECTIVES]}. All-reduces, each size five times; the error of the median.\n\n"
        text += collectives(found)
    return text


def _draw(rows: Sequence[Comparison], name: str) -> None:
    frame = Validation(rows=tuple(rows), planned=len(rows)).to_frame()
    plotting.save_figure(plotting.predicted_and_measured(frame), ROOT / "docs" / "images" / name)


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="run the grids first")
    if parser.parse_args().run:
        run()
    write_text(PAGE, page())
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
