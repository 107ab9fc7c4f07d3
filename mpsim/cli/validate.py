"""``mpsim validate``: hold predictions against real runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import PICTURES, check_apart, json_option, output_option, print_json, say, tell
from mpsim.cli.progress import progress_bar
from mpsim.emulate.fabric.namespaces import lacking
from mpsim.emulate.fabric.opening import FABRICS
from mpsim.errors import MpsimError, unknown
from mpsim.validate import Case, Comparison, Validation, load_rows, save_rows, table
from mpsim.validate.cases import GRIDS, cases_on
from mpsim.validate.exchanges import EXCHANGES, Exchanged, validate_exchanges
from mpsim.validate.model import summarize
from mpsim.validate.published import Outcome, Published, validate_published
from mpsim.validate.published.text import published_table
from mpsim.validate.recipes import Judged, Recipes, validate_recipes
from mpsim.validate.recipes.text import recipes_table
from mpsim.validate.run import validate_emulated
from mpsim.validate.steps import StepComparison, summarize_steps, validate_steps
from mpsim.validate.steps_file import COMMITTED, load_steps
from mpsim.validate.steps_text import steps_table
from mpsim.validate.text import exchange_table
from mpsim.workload.file import load_workload

__all__ = ["validate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    quick: bool
    fabric: str | None
    compute: str
    processes: int | None
    models: str | None
    workloads: str
    progress: bool | None
    output: str | None
    figure: str | None


@click.group(invoke_without_command=True)
@click.pass_context
def validate(context: click.Context) -> None:
    """Hold predictions against what really happens."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    elif context.invoked_subcommand not in ("steps", "published", "recipes") and find_spec("torch") is None:
        raise MpsimError("a real run needs PyTorch, which is not installed: pip install 'mpsim[trace]'")


@validate.command(epilog="A validation that is interrupted goes on where it stopped, with the same -o.")
@click.option("--quick", is_flag=True, help="Eight cases, in about a minute.")
@click.option("--fabric", metavar="NAME", help="namespaces or host; by default namespaces where they can be made.")
@click.option("--compute", default="replay", show_default=True, help="replay: sleep as long as traced; real: compute.")
@click.option(
    "--processes", type=int, metavar="N", help="Only plans of up to so many; by default as many cores with real work."
)
@click.option("--models", metavar="NAME,NAME,…", help="Only these models; by default all of the grid.")
@click.option(
    "--workloads", default="workloads", show_default=True, metavar="FOLDER", help="Where <model>.cpu.json are."
)
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write a row for each case (.csv), after each one.", suffixes=(".csv",))
@output_option("--figure", what="Draw predicted against measured (.png, .svg or .pdf).", suffixes=PICTURES)
def emulated(as_json: bool, **given: Any) -> None:
    """Run a grid of models, plans and links for real, and compare each step with its prediction.

    Links are measured before each run; the prediction is made from them and from traces in files.

    \b
      mpsim validate emulated --quick
      mpsim validate emulated -o validation.csv --figure validation.png
    """
    asked = options_of(_Asked, given)
    check_apart({"output": asked.output, "figure": asked.figure})
    fabric = _fabric(asked.fabric)
    cases = cases_on(fabric, _cases(asked))
    workloads = {model: _trace(asked.workloads, model) for model in sorted({case.model for case in cases})}
    path = asked.output
    with progress_bar(asked.progress, "cases") as progress:
        found = validate_emulated(
            cases, workloads, fabric=fabric, compute=asked.compute, done=_done(path), progress=progress,
            keep=lambda rows: save_rows(path, Comparison, rows) if path else None,
        )  # fmt: skip
    if not found.rows:
        raise MpsimError(f"none of {found.planned} cases could be run: {found.failures[0][1]}")
    if asked.figure:
        _draw(found, asked.figure)
    print_json(_as_dict(found)) if as_json else say(table(found))


@validate.command(epilog="An interrupted one goes on where it stopped, with the same -o.")
@click.option("--quick", is_flag=True, help="Two and four ranks over one kind of link, up to 4 MiB.")
@click.option("--fabric", metavar="NAME", help="namespaces or host; by default namespaces where they can be made.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write a row for each size (.csv), as they come.", suffixes=(".csv",))
def collectives(quick: bool, fabric: str | None, progress: bool | None, as_json: bool, output: str | None) -> None:
    """Exchange all-reduces of 1 KiB to 64 MiB between 2, 4 and 8 processes, and compare each with its prediction.

    \b
      mpsim validate collectives --quick
    """
    with progress_bar(progress, "lists") as bar:
        rows = validate_exchanges(
            EXCHANGES["quick" if quick else "full"], fabric=_fabric(fabric), progress=bar,
            done=load_rows(output, Exchanged) if output and Path(output).is_file() else (),
            keep=lambda rows: save_rows(output, Exchanged, rows) if output else None,
        )  # fmt: skip
    print_json({"rows": [asdict(row) for row in rows]}) if as_json else say(exchange_table(rows))


@validate.command()
@click.argument("file", required=False)
@json_option
@output_option("-o", "--output", what="Write a row for each step (.csv).", suffixes=(".csv",))
def steps(file: str | None, as_json: bool, output: str | None) -> None:
    """Predict steps of one device from their own units' host and device times, beside the steps that were measured.

    FILE is one of measured steps, by default those of an H200 that come with mpsim; nothing is run.

    \b
      mpsim validate steps
      mpsim validate steps mine.json --json
    """
    rows = validate_steps(load_steps(file or COMMITTED))
    if output:
        save_rows(output, StepComparison, rows)
        tell(f"wrote {output}")
    if as_json:
        print_json({"all": [asdict(one) for one in summarize_steps(rows)], "rows": [_step_row(row) for row in rows]})
    else:
        say(steps_table(rows))


@validate.command()
@click.argument("folder", required=False)
@click.option("--file", "files", multiple=True, metavar="NAME", help="Only this file of the folder; may be repeated.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write a row for each published figure (.csv).", suffixes=(".csv",))
def published(
    folder: str | None, files: tuple[str, ...], progress: bool | None, as_json: bool, output: str | None
) -> None:
    """Replay steps that others measured and published, from what they say went in, beside what they measured.

    FOLDER has such files (see docs/published.md for those that are known, by name or by columns), by default those
    that come with mpsim; nothing is run. A row that cannot be replayed is refused with its reason; the others go on.

    \b
      mpsim validate published
      mpsim validate published mine --json -o rows.csv
      mpsim validate published --file simumax_b200
    """
    names = [name.removesuffix(".csv") for name in files]
    with progress_bar(progress, "rows") as bar:
        found = validate_published(folder, only=names, progress=bar)
    if output:
        save_rows(output, Outcome, found.outcomes)
        tell(f"wrote {output}")
    print_json(_published(found)) if as_json else say(published_table(found))


@validate.command(epilog="An interrupted one goes on where it stopped, with the same -o.")
@click.option("--file", "files", multiple=True, metavar="NAME", help="Only recipes of this file; may be repeated.")
@click.option("--ranking", is_flag=True, help="Look for better plans, too, and say why: some minutes in all.")
@click.option("--search", is_flag=True, help="Find the best with a proof, of up to 16 devices: a minute each.")
@click.option("--match", default="", metavar="TEXT", help="Only rows whose name has this in it.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("-o", "--output", what="Write a row for each recipe (.csv), as they come.", suffixes=(".csv",))
def recipes(
    files: tuple[str, ...], ranking: bool, search: bool, match: str, progress: bool | None, as_json: bool,
    output: str | None,
) -> None:  # fmt: skip
    """Predict configurations that people tuned themselves, beside the tokens a second that they measured.

    Recipes of Megatron-Bridge, tables of Megatron-LM, and torchtitan's, which come with mpsim (see docs/recipes.md);
    nothing is run. A row that cannot be predicted is refused with its reason; the others go on.

    \b
      mpsim validate recipes --match LLAMA3_8B
      mpsim validate recipes --match "Llama 2 13B" --json -o recipes.csv
    """
    with progress_bar(progress, "rows") as bar:
        found = validate_recipes(
            only=[name.removesuffix(".csv") for name in files], matching=match, ranking=ranking, search=search,
            progress=bar,
            done=load_rows(output, Judged) if output and Path(output).is_file() else (),
            keep=lambda rows: save_rows(output, Judged, rows) if output else None,
        )  # fmt: skip
    print_json(_recipes(found)) if as_json else say(recipes_table(found))


def _recipes(found: Recipes) -> dict[str, Any]:
    return {
        "systems": [asdict(one) for one in found.systems],
        "rows": [
            asdict(one)
            | {"error_fraction": one.error_fraction if one.judges else None, "gain_fraction": one.gain_fraction}
            for one in found.rows
        ],
    }


def _published(found: Published) -> dict[str, Any]:
    return {
        "files": [asdict(one) for one in found.files],
        "unknown": [{"file": name, "reason": reason} for name, reason in found.unknown],
        "rows": [
            asdict(one) | {"error_fraction": one.error_fraction if one.judges else None} for one in found.outcomes
        ],
    }


def _step_row(row: StepComparison) -> dict[str, Any]:
    errors = ("steady", "step", "peak", "reserved")
    return asdict(row) | {f"{one}_error_fraction": getattr(row, f"{one}_error_fraction") for one in errors}


def _fabric(name: str | None) -> str:
    if name is None:
        if missing := lacking():
            tell(f"no namespaces without {missing}: over loopback, whatever the grid's links")
        return "host" if missing else "namespaces"
    if name not in FABRICS:
        raise unknown("fabric", name, FABRICS)
    return name


def _cases(given: _Asked) -> tuple[Case, ...]:
    """Return the cases that were asked for."""
    if given.compute not in ("replay", "real"):
        raise unknown("compute", given.compute, ("replay", "real"))
    grid = GRIDS["quick" if given.quick else "full"]
    known = list(dict.fromkeys(case.model for case in grid))
    models = known if given.models is None else [name.strip() for name in given.models.split(",")]
    for name in models:
        if name not in known:
            raise unknown("model", name, known)
    most = given.processes
    if most is None and given.compute == "real":
        most = os.cpu_count() or 1  # More would compute in turns, which no plan is about.
    cases = tuple(case for case in grid if case.model in models and (most is None or case.plan.ranks <= most))
    if not cases:
        raise MpsimError(f"no case of the grid has {most} processes or fewer: its plans have 2 and 4")
    return cases


def _trace(folder: str, model: str) -> Any:
    path = Path(folder) / f"{model}.cpu.json"
    if not path.is_file():
        raise MpsimError(f"no file {str(path)!r}: name the folder of mpsim's own traces by --workloads FOLDER")
    return load_workload(path)


def _done(path: str | None) -> Sequence[Comparison]:
    return load_rows(path, Comparison) if path and Path(path).is_file() else ()


def _draw(found: Validation, path: str) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")  # a file is written and no window opened, display or none
    from mpsim.result import plotting

    plotting.save_figure(plotting.predicted_and_measured(found.to_frame()), path)


def _as_dict(found: Validation) -> dict[str, Any]:
    whole = summarize(found.rows)
    assert whole is not None
    return {
        "cases": found.planned,
        "not_run": [{"case": name, "reason": reason} for name, reason in found.failures],
        "all": asdict(whole),
        "kinds": {kind: asdict(one) for kind, one in found.kinds.items()},
        "orders": [
            {"model": model, "wire": wire, "plans": count, "rank_correlation": ours, "ideal_rank_correlation": ideal}
            for (model, wire), (count, ours, ideal) in found.orders.items()
        ],
        "rows": [asdict(row) for row in found.rows],
    }
