"""Bind: from what a pipeline rank does to what each of its ranks does, whose keys, peers and seconds differ."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.lowering.draws import Draw
from mpsim.lowering.folding import Unfolded
from mpsim.lowering.instructions import (
    Collective,
    Compute,
    Copy,
    Drop,
    Hold,
    Instruction,
    Instructions,
    Key,
    Listed,
    Receive,
    Script,
    Send,
    Wait,
)
from mpsim.lowering.model import Lowering
from mpsim.lowering.passes import instructions_of
from mpsim.lowering.recomputation import fraction_again
from mpsim.lowering.stages import update_parts
from mpsim.lowering.times import RankTimes, drawn, medians
from mpsim.workload.layers import Cost

__all__ = ["collective_scripts", "scripts"]


def scripts(
    lowering: Lowering,
    draw: Draw | None = None,
    written: Sequence[Instructions] = (),
    folding: Unfolded | None = None,
) -> tuple[Script, ...]:
    """Return the instructions of every rank of a plan, in the order of ranks.

    Parameters
    ----------
    lowering : Lowering
        The plan as its workload and topology make it.
    draw : Draw, optional
        A trial's random times; None takes every time at its median.
    written : sequence of list of Instruction, optional
        What pipeline ranks do, where that is known.
    folding : Unfolded, optional
        Which ranks stand for others: only they have scripts.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=64)
    >>> lowering = lower(work, parse_topology("chain:2,link=1GB/s@2us"), Plan(pp=2))
    >>> [type(step).__name__ for step in scripts(lowering)[0].steps]
    ['Compute', 'Send', 'Wait', 'Hold', 'Compute', 'Drop']
    """
    plan = lowering.plan
    written = written or [instructions_of(lowering, p) for p in range(plan.pp)]
    folding = folding or Unfolded(lowering.place)
    keys = _Keys(2 * len(lowering.stages) * plan.microbatches * (plan.ranks // plan.pp))
    bindings = [_Binding(lowering, draw, keys, rank, folding) for rank in folding.ranks]
    return tuple(binding.script(written[binding.at["pp"]]) for binding in bindings)


def collective_scripts(sizes: Sequence[int], kind: str, devices: Sequence[int]) -> tuple[Script, ...]:
    """Return the scripts of the workshop form: one collective after another, with no compute.

    Examples
    --------
    >>> [type(step).__name__ for step in collective_scripts([64], "all_reduce", [0, 1])[1].steps]
    ['Collective', 'Wait']
    """
    group = tuple(devices)
    steps: Instructions = []
    for i, size in enumerate(sizes):
        steps += [Collective(i, Listed(i, kind), kind, "", group, size, -1, -1), Wait((i,))]
    return tuple(Script(device=device, rank=i, steps=tuple(steps)) for i, device in enumerate(group))


# What a result says of the axis of a group: views of dp × cp are data parallelism.
_SHOWN = {"edp": "dp", "shard": "dp", "replica": "dp"}


class _Keys:
    """Numbers collectives, beyond the numbers of messages: whoever names the same one gets the same number."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._known: dict[object, int] = {}

    def __call__(self, *what: object) -> int:
        return self._known.setdefault(what, self._first + len(self._known))


class _Binding:
    """Makes the instructions of a pipeline rank those of one rank."""

    def __init__(self, lowering: Lowering, draw: Draw | None, keys: _Keys, rank: int, folding: Unfolded) -> None:
        self.lowering, self.draw, self.number, self.rank = lowering, draw, keys, rank
        self.folding = folding
        self.grid = lowering.grid
        self.at = self.grid.at(rank)
        self.times: dict[int, RankTimes] = {}
        self.keys: dict[Key, int] = {}
        self.peers: dict[int, int] = {}
        # Each (d, :, c, t) has messages of its own; where there is one line of ranks, numbers stay as they are.
        self.within = self.at["cp"] * lowering.plan.tp + self.at["tp"]
        self.lines = self.grid.size // lowering.plan.pp
        self.line = self.at["dp"] * lowering.plan.cp * lowering.plan.tp + self.within
        self.alone = self.lines == 1 and not (lowering.tied or any(stage.exchanges for stage in lowering.stages))
        self.as_written = self.alone and lowering.place == tuple(range(len(lowering.place)))
        self.groups: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}

    def script(self, instructions: Instructions) -> Script:
        """Return the script of the rank."""
        steps: list[Instruction] = []
        for one in instructions:
            if type(one) is Compute:
                steps += self.compute(one)
            elif type(one) is Send or type(one) is Receive:
                steps.append(self.message(one))
            elif type(one) is Collective:
                steps.append(self.collective(one))
            elif type(one) is Copy and not self.alone:
                self.keys[one.key] = self.number(one.key, self.rank)
                steps.append(one._replace(key=self.keys[one.key]))
            elif (type(one) is Hold or type(one) is Drop) and one.key[0] in ("away", "back") and not self.alone:
                steps.append(one._replace(key=self.number(one.key, self.rank)))
            elif type(one) is Wait and not self.alone:
                steps.append(Wait(tuple([self.key_of(key) for key in one.keys])))
            else:
                steps.append(one)
        return Script(device=self.lowering.place[self.rank], rank=self.rank, steps=tuple(steps))

    def message(self, one: Send | Receive) -> Instruction:
        """Return a message with its other end."""
        key, peer, count, stage, to, microbatch, way = one
        if self.as_written:
            return one
        if peer not in self.peers:
            self.peers[peer] = self.device(peer)
        return type(one)(key * self.lines + self.line, self.peers[peer], count, stage, to, microbatch, way)

    def collective(self, one: Collective) -> Instruction:
        """Return a collective with its group."""
        group = self.group(one.axis, one.group)
        key = self.keys[one.key] = self.number(one.key, group)
        behind = None if one.behind is None else self.keys[one.behind]
        axis = _SHOWN.get(one.axis, one.axis)
        return one._replace(key=key, group=group, axis=axis, behind=behind, experts=one.axis == "edp")

    def key_of(self, key: Key) -> int:
        """Return the number of a message or a collective."""
        return key * self.lines + self.line if isinstance(key, int) else self.keys[key]

    def compute(self, one: Compute) -> tuple[Compute, ...]:
        """Return a computation with its time; an update that takes none is left out."""
        stage, kind, microbatch, first, last, *_, overlaps = one
        times = self.times.get(stage) or self.times_of(stage)
        if kind == "U":
            # A share of the update is a share of its bytes, and launched like the whole.
            if not any(any(cost.samples.optimizer_s) for cost in self.costs_of(stage)):
                return ()
            parts = update_parts(self.lowering.stages[stage], self.lowering.plan)
            seconds, launch = times.optimizer_s / parts, times.launch_update
        else:
            start = self.lowering.stages[stage].layers.start
            which = (kind, microbatch, first - start, last - start)
            seconds, launch = times.seconds(*which), times.launch(*which)
        return (Compute(stage, kind, microbatch, first, last, seconds, launch, overlaps),)

    def group(self, axis: str, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Return the devices that differ from this one along an axis; of the pipeline's those at `ranks` alone.

        To what replicas reduce, ranks that share a sequence are replicas too. Of groups that do the same it is that of
        the first rank that stands for any of theirs.
        """
        if (axis, ranks) not in self.groups:
            place = self.lowering.place
            axes = ("dp", "cp") if axis == "dp" else (axis,)
            if axis == "pp":
                self.groups[axis, ranks] = tuple(map(self.device, ranks))
            else:
                head = self.folding.head(self.grid.group(self.rank, *axes))
                self.groups[axis, ranks] = tuple(place[rank] for rank in self.grid.group(head, *axes))
        return self.groups[axis, ranks]

    def device(self, rank: int) -> int:
        """Return the device of a pipeline rank that is this one's in all else."""
        return self.lowering.place[self.grid.rank(**(self.at | {"pp": rank}))]

    def costs_of(self, stage: int) -> Sequence[Cost]:
        """Return the costs of a stage's layers on the device of this rank."""
        layers = self.lowering.stages[stage].layers
        kind = self.lowering.topology.devices[self.lowering.place[self.rank]].type
        return self.lowering.costs.of(kind)[layers.start : layers.stop]

    def times_of(self, stage: int) -> RankTimes:
        """Return the layer times of a stage on this rank: medians, or what a trial drew for its device."""
        lowering, draw, plan = self.lowering, self.draw, self.lowering.plan
        layers = lowering.stages[stage].layers
        device = lowering.place[self.rank]
        node = lowering.topology.devices[device]
        costs = self.costs_of(stage)
        first = next(one.microbatch for one in lowering.rows[self.at["pp"]] if one.stage == stage and one.kind in "BW")
        host_speed = lowering.host_speed if lowering.launches else None
        recomputed = lowering.stages[stage].recomputed
        again = [fraction_again(cost, True) for cost in costs] if recomputed and recomputed.partly else ()
        if draw is None:
            self.times[stage] = medians(costs, node.speed, host_speed, first, again)
        else:
            self.times[stage] = drawn(
                costs,
                node.speed / draw.slowdown(device),
                draw,
                first_layer=layers.start,
                tp_rank=self.within,
                replica=self.at["dp"],
                microbatches=plan.microbatches,
                host_speed=host_speed,
                makes_gradients=first,
                again=again,
            )
        return self.times[stage]
