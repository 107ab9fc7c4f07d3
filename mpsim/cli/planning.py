"""The options of a plan, and the plan that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from mpsim.cli.types import BYTES, NUMBERS
from mpsim.collectives.mapping import AUTO, algorithm_names, check_algorithm
from mpsim.errors import MpsimError, unknown
from mpsim.plan.model import LAUNCHES, Plan, check_size
from mpsim.plan.runtimes import RUNTIMES
from mpsim.plan.schedule_file import GivenRows, given_schedule
from mpsim.plan.schedules import SCHEDULES, as_registered, stages_a_rank
from mpsim.plan.sharding import RESHARDED
from mpsim.workload.model import Workload

__all__ = ["PlanOptions", "host_speed_option", "plan_of", "plan_options"]

_ALGORITHMS = [AUTO, *algorithm_names("all_reduce")]
_OPTIONS = (
    click.option("--strategy", metavar="NAME", help="naive, gpipe, 1f1b, tensor or data over all --devices."),
    click.option(
        "--dp",
        type=int,
        metavar="N",
        help="Replicas, each with its part of the batch; by default 1, as of the next two.",
    ),
    click.option(
        "--zero", type=int, metavar="N", help="Replicas shard: 1 optimizer state, 2 gradients, 3 parameters too."
    ),
    click.option("--fsdp", is_flag=True, help="As --zero 3: each unit's parameters are gathered before they are used."),
    click.option(
        "--shards", type=int, metavar="N", help="Replicas that shard together, where not all do (hybrid sharding)."
    ),
    click.option(
        "--recompute",
        metavar="WHAT",
        help="Forwards run again, not kept: full, selective, stages, except-last, or layers as in 'h.*,12'.",
    ),
    click.option(
        "--offload", metavar="WHAT", help="Activations kept at hosts meanwhile: all, or those of layers as in 'h.*,12'."
    ),
    click.option(
        "--fsdp-units",
        metavar="NAME|GLOB,…",
        help="What --fsdp gathers at once: blocks (the default, all else a root), layers, model, or globs of paths.",
    ),
    click.option("--gather-ahead", type=int, metavar="N", help="Units gathered before the one computed; by default 1."),
    click.option(
        "--reshard",
        metavar="NAME",
        help=f"What --fsdp drops behind a forward: {', '.join(RESHARDED)}; by default all but the root.",
    ),
    click.option("--gather-dtype", metavar="TYPE", help="In which sharded parameters are sent; by default as traced."),
    click.option("--reduce-dtype", metavar="TYPE", help="In which replicas that shard reduce gradients."),
    click.option(
        "--accumulate", is_flag=True, help="Reduce sharded gradients after the last micro-batch alone, not after each."
    ),
    click.option("--pp", type=int, metavar="N", help="Pipeline stages."),
    click.option("--tp", type=int, metavar="N", help="Ranks that share each layer."),
    click.option(
        "--sequence", is_flag=True, help="They also share the sequence where they would do the same work twice."
    ),
    click.option("--cp", type=int, metavar="N", help="Ranks that share each sequence, attention included."),
    click.option("--ep", type=int, metavar="N", help="Ranks, of the dp × cp, that share the experts of a layer."),
    click.option(
        "--microbatches", type=int, metavar="M", help="Parts into which a replica cuts its batch; by default 1."
    ),
    click.option(
        "--batch",
        type=int,
        metavar="B",
        help="Samples in a step; by default what makes each micro-batch the size that the trace refers to.",
    ),
    click.option(
        "--schedule",
        metavar="NAME|FILE.csv",
        help=f"{', '.join(SCHEDULES)}; by default 1f1b. Or rows of your own, in PyTorch's CSV.",
    ),
    click.option(
        "--chunks", type=int, metavar="V", help="Stages on each pipeline rank, where the schedule has several."
    ),
    click.option(
        "--stages",
        metavar="L,L,…",
        help="First layer of each stage but the first, by name or index; by default where the step is shortest.",
    ),
    click.option("--bucket", type=BYTES, help="Gradients all-reduced at once; by default '25 MiB', as in PyTorch."),
    click.option("--algorithm", metavar="NAME", help=f"Of the collectives: {', '.join(_ALGORITHMS)}; by default ring."),
    click.option("--runtime", metavar="NAME", help=f"How messages behave: {', '.join(RUNTIMES)}; by default ideal."),
    click.option(
        "--launch",
        metavar="NAME",
        help=f"How devices' work is launched: {', '.join(LAUNCHES)}; by default eager, where a trace has two clocks.",
    ),
    click.option(
        "--place",
        type=NUMBERS,
        help="Which device stands at each rank, as in 0,2,1,3; by default in the topology's order.",
    ),
    click.option(
        "--plan",
        metavar="FILE|TEXT",
        help="A plan's file, or its text as results have it; options beside it change it.",
    ),
)

_FIELDS = {"bucket": "bucket_bytes", "place": "devices"}
_SHARDING = {
    "shards": "shards", "sequence": "sequence", "fsdp_units": "units", "gather_ahead": "gather_ahead",
    "reshard": "reshard_after_forward", "gather_dtype": "gather_dtype", "reduce_dtype": "reduce_dtype",
    "accumulate": "accumulate", "recompute": "recompute", "offload": "offload",
}  # fmt: skip

host_speed_option = click.option(
    "--host-speed", type=float, default=1.0, show_default=True, metavar="F",
    help="How many times as fast hosts launch as where the workload was traced.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan is made of, None where nothing was said, and how many devices it may use."""

    strategy: str | None
    dp: int | None
    zero: int | None
    fsdp: bool
    shards: int | None
    recompute: str | None
    offload: str | None
    fsdp_units: str | None
    gather_ahead: int | None
    reshard: str | None
    gather_dtype: str | None
    reduce_dtype: str | None
    accumulate: bool
    pp: int | None
    tp: int | None
    sequence: bool
    cp: int | None
    ep: int | None
    microbatches: int | None
    batch: int | None
    schedule: str | None
    chunks: int | None
    stages: str | None
    bucket: int | None
    algorithm: str | None
    runtime: str | None
    launch: str | None
    place: tuple[int, ...] | None
    plan: str | None
    devices: int | None

    @property
    def of_a_plan_alone(self) -> tuple[str, ...]:
        """What was said that a list of collectives, which has an algorithm and a runtime too, has no use for."""
        both = ("algorithm", "runtime", "devices")
        return tuple(name for name in self.__slots__ if name not in both and _is_said(getattr(self, name)))


def _is_said(value: object) -> bool:
    """Whether an option was given: 0, which is equal to False, is said."""
    return value is not None and value is not False


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a plan to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def plan_of(given: PlanOptions, workload: Workload | None, n_devices: int) -> Plan:
    """Return the plan that the options make; without a workload, whose layers `stages` names, where they leave it open.

    Raises
    ------
    MpsimError
        No such plan can be, or it needs more than `n_devices`.
    """
    _refuse_empty(given)
    base = Plan.of(given.plan) if given.plan else Plan()
    names = (
        "dp", "pp", "tp", "cp", "ep", "microbatches", "batch", "schedule", "chunks", "bucket", "algorithm",
        "runtime", "launch", "place",
    )  # fmt: skip
    said = {name: getattr(given, name) for name in names}
    changes: dict[str, Any] = {_FIELDS.get(name, name): value for name, value in said.items() if value is not None}
    changes |= _of_rows(given) | _sharding(given, base)
    if given.batch is not None and given.batch < 1:
        raise MpsimError(f"--batch is {given.batch}, expected 1 or more samples")
    if given.strategy:
        changes |= _strategy(given.strategy, given, n_devices)
    if given.stages and workload is not None:
        changes["boundaries"] = _boundaries(given.stages, workload)
        if given.pp is None and not (given.strategy or given.plan or "pp" in changes):
            changes["pp"] = (len(changes["boundaries"]) + 1) // (
                given.chunks or stages_a_rank(given.schedule or "1f1b")
            )
    elif {"pp"} & changes.keys() and base.boundaries and changes["pp"] != base.pp:
        changes["boundaries"] = None
    plan = replace(base, **changes)
    # The lowering asks for it only where the plan has a collective.
    check_algorithm("all_reduce", plan.algorithm)
    if plan.ranks > n_devices and given.devices:
        raise MpsimError(f"plan {plan.text} needs {plan.ranks} devices, --devices allows {n_devices}: allow more")
    plan.place(n_devices)
    check_size(plan)
    return plan


def _refuse_empty(given: PlanOptions) -> None:
    """Refuse an option whose text is empty, as an unset variable of a shell leaves it."""
    for name in ("plan", "strategy", "stages", "recompute", "offload", "fsdp_units", "gather_dtype", "reduce_dtype"):
        text, option = getattr(given, name), name.replace("_", "-")
        if text is not None and not text.strip():
            raise MpsimError(f"--{option} is {text!r}, expected a value: give one, or leave --{option} out")


def _sharding(given: PlanOptions, base: Plan) -> dict[str, Any]:
    if given.fsdp and given.zero not in (None, 3):
        raise MpsimError(f"--fsdp is --zero 3, --zero {given.zero} was given too: leave one out")
    zero = 3 if given.fsdp else given.zero
    sharding = base.sharding if zero is None else base.sharding.at(zero)
    said = {name: getattr(given, option) for option, name in _SHARDING.items()}
    sharding = replace(sharding, **{name: value for name, value in said.items() if _is_said(value)})
    return {} if sharding == base.sharding else {"sharding": sharding}


def _of_rows(given: PlanOptions) -> dict[str, Any]:
    """Return the schedule of a file, and the ranks and micro-batches that it is for where nobody says them."""
    rows = given_schedule(as_registered(given.schedule)) if given.schedule else None
    if not isinstance(rows, GivenRows):
        return {}
    own = {"schedule": rows, "pp": rows.ranks, "microbatches": rows.microbatches}
    return {name: value for name, value in own.items() if name == "schedule" or getattr(given, name) is None}


def _strategy(name: str, given: PlanOptions, n_devices: int) -> dict[str, Any]:
    """Return the fields of a plan that a strategy's name stands for."""
    said = [axis for axis in ("dp", "pp", "tp", "schedule") if getattr(given, axis) is not None]
    if said:
        raise MpsimError(
            f"--strategy {name} says the whole split: leave out --{said[0]}, or write dp, pp and tp yourself"
        )
    if name in ("tensor", "data"):
        return {"dp": 1, "pp": 1, "tp": 1} | {"tp" if name == "tensor" else "dp": n_devices}
    name = as_registered(name)
    if name not in SCHEDULES:
        raise unknown("strategy", name, [*SCHEDULES, "tensor", "data"])
    if name != "naive" and given.microbatches is None and not given.plan:
        raise MpsimError(
            f"--strategy {name} needs --microbatches: as many parts as a batch is cut into, such as {2 * n_devices}"
        )
    return {"dp": 1, "pp": n_devices, "tp": 1, "schedule": name}


def _boundaries(text: str, workload: Workload) -> tuple[int, ...]:
    """Return the indices of layers given by name, or by index where no layer has that name."""
    names = {layer.name: i for i, layer in enumerate(workload.layers)}
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) if part.isdecimal() and part not in names else workload.index(part) for part in parts)
