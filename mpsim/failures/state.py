"""The state that a checkpoint saves: parameters, master copies, what the optimizer keeps, by rank as a plan shards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mpsim.collectives.traffic import message_traffic
from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.failures.components import nodes_of
from mpsim.failures.model import Checkpoints
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import SHARDED, Stage
from mpsim.plan.model import Plan
from mpsim.program.model import Program, Stream, Task

__all__ = ["Saving", "State", "saving_of", "state_of"]

_HOLDERS = ("parameters", "master", "optimizer")


class State(NamedTuple):
    """Bytes of each rank: what it holds, and what of that it writes, so that all is written once."""

    held: tuple[int, ...]
    written: tuple[int, ...]


class Saving(NamedTuple):
    """Seconds that a checkpoint holds steps up, that it takes beyond that, and that reading it back takes."""

    blocked_s: float
    written_s: float
    read_s: float


def state_of(lowering: Lowering) -> State:
    """Return the state of each rank of a plan.

    Of what replicas hold alike the first writes; each of those that shard it writes its own part.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=64)]
    >>> state_of(lower(Workload.chain("one", layers), parse_topology("chain:2,link=1GB/s@0"), Plan(dp=2)))
    State(held=(64, 64), written=(64, 0))
    """
    plan, grid = lowering.plan, lowering.grid
    zero = plan.sharding.zero if plan.replicas > 1 else 0
    parts = [
        _by_writers([lowering.stages[s] for s in lowering.shape.held_by(p)], SHARDED[zero], plan)
        for p in range(plan.pp)
    ]
    held, written = [], []
    for rank in range(plan.ranks):
        at = grid.at(rank)
        own, replica = parts[at["pp"]], at["dp"] * plan.cp + at["cp"]
        held.append(sum(own.values()))
        written.append(sum(count for writers, count in own.items() if replica < writers))
    return State(tuple(held), tuple(written))


def _by_writers(stages: Sequence[Stage], sharded: Collection[str], plan: Plan) -> Mapping[int, int]:
    """Return the bytes of a pipeline rank by how many replicas, the first ones, have them all among them.

    What stages share is there once.
    """
    experts = frozenset().union(*(stage.experts for stage in stages))
    sizes = {(holder, of): n for stage in stages for holder in _HOLDERS for of, n in stage.held[holder].items()}
    found: dict[int, int] = {}
    for (holder, of), count in sizes.items():
        of_experts = of[0] == "experts" or (of[0] == "parameter" and of[1] in experts)
        if holder in sharded:
            # Experts are sharded over all that hold the same ones, the rest by those that shard together.
            writers = plan.replicas if of_experts else plan.sharding.shards or plan.replicas
        else:
            writers = plan.ep if of_experts else 1
        found[writers] = found.get(writers, 0) + count
    return found


def saving_of(lowering: Lowering, checkpoints: Checkpoints) -> Saving:
    """Return what saving a plan's state and reading it back take.

    Parameters
    ----------
    lowering : Lowering
        A plan on its devices.
    checkpoints : Checkpoints
        By whom and over what.

    Raises
    ------
    MpsimError
        Copies over links to hosts that the topology has not.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for name in "ab"]
    >>> lowering = lower(Workload.chain("two", layers), parse_topology("chain:2,link=128B/s@0"), Plan(pp=2))
    >>> saving_of(lowering, Checkpoints(kind="whole", storage_bytes_per_s=64.0))
    Saving(blocked_s=2.5, written_s=0.0, read_s=1.0)
    """
    if checkpoints.write_s is not None:
        if checkpoints.kind == "async":
            return Saving(checkpoints.copy_s or 0.0, checkpoints.write_s, 0.0)
        return Saving(checkpoints.write_s, 0.0, 0.0)
    state = state_of(lowering)
    read_s = _stored_s(lowering, state.held, checkpoints)
    if checkpoints.kind == "whole":
        return Saving(
            _gathered_s(lowering, state.written) + _stored_s(lowering, state.written, checkpoints, 1), 0.0, read_s
        )
    write_s = _stored_s(lowering, state.written, checkpoints)
    if checkpoints.kind == "async":
        return Saving(_copied_s(lowering, state.written, checkpoints), write_s, read_s)
    return Saving(write_s, 0.0, read_s)


def _stored_s(lowering: Lowering, sizes: Sequence[int], checkpoints: Checkpoints, writers: int = 0) -> float:
    """Return how long each rank's bytes take between its node and storage, or all those of one writer."""
    total = sum(sizes)
    if writers == 1:
        most = total
    else:
        of = dict(zip(lowering.place, sizes, strict=True))
        most = max(sum(of[device] for device in group) for group in nodes_of(lowering.routes, lowering.place))
    return max(most / checkpoints.storage_bytes_per_s, total / checkpoints.total_bytes_per_s)


def _gathered_s(lowering: Lowering, sizes: Sequence[int]) -> float:
    """Return how long the first rank takes to receive what the others write, one after another, replayed."""
    place = lowering.place
    streams = tuple(Stream(device=device, name="checkpoint") for device in place)
    tasks = tuple(
        Task(f"save {rank}", "send", (0, rank), traffic=message_traffic(lowering.routes, place[rank], place[0], count))
        for rank, count in enumerate(sizes)
        if rank and count
    )
    return replay(Program(streams=streams, tasks=tasks), lowering.topology).step_s


def _copied_s(lowering: Lowering, sizes: Sequence[int], checkpoints: Checkpoints) -> float:
    """Return how long the rank with most to write takes to copy it to its host."""
    if checkpoints.copy_bytes_per_s:
        return max(sizes) / checkpoints.copy_bytes_per_s
    if not all(lowering.topology.devices[device].host for device in lowering.place):
        raise MpsimError(
            f"devices of topology {lowering.topology.name!r} have no hosts to copy to: say how fast copies are, as"
            " 25 GB/s, or add offload=25GB/s@1us to a builder"
        )
    paths = (lowering.routes.host_path(device, away=True) for device in lowering.place)
    links = lowering.topology.links
    return max(
        count / min(links[i].bandwidth_bytes_per_s for i in path) for path, count in zip(paths, sizes, strict=True)
    )
