"""What each stage of a plan costs, holds and sends, looked up from the workload once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from mpsim.errors import MpsimError
from mpsim.lowering.balancing import Clock, Scales, balanced_boundaries
from mpsim.lowering.buckets import Bucket, fill
from mpsim.lowering.costs import Costs
from mpsim.lowering.crossings import Crossing, crossings, tensor_bytes
from mpsim.lowering.recomputation import Recomputed, offloaded_layers, recomputed
from mpsim.lowering.units import Unit, is_numbered, padded, units_of
from mpsim.plan.model import Plan
from mpsim.plan.partition import stage_slices
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.shape import Shape
from mpsim.program.allocator import on_cuda, update_copies, workspace_bytes
from mpsim.topology.routes import Routes
from mpsim.workload.layers import ShardCollective
from mpsim.workload.model import DTYPE_BYTES, Cost, Gradient, Layer, Parameter, Workload
from mpsim.workload.split import Split
from mpsim.workload.tensors import tensor_bytes as tensor_bytes_of

__all__ = [
    "SHARDED",
    "Stage",
    "cut",
    "global_batch",
    "gradient_bytes",
    "microbatch_size",
    "scales_of",
    "share_bytes",
    "shares_of",
    "units_within",
    "update_parts",
]

# Bytes by what they are of: ("parameter", its name), ("layer", its name), or the whole device.
_Sizes = dict[tuple[str, str], int]
_Gradients = tuple[tuple[int, Gradient], ...]


def microbatch_size(workload: Workload, plan: Plan) -> int:
    """Return the samples in one micro-batch of a plan.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> microbatch_size(Workload.chain("w", [Layer.given("a", forward_s=1, backward_s=1)]), Plan(batch=8, dp=2))
    4
    """
    return plan.batch // (plan.dp * plan.microbatches) if plan.batch else workload.microbatch


def global_batch(workload: Workload, plan: Plan) -> int:
    """Return the samples in one step of a plan, over all replicas.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> global_batch(Workload.chain("w", [Layer.given("a", forward_s=1, backward_s=1)]), Plan(microbatches=8, dp=2))
    16
    """
    return microbatch_size(workload, plan) * plan.microbatches * plan.dp


def shares_of(plan: Plan) -> tuple[int, int]:
    """Return into how many parts the replicas of a plan cut what they shard: of all but experts, and of experts.

    Examples
    --------
    >>> from mpsim.plan.sharding import Sharding
    >>> shares_of(Plan(dp=4, cp=2)), shares_of(Plan(dp=4, cp=2, ep=2, sharding=Sharding(zero=1)))
    ((1, 1), (8, 4))
    """
    sharding = plan.sharding
    return (sharding.shards or plan.replicas, plan.replicas // plan.ep) if sharding.zero else (1, 1)


def share_bytes(sizes: Mapping[str, int], experts: Collection[str], parts: tuple[int, int]) -> int:
    """Return the bytes of one part of the gradients of some parameters, of which experts' are cut into others.

    Examples
    --------
    >>> share_bytes({"a": 8, "b": 5, "e": 6}, {"e"}, (4, 2))
    7
    """
    return sum(
        -(-sum(count for name, count in sizes.items() if (name in experts) is of_experts) // count_of)
        for of_experts, count_of in zip((False, True), parts, strict=True)
    )


def update_parts(stage: Stage, plan: Plan) -> float:
    """Return into how many parts the replicas of a plan cut the update of a stage: those of experts are others."""
    common, own = shares_of(plan)
    sizes = dict.fromkeys((False, True), 0)
    for _, gradient in stage.gradients:
        sizes[gradient.expert] += gradient.bytes
    if not sizes[True]:
        return common
    return sum(sizes.values()) / (sizes[False] / common + sizes[True] / own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The layers of one stage and what follows from them, on one of the ranks that share it.

    Attributes
    ----------
    layers : range
        Indices into the workload's layers.
    costs : tuple of Cost
        Of each of them, for the bytes and collectives (the times depend on the device).
    gradients : tuple of (int, Gradient)
        In the order in which backward completes them, with the layer that completes each; a parameter that two of
        the stage's layers share stands once, where its last contribution is made.
    held : dict
        What is held throughout, by holder and by what it is of: `master` has the optimizer's copies of the parameters
        in another type. What two stages on one rank both name is there once.
    update_copies : int
        So many times its gradients' parameters the update takes for a while.
    cached : bool
        Whether a caching allocator keeps all that.
    received_bytes : int
        Kept for backward of one micro-batch beside what its layers keep: tensors received.
    offloaded : frozenset of int
        Layers of the workload whose activations are at the host between forward and backward.
    recomputed : Recomputed or None
        What is computed again instead of being kept.
    begun : tuple of tuple of Gradient
        Of each layer, the gradients that its backward begins and another layer's completes, of the whole workload: what
        the layer takes for a while has them.
    arriving : tuple of int
        Of each layer the bytes of gradients that are there when its backward begins, of all that crosses the cut
        behind it.
    output : Crossing or None
        What goes to the next stage; None for the last.
    exchanges : dict
        By phase, ``forward`` or ``backward``, and layer: the collectives between the ranks that share it.
    buckets : tuple of Bucket
        Of its gradients, where there are replicas that each hold all of them.
    units : tuple of Unit
        What is gathered and reduced at once, where replicas shard parameters.
    shares : int
        Into how many parts replicas shard gradients; 1 where they do not.
    experts : frozenset of str
        Parameters of which each of the ranks that share experts has its own.
    expert_shares : int
        Into how many parts the gradients of those are sharded.
    """

    layers: range
    costs: tuple[Cost, ...]
    gradients: _Gradients
    held: dict[str, _Sizes]
    update_copies: int
    cached: bool
    received_bytes: int
    output: Crossing | None
    exchanges: dict[str, dict[int, tuple[ShardCollective, ...]]]
    buckets: tuple[Bucket, ...]
    units: tuple[Unit, ...]
    shares: int = 1
    experts: frozenset[str] = frozenset()
    expert_shares: int = 1
    offloaded: frozenset[int] = frozenset()
    recomputed: Recomputed | None = None
    begun: tuple[tuple[Gradient, ...], ...] = ()
    arriving: tuple[int, ...] = ()

    def sharded_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes that a rank holds of the gradients of some parameters, which replicas may shard."""
        return share_bytes(sizes, self.experts, (self.shares, self.expert_shares))

    def kept(self, again: bool) -> tuple[int, ...]:
        """Return the bytes that each layer keeps on the device, of a micro-batch that computes `again` or keeps all."""
        found = self.kept_anywhere(again)
        if not self.offloaded:
            return found
        return tuple(0 if i in self.offloaded else count for i, count in zip(self.layers, found, strict=True))

    def kept_anywhere(self, again: bool) -> tuple[int, ...]:
        """Return the bytes that each layer keeps for backward, on the device or at its host."""
        if again and self.recomputed is not None:
            return self.recomputed.kept
        return tuple(cost.saved_bytes for cost in self.costs)

    def kept_bytes(self, again: bool) -> int:
        """Return what is kept for backward of one micro-batch that computes `again` or keeps all."""
        return sum(self.kept(again)) + self.received_bytes

    @property
    def activation_bytes(self) -> int:
        """What is kept for backward of one micro-batch that keeps all."""
        return self.kept_bytes(False)


def gradient_bytes(stages: Iterable[Stage]) -> dict[str, int]:
    """Return the bytes of the gradients of some stages by parameter: what several of them make is there once."""
    return {gradient.parameter: gradient.bytes for stage in stages for _, gradient in stage.gradients}


def cut(
    costs: Costs, routes: Routes, plan: Plan, place: tuple[int, ...], shape: Shape, known: dict[range, Stage]
) -> tuple[Stage, ...]:
    """Cut a workload into the stages of a pipeline, balancing them if the plan names no boundaries.

    Stages that are `known` by their layers, of the same plan with other boundaries, are taken; the others will be.
    """
    workload, split = costs.workload, plan.split
    microbatch = microbatch_size(workload, plan)
    cuts = crossings(workload, microbatch, split)
    boundaries = plan.boundaries
    if boundaries is None:
        boundaries = balanced_boundaries(Scales(costs, routes, plan, place, cuts, shape))
    if len(boundaries) != shape.stages - 1:
        raise MpsimError(
            f"plan has {len(boundaries)} stage boundaries, its {shape.stages} stages need {shape.stages - 1}:"
            " name the first layer of each stage but the first"
        )
    slices = stage_slices(boundaries, len(workload.layers))
    of = _Whole(_states(workload, split), _completed(workload, split))
    for layers in slices:
        if layers not in known:
            known[layers] = _stage(costs, layers, plan, cuts, of)
    return tuple(known[layers] for layers in slices) * shape.directions


def scales_of(
    costs: Costs, routes: Routes, plan: Plan, place: tuple[int, ...], shape: Shape, clock: Clock | None = None
) -> Scales:
    """Return what weighs the stages that a workload can be cut into; `clock` is of its costs, where it is known."""
    cuts = crossings(costs.workload, microbatch_size(costs.workload, plan), plan.split)
    return Scales(costs, routes, plan, place, cuts, shape, clock)


class _Whole(NamedTuple):
    """What stages ask of the whole model: each layer's optimizer state, and the first layer that has each gradient."""

    states: list[_Sizes]
    completed: dict[str, int]


def _stage(costs: Costs, layers: range, plan: Plan, cuts: list[Crossing], of: _Whole) -> Stage:
    workload, split = costs.workload, plan.split
    microbatch = microbatch_size(workload, plan)
    chosen = tuple(costs.of("")[i] for i in layers)
    gradients = _gradients(workload, layers, split)
    last = layers.stop == len(workload.layers)
    zero = plan.sharding.zero if plan.replicas > 1 else 0
    held = _held(workload, [workload.layers[i] for i in layers], split, gradients)
    experts = frozenset(gradient.parameter for _, gradient in gradients if gradient.expert)
    parts = _parts(workload, layers, plan, experts)
    keeps_whole = zero < 2 or (zero == 2 and plan.sharding.accumulate)
    shares = (1, 1) if keeps_whole else shares_of(plan)
    held |= {"optimizer": {one: count for i in layers for one, count in of.states[i].items()}}
    return Stage(
        layers=layers,
        costs=chosen,
        gradients=gradients,
        held={
            holder: _shared_out(sizes, parts) if holder in SHARDED[zero] else sizes for holder, sizes in held.items()
        },
        update_copies=update_copies(workload),
        cached=on_cuda(workload),
        received_bytes=_received_bytes(workload, layers, microbatch, split),
        output=None if last else cuts[layers.stop - 1],
        exchanges=_exchanges(layers, chosen),
        buckets=_buckets(plan, gradients) if zero < 3 else (),
        units=_units(workload, layers, plan, gradients) if zero == 3 else (),
        shares=shares[0],
        experts=experts,
        begun=_begun(workload, layers, split, of.completed),
        arriving=tuple(cuts[i].backward_bytes if i < len(cuts) else 0 for i in layers),
        offloaded=offloaded_layers(workload, costs.of(""), plan.sharding.offload).intersection(layers),
        recomputed=recomputed(
            workload, layers, costs.of(""), microbatch, split, parse_recompute(plan.sharding.recompute)
        ),
        expert_shares=shares[1],
    )


def _buckets(plan: Plan, gradients: _Gradients) -> tuple[Bucket, ...]:
    """Return the buckets of the gradients that replicas reduce, those of experts apart."""
    own = [each for each in gradients if each[1].expert]
    common = [each for each in gradients if not each[1].expert]
    sizes = (plan.first_bucket_bytes, plan.bucket_bytes)
    found = fill(common, *sizes) if plan.replicas > 1 else []
    found += fill(own, *sizes, axis="edp") if plan.replicas > plan.ep else []
    return tuple(sorted(found, key=lambda bucket: -bucket.layer))


# What replicas share among them, by ZeRO's stage.
SHARDED = ((), ("optimizer", "master"), ("optimizer", "master"), ("optimizer", "master", "parameters"))


def _shared_out(sizes: _Sizes, parts: Mapping[tuple[str, str], Fraction]) -> _Sizes:
    return {of: math.ceil(count * parts[of]) for of, count in sizes.items()}


def _parts(workload: Workload, layers: range, plan: Plan, experts: frozenset[str]) -> dict[tuple[str, str], Fraction]:
    """Return the part that one of those that shard has of what each parameter and each layer has.

    It is one of equal parts of all, but of ZeRO's third stage: there each parameter is cut along its first dimension,
    and the first rank's part is as large as any.
    """
    found: dict[tuple[str, str], Fraction] = {}
    common, own = shares_of(plan)
    for i in layers:
        sizes: dict[tuple[str, str], list[Fraction]] = {}
        for one in {one.name: one for one in workload.layers[i].shard(plan.split).parameters}.values():
            expert = one.name in experts
            count = own if expert else common
            cut = padded(one.shape, count) * DTYPE_BYTES[one.dtype] if plan.sharding.zero == 3 else one.bytes
            found["parameter", one.name] = Fraction(cut, one.bytes * count) if one.bytes else Fraction(1, count)
            of = sizes.setdefault(("experts" if expert else "layer", workload.layers[i].name), [Fraction(0)] * 2)
            of[0] += one.bytes
            of[1] += Fraction(cut, count)
        found["layer", workload.layers[i].name] = Fraction(1, common)
        found |= {of: part / whole for of, (whole, part) in sizes.items() if whole}
    return found


def _units(workload: Workload, layers: range, plan: Plan, gradients: _Gradients) -> tuple[Unit, ...]:
    """Return what replicas gather and reduce at once."""
    names = [layer.name for layer in workload.layers]
    return units_of(
        {i: (names[i], workload.layers[i].shard(plan.split).parameters) for i in layers},
        gradients,
        workload.precision,
        plan.sharding,
        axes=tuple(zip(("shard", "edp"), shares_of(plan), strict=True)),
        numbered=is_numbered(names),
    )


def units_within(workload: Workload, layers: range, plan: Plan) -> tuple[Unit, ...]:
    """Return what replicas that shard parameters gather and reduce at once of a stage with some layers."""
    return _units(workload, layers, plan, _gradients(workload, layers, plan.split))


def _exchanges(layers: range, costs: Sequence[Cost]) -> dict[str, dict[int, tuple[ShardCollective, ...]]]:
    found: dict[str, dict[int, tuple[ShardCollective, ...]]] = {}
    for layer, cost in zip(layers, costs, strict=True):
        for phase in ("forward", "backward"):
            calls = tuple(one for one in cost.collectives if one.phase == phase and one.bytes)
            if calls:
                found.setdefault(phase, {})[layer] = calls
    return found


def _held(workload: Workload, layers: Sequence[Layer], split: Split, gradients: _Gradients) -> dict[str, _Sizes]:
    """Return what layers hold throughout, besides the optimizer's state."""
    shards = [layer.shard(split) for layer in layers]
    parameters = {p.name: p for shard in shards for p in shard.parameters}
    trained = [gradient.parameter for _, gradient in gradients]
    return {
        "parameters": {("parameter", name): parameter.bytes for name, parameter in parameters.items()},
        "master": {("parameter", name): _master_bytes(workload, parameters.get(name)) for name in trained},
        "buffers": {("layer", layer.name): shard.buffer_bytes for layer, shard in zip(layers, shards, strict=True)},
        "workspace": {("device", ""): workspace_bytes(workload)},
    }


def _master_bytes(workload: Workload, parameter: Parameter | None) -> int:
    """Return the bytes of the copy of a parameter that the optimizer updates in its stead; 0 where it has none."""
    master = workload.precision.master
    if not master or parameter is None or parameter.dtype == master:
        return 0
    return tensor_bytes_of(parameter.shape, master)


def _gradients(workload: Workload, layers: range, split: Split) -> _Gradients:
    """Return the stage's gradients in the order in which backward completes them, tied ones once."""
    found: dict[str, tuple[int, Gradient]] = {}
    for i in reversed(layers):
        for gradient in workload.layers[i].shard(split).gradients:
            found.pop(gradient.parameter, None)
            found[gradient.parameter] = (i, gradient)
    return tuple(found.values())


def _begun(
    workload: Workload, layers: range, split: Split, completed: Mapping[str, int]
) -> tuple[tuple[Gradient, ...], ...]:
    """Return of each layer the gradients to which the backward of one before it adds."""
    return tuple(
        tuple(one for one in workload.layers[i].shard(split).gradients if completed[one.parameter] < i) for i in layers
    )


def _completed(workload: Workload, split: Split) -> dict[str, int]:
    """Return the first layer that has each gradient."""
    found: dict[str, int] = {}
    for i, layer in enumerate(workload.layers):
        for gradient in layer.shard(split).gradients:
            found.setdefault(gradient.parameter, i)
    return found


def _states(workload: Workload, split: Split) -> list[_Sizes]:
    """Return the optimizer's state of each layer: that of each parameter which layers share, of experts, of the rest.

    The trace counts the state of a tied parameter in the first of its layers alone; wherever another of them is, there
    is as much.
    """
    shards = [layer.shard(split) for layer in workload.layers]
    times = Counter(p.name for shard in shards for p in shard.parameters)
    tied: dict[str, int] = {}
    found: list[_Sizes] = []
    for layer, shard in zip(workload.layers, shards, strict=True):
        names = [p.name for p in shard.parameters if times[p.name] > 1]
        new = {
            p.name: round(shard.optimizer_bytes * p.bytes / shard.parameter_bytes)
            for p in shard.parameters
            if times[p.name] > 1 and p.name not in tied and p.bytes
        }
        tied |= new
        left = shard.optimizer_bytes - sum(new.values())
        made = sum(gradient.bytes for gradient in shard.gradients if gradient.parameter not in tied)
        expert = sum(gradient.bytes for gradient in shard.gradients if gradient.expert)
        of_experts = left * expert // made if expert else 0
        rest = {("layer", layer.name): left - of_experts}
        rest |= {("experts", layer.name): of_experts} if of_experts else {}
        found.append(rest | {("parameter", name): tied[name] for name in names if name in tied})
    return found


def _received_bytes(workload: Workload, layers: range, microbatch: int, split: Split) -> int:
    """Return the bytes of tensors from earlier stages that this one keeps and its layers' saved bytes leave out."""
    inside = {workload.layers[i].name for i in layers}
    before = {layer.name for layer in workload.layers[: layers.start]}
    behind = {layer.name for layer in workload.layers[layers.start :]}
    return sum(
        tensor_bytes(tensor, microbatch, workload.microbatch, split)
        for tensor in workload.tensors
        if tensor.producer in before and behind.intersection(tensor.consumers) and tensor.saved_by not in inside
    )
