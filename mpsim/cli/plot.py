"""``mpsim plot``: draw results, sweeps and topologies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mpsim.cli.identify import noun_of
from mpsim.cli.output import PICTURES, output_option, tell
from mpsim.cli.plot_schedule import draw_schedule
from mpsim.errors import MpsimError, unknown
from mpsim.files import read_head
from mpsim.plan.schedules import SCHEDULES
from mpsim.result.file import load_result
from mpsim.result.model import Result

__all__ = ["draw", "plot", "save_picture"]

# kind → the function that draws it, and whether it draws several results on one figure
_KINDS = {
    "timeline": ("timeline", True),
    "breakdown": ("breakdown", True),
    "memory": ("memory", True),
    "memory-over-time": ("memory_over_time", True),
    "memory-by-holder": ("memory_by_holder", False),
    "cdf": ("cdf", True),
    "speedup": ("speedup", True),
}
_SWEEP_KINDS = ("speedup", "scaling")


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--kind", metavar="KIND", help=f"{', '.join(_KINDS)}, scaling; by default what suits the files.")
@click.option("--part", metavar="NAME", help="Of a timeline: whole, warm-up, steady-state, cool-down.")
@output_option("-o", "--output", what="The picture (.png, .svg or .pdf).", suffixes=PICTURES, required=True)
@click.option("--schedule", metavar="NAME|CSV", help=f"{', '.join(SCHEDULES)}, or a file of rows: needs no FILE.")
@click.option("--stages", type=int, metavar="N", help="Of --schedule: pipeline ranks; a file's own by default.")
@click.option("--microbatches", type=int, metavar="M", help="Of --schedule; a file's own by default.")
@click.option("--chunks", type=int, metavar="V", help="Of --schedule: stages a rank; by default as it has by itself.")
def plot(files: tuple[str, ...], kind: str | None, part: str | None, output: str, **asked: Any) -> None:
    """Draw the results of mpsim simulate -o, the tables of mpsim sweep -o, a topology, a schedule, or what mpsim
    validate emulated -o found.

    By default one result is drawn as a timeline, several as a breakdown of their steps, a sweep as speedups, several or
    one of several batches as strong and weak scaling, a topology as its graph. A schedule is drawn by unit times:
    forward 1, backward 2, or 1 for inputs and 1 for weights.

    \b
      mpsim plot result.json -o timeline.png
      mpsim plot result.json --part steady-state -o steady.png
      mpsim plot gpipe.json 1f1b.json --kind timeline -o both.svg
      mpsim plot sweep.csv -o speedup.png
      mpsim plot h100.csv a100.csv -o both.png
      mpsim plot dgx_h100:2 -o cluster.png
      mpsim plot validation.csv -o validation.png
      mpsim plot --schedule zb-v --stages 4 --microbatches 8 -o zb-v.png
    """
    if asked["schedule"] is not None:
        _refuse_beside_schedule(files, kind, part)
        save_picture(lambda plotting: draw_schedule(plotting, **asked), output)
    else:
        _refuse_missing(files, asked)
        if kind is not None and kind not in (*_KINDS, *_SWEEP_KINDS):
            raise unknown("kind of picture", kind, (*_KINDS, *_SWEEP_KINDS))
        if part is not None and kind not in (None, "timeline"):
            raise MpsimError(f"--part is of a timeline, not of {kind}: leave one of both out")
        _draw_files(files, kind, part, output)
    tell(f"wrote {output}")


def _refuse_beside_schedule(files: Sequence[str], kind: str | None, part: str | None) -> None:
    given = [*files, *(["--kind"] if kind is not None else []), *(["--part"] if part is not None else [])]
    if given:
        raise MpsimError(f"--schedule draws a schedule alone: leave out {given[0]}")


def _draw_files(files: Sequence[str], kind: str | None, part: str | None, output: str) -> None:
    """Draw what the files hold: a topology, a goodput, sweeps, or results."""
    if part is not None and kind is None:
        kind = "timeline"
    if any(_is_topology(path) for path in files):
        _draw_topology(files, kind, output)
        return
    if any(_is_validation(_existing(path)) for path in files):
        _draw_validation(files, kind, output)
        return
    nouns = {path: noun_of(_existing(path)) for path in files}
    if [*nouns.values()] == ["goodput"]:
        _draw_goodput(files[0], kind, output)
        return
    for path, noun in nouns.items():
        if noun not in ("result", "sweep"):
            raise MpsimError(f"{path} is a {noun}: give results of mpsim simulate -o, or a table of mpsim sweep -o")
    if "sweep" in nouns.values():
        _refuse_mixed(nouns)
        _draw_sweeps(files, kind, output)
    elif kind == "scaling":
        raise MpsimError("scaling is of the tables of mpsim sweep -o, not of results: draw several as speedup")
    else:
        results = [load_result(path) for path in files]
        draw(results, kind or ("timeline" if len(results) == 1 else "breakdown"), output, part=part)


def _refuse_mixed(nouns: dict[str, str]) -> None:
    results = [path for path, noun in nouns.items() if noun != "sweep"]
    if results:
        raise MpsimError(f"{results[0]} is a {nouns[results[0]]} among sweeps: draw sweeps with sweeps")


def _refuse_missing(files: Sequence[str], asked: dict[str, Any]) -> None:
    given = [name for name, value in asked.items() if value is not None]
    if given:
        raise MpsimError(f"--{given[0]} is of a schedule: name it with --schedule, or leave --{given[0]} out")
    if not files:
        raise MpsimError("FILE is missing: name what to draw, or a schedule with --schedule")


def _is_topology(text: str) -> bool:
    if Path(text).is_file():
        return noun_of(text) == "topology"
    from mpsim.topology.builders import BUILDERS
    from mpsim.topology.presets import PRESETS

    return text.partition(":")[0] in (*BUILDERS, *PRESETS)


def _draw_topology(files: Sequence[str], kind: str | None, output: str) -> None:
    if kind is not None:
        raise MpsimError(f"a topology is drawn as its graph, it has nothing for {kind}: leave --kind out")
    if len(files) > 1:
        raise MpsimError(f"{len(files)} files, a topology among them: draw one topology at a time")
    from mpsim.topology.spec import parse_topology

    save_picture(lambda plotting: plotting.network(parse_topology(files[0])), output)


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise MpsimError(f"no file {path!r}: mpsim simulate -o and mpsim sweep -o write what can be drawn")
    return path


def _draw_goodput(path: str, kind: str | None, output: str) -> None:
    if kind is not None:
        raise MpsimError(f"a goodput is drawn in one way, it has nothing for {kind}: leave --kind out")
    from mpsim.failures.file import load_goodput

    found = load_goodput(path)
    save_picture(lambda _: found.plot(), output)


def _is_validation(path: str) -> bool:
    """Whether a table has a measured step beside each predicted one."""
    if Path(path).suffix.lower() != ".csv":
        return False
    head = read_head(path, 4096).splitlines()[:1]
    return bool(head) and {"predicted_s", "measured_s"} <= set(head[0].split(","))


def _draw_validation(files: Sequence[str], kind: str | None, output: str) -> None:
    if kind is not None:
        raise MpsimError(
            f"predictions and measurements are drawn in one way, they have nothing for {kind}: leave it out"
        )
    from mpsim.validate.compare import Comparison
    from mpsim.validate.file import load_rows
    from mpsim.validate.model import Validation

    rows = [row for path in files for row in load_rows(path, Comparison)]
    found = Validation(rows=tuple(rows), planned=len(rows))
    save_picture(lambda plotting: plotting.predicted_and_measured(found.to_frame()), output)


def _draw_sweeps(files: Sequence[str], kind: str | None, output: str) -> None:
    """Draw one sweep of one batch as its speedups, and what has several batches, workloads or tables as scaling.

    Asked for speedups, each batch, workload and table has a panel.
    """
    if kind not in (None, *_SWEEP_KINDS):
        raise MpsimError(
            f"a sweep's table is drawn as {' or '.join(_SWEEP_KINDS)}, it has nothing for {kind}: simulate one plan"
            " with -o"
        )
    from mpsim.cli.read import read_sweeps
    from mpsim.sweeps import scaling_rows

    found = read_sweeps(files)
    if kind == "scaling" or (kind is None and sum(len(one.groups) for one in found) > 1):
        save_picture(lambda plotting: plotting.scaling(scaling_rows(found, files)), output)
    else:
        save_picture(lambda plotting: plotting.speedup([one.to_frame() for one in found], names=files), output)


def draw(results: Sequence[Result], kind: str, output: str, *, part: str | None = None) -> None:
    """Draw results to a file; of timelines a part alone.

    Raises
    ------
    MpsimError
        Several results for a picture of one, or a result that lacks what the picture needs.
    """
    name, several = _KINDS[kind]
    if len(results) > 1 and not several:
        many = ", ".join(kind for kind, (_, several) in _KINDS.items() if several)
        raise MpsimError(f"a {kind} draws one result, got {len(results)}: draw each alone, or several as {many}")
    given = results[0] if len(results) == 1 else list(results)
    more = {} if part is None else {"part": part}
    save_picture(lambda plotting: getattr(plotting, name)(given, **more), output)


def save_picture(make: Callable[[Any], Any], output: str) -> None:
    """Draw to a file what a function makes of the module of pictures.

    Raises
    ------
    MpsimError
        The file cannot be written there.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")  # a file is written and no window opened, display or none
    from mpsim.result import plotting

    plotting.save_figure(make(plotting), output)
