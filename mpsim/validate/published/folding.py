"""A decoder as a workload in which the ranks that share layers are one, and its replay over replicas and stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation.collectives import simulate_collectives
from mpsim.topology.builders import BUILDERS
from mpsim.topology.model import Topology
from mpsim.topology.published import with_published
from mpsim.validate.published.decoder import Exchanges, Part
from mpsim.workload.layers import Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.model import Precision, Workload

__all__ = ["Machine", "State", "again", "layer", "plan_of", "workload"]


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
            nodes, per_node=per_node, inside=machine.inside, between=machine.between, device=machine.device
        )
    return with_published(made)


@cache
def _collective_s(machine: Machine, kind: str, ranks: int, per_node: int, bytes_: int) -> float:
    if ranks == 1 or not bytes_:
        return 0.0
    topology = _topology(machine, -(-ranks // per_node), min(per_node, ranks))
    return simulate_collectives([bytes_], topology, kind=kind, devices=ranks).step_s


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


_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def layer(
    name: str, parts: Sequence[Part], state: State, *, update_s: Callable[[float], float], again_s: float = 0.0,
    saved: float | None = None, transient: float | None = None,
) -> Layer:  # fmt: skip
    """Return a layer that does some parts one after another.

    Parameters
    ----------
    update_s : callable
        What updating so many parameters takes.
    again_s : float
        What backward computes again.
    saved, transient : float, optional
        Bytes, where they are not the parts' own.
    """
    count = round(sum(part.parameters + part.expert_parameters for part in parts))
    samples = Samples(
        forward_s=(sum(part.forward_s + part.exchanged_s for part in parts),),
        backward_input_s=(sum(part.inputs_s + part.exchanged_back_s for part in parts) + again_s,),
        backward_weight_s=(sum(part.weights_s for part in parts),),
        optimizer_s=(update_s(count),),
    )
    kept = sum(part.saved for part in parts) if saved is None else saved
    beside = max(part.transient for part in parts) if transient is None else transient
    cost = Cost(
        microbatch=1, samples=samples, fidelity=Fidelity.ANALYTICAL, saved_bytes=round(kept),
        backward_transient_bytes=round(beside),
    )  # fmt: skip
    shard = Shard(
        parameters=(Parameter(name=name, shape=(count,), dtype=state.parameter),),
        gradients=(Gradient(parameter=name, bytes=_BYTES[state.gradient] * count, dtype=state.gradient),),
        optimizer_bytes=state.optimizer * count,
    )
    return Layer(name=name, shards=(shard,), costs=(cost,))


def again(part: Part, recompute: str) -> tuple[float, float, float]:
    """Return what backward computes again of a block, and what the block keeps and backward holds for a while.

    Parameters
    ----------
    recompute : str
        ``none``, ``selective`` (the core of attention) or ``full`` (the block, from its input).
    """
    if recompute == "full":
        return part.forward_s + part.exchanged_s, part.input, part.saved + part.transient
    if recompute == "selective":
        return part.attention_s, part.saved, part.transient
    return 0.0, part.saved + part.attention_saved, part.transient


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
    overlapped: bool = False, runtime: str = "torch-nccl",
) -> Plan:  # fmt: skip
    """Return a plan of stages of as many blocks each, replicas that reduce at the end or meanwhile, and sharding."""
    stages = pp * chunks
    each = layers // stages
    bounds = tuple(first + each * i for i in range(1, stages)) if stages > 1 else None
    size = 25 * 2**20 if overlapped else 2**45
    return Plan(
        dp=dp, pp=pp, microbatches=microbatches, boundaries=bounds, runtime=runtime,
        schedule="interleaved-1f1b" if chunks > 1 else "1f1b", chunks=chunks if chunks > 1 else 0,
        bucket_bytes=size, first_bucket_bytes=size, sharding=Sharding(zero=zero if dp > 1 else 0),
    )  # fmt: skip
