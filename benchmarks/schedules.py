"""The page of schedules: a picture of each, its formula, and what it costs at 4 ranks and 8 micro-batches.

    python benchmarks/schedules.py [--page docs/schedules.md] [--picture docs/images/schedules.png]

All numbers are of unit times: F, I and W of a rank's layers take 1, B takes 2, messages nothing.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from mpsim.plan.drawing import Drawing, drawing_of
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.shape import shape_of
from mpsim.result.plotting import save_figure, schedule

RANKS, MICROBATCHES = 4, 8
# The step where p divides m (m >= 2p for V shapes and directions), in forwards of a stage; p ranks, m micro-batches,
# v stages a rank, F, I and W each a part of a stage's pass, B = I + W.
STEPS = {
    "naive": "mp (F + B)",
    "gpipe": "(m + p − 1)(F + B)",
    "1f1b": "(m + p − 1)(F + B)",
    "gpipe-accumulated": "(m / p)(2p − 1)(F + B)",
    "eager-1f1b": "(m + p − 1)(F + B)",
    "zb-h1": "m (F + B) + (p − 1)(F + I − W)",
    "zb-h2": "m (F + B) + (p − 1) F, where F = I = W; the next step starts in what is idle",
    "pipedream": "(m + p − 1)(F + B) from empty to empty, m (F + B) once it runs",
    "looped-bfs": "(mv + p − 1)(F + B)",
    "interleaved-1f1b": "(mv + p − 1)(F + B)",
    "interleaved-zb": "mv (F + B) + (p − 1)(F + I − W), where F = I = W",
    "zb-v": "2m (F + B) + (p − 1) F, where F = I = W",
    "v-half": "none in closed form",
    "v-min": "none in closed form",
    "dualpipe-v": "2m (F + B) + (p − 1)(F&B + B − 3W), F&B what two in one cell take",
    "dualpipe": "m (F + B) + (p / 2 − 1)(F&B + B − 3W)",
    "chimera": "m (F + B) + (p − 2) F, where F = B and m = p",
    "zb-auto": "none in closed form: made for a plan's own stages, messages and memory; drawn for stages alike",
}
HEAD = """\
# Schedules

Made by `python benchmarks/schedules.py`. Each is a function of a few lines in `mpsim/plan/`, and a name for
`--schedule`; a file of your own, in the CSV that `torch.distributed.pipelining` writes, is another. `mpsim plot
--schedule NAME --stages 4 --microbatches 8 -o FILE.png` draws any of them.

![Each schedule on 4 ranks with 8 micro-batches](images/schedules.png)

Numbers are micro-batches; light shades are a rank's second stage, or the other direction; purple edges are updates.
Time is in forwards of a rank's layers, and a stage of two on a rank takes half; naive's axis is the longer one.
*Bubble* is the idle part of all ranks' time in one step from empty to empty, where F = I = W, B = I + W and messages
take nothing; *held* is the most micro-batches whose activations a rank keeps, a stage of two counting half. Schedules
with two directions keep every parameter twice. What a real step takes, with its layers, links and runtime, `mpsim
simulate` says.

Orders are those of torch 2.13, cell by cell, where it has the schedule: gpipe, 1f1b, looped-bfs, interleaved-1f1b,
interleaved-zb, zb-v and dualpipe-v (`tests/plan/test_schedules_of_torch.py`). The formulas are asserted in
`tests/plan/test_schedule_steps.py`.

"""


def drawn() -> tuple[dict[str, Drawing], dict[str, int]]:
    """Return what is drawn of each schedule, and its stages a rank."""
    rows = {name: function(RANKS, MICROBATCHES) for name, function in SCHEDULES.items()}
    shapes = {name: shape_of(one) for name, one in rows.items()}
    stages = {name: len(shape.home) // shape.directions // RANKS for name, shape in shapes.items()}
    return {name: drawing_of(one) for name, one in rows.items()}, stages


def page(drawings: dict[str, Drawing], stages: dict[str, int]) -> str:
    return HEAD + table(drawings, stages) + "\n" + "\n".join(section(name) for name in SCHEDULES)


def table(drawings: dict[str, Drawing], stages: dict[str, int]) -> str:
    lines = ["| schedule | stages a rank | step | bubble | held |", "|---|---|---|---|---|"]
    for name, drawing in drawings.items():
        held = sorted(set(drawing.most_held))
        least = "" if len(held) == 1 else f"{held[0]:g} to "
        lines.append(
            f"| [{name}](#{name}) | {stages[name]} | {drawing.step / stages[name]:g} | {drawing.bubble_fraction:.1%} |"
            f" {least}{held[-1]:g} |"
        )
    return "\n".join(lines) + "\n"


def section(name: str) -> str:
    """Return what the function's own docstring says: its line, its words, its picture."""
    head = (SCHEDULES[name].__doc__ or "").split("    Raises\n")[0].split("    Examples\n")[0]
    summary, *more = (" ".join(line.split()) for line in head.split("::")[0].strip().split("\n\n"))
    picture = head.split("::\n\n", 1)[1] if "::" in head else ""
    drawn = "\n".join(line[8:] for line in picture.rstrip().splitlines())
    words = re.sub(r"(https://[^\s,)]+)", r"<\1>", "\n\n".join([summary, *more]))
    return f"## {name}\n\n{words}\n\nStep: {STEPS[name]}.\n\n```\n{drawn}\n```\n"


def picture(drawings: dict[str, Drawing], stages: dict[str, int], path: Path) -> None:
    rows = len(drawings) // 2 + 1  # and a place for the legend
    figure, grid = plt.subplots(rows, 2, figsize=(19, 1.75 * rows), layout="constrained")
    for ax, (name, drawing) in zip(grid.T.flat, drawings.items(), strict=False):
        each = stages[name]
        cells = [cell._replace(begin=cell.begin / each, end=cell.end / each) for cell in drawing.cells]
        ax.spines[["top", "right"]].set_visible(False)
        schedule(cells, ax=ax, shades=drawing.shades)
        # One scale for all but the two that take much longer.
        ax.set(xlabel="", xlim=(0, 100 if name == "naive" else 45))
        held = max(drawing.most_held)
        text = f"{name}: {drawing.bubble_fraction:.1%} bubble, {held:g} held"
        ax.set_title(text, loc="left", fontsize="medium")
    for ax in grid.T.flat[len(drawings) :]:
        ax.set_axis_off()
    legend(grid.T.flat[len(drawings)])
    save_figure(figure, path)


def legend(ax: plt.Axes) -> None:
    from mpsim.result.cells import Cell
    from mpsim.result.plotting.schedule import draw_legend

    shades = ("", "second stage, or other direction")
    draw_legend(ax, [Cell(0, 0, 1, kind, 0, shade) for kind in "FBIW" for shade in (0, 1)], shades, beside=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=Path("docs/schedules.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/schedules.png"))
    arguments = parser.parse_args()
    drawings, stages = drawn()
    arguments.page.write_text(page(drawings, stages), encoding="utf-8")
    picture(drawings, stages, arguments.picture)


if __name__ == "__main__":
    main()
