"""How close the sum of layers came to the whole step in each stored trace: ``python benchmarks/traces.py [-o FILE]``.

``--before FOLDER`` sets beside them the traces of the same names in another folder: whole steps, layers, bytes kept.

Both were measured in the run that made the trace, in turn, by the trace's clock. A ratio is the median over
repetitions of (sum of layers / whole step); the spread beside it is the smallest and the largest repetition.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from mpsim.units import format_duration
from mpsim.workload.file import load_workload
from mpsim.workload.model import Cost, StepCheck, Workload

FOLDER = Path(__file__).parent.parent / "workloads"
HEAD = """# Traces: the sum of layers against the whole step

Made by `python benchmarks/traces.py -o docs/traces.md` from the files in `workloads/`. Both sides were measured in the
run that made the trace, one after the other in each repetition, by the clock named: the plain step, which nobody
watches, and the watched one, whose layers' stretches add up. The ratio is the median over repetitions, with the
smallest and the largest in brackets. A layer sum that is not the whole step is an error that every prediction from that
trace carries. The workloads of the H200 were made from recorded units and steps (`workloads/README.md`): their sum is
the step that the two clocks make.

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
    """Return what the table shows, in a sentence for each clock."""
    return "".join("\n" + _of_clock(clock, workloads) for clock in dict.fromkeys(w.clock for w in workloads))


def _of_clock(clock: str, workloads: list[Workload]) -> str:
    checks = [(w.name, check) for w in workloads if w.clock == clock for check in w.checks]
    off = [
        f"{name} at {c.microbatch}, tp {c.tensor_parallel} ({c.ratio - 1:+.1%})"
        for name, c in checks
        if abs(c.ratio - 1) > 0.05
    ]
    within = f"Clock {clock}: {len(checks) - len(off)} of {len(checks)} points lie within 5 %"
    return within + (f"; beyond it: {', '.join(off)}.\n" if off else ".\n")


BEFORE = """
## Beside the tracer before

The same models and sizes as traced by the tracer of version 0.1 (an exported graph, run unit by unit), on the same kind
of machine on another day. *Step* is the plain step, which knows no tracer: how much the machine differs. *Layers*: the
median over layers of (forward + backward) now over then, divided by the step's, and of those that take 2 % of the step
or more the one furthest off. *Update*: the optimizer's, over all layers, likewise. *Kept*: bytes for backward.
Of gpt2 and bert-base each tensor-parallel rank had the whole embedding and head then, and has its part now: their steps
at tp 2 and 4 are shorter for that, and their layers are measured against a shorter step.

| workload | micro-batch | tp | step, now / then | layers | furthest off | update | kept |
|---|---|---|---|---|---|---|---|
"""


def passes_s(cost: Cost) -> float:
    """Return what a layer's forward and backward take."""
    samples = cost.samples
    return sum(map(median, (samples.forward_s, samples.backward_input_s, samples.backward_weight_s)))


def beside(workload: Workload, check: StepCheck, before: Workload) -> str | None:
    """Return one line of the comparison; None where there is no such point before."""
    key = (check.microbatch, check.tensor_parallel)
    then = next((one for one in before.checks if (one.microbatch, one.tensor_parallel) == key), None)
    if then is None:
        return None
    step = median(check.whole_s) / median(then.whole_s)
    ratios, large, updates, kept = {}, [], [0.0, 0.0], [0, 0]
    for layer in workload.layers:
        costs = [
            next(c for c in one.costs if (c.microbatch, c.tensor_parallel) == key)
            for one in (layer, before.layers[before.index(layer.name)])
        ]
        now_s, then_s = map(passes_s, costs)
        ratios[layer.name] = now_s / then_s / step
        if now_s > 0.02 * median(check.whole_s):
            large.append(layer.name)
        for i, cost in enumerate(costs):
            updates[i] += median(cost.samples.optimizer_s)
            kept[i] += cost.saved_bytes
    furthest = max(large, key=lambda name: abs(ratios[name] - 1))
    same = "the same" if kept[0] == kept[1] else f"{kept[0] / kept[1]:.4f}"
    return (
        f"| {workload.name} | {key[0]} | {key[1]} | {step:.3f} | {median(ratios.values()):.3f} |"
        f" {furthest} {ratios[furthest]:.2f} | {updates[0] / updates[1] / step:.2f} | {same} |"
    )


def comparison(workloads: list[Workload], folder: Path) -> str:
    """Return the table of both."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        before = load_workload(path)
        for workload in workloads:
            if (workload.name, workload.clock) == (before.name, before.clock):
                lines += [line for check in workload.checks if (line := beside(workload, check, before))]
    return BEFORE + "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--before", type=Path, help="a folder of traces to set beside")
    options = parser.parse_args()
    workloads = [load_workload(path) for path in sorted(FOLDER.glob("*.json"))]
    lines = [row(workload, check) for workload in workloads for check in workload.checks]
    text = HEAD + "\n".join(lines) + "\n" + verdict(workloads)
    if options.before:
        text += comparison(workloads, options.before)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
