"""``mpsim import``: what other tools wrote, as mpsim's own files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, check_kept, output_option, say, tell
from mpsim.errors import MpsimError
from mpsim.files import read_text
from mpsim.workload.reading import read_workload

if TYPE_CHECKING:
    from mpsim.interchange.losses import Losses
    from mpsim.plan.model import Plan
    from mpsim.workload.model import Workload

__all__ = ["import_"]

# Which options each kind of file has a use for.
_USED = {
    "Chakra traces": ("topology", "in_flight", "algorithm", "control", "groups", "ranks"),
    "an ASTRA-sim network": (),
    "a Kineto trace": ("microbatch", "depth"),
    "a Perfetto trace": (),
    "torchtitan's TOML": ("workload", "ranks"),
    "Megatron's flags": ("workload", "ranks"),
}
_PLANS = {"torchtitan": "torchtitan's TOML", "megatron": "Megatron's flags"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    topology: str | None
    in_flight: int | None
    algorithm: str | None
    control: bool | None
    groups: str | None
    ranks: int | None
    microbatch: int | None
    depth: int | None
    workload: str | None


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@output_option("-o", "--output", what="The workload, topology, result or plan file to write.", suffixes=DOCUMENTS)
@click.option("--topology", metavar="TOPOLOGY", help="Of Chakra traces: where they run.")
@click.option("--in-flight", type=int, metavar="N", help="Of Chakra traces: a rank's transfers at once; 0: any.")
@click.option("--algorithm", metavar="NAME", help="Of Chakra traces: of their collectives; by default ring.")
@click.option("--control", is_flag=True, default=None, help="Of Chakra traces: control dependencies bind too.")
@click.option("--groups", metavar="FILE", help="Of Chakra traces: their process groups, as ASTRA-sim's file has them.")
@click.option("--ranks", type=int, metavar="N", help="Of one Chakra trace, or of flags: so many ranks do what it says.")
@click.option("--workload", metavar="WORKLOAD", help="Of TOML and flags: whose layers stages have.")
@click.option("--microbatch", type=int, metavar="B", help="Of a Kineto trace: samples in each forward pass.")
@click.option("--depth", type=int, metavar="D", help="Of a Kineto trace: layers are so far below the model; 1.")
def import_(files: tuple[str, ...], output: str | None, **given: Any) -> None:
    """Read what other tools wrote: Chakra traces, a network, a trace, torchtitan's TOML or Megatron's flags.

    Chakra traces (.et, one a rank, or what stands before .0.et) are replayed on a TOPOLOGY: a result. A network (.yml)
    becomes a topology, a trace of torch.profiler a workload, a Perfetto trace of mpsim's own a result again. TOML of
    torchtitan's and Megatron's flags, or a script with them, become a plan. What could not be represented is listed.
    See docs/interchange.md.

    \b
      mpsim import step --topology switch:4,link=nvlink4 -o step.json
      mpsim import network.yml -o cluster.json
      mpsim import profile.json --microbatch 64 -o mlp.json
      mpsim import megatron flags.sh --ranks 64 --workload llama.json -o plan.json
    """
    asked = options_of(_Asked, given)
    kind = ""
    if files[0] in _PLANS and not Path(files[0]).exists():
        kind, files = _PLANS[files[0]], files[1:]
    if not files:
        raise MpsimError(f"FILE is missing behind {kind.partition(chr(39))[0].lower()}: see mpsim import --help")
    check_kept([output] if output else [], (*files, asked.topology, asked.groups, asked.workload))
    from mpsim.interchange.recognise import kind_of

    kind = kind or kind_of(files[0])
    for name, value in asdict(asked).items():
        if value is not None and name not in _USED[kind]:
            raise MpsimError(f"--{name.replace('_', '-')} says nothing of {kind}, which {files[0]!r} is: leave it out")
    if kind != "Chakra traces" and len(files) > 1:
        raise MpsimError(f"{files[0]!r} is {kind}, of which one is read at a time: leave {files[1]!r} out")
    read = {
        "Chakra traces": _chakra,
        "an ASTRA-sim network": _network,
        "a Kineto trace": _kineto,
        "a Perfetto trace": _perfetto,
        "torchtitan's TOML": _torchtitan,
        "Megatron's flags": _megatron,
    }[kind]
    shown, losses = read(files, output, asked)
    say(shown)
    for line in losses.lines:
        tell(f"not represented: {line}")
    if output:
        tell(f"wrote {output}")


def _chakra(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange import load_chakra, replay_program
    from mpsim.interchange.chakra_file import spread
    from mpsim.result.file import save_result
    from mpsim.result.text import summary
    from mpsim.topology.spec import parse_topology

    if given.topology is None:
        raise MpsimError("Chakra traces say nothing of links: give --topology, as in --topology switch:4,link=nvlink4")
    check_kept([output] if output else [], spread(files))
    topology = parse_topology(given.topology)
    in_flight = 1 if given.in_flight is None else given.in_flight
    copies = 1 if given.ranks is None else given.ranks
    program, losses = load_chakra(
        files, topology, in_flight=in_flight, algorithm=given.algorithm or "ring", control=bool(given.control),
        groups=given.groups, copies=copies,
    )  # fmt: skip
    losses.add("memory: a trace has none, peaks of 0 B say nothing")
    result = replay_program(program, topology, name=Path(files[0]).name.split(".")[0])
    if output:
        save_result(output, result)
    return summary(result), losses


def _network(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange import load_astra_network
    from mpsim.topology.file import save_topology
    from mpsim.topology.show import draw

    topology, losses = load_astra_network(files[0])
    if output:
        save_topology(output, topology)
    return draw(topology), losses


def _kineto(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange import load_kineto
    from mpsim.workload.file import save_workload
    from mpsim.workload.show import show_workload

    if given.microbatch is None:
        raise MpsimError("a Kineto trace does not say how many samples a forward pass has: give --microbatch")
    depth = 1 if given.depth is None else given.depth
    workload, losses = load_kineto(files[0], microbatch=given.microbatch, depth=depth)
    if output:
        save_workload(output, workload)
    return show_workload(workload), losses


def _perfetto(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange import load_perfetto
    from mpsim.result.file import save_result
    from mpsim.result.text import summary

    result, losses = load_perfetto(files[0])
    if output:
        save_result(output, result)
    return summary(result), losses


def _torchtitan(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange.torchtitan import from_torchtitan, schedule_file
    from mpsim.plan.schedule_file import read_schedule

    text = read_text(files[0])
    named = schedule_file(text)
    rows = read_schedule(Path(files[0]).parent / named) if named else None
    return _plan(from_torchtitan(text, _workload(given), given.ranks, rows), output)


def _megatron(files: tuple[str, ...], output: str | None, given: _Asked) -> tuple[str, Losses]:
    from mpsim.interchange.megatron import from_megatron

    return _plan(from_megatron(read_text(files[0]), _workload(given), given.ranks), output)


def _workload(given: _Asked) -> Workload | None:
    return read_workload(given.workload) if given.workload else None


def _plan(read: tuple[Plan, Losses], output: str | None) -> tuple[str, Losses]:
    from mpsim.documents import made_now
    from mpsim.plan.model import save_plan

    plan, losses = read
    if output:
        save_plan(output, plan, made_now(""))
    return f"plan {plan.text}", losses
