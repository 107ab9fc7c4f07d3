"""Steps of one device beside their predictions, as a page: ``python benchmarks/steps.py`` writes docs/steps.md."""

from __future__ import annotations

from pathlib import Path

from mpsim.documents import write_text
from mpsim.validate.steps import summarize_steps, validate_steps
from mpsim.validate.steps_file import load_steps
from mpsim.validate.steps_text import step_columns, summary_columns
from mpsim.validate.text import Column

PAGE = Path(__file__).parents[1] / "docs" / "steps.md"
HEAD = """# Steps of one GPU, predicted and measured

Made by `python benchmarks/steps.py` from `mpsim/validate/h200_steps.json` ({device}, torch {torch}, eager mode,
2026-11-27); `mpsim validate steps [FILE]` prints the same of any file of that form. Each row of the file has one
model at one micro-batch and shard: for each unit what its kernels take with no gap between them, and what the thread
that launches them takes; and whole steps of plain PyTorch beside them, of 1 and of 4 micro-batches (*parts*). What is
predicted follows from the row's own units, from how long the plain step of one micro-batch took the host in each
phase (the units were launched one by one, more slowly than the model launches them), and from what PyTorch's
documentation and source say of its allocator ([model.md](model.md)). Nothing is fitted to what judges it; a test
replaces the truths and finds the same predictions.

*Back to back* is a step among many with no synchronization between, *one step* is alone between two. *Spread* is the
measured repetitions' own, highest less lowest. *Bound* says which clock the predicted steps back to back follow.

"""
TAIL = """## What falls short, and why

- **The Llama in bfloat16, micro-batch 4**: 3 to 5 % short. Most likely its units, which ran with pauses between,
  found the device at a higher clock than steps without pauses do; no number in the file says so, and nothing is made
  up for it. Adding up gradients is counted (three passes over them at a copy's pace: 0.9 % of that step); it was not
  measured.
- **Launch-bound steps** are as good as the host's clock is steady: one and the same ViT step took 26.5 ms alone
  and 32.6 back to back. Of the rows of one micro-batch *one step* says little, for the host's phases come from the same
  repetitions; steps back to back and of 4 micro-batches are independent of them. Launching the additions to gradients
  (one kernel a parameter in each later backward) was not measured and is left out: launch-bound rows of 4 parts lean
  to the short side.
- **The queue of about 1,024 launches** that a host fills before it must wait is not modelled: files do not count
  kernels. It bounds how far a host runs ahead, which matters where device-bound and launch-bound stretches of a step
  alternate.
- **Reserved memory** is a lean estimate: parameters and states in the allocator's segments, and all else without a
  gap. What was measured has fragments, working space that came and went (of ResNet-50, it seems, cuDNN's: a third of
  it), and what the layered run before it, in the same process, had left in the cache; this file cannot tell them
  apart.
- **Shards** (tp 2) were measured in a process that held the whole model too; its parameters are added to the
  prediction."""


def main() -> None:
    rows = load_steps()
    found = validate_steps(rows)
    head = HEAD.format(device=rows[0].device, torch=rows[0].torch)
    write_text(
        PAGE,
        head
        + markdown(summary_columns(summarize_steps(found)))
        + "\n"
        + markdown(step_columns(found))
        + "\n"
        + TAIL
        + "\n",
    )


def markdown(columns: list[Column]) -> str:
    lines = [
        [heading for heading, _, _ in columns],
        ["---" if left else "---:" for _, left, _ in columns],
        *zip(*(cells for _, _, cells in columns), strict=True),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
