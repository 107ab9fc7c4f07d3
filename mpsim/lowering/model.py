"""A lowered plan as a value: which layers each stage has, where it lives, what it exchanges and sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpsim.lowering.costs import Costs
from mpsim.lowering.instructions import Compute
from mpsim.lowering.recomputation import Recomputed
from mpsim.lowering.shared import Shared
from mpsim.lowering.stages import Stage
from mpsim.plan.grid import Grid
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation
from mpsim.plan.shape import Shape
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.layers import TIMES, ShardCollective
from mpsim.workload.model import Fidelity, Workload

__all__ = ["Lowering"]

_Pass = tuple[int, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """A plan as its workload and topology make it; `mpsim.lowering.emit.program_of` makes its program.

    Attributes
    ----------
    workload, topology, plan
        What was lowered.
    place : tuple of int
        The device of each rank.
    rows : tuple of tuple of Operation
        What each pipeline rank runs.
    shape : Shape
        The pipeline that they run.
    stages : tuple of Stage
        Of every stage, copies included.
    costs : Costs
        Of each layer, by type of device.
    routes : Routes
        Of the topology.
    fidelity : Fidelity
        The weakest that is used.
    closing : frozenset
        The backward passes, as (stage, kind, micro-batch), after which gradients are complete.
    keeping : frozenset
        What keeps all, as (stage, micro-batch), though its stage computes again what it does not keep.
    tied : tuple of Shared
        Gradients that several stages hold.
    posting : str
        When messages are posted and waited for, as in `mpsim.lowering.passes.post`.
    early : tuple
        Where that is ``early``, what `mpsim.lowering.early` says of the rows.
    asynchronous : bool
        Whether stages update when their rows say so, and not at the end of the step.
    launches : bool
        Whether each rank has a host, which takes what the trace says over `host_speed`.
    host_speed : float
        How many times as fast hosts launch as those of the traces.
    """

    workload: Workload
    topology: Topology
    plan: Plan
    place: tuple[int, ...]
    rows: tuple[tuple[Operation, ...], ...]
    shape: Shape
    stages: tuple[Stage, ...]
    costs: Costs
    routes: Routes
    fidelity: Fidelity
    closing: frozenset[_Pass]
    tied: tuple[Shared, ...]
    posting: str
    early: tuple[tuple[tuple[int, ...], ...], ...] = ()
    asynchronous: bool = False
    keeping: frozenset[tuple[int, int]] = frozenset()
    launches: bool = False
    host_speed: float = 1.0

    @property
    def grid(self) -> Grid:
        """Where each rank stands."""
        return self.plan.grid

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first layer of each stage but the first."""
        return tuple(stage.layers.start for stage in self.stages[1 : self.shape.stages])

    def crossing_bytes(self, source: int, target: int) -> int:
        """Return the bytes that one micro-batch sends from a stage to the one behind it, or back."""
        output = self.stages[min(source, target)].output
        assert output is not None
        return output.forward_bytes if source < target else output.backward_bytes

    def exchanged(self, one: Compute) -> tuple[tuple[ShardCollective, ...], tuple[ShardCollective, ...]]:
        """Return the collectives of the layer with which a computation begins, before it, and of its last, behind it.

        What goes on beside a layer is among those before it; it computes by itself.
        """
        phase = _PHASE.get(one.pass_kind, "")
        of_phase = self._exchanges(one, phase)
        first, last = (one.first, one.last - 1) if phase == "forward" else (one.last - 1, one.first)
        return (
            tuple(each for each in of_phase.get(first, ()) if each.when != "behind"),
            tuple(each for each in of_phase.get(last, ()) if each.when == "behind"),
        )

    def computed_again(self, stage: int, microbatch: int) -> Recomputed | None:
        """Return what a micro-batch computes again on a stage; None where it is nothing."""
        return None if (stage, microbatch) in self.keeping else self.stages[stage].recomputed

    def kept_by(self, stage: int, microbatch: int, layer: int) -> int:
        """Return the bytes that a layer keeps of a micro-batch for backward, on its device or at its host."""
        own = self.stages[stage]
        return own.kept_anywhere(self.computed_again(stage, microbatch) is not None)[layer - own.layers.start]

    def _exchanges(self, one: Compute, phase: str) -> Mapping[int, tuple[ShardCollective, ...]]:
        """Return the collectives of a stage's layers in a pass: of an attention core that runs again its own alone."""
        stage = self.stages[one.stage]
        found = stage.exchanges.get(phase, {})
        if one.pass_kind == "R" and stage.recomputed is not None and stage.recomputed.partly:
            found = {i: tuple(call for call in calls if call.axis == "cp") for i, calls in found.items()}
        return found

    def filled_after(self, one: Compute) -> tuple[int, ...]:
        """Return the buckets that a computation completes."""
        if not self._closes(one):
            return ()
        buckets = self.stages[one.stage].buckets
        return tuple(i for i, bucket in enumerate(buckets) if bucket.layer == one.first)

    def _closes(self, one: Compute) -> bool:
        """Whether gradients are reduced behind a backward: the last before an update, or each if they are sharded."""
        sharding = self.plan.sharding
        sharded = sharding.zero == 2 and not sharding.accumulate and one.pass_kind in "BW"
        return sharded or (one.stage, one.pass_kind, one.microbatch) in self.closing

    def ends(self, one: Compute) -> set[int]:
        """Return the layers at which a computation is to be cut: what they exchange or complete comes behind them."""
        stage = self.stages[one.stage]
        phase = _PHASE.get(one.pass_kind, "")
        found = set()
        for layer, calls in self._exchanges(one, phase).items():
            whens = {call.when for call in calls}
            # A layer is cut off behind it, and before it from the one that runs before.
            found.update([layer] if whens - {"before"} else [])
            found.update([layer - 1 if phase == "forward" else layer + 1] if whens - {"behind"} else [])
        if self._closes(one):
            found.update(bucket.layer for bucket in stage.buckets)
        found.update(self._edges(one))
        # What goes to the host or comes back is a layer's by itself.
        found.update(edge for layer in stage.offloaded for edge in (layer, layer + (-1 if phase == "forward" else 1)))
        return found

    def _edges(self, one: Compute) -> set[int]:
        """Return the layers behind which a computation is cut for units: each is gathered before, and dropped behind.

        The root unit is there from the first layer to the last.
        """
        found = set()
        for unit in self.stages[one.stage].units:
            if not unit.root:
                first, last = unit.layers[0], unit.layers[-1]
                found |= {first - 1, last} if one.pass_kind in "FR" else {first, last + 1}
        return found

    @property
    def types(self) -> set[str]:
        """The types of the devices that stand at its ranks."""
        return {self.topology.devices[device].type for device in self.place}

    @property
    def random(self) -> bool:
        """Whether any layer that the plan runs has more than one sample to draw from."""
        costs = self.costs.each(self.types)
        samples = [cost.samples for cost in costs] + [cost.host for cost in costs if cost.host and self.launches]
        return any(len(set(getattr(one, name))) > 1 for one in samples for name in TIMES)


_PHASE = {"F": "forward", "R": "forward", "B": "backward", "I": "backward"}
