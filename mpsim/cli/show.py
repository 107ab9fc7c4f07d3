"""``mpsim show``: workloads, topologies, plans, results, sweeps, models of the zoo, the catalog."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from mpsim.cli.output import json_option, print_json, say
from mpsim.errors import MpsimError, did_you_mean
from mpsim.tables import facts, joined
from mpsim.workload.split import WHOLE, Split, split_text

__all__ = ["show"]


class _At(NamedTuple):
    """What of a workload is shown: at which point, and whether layer by layer."""

    microbatch: int | None = None
    split: Split | None = None
    each: bool = False


class _Shown(NamedTuple):
    """Something in both forms, each made only when it is asked for."""

    text: Callable[[], str]
    plain: Callable[[], dict[str, Any]]


@click.command()
@click.argument("things", nargs=-1, required=True, metavar="THING...")
@click.option("--microbatch", type=int, metavar="B", help="Of a workload: at this micro-batch.")
@click.option("--tensor", type=int, metavar="N", help="Of a workload: one of so many tensor-parallel ranks.")
@click.option("--split", metavar="SPLIT", help="Of a workload: one of the ranks of a split, such as tp=2,sequence.")
@click.option("--top", type=int, metavar="N", help="Of a sweep: so many plans; by default all.")
@click.option("--scaling", is_flag=True, help="Of sweeps, all together: what more devices bring, strong and weak.")
@click.option("--schedule", is_flag=True, help="Of a plan: what each pipeline rank runs, in order.")
@click.option("--each", is_flag=True, help="Of a workload: each layer in a row, where those alike share one.")
@json_option
def show(
    things: tuple[str, ...],
    microbatch: int | None,
    tensor: int | None,
    split: str | None,
    top: int | None,
    scaling: bool,
    schedule: bool,
    each: bool,
    as_json: bool,
) -> None:
    """Show THING: a file of mpsim's, a topology such as torus:4x4,link=nvlink4, a model of the zoo, or the catalog.

    \b
      mpsim show mlp.json --microbatch 1024
      mpsim show nodes:2,per_node=4,nics=4,inside=nvlink4,between=ib_ndr
      mpsim show catalog
      mpsim show presets
      mpsim show dgx_h100:2
      mpsim show H100-SXM5-80GB
      mpsim show h100.csv a100.csv --scaling
    """
    for name, value, least in (("microbatch", microbatch, 1), ("tensor", tensor, 1), ("top", top, 0)):
        if value is not None and value < least:
            raise MpsimError(f"--{name} is {value}, expected {least} or more")
    if tensor is not None and split is not None:
        raise MpsimError(f"--tensor {tensor} is --split tp={tensor}, --split {split} was given too: leave one out")
    if scaling and (top is not None or schedule or microbatch is not None or (split or tensor) is not None or each):
        raise MpsimError("--scaling shows tables of mpsim sweep -o as one: leave the other options out")
    of = split_text(split) if split is not None else None if tensor is None else Split(tp=tensor)
    at = _At(microbatch, of, each)
    found = [_scaling(things)] if scaling else [_find(thing, at, top, schedule) for thing in things]
    if as_json:
        plain = [one.plain() for one in found]
        print_json(plain[0] if len(plain) == 1 else {"shown": plain})
    else:
        say(joined("\n\n", [one.text() for one in found]))


def _find(thing: str, at: _At, top: int | None, schedule: bool) -> _Shown:
    from mpsim.cli.identify import noun_of
    from mpsim.workload.zoo import ZOO

    noun = noun_of(thing) if Path(thing).is_file() else ""
    if top is not None and noun != "sweep":
        raise MpsimError(f"--top counts the plans of a sweep, {thing!r} is none: leave it out")
    if schedule and noun != "plan":
        raise MpsimError(f"--schedule shows the rows of a plan file, {thing!r} is none: leave it out")
    if noun == "plan":
        return _plan(thing, schedule)
    if noun == "workload":
        return _workload(thing, at)
    if at.each:
        raise MpsimError(f"--each shows each layer of a workload file, {thing!r} is none: leave it out")
    if at != _At():
        raise MpsimError(
            f"--microbatch, --tensor and --split choose a point of a workload file, {thing!r} is none: leave them out"
        )
    if noun == "sweep":
        return _sweep(thing, top or 0)
    if noun:
        return {"topology": _topology, "result": _result, "goodput": _goodput}[noun](thing)
    if thing == "catalog":
        return _catalog()
    if thing in ZOO:
        return _model(thing)
    return _by_name(thing)


def _workload(path: str, asked: _At) -> _Shown:
    from mpsim.cli.point import at_point, point_to_dict
    from mpsim.workload.file import load_workload
    from mpsim.workload.show import show_workload

    workload = load_workload(path)
    size = workload.microbatch if asked.microbatch is None else asked.microbatch
    split = asked.split or WHOLE
    at = at_point(workload, size, split)
    return _Shown(
        lambda: show_workload(workload, size, split, each=asked.each), lambda: point_to_dict(workload, at, split)
    )


def _topology(text: str) -> _Shown:
    from mpsim.topology.show import draw, topology_to_dict
    from mpsim.topology.spec import parse_topology

    topology = parse_topology(text)
    return _Shown(lambda: draw(topology), lambda: topology_to_dict(topology))


def _goodput(path: str) -> _Shown:
    from mpsim.failures.file import load_goodput
    from mpsim.failures.text import goodput_summary, goodput_to_dict

    found = load_goodput(path)
    return _Shown(lambda: goodput_summary(found), lambda: goodput_to_dict(found))


def _plan(path: str, schedule: bool) -> _Shown:
    from mpsim import documents
    from mpsim.plan.checks import marked_grid
    from mpsim.plan.model import load_plan
    from mpsim.plan.operations import format_rows
    from mpsim.units import format_bytes

    plan = load_plan(path)
    names = ("dp", "pp", "tp", "cp", "ep", "batch", "microbatches", "schedule", "chunks", "sharding", "boundaries",
             "bucket_bytes", "first_bucket_bytes", "algorithm", "devices", "runtime")  # fmt: skip
    fields = {name: documents.encode(getattr(plan, name)) for name in names}
    more = [f"batch {plan.batch or 'as the workload'}", f"buckets of {format_bytes(plan.bucket_bytes)}", plan.runtime]
    rows = plan.rows() if schedule else ()
    return _Shown(
        lambda: "\n".join(
            [
                plan.text,
                f"{plan.strategy} over {plan.ranks} devices, {', '.join(more)}",
                *([marked_grid(rows, ())] if schedule else []),
            ]
        ),
        lambda: (
            {"plan": plan.text, "strategy": plan.strategy, "ranks": plan.ranks}
            | fields
            | ({"rows": format_rows(rows).splitlines()} if schedule else {})
        ),
    )


def _result(path: str) -> _Shown:
    from mpsim.result.file import load_result
    from mpsim.result.frames import result_to_dict
    from mpsim.result.text import summary

    result = load_result(path)
    return _Shown(lambda: summary(result), lambda: result_to_dict(result))


def _sweep(path: str, top: int) -> _Shown:
    from mpsim.sweeps import load_sweep, table

    found = load_sweep(path)
    return _Shown(lambda: table(found, top), lambda: {"rows": list(found.rows)})


def _scaling(paths: Sequence[str]) -> _Shown:
    from mpsim.cli.identify import noun_of
    from mpsim.cli.read import read_sweeps
    from mpsim.sweeps import scaling_rows, scaling_text

    for path in paths:
        if Path(path).is_file() and noun_of(path) != "sweep":
            raise MpsimError(f"--scaling shows tables of mpsim sweep -o, {path} is a {noun_of(path)}: leave one out")
    rows = scaling_rows(read_sweeps(paths), paths)
    # Of a table's plans nothing says which others were tried.
    own = "\neach table has the fastest of the plans that its own sweep tried, which may have been others" * (
        len(paths) > 1
    )
    return _Shown(lambda: joined("", [scaling_text(rows), own]), lambda: {"scaling": rows})


def _catalog() -> _Shown:
    from mpsim.cli.catalog import catalog_text, catalog_to_dict

    return _Shown(catalog_text, catalog_to_dict)


def _model(name: str) -> _Shown:
    from mpsim.cli.catalog import model_text
    from mpsim.workload.zoo import list_models

    (row,) = (row for row in list_models() if row["name"] == name)
    return _Shown(lambda: model_text(row), lambda: row)


def _by_name(thing: str) -> _Shown:
    """Return a topology of a builder, or a device or link of the catalog; or say what was not found."""
    from mpsim.cli.catalog import entry_text, entry_to_dict
    from mpsim.topology.builders import BUILDERS
    from mpsim.topology.catalog import device_names, link_names
    from mpsim.topology.presets import PRESETS
    from mpsim.workload.zoo import ZOO

    named = {name.lower(): name for name in (*device_names(), *link_names())}
    if thing.lower() in named:
        entry = named[thing.lower()]
        return _Shown(lambda: entry_text(entry), lambda: entry_to_dict(entry))
    if thing == "presets":
        rows = {name: {"about": one.about, "source": one.source} for name, one in PRESETS.items()}
        said = [(name, f"{one['about']} ({one['source']})") for name, one in rows.items()]
        return _Shown(lambda: facts(said), lambda: rows)
    if ":" in thing or thing in BUILDERS or thing in PRESETS:
        return _topology(thing)
    if os.path.isdir(thing):
        raise MpsimError(f"{thing!r} is a folder: name a file in it")
    if Path(thing).suffix or os.sep in thing:
        raise MpsimError(f"no file {thing!r}{_near(thing)}")
    hint = did_you_mean(thing, [*ZOO, *BUILDERS, *PRESETS, *named.values(), "catalog", "presets"])
    hint = hint if hint.startswith("; did") else ": give a file, a topology, a model, 'catalog' or a name in it"
    raise MpsimError(f"nothing is called {thing!r}{hint}")


def _near(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f": there is no folder {str(folder)!r}"
    hint = did_you_mean(Path(path).name, [item.name for item in folder.iterdir()])
    return hint if hint.startswith("; did") else ""
