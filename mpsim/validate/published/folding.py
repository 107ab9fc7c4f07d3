"""A decoder as a workload in which the ranks that share layers are one, and its replay over replicas and stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation.collectives import simulate_collectives
from mpsim.topology.builders import BUILDERS
from mpsim.topology.model import Topology
from mpsim.topology.published import with_published
from mpsim.validate.published.decoder import Exchanges, Part
from mpsim.workload.layers import Attention, Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.model import Precision, Workload

ALGORITHM = "auto"  # As NCCL chooses.
__all__ = ["ALGORITHM", "Machine", "State", "layer", "plan_of", "speed_at", "workload"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Nodes of devices on a switch, each with a network card of its own.

    Attributes
    ----------
    device, inside, between : str
        Names of the catalog.
    per_node : int
    """

    device: str
    inside: str
    between: str
    per_node: int = 8

    def exchanges(self, sizes: dict[str, int]) -> Exchanges:
        """Return what collectives over the ranks of an axis take: tp ranks are neighbours, then cp's or ep's.

        Parameters
        ----------
        sizes : dict
            Ranks of ``tp``, ``cp`` and ``ep``.
        """

        def seconds(kind: str, axis: str, bytes_: float) -> float:
            before = {"tp": 1, "cp": sizes.get("tp", 1), "ep": sizes.get("tp", 1)}[axis]
            return _collective_s(self, kind, sizes[axis], max(1, self.per_node // before), round(bytes_))

        return seconds

    def folded(self, ranks: int, share: int) -> Topology:
        """Return so many ranks, each of which stands for `share` neighbours that do the same."""
        each = max(1, self.per_node // share)
        return _topology(self, -(-ranks // each), min(each, ranks))


@cache
def _topology(machine: Machine, nodes: int, per_node: int) -> Topology:
    if nodes == 1:
        made = BUILDERS["switch"](per_node, link=machine.inside, device=machine.device)
    else:
        made = BUILDERS["nodes"](
            nodes, per_node=per_node, nics=per_node, inside=machine.inside, between=machine.between,
            device=machine.device,
        )  # fmt: skip
    return with_published(made)


@cache
def _collective_s(machine: Machine, kind: str, ranks: int, per_node: int, bytes_: int) -> float:
    if ranks == 1 or not bytes_:
        return 0.0
    topology = _topology(machine, -(-ranks // per_node), min(per_node, ranks))
    return simulate_collectives([bytes_], topology, kind=kind, devices=ranks, algorithm=ALGORITHM).step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What training keeps of a parameter.

    Attributes
    ----------
    parameter, gradient : str
        Their types.
    optimizer : int
        Bytes of its moments.
    master : str
        Type of the copy that is updated; ``""``: none.
    """

    parameter: str = "bfloat16"
    gradient: str = "float32"
    optimizer: int = 8
    master: str = "float32"


_MOST_SPEED = 50.0
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def layer(name: str, part: Part, state: State, *, update_s: Callable[[float], float], again_s: float = 0.0) -> Layer:
    """Return a layer that does a part of a model.

    Parameters
    ----------
    update_s : callable
        What updating so many parameters takes.
    again_s : float
        What its backward takes longer.
    """
    count = round(part.parameters + part.expert_parameters)
    forward_s = part.forward_s + part.exchanged_s
    samples = Samples(
        forward_s=(forward_s,),
        backward_input_s=(part.inputs_s + part.exchanged_back_s + again_s,),
        backward_weight_s=(part.weights_s,),
        optimizer_s=(update_s(count),),
    )
    core = Attention(forward_fraction=part.attention_s / forward_s) if part.attention_s else None
    cost = Cost(
        microbatch=1, samples=samples, fidelity=Fidelity.ANALYTICAL, saved_bytes=round(part.saved),
        backward_transient_bytes=round(part.transient), attention=core,
    )  # fmt: skip
    shard = Shard(
        parameters=(Parameter(name=name, shape=(count,), dtype=state.parameter),),
        gradients=(Gradient(parameter=name, bytes=_BYTES[state.gradient] * count, dtype=state.gradient),),
        optimizer_bytes=state.optimizer * count,
    )
    return Layer(name=name, shards=(shard,), costs=(cost,))


def workload(name: str, layers: Sequence[Layer], state: State, device: str, message: float) -> Workload:
    """Return layers in a row, of which each hands on a message of so many bytes."""
    precision = Precision(
        compute=state.parameter, parameters=state.parameter, gradients=state.gradient, master=state.master
    )
    made = Workload.chain(name, list(layers), activation_bytes=round(message), microbatch=1)
    return Workload(
        name=name, layers=made.layers, tensors=made.tensors, microbatch=1, device=device, precision=precision
    )


def plan_of(
    *, dp: int = 1, pp: int = 1, microbatches: int = 1, chunks: int = 1, zero: int = 0, layers: int, first: int = 0,
    keeps: bool = False, recompute: str = "", runtime: str = "torch-nccl",
) -> Plan:  # fmt: skip
    """Return a plan of stages of as many blocks each, replicas that reduce when all is computed, and sharding.

    Parameters
    ----------
    dp, pp, microbatches, chunks, zero, recompute, runtime
        As a plan and its sharding have them.
    layers, first : int
        Blocks, and layers before the first of them.
    keeps : bool
        Whether what is gathered is kept through a step.
    """
    stages = pp * chunks
    # Where blocks do not divide, the embedding and the head count as one each.
    even = (first, layers) if layers % stages == 0 or (layers + 2) % stages else (0, layers + 2)
    bounds = tuple(even[0] + even[1] * i // stages for i in range(1, stages)) if stages > 1 else None
    size = 2**45
    sharding = Sharding(zero=zero if dp > 1 else 0, keep_gathered=keeps and zero == 3 and dp > 1, recompute=recompute)
    return Plan(
        dp=dp, pp=pp, microbatches=microbatches, boundaries=bounds, runtime=runtime, algorithm=ALGORITHM,
        schedule="interleaved-1f1b" if chunks > 1 else "1f1b", chunks=chunks if chunks > 1 else 0,
        bucket_bytes=size, first_bucket_bytes=size, sharding=sharding,
    )  # fmt: skip


def speed_at(step_at: Callable[[float], float], measured_s: float) -> float:
    """Return the speed at which a step takes as long as measured; it falls as the speed grows, almost as its inverse.

    Raises
    ------
    MpsimError
        No speed comes to it: what does not depend on the speed takes longer by itself, or the step jumps past it.

    Examples
    --------
    >>> round(speed_at(lambda speed: 1.0 + 2.0 / speed, 5.0), 4)
    0.5
    """
    low, high = 1 / _MOST_SPEED, 1.0
    under, over = step_at(1 / low) - measured_s, step_at(1 / high) - measured_s
    if under >= 0:
        raise MpsimError(
            f"the step was measured at {measured_s:g} s, what no speed shortens takes {under + measured_s:g} s"
        )
    while over < 0:
        low, under, high = high, over, 2 * high
        over = step_at(1 / high) - measured_s
    for _ in range(40):
        part = min(max(-under / (over - under), 1e-3), 1 - 1e-3)
        middle = low + part * (high - low)
        found = step_at(1 / middle) - measured_s
        if abs(found) <= 1e-6 * measured_s:
            return 1 / middle
        low, under, high, over = (middle, found, high, over) if found < 0 else (low, under, middle, found)
    raise MpsimError(f"no speed was found at which the step takes the {measured_s:g} s that were measured")
