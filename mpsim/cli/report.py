"""``mpsim report``: what a study found, as one page that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from mpsim.cli.identify import noun_of
from mpsim.cli.model import read_model
from mpsim.cli.options import options_of
from mpsim.cli.output import PAGES, check_apart, output_option, tell
from mpsim.cli.page import check_page, write_page
from mpsim.cli.planning import host_speed_option
from mpsim.cli.read import read_sweeps
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options, unchecked_option
from mpsim.errors import MpsimError
from mpsim.report.beside import file_beside
from mpsim.report.gather import Given, source_of, topology_of
from mpsim.report.material import Source
from mpsim.result.file import load_result
from mpsim.result.model import Result
from mpsim.search.rates import Rates, parse_price
from mpsim.search.study import Study
from mpsim.sweeps.model import SweepResult
from mpsim.topology.file import load_topology
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology
from mpsim.workload.file import load_workload
from mpsim.workload.model import Workload

__all__ = ["report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    batch: int | None
    seq: int | None
    precision: str | None
    price: str | None
    what_ifs: bool
    top: int
    progress: bool | None
    scaling: ScalingOptions
    unchecked: bool
    host_speed: float
    output: str


@click.command()
@click.argument("things", nargs=-1, metavar="THING...")
@click.option("--batch", type=int, metavar="B", help="Of which batch, where the table has several.")
@click.option("--seq", type=int, metavar="N", help="Of a model: as it was for mpsim best.")
@click.option("--precision", metavar="NAME", help="Likewise.")
@click.option("--price", metavar="PRICE", help="Of a device, as in '2.5 USD/h'.")
@click.option("--what-ifs/--no-what-ifs", default=True, help="Simulate the best plan with one thing changed at a time.")
@click.option("--top", type=int, default=100, show_default=True, metavar="N", help="Plans in the ranked table.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@scaling_options
@unchecked_option
@host_speed_option
@output_option("-o", "--output", what="The page (.html).", suffixes=PAGES, required=True)
def report(things: tuple[str, ...], **given: Any) -> None:
    """Write a page about a study: its plans, ranked, and what the best one does, as one file that needs no network.

    THINGs, in any order: the table that mpsim best -o or mpsim sweep -o wrote, or a result of mpsim simulate -o; the
    workload that it is of, with which the best plan's step is shown, explained and changed, and its topology, where
    their files do not stand beside the table, or here, as they were; and results of mpsim emulate -o, which are laid
    beside what was predicted. mpsim best --report writes the same page as it finds the plans.

    \b
      mpsim report sweep.csv mlp.json -o report.html
      mpsim report result.json -o report.html
    """
    asked = options_of(_Asked, given)
    if asked.top < 1:
        raise MpsimError(f"--top is {asked.top}, expected 1 or more plans to show")
    if not things:
        raise MpsimError("THING is missing: name the table of mpsim best -o or mpsim sweep -o, or a result")
    check_page(asked.output)
    check_apart({"output": asked.output}, things)
    write_page(
        _read(things, asked), asked.output, batch=asked.batch, what_ifs=asked.what_ifs, top=asked.top,
        progress=asked.progress,
    )  # fmt: skip


@dataclass(slots=True)
class _Things:
    """What was named, by what it is."""

    tables: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    workloads: list[str] = field(default_factory=list)
    topologies: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)


def _read(things: Sequence[str], asked: _Asked) -> Given:
    """Return what the files and texts hold."""
    found = _Things()
    for thing in things:
        _take(found, thing)
    for what, paths in (("table", found.tables), ("workload", found.workloads), ("topology", found.topologies)):
        if len(paths) > 1:
            raise MpsimError(f"{paths[0]!r} and {paths[1]!r} are both a {what}: a report is of one")
    if not (found.tables or found.results):
        raise MpsimError(
            f"{things[0]!r} is no study: name the table of mpsim best -o or mpsim sweep -o, or a result; mpsim best"
            " … --report report.html finds the plans and writes the page at once"
        )
    sweep = read_sweeps(found.tables)[0] if found.tables else None
    topology = _topology(found, sweep)
    workload, own = _workload(found, topology, asked)
    study, rates = None, Rates(tokens=0, flops=0)
    if workload is not None and topology is not None:
        study = Study(
            workload, topology, by_type=own or by_type_of(asked.scaling, workload, topology),
            unchecked=asked.unchecked, host_speed=asked.host_speed,
        )  # fmt: skip
        rates = Rates.of(workload, topology, price=parse_price(asked.price) if asked.price else None)
    elif asked.price:
        raise MpsimError("--price needs the workload and the topology: name them too")
    elif sweep is not None:
        what = "the workload" if workload is None else "the topology"
        tell(f"the page has no timeline, memory and what-ifs: {what} of these rows is not known; name its file too")
    return Given(
        sweep=sweep,
        table=found.tables[0] if found.tables else "",
        results=[one for one in found.results if one.made_by != "emulate"],
        real=[one for one in found.results if one.made_by == "emulate"],
        workload=workload,
        topology=topology,
        study=study,
        rates=rates,
        sources=tuple(found.sources),
    )


def _topology(found: _Things, sweep: SweepResult | None) -> Topology | None:
    """Return the topology that was named, or is that of the rows; take their workload too, where it is at hand."""
    own = topology_of(sweep) if sweep is not None else None
    if sweep is not None and own is None and not found.topologies:
        _take_beside(found, sweep, "topology", load_topology)
    topology = parse_topology(found.topologies[0]) if found.topologies else own
    if sweep is not None and topology is not None and not found.workloads:
        _take_beside(found, sweep, "workload", load_workload)
    return topology


def _take_beside(found: _Things, sweep: SweepResult, noun: str, load: Callable[[str], Any]) -> None:
    if path := file_beside(sweep, found.tables[0], noun, load):
        _take(found, path)
        tell(f"took {path}: the {noun} that these rows are of")


def _take(found: _Things, thing: str) -> None:
    """Put a thing where it belongs."""
    if not Path(thing).is_file() or Path(thing).name == "config.json":
        where = found.topologies if _is_topology(thing) else found.workloads
        if where is found.workloads and Path(thing).suffix:
            raise MpsimError(f"no file {thing!r}: mpsim best -o writes a table, mpsim trace -o a workload")
        where.append(thing)
        found.sources.append(source_of("topology" if where is found.topologies else "model", thing))
        return
    noun = noun_of(thing)
    if noun == "result":
        result = load_result(thing)
        found.results.append(result)
        what = "real run" if result.made_by == "emulate" else "result"
        found.sources.append(source_of(what, thing, result.provenance))
    elif noun in ("sweep", "workload", "topology"):
        {"sweep": found.tables, "workload": found.workloads, "topology": found.topologies}[noun].append(thing)
        found.sources.append(source_of("table" if noun == "sweep" else noun, thing))
    else:
        raise MpsimError(f"{thing} is a {noun}: a report is of a table of mpsim best -o or mpsim sweep -o, or a result")


def _is_topology(text: str) -> bool:
    from mpsim.topology.builders import BUILDERS
    from mpsim.topology.presets import PRESETS

    return text.partition(":")[0] in (*BUILDERS, *PRESETS)


def _workload(found: _Things, topology: Topology | None, asked: _Asked) -> tuple[Workload | None, dict[str, Workload]]:
    if not found.workloads:
        if asked.seq is not None or asked.precision is not None:
            raise MpsimError("--seq and --precision are of a model: name it too, as for mpsim best")
        return None, {}
    if topology is None:
        raise MpsimError(
            f"{found.workloads[0]!r} is a workload, and its topology is not known from what stands beside it: name the"
            " topology too"
        )
    return read_model(found.workloads[0], topology, seq=asked.seq, precision=asked.precision)
