"""What a prediction or a real run answers: its result, notes beside it, the files it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mpsim.cli.output import print_json, say, tell
from mpsim.cli.planning import PlanOptions
from mpsim.cli.scaling import ScalingOptions
from mpsim.cli.trials import TrialOptions
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.lowering.stages import microbatch_size
from mpsim.result.frames import result_to_dict
from mpsim.result.model import Result
from mpsim.result.text import summary
from mpsim.tables import Text, facts, joined

if TYPE_CHECKING:
    from mpsim.lowering.model import Lowering
    from mpsim.plan.model import Plan
    from mpsim.search.made_fit import MadeFit

__all__ = ["Answer", "Asked", "Files", "available", "collectives_topology", "coordinates", "give", "stage_layers"]

_RING = "ring:{n},link=eth_10g"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What an answer is written to."""

    output: str | None
    save_plan: str | None
    perfetto: str | None
    plot: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a prediction and a real run are both asked."""

    plan: PlanOptions
    scaling: ScalingOptions
    trials: TrialOptions
    files: Files
    collectives: tuple[int, ...] | None
    collective: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result, what is to be known beside it, the layers of each stage, and with what it fits where that was asked."""

    result: Result
    notes: tuple[str, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    coordinates: tuple[tuple[str, Any], ...] = ()
    made_fit: MadeFit | None = None


def give(answer: Answer, files: Files, as_json: bool) -> None:
    """Write the files that were asked for, and print the answer."""
    _write(answer.result, files)
    if as_json:
        print_json(_as_dict(answer))
    else:
        say(_as_text(answer))


def stage_layers(lowering: Lowering) -> tuple[tuple[str, ...], ...]:
    """Return the names of each stage's layers."""
    names = [layer.name for layer in lowering.workload.layers]
    return tuple(tuple(names[stage.layers.start : stage.layers.stop]) for stage in lowering.stages)


def coordinates(lowering: Lowering) -> tuple[tuple[str, Any], ...]:
    """Return where a plan stands in a grid of plans."""
    plan: Plan = lowering.plan
    return (
        ("strategy", plan.strategy), ("dp", plan.dp), ("pp", plan.pp), ("tp", plan.tp), ("cp", plan.cp),
        ("ep", plan.ep),
        ("microbatches", plan.microbatches), ("microbatch_size", microbatch_size(lowering.workload, plan)),
        ("schedule", plan.schedule_name if plan.pp > 1 else None),
    )  # fmt: skip


def available(asked: int | None, have: int) -> int:
    """Return how many devices may be used.

    Raises
    ------
    MpsimError
        More are asked for than there are.
    """
    if asked is not None and not 1 <= asked <= have:
        raise MpsimError(f"--devices asks for {asked}, topology has {have}: ask for 1 to {have}")
    return asked or have


def collectives_topology(
    inputs: tuple[str, ...], given: Asked, others: Mapping[str, bool]
) -> tuple[str, tuple[str, ...]]:
    """Return the topology that carries a list of collectives, and what is to be said about it.

    Parameters
    ----------
    inputs : tuple of str
        The command's arguments.
    given : Asked
        Its options.
    others : mapping of str to bool
        Options of one command alone that a list of collectives cannot have either, and whether they were given.

    Raises
    ------
    MpsimError
        An option that speaks of a workload or plan, or no topology and no number of devices.
    """
    said = [*given.plan.of_a_plan_alone, *(name for name, value in asdict(given.scaling).items() if value)]
    said += [name for name, told in {"save-plan": bool(given.files.save_plan), **others}.items() if told]
    if said:
        raise MpsimError(f"--collectives has no workload to split: leave out --{said[0]}")
    if given.trials.epochs is not None:
        raise MpsimError(f"--collectives has no epochs, --epochs is {given.trials.epochs}: give --trials")
    if len(inputs) > 1:
        raise MpsimError(f"--collectives takes a TOPOLOGY alone, got {' '.join(inputs)}: leave the workload out")
    if inputs:
        return inputs[0], ()
    devices = given.plan.devices
    if devices is None:
        raise MpsimError("--collectives needs a TOPOLOGY, or --devices N for a ring of 10 Gbit/s Ethernet")
    if devices < 2:
        raise MpsimError(f"--devices is {devices}: a collective takes 2 devices or more")
    text = _RING.format(n=devices)
    return text, (f"no topology given: took {text} (10 Gbit/s Ethernet of the catalog); name your own to change it",)


def _write(result: Result, files: Files) -> None:
    if files.output:
        from mpsim.result.file import save_result

        save_result(files.output, replace(result, provenance=made_now("")))
    if files.perfetto:
        from mpsim.result.perfetto import save_perfetto

        save_perfetto(files.perfetto, result)
    if files.plot:
        from mpsim.cli.plot import draw

        draw([result], "timeline", files.plot)
    for path in filter(None, asdict(files).values()):
        tell(f"wrote {path}")


def _as_dict(answer: Answer) -> dict[str, Any]:
    found = result_to_dict(answer.result) | dict(answer.coordinates)
    if answer.stages:
        found["stages"] = [list(layers) for layers in answer.stages]
    if answer.made_fit is not None:
        found["fits_with"] = answer.made_fit.rows()
    return found | {"notes": [*answer.result.notes, *answer.notes]}


def _as_text(answer: Answer) -> Text:
    blocks: list[str] = [summary(answer.result)]
    if len(answer.stages) > 1:
        blocks.append(facts((f"stage {i}", _layers(names)) for i, names in enumerate(answer.stages)))
    blocks += [f"note: {note}" for note in answer.notes]
    blocks += [str(answer.made_fit)] if answer.made_fit else []
    return joined("\n\n", blocks)


def _layers(names: tuple[str, ...]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} layers)"
