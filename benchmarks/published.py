"""Steps that others measured and published, replayed: ``python benchmarks/published.py``.

Writes docs/published.md and docs/data/published.csv, of what `mpsim validate published` finds in the files that come
with mpsim. It takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mpsim.validate import load_rows, save_rows
from mpsim.validate.published import FileErrors, Outcome, Published, validate_published
from mpsim.validate.published.adapters import ADAPTERS
from mpsim.validate.published.model import errors_of
from mpsim.validate.published.replaying import COMMITTED
from mpsim.validate.published.table import load_table
from mpsim.validate.published.text import file_columns, reasons, row_columns
from mpsim.validate.text import Column

DOCS = Path(__file__).parent.parent / "docs"
_HEAD = """\
# Published steps, replayed

Made by `python benchmarks/published.py` of what `mpsim validate published` finds; each row is in
[data/published.csv](data/published.csv). The files are others' measurements, with their citations at their head
(`mpsim/validate/published/data/`); the command takes a folder of further files of these kinds, known by their names or
by their columns.

**A file either calibrates or judges, and so does a row**: where a table says nothing of how fast kernels are, one row
sets a device's speed beside its roofline, is marked so and does not count. No constant was fitted to rows that judge.
A row that cannot be replayed is refused with its reason and counts nowhere.
How runtimes, kernels and exchanges are modelled was settled with these rows in sight, from the sources that the
adapters name (`mpsim/validate/published/`); rows that nobody here has seen are the better judges.

"""
# What falls short of what was aimed at, or of what a reader would expect, and what is known of it.
_SHORT = {
    "zero_bubble_throughput": (
        "**The missing time a micro-batch**, 7 to 10 % of a bare replay of the profiled means, is (1) that the"
        " means are over stages that are not alike: the slowest has (L + 2) / (L + 1) times the mean's layers, 3.2"
        " to 4.3 %; (2) in 1F1B the exchange with a neighbour that is waited for twice a micro-batch, 1.3 to 2.6"
        " %; (3) the update, under 1 %. With these 1F1B is met to 1 % in the mean. The zero-bubble schedules,"
        " whose messages go beside computation here, take 3 to 5 % longer than predicted, as if theirs did not"
        " quite."
    ),
    "sailor_measured": (
        "Misses its aim of 6 % (Sailor's own simulator is at 8.9 % on these rows). On one device, with nothing to"
        " split, micro-batch 1 is predicted 13 to 16 % too long: its layers were profiled one by one. Pipelines of"
        " four stages are 13 % short: a message takes about 3 ms of the step where links and gathering were"
        " measured to need 1. What a process holds before it allocates (5.06 GB: the CUDA context and Megatron's"
        " fused kernels) and the engine's flat copies are what was missing from memory."
    ),
    "neusight_measured": (
        "`time` is of the four-GPU splits. `one device` is no test of a split but of the operators' times alone:"
        " their sum beside the measured step. On the H100 it is met to 1.3 %; on other devices some forward passes"
        " were measured at twice their own backward (MI210, MI250 and A100 PCIe), which no operator's time shows."
    ),
    "megatron_sc21_table1": (
        "Misses its aim of 4 % by a hair, nearly all rows being predicted too long: the smallest model, whose products"
        " are the least efficient, sets the speed. By the block of 2022 it would be set with other software."
    ),
    "simumax_b200": (
        "{mean} misses its aim of 5 %; SimuMax's own is 5.6 %. All but one row are predicted too short: kernels that"
        " were measured alone are faster than on a device that has been computing for seconds."
    ),
    "torchtitan": (
        "Misses its aim of 8 % by the long-context rows: with attention over 2 to 8 context-parallel ranks twice"
        " as much is measured as predicted. As if every rank waited for the one whose queries see all keys (2 -"
        " 1/cp times the mean), these rows would be met to 10 %; PyTorch's default then was to balance them, so"
        " that is what is predicted. Asynchronous tensor parallelism hides less in small models than all of its"
        " exchanges, as predicted. Without the rows with cp > 1 the mean is {without_cp}."
    ),
    "megatron_bridge_recipes": (
        "Dense models meet the aim. Mixtures of experts do not: the 30 B model takes 9 s on 8 GB300 and 28 s on 8"
        " B200 with the same kernels, so it is launching and routing that is measured, of which a roofline knows"
        " nothing. DeepSeek's attention is not counted here, and no Llama row in BF16 sets a speed."
    ),
    "torchgpipe_speed": (
        "Release 0.0.2 on 4 and 8 devices (18 and 45 % too fast) is before copies between devices went beside"
        " computation; the later releases are met to 4.5 %."
    ),
}


def again() -> Published:
    """Return what was found when the rows were written."""
    rows = load_rows(DOCS / "data" / "published.csv", Outcome)
    figures = dict.fromkeys((name, one.what) for name in ADAPTERS for one in rows if one.file == name)
    files = [
        errors_of([one for one in rows if (one.file, one.what) == figure], ADAPTERS[figure[0]].goals)
        for figure in figures
    ]
    return Published(outcomes=rows, files=tuple(files))


def page(found: Published) -> str:
    """Return docs/published.md."""
    lines = [_HEAD + markdown(file_columns(found.files)), ""]
    lines += [
        "`order` is Spearman's rank correlation. Below zero, `bias` says that steps take longer than predicted.",
        "",
    ]
    for name, adapter in ADAPTERS.items():
        rows = [one for one in found.outcomes if one.file == name]
        lines += [f"## {name}", "", adapter.about, "", f"> {load_table(COMMITTED / f'{name}.csv').head[0]}", ""]
        if name in _SHORT:
            times = [one.mean_fraction or 0.0 for one in found.files if (one.file, one.what) == (name, "time")]
            mean = f"{100 * times[0]:.1f} %" if times else "not known"
            lines += [_SHORT[name].format(without_cp=_without_cp(rows), mean=mean), ""]
        lines += [markdown(row_columns([one for one in rows if not one.refused])), ""]
        lines += [f"- refused, {count} rows: {reason}" for _, reason, count, _ in reasons(rows)]
        lines += [""] if any(one.refused for one in rows) else []
    return "\n".join(lines).rstrip() + "\n"


def _without_cp(rows: Sequence[Outcome]) -> str:
    errors = [
        abs(one.error_fraction) for one in rows if one.judges and not any(f"CP {n}" in one.case for n in (2, 4, 8))
    ]
    return f"{100 * sum(errors) / len(errors):.1f} %" if errors else "not known"


def markdown(columns: Sequence[Column]) -> str:
    """Return columns as a table of Markdown."""
    heads = "| " + " | ".join(heading for heading, _, _ in columns) + " |"
    rule = "|" + "|".join("---" if left else "---:" for _, left, _ in columns) + "|"
    rows = ["| " + " | ".join(cells) + " |" for cells in zip(*(cells for _, _, cells in columns), strict=True)]
    return "\n".join([heads, rule, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", action="append", default=[], help="only this file; nothing is written")
    parser.add_argument("--page", action="store_true", help="write the page anew of the rows that are there")
    asked = parser.parse_args()
    if asked.page:
        (DOCS / "published.md").write_text(page(again()), encoding="utf-8")
        return
    found = validate_published(only=asked.file)
    if asked.file:
        print(markdown(file_columns(found.files)))
        return
    (DOCS / "published.md").write_text(page(found), encoding="utf-8")
    save_rows(DOCS / "data" / "published.csv", Outcome, found.outcomes)
    missed = [one for one in found.files if one.reached is False]
    named = ", ".join(map(_named, missed)) or "none"
    print(f"{len(found.outcomes)} figures of {len(ADAPTERS)} files; aims missed: {named}")


def _named(one: FileErrors) -> str:
    return f"{one.file} ({one.what})"


if __name__ == "__main__":
    main()
