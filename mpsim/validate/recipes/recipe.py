"""A recipe: the plan that people chose for a model on a cluster, and the step that they measured with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mpsim.plan.model import Plan
from mpsim.result.model import Result
from mpsim.simulation.run import simulate
from mpsim.topology.model import Topology
from mpsim.validate.published.folding import Machine
from mpsim.validate.published.model import Inputs
from mpsim.validate.published.table import Row
from mpsim.validate.recipes.shares import Training, workload_of
from mpsim.workload.model import Workload

__all__ = ["Choices", "Recipe", "Source", "capacity_of", "named", "placed", "shared_among", "step_of", "topology_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the framework of a recipe could have run instead.

    Attributes
    ----------
    zero : tuple of int
        Stages of ZeRO.
    recompute : tuple of str
        What is computed again, as `Sharding` has it.
    sequence : bool
        Whether ranks that share weights share the sequence too.
    context : bool
        Whether ranks may share sequences.
    keeps : bool
        Whether pipelines may shard parameters, which are then gathered once a step.
    """

    zero: tuple[int, ...]
    recompute: tuple[str, ...]
    sequence: bool = True
    context: bool = False
    keeps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a row of a table says was run, and how long a step took.

    Attributes
    ----------
    case, system : str
        The name of the row, and of what it ran on, by which errors are put together.
    kind : tuple of str
        Of whose rows one sets the speed of kernels.
    training : Training
    machine : Machine
    plan : Plan
        Theirs, with its batch.
    microbatch : int
    measured_s : float
    choices : Choices
    measured_bytes : int
        The most memory of a device that was measured; 0: none was.
    capacity_bytes : int
        Of a device where it is another than the catalog's; 0: that.
    speed : float
        Of kernels where another table sets it; 0: a row of the kind does.
    set_by : str
        What sets that speed.
    """

    case: str
    system: str
    kind: tuple[str, ...]
    training: Training
    machine: Machine
    plan: Plan
    microbatch: int
    measured_s: float
    choices: Choices
    measured_bytes: int = 0
    capacity_bytes: int = 0
    speed: float = 0.0
    set_by: str = ""

    @property
    def devices(self) -> int:
        """Devices that it ran on."""
        return self.plan.ranks

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.plan.batch * self.training.sequence

    @property
    def experts(self) -> bool:
        """Whether its model is a mixture of experts."""
        return bool(self.training.decoder.experts)

    def tokens_per_s(self, step_s: float) -> float:
        """Return tokens a second and device at a step of so many seconds."""
        return self.tokens / step_s / self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How rows of one published file become recipes.

    Attributes
    ----------
    file : str
        Its name without suffix.
    columns : tuple of str
        That say a row.
    read : callable
        ``(row, inputs) -> Recipe``.
    case : callable
        The name of a row.
    setting : callable
        Of the recipes of the file that comes with mpsim, those that set the speed of each kind.
    """

    file: str
    columns: tuple[str, ...]
    read: Callable[[Row, Inputs], Recipe]
    case: Callable[[Row], str]
    setting: Callable[[Sequence[Recipe]], Mapping[tuple[str, ...], Recipe]]


def shared_among(plan: Plan, dp: int, cp: int, tp: int, ep: int = 1, *, sequence: bool) -> Plan:
    """Return a plan of as many replicas, in which ranks share layers; pipeline stages lie outermost.

    Parameters
    ----------
    plan : Plan
        With ``dp × cp`` replicas.
    dp, cp, tp, ep : int
    sequence : bool
        Whether ranks that share weights share the sequence too.

    Examples
    --------
    >>> shared_among(Plan(dp=2, pp=2), 2, 1, 2, sequence=True).devices
    (0, 1, 4, 5, 2, 3, 6, 7)
    """
    sharding = replace(plan.sharding, sequence=sequence and tp > 1)
    return placed(replace(plan, dp=dp, cp=cp, tp=tp, ep=ep, sharding=sharding, devices=()))


def placed(plan: Plan) -> Plan:
    """Return a plan with its pipeline stages outermost, as Megatron-LM and torchtitan lay ranks on nodes.

    Ranks that share layers are neighbours, then those of a sequence, then replicas (of whom those with other experts
    follow one another), then stages.
    """
    if plan.pp == 1 or plan.dp == 1:
        return replace(plan, devices=())
    dp, pp, cp, tp = plan.dp, plan.pp, plan.cp, plan.tp
    devices = tuple(
        ((p * dp + d) * cp + c) * tp + t for d in range(dp) for p in range(pp) for c in range(cp) for t in range(tp)
    )
    return replace(plan, devices=devices)


def named(plan: Plan) -> str:
    """Return a plan in one line, without what is the same for all candidates: stages are even, and lie outermost.

    Examples
    --------
    >>> named(Plan(dp=2, pp=2, boundaries=(1,), devices=(0, 2, 1, 3)))
    'dp=2 pp=2 naive'
    """
    bare = Plan()
    first, *others = plan.sharding.recompute.split(",")
    sharding = replace(plan.sharding, recompute=f"{first},…" if others else first)
    return replace(
        plan, boundaries=None, devices=(), algorithm=bare.algorithm, bucket_bytes=bare.bucket_bytes,
        first_bucket_bytes=bare.first_bucket_bytes, sharding=sharding,
    ).text  # fmt: skip


def step_of(recipe: Recipe, speed: float, workload: Workload | None = None, plan: Plan | None = None) -> Result:
    """Predict a step of a recipe at a speed of kernels, or of another plan in its place."""
    made = workload or workload_of(recipe.training, [(recipe.microbatch, recipe.plan.split)], speed)
    return simulate(made, topology_of(recipe), plan or recipe.plan, spans=False, fold=True)


def topology_of(recipe: Recipe) -> Topology:
    """Return the devices of a recipe."""
    return recipe.machine.folded(recipe.devices, 1)


def capacity_of(recipe: Recipe) -> int:
    """Return the memory of a device of a recipe."""
    return recipe.capacity_bytes or topology_of(recipe).devices[0].memory_bytes
