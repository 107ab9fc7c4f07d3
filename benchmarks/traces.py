"""How close the sum of layers came to the whole step in each stored trace: ``python benchmarks/traces.py [-o FILE]``.

Both were measured in the run that made the trace, in turn, by the trace's clock. A ratio is the median over
repetitions of (sum of layers / whole step); the spread beside it is the smallest and the largest repetition.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from mpsim.units import format_duration
from mpsim.workload.file import load_workload
from mpsim.workload.model import StepCheck, Workload

FOLDER = Path(__file__).parent.parent / "workloads"
HEAD = """# Traces: the sum of layers against the whole step

Made by `python benchmarks/traces.py -o docs/traces.md` from the files in `workloads/`. Both sides were measured in the
run that made the trace, one after the other in each repetition, by the clock named; the ratio is the median over
repetitions, with the smallest and the largest in brackets. A layer sum that is not the whole step is an error that
every prediction from that trace carries.

| workload | device | clock | micro-batch | tp | whole step | sum of layers / whole step |
|---|---|---|---|---|---|---|
"""


def row(workload: Workload, check: StepCheck) -> str:
    """Return one line of the table."""
    ratios = sorted(a / b for a, b in zip(check.layers_s, check.whole_s, strict=True))
    return (
        f"| {workload.name} | {workload.device} | {workload.clock} | {check.microbatch} | {check.tensor_parallel} |"
        f" {format_duration(median(check.whole_s))} | {check.ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |"
    )


def verdict(workloads: list[Workload]) -> str:
    """Return what the table shows, in a sentence for each side of 5 %."""
    checks = [(w.name, check) for w in workloads for check in w.checks]
    off = [
        f"{name} at {c.microbatch}, tp {c.tensor_parallel} ({c.ratio - 1:+.1%})"
        for name, c in checks
        if abs(c.ratio - 1) > 0.05
    ]
    within = f"\n{len(checks) - len(off)} of {len(checks)} points lie within 5 %"
    return within + (f"; beyond it: {', '.join(off)}.\n" if off else ".\n")


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    workloads = [load_workload(path) for path in sorted(FOLDER.glob("*.json"))]
    lines = [row(workload, check) for workload in workloads for check in workload.checks]
    text = HEAD + "\n".join(lines) + "\n" + verdict(workloads)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
