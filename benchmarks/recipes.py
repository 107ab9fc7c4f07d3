"""People's own best configurations, predicted and ranked: ``python benchmarks/recipes.py``.

Writes docs/recipes.md and docs/data/recipes.csv, of what `mpsim validate recipes --ranking` finds. It takes half an
hour on one core; interrupted, it goes on with the rows that are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mpsim.validate import load_rows, save_rows
from mpsim.validate.recipes import Judged, validate_recipes
from mpsim.validate.recipes.judged import errors_by_system
from mpsim.validate.recipes.text import beside_columns, rank_columns, refusals, search_columns, system_columns
from mpsim.validate.text import Column, percent

DOCS = Path(__file__).parent.parent / "docs"
ROWS = DOCS / "data" / "recipes.csv"
_WITHIN = 0.1
_HEAD = """\
# People's own best configurations

**What falls short first.** {short}

Made by `python benchmarks/recipes.py` of what `mpsim validate recipes --ranking` finds; each row is in
[data/recipes.csv](data/recipes.csv). Tokens a second and device, as measured and as predicted, of recipes that the
authors of Megatron-Bridge tuned (release 25.11, 32 rows), of Megatron-LM's published tables (2021 and 2022) and of
torchtitan's; the files, with their citations, come with mpsim (`mpsim/validate/published/data/`).

**How.** Layers are decoder blocks counted kernel by kernel at a roofline; one row of each system, code and precision
sets the speed beside it, is marked so and judges nowhere (FP8 at the catalog's rate; BF16 of Megatron-Bridge, which has
no Llama row, at the speed of FP8). What ranks that share a layer exchange is laid on the links as collectives and
replayed, for every split alike: so theirs and all others are predicted in one way. Of Megatron-Bridge's dense models,
exchanges go beside the computation of their layer. [published.md](published.md) has the same rows with exchanges
counted inside layers.

## Errors by system

{systems}

`bias` above zero: more tokens are predicted than were measured. `order` is Spearman's rank correlation.

{groups}

## Where theirs stands in our ranking

For each row, all plans of as many devices and as large a batch that its framework could run are taken: dp, pp, tp, cp,
ep, micro-batch, stages a rank, ZeRO's stage and what is computed again, with stages cut evenly. All are estimated in
closed form, plans that do not fit left out (theirs fits, as it ran, and so does what needs no more by the same count);
the five most promising, and the two most promising with *the same kernels*, that is with their micro-batch and their
recomputation, are replayed as theirs is. `rank` is theirs among all that fit, by replays where there are, else by
estimates corrected by these, so it may count plans that a replay would find too slow or too large; `ours` is the best
that was replayed and `claims` its gain on theirs.

{ranking}

{ranks}

### With a proof

mpsim's own search bounds every plan and simulates those that may be the best, so that its answer is that of simulating
all; stages are cut at any layers, here. `--search` does so for recipes of up to 16 devices; these were searched.

{searched}

## Why theirs is not ours

Each row in which ours claims more than 10 %, with what is known of the reason, from the two replays and the table.

{why}

## Each row

`needs` is the memory of the fullest device as counted here, before workspace and what an allocator loses.

{rows}

## Refused

{refused}
"""


def page(rows: Sequence[Judged]) -> str:
    """Return docs/recipes.md."""
    judged = [one for one in rows if not one.refused]
    ranked = [one for one in judged if one.others]
    reasons = [f"- {case}{f' and {count - 1} more' * (count > 1)}: {reason}." for reason, count, case in refusals(rows)]
    return _HEAD.format(
        short=_short(rows),
        systems=markdown(system_columns(errors_by_system(rows))),
        groups="\n".join(f"- {line}" for line in _groups(judged)),
        ranking=_ranking(ranked),
        searched=markdown(search_columns([one for one in judged if one.searched])),
        ranks=markdown(rank_columns(ranked)),
        why="\n".join(f"- **{one.case}**, {percent(one.gain_fraction)}: {one.why}" for one in ranked if one.why),
        rows=markdown(beside_columns(judged)),
        refused="\n".join(reasons),
    )


def _short(rows: Sequence[Judged]) -> str:
    experts = [one for one in rows if one.judges and _is_mixed(one)]
    small = [one for one in rows if one.judges and _has_long_context(one)]
    ranked = [one for one in rows if one.others]
    far = [one for one in ranked if one.gain_fraction > _WITHIN]
    refused = sum(bool(one.refused) for one in rows)
    unranked = len(rows) - refused - len(ranked)
    parts = [
        f"Mixtures of experts are predicted {_mean(experts)} off in the mean, nearly all too fast: launching and"
        " routing many small kernels is in no roofline.",
        f"Rows of torchtitan with cp > 1 are {_mean(small)} off, too fast.",
        f"{refused} rows are refused, {unranked} are predicted and not ranked.",
        f"In {len(far)} of {len(ranked)} rows ours claims more than 10 %: mostly by smaller micro-batches that keep"
        " what theirs computes again, at kernels taken to be as fast at every size; nobody has run them.",
    ]
    return " ".join(parts)


def _groups(judged: Sequence[Judged]) -> list[str]:
    """Return errors of what a reader would ask for."""
    groups = {
        "dense models, cp of torchtitan's aside": [
            one for one in judged if not _is_mixed(one) and not _has_long_context(one)
        ],
        "dense recipes of Megatron-Bridge": [
            one for one in judged if one.file == "megatron_bridge_recipes" and not _is_mixed(one)
        ],
        "mixtures of experts": [one for one in judged if _is_mixed(one)],
        "torchtitan with cp > 1": [one for one in judged if _has_long_context(one)],
    }
    return [_group(name, [one for one in own if one.judges]) for name, own in groups.items()]


def _group(name: str, own: Sequence[Judged]) -> str:
    errors = [one.error_fraction for one in own]
    if not errors:
        return f"{name}: no rows"
    worst, bias = max(map(abs, errors)), sum(errors) / len(errors)
    return f"{name}: {len(own)} rows, mean {_mean(own)}, worst {100 * worst:.1f} %, bias {percent(bias)}"


def _mean(own: Sequence[Judged]) -> str:
    errors = [abs(one.error_fraction) for one in own]
    return f"{100 * sum(errors) / len(errors):.1f} %" if errors else "not known"


def _is_mixed(one: Judged) -> bool:
    return one.system.endswith("experts")


def _has_long_context(one: Judged) -> bool:
    return one.file == "torchtitan" and " cp=" in one.plan


def _ranking(ranked: Sequence[Judged]) -> str:
    """Return how many of theirs are the best, near it, and near it among plans with the same kernels."""
    if not ranked:
        return "Nothing was ranked."
    names = dict.fromkeys(one.file for one in ranked)
    return "\n".join(f"- {name}: {_ranking_of([one for one in ranked if one.file == name])}" for name in names)


def _ranking_of(ranked: Sequence[Judged]) -> str:
    best = sum(one.gain_fraction == 0 for one in ranked)
    near = sum(one.gain_fraction <= _WITHIN for one in ranked)
    compared = [one for one in ranked if one.alike]
    alike = sum(one.alike_fraction <= _WITHIN for one in compared)
    same = sum(one.alike_fraction == 0 for one in compared)
    return (
        f"of {len(ranked)} rows, theirs is the best in {best} and within 10 % of it in {near}. Among plans with the"
        f" same kernels, replayed for {len(compared)} rows, theirs is the best in {same} and within 10 % of it in"
        f" {alike}."
    )


def markdown(columns: Sequence[Column]) -> str:
    """Return columns as a table of Markdown."""
    heads = "| " + " | ".join(heading for heading, _, _ in columns) + " |"
    rule = "|" + "|".join("---" if left else "---:" for _, left, _ in columns) + "|"
    rows = ["| " + " | ".join(cells) + " |" for cells in zip(*(cells for _, _, cells in columns), strict=True)]
    return "\n".join([heads, rule, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page anew of the rows that are there")
    asked = parser.parse_args()
    rows = load_rows(ROWS, Judged) if ROWS.is_file() else ()
    if not asked.page:
        rows = validate_recipes(ranking=True, done=rows, keep=partial(save_rows, ROWS, Judged)).rows
    (DOCS / "recipes.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
