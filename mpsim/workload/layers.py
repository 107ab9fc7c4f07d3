"""Layers: what each holds, and its table of costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

from mpsim.calls import checked
from mpsim.errors import MpsimError, did_you_mean
from mpsim.reprs import short_repr
from mpsim.units import real, whole
from mpsim.workload.split import Split, axes_of, check_split, split_of, split_text
from mpsim.workload.tensors import check_count, check_dtype, check_shape, tensor_bytes

__all__ = [
    "TIMES",
    "Attention",
    "Cost",
    "Fidelity",
    "Gradient",
    "Layer",
    "Parameter",
    "Samples",
    "Shard",
    "ShardCollective",
    "traced_splits",
]

_PerSize: TypeAlias = float | Mapping[int, float]


class Fidelity(Enum):
    """How far a cost can be trusted, best first; a result carries the weakest that it used."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    SCALED = "scaled"
    ANALYTICAL = "analytical"
    GIVEN = "given"
    DOUBTFUL = "doubtful"

    @staticmethod
    def weakest(*fidelities: Fidelity) -> Fidelity:
        """Return the weakest of several.

        Examples
        --------
        >>> Fidelity.weakest(Fidelity.MEASURED, Fidelity.SCALED).value
        'scaled'
        """
        return max(fidelities, key=list(Fidelity).index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter tensor; the same name in two layers is one tied parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    __repr__ = short_repr

    def __post_init__(self) -> None:
        check_dtype(self.dtype, f"parameter {self.name!r}")
        check_shape(self.shape, f"parameter {self.name!r}")

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return tensor_bytes(self.shape, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """The gradient of one parameter, in the order in which backward completes them.

    Attributes
    ----------
    parameter : str
        The parameter's name.
    bytes : int
        Its size; of a sparse gradient, as if it were dense.
    dtype : str
        Its type; ``""``: the parameter's.
    expert : bool
        Whether each rank of those that share experts has one of its own, which is reduced among the ranks that hold
        the same experts alone.
    partial : bool
        Whether each of the ranks that share a sequence has a part of its sum, which they add up once a step.
    """

    parameter: str
    bytes: int
    dtype: str = ""
    expert: bool = False
    partial: bool = False

    __repr__ = short_repr

    def __post_init__(self) -> None:
        check_count(self.bytes, f"gradient of {self.parameter!r}: bytes")
        if self.dtype:
            check_dtype(self.dtype, f"gradient of {self.parameter!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one rank of a tensor-parallel group holds of a layer; independent of the micro-batch.

    Attributes
    ----------
    tensor_parallel, context_parallel, expert_parallel : int
        Ranks that share the layer, by axis; where all are 1 it is the whole layer.
    sequence_parallel : bool
        Whether the ranks that share its weights share the sequence too.
    parameters : tuple of Parameter
        This rank's part of them, trainable or not.
    gradients : tuple of Gradient
        In the order in which backward completes them.
    optimizer_bytes : int
        What the optimizer keeps between steps.
    buffer_bytes : int
        Tensors that are state and no parameter (running means).
    """

    tensor_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    sequence_parallel: bool = False
    parameters: tuple[Parameter, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    optimizer_bytes: int = 0
    buffer_bytes: int = 0

    __repr__ = short_repr

    def __post_init__(self) -> None:
        check_split(self.split)
        check_count(self.optimizer_bytes, "optimizer_bytes")
        check_count(self.buffer_bytes, "buffer_bytes")

    @property
    def split(self) -> Split:
        """Among whom the layer is shared."""
        return Split(self.tensor_parallel, self.context_parallel, self.expert_parallel, self.sequence_parallel)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of this rank's parameters."""
        return sum(parameter.bytes for parameter in self.parameters)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of this rank's gradients."""
        return sum(gradient.bytes for gradient in self.gradients)


TIMES = ("forward_s", "backward_input_s", "backward_weight_s", "optimizer_s", "accumulate_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Raw times in seconds, one entry for each repetition; never summarised in the file.

    Attributes
    ----------
    forward_s, backward_input_s, backward_weight_s : tuple of float
        The passes of the first micro-batch of a step, whose backward makes the parameters' gradients.
    optimizer_s : tuple of float
        This layer's share of the update, once a step: one call updates all that a rank owns.
    accumulate_s : tuple of float
        What the backward of a later micro-batch takes beyond that of the first, to add to gradients that are there.
    """

    forward_s: tuple[float, ...]
    backward_input_s: tuple[float, ...]
    backward_weight_s: tuple[float, ...]
    optimizer_s: tuple[float, ...] = (0.0,)
    accumulate_s: tuple[float, ...] = (0.0,)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in TIMES:
            values = getattr(self, name)
            if not values:
                raise MpsimError(f"{name} is missing: measure it, or give 0.0 if it costs nothing")
            for value in values:
                if not (math.isfinite(value) and value >= 0):
                    raise MpsimError(f"{name} holds {value}, expected seconds, zero or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCollective:
    """A collective that one layer's shard makes with its peers along an axis.

    Attributes
    ----------
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``broadcast`` or ``send_receive`` (each to
        the next, around the ring).
    bytes : int
        The whole tensor (of an all-gather: the gathered result; of a reduce-scatter: its input).
    phase : str
        ``forward`` or ``backward``.
    axis : str
        Along which axis its peers are: ``tp``, ``cp`` or ``ep``.
    when : str
        ``before`` the layer computes, ``beside`` it (posted before and awaited behind) or ``behind`` it.
    """

    kind: str
    bytes: int
    phase: str
    axis: str = "tp"
    when: str = "behind"

    __repr__ = short_repr

    def __post_init__(self) -> None:
        kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_receive")
        if self.kind not in kinds:
            raise MpsimError(f"unknown collective {self.kind!r}{did_you_mean(self.kind, kinds)}")
        if self.phase not in ("forward", "backward"):
            raise MpsimError(f"phase is {self.phase!r}, expected 'forward' or 'backward'")
        if self.axis not in ("tp", "cp", "ep"):
            raise MpsimError(f"axis of a layer's collective is {self.axis!r}, expected 'tp', 'cp' or 'ep'")
        if self.when not in ("before", "beside", "behind"):
            raise MpsimError(f"when of a layer's collective is {self.when!r}, expected 'before', 'beside' or 'behind'")
        check_count(self.bytes, "collective bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention core of a layer: scores, softmax and their product with the values, or one kernel that is all that.

    Attributes
    ----------
    forward_fraction : float
        What of the layer's forward it takes, 0 to 1.
    saved_bytes : int
        What of the layer's `saved_bytes` it alone makes and keeps, so that computing it again need not.
    """

    forward_fraction: float
    saved_bytes: int = 0

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not 0 <= self.forward_fraction <= 1:
            raise MpsimError(f"attention takes {self.forward_fraction} of its layer's forward, expected 0 to 1")
        check_count(self.saved_bytes, "saved_bytes of attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One measured point of a layer: a micro-batch size and a tensor shard.

    Attributes
    ----------
    microbatch : int
        Samples in the micro-batch.
    tensor_parallel, context_parallel, expert_parallel : int
        Ranks that share the layer, by axis.
    sequence_parallel : bool
        Whether the ranks that share its weights share the sequence too.
    samples : Samples
        By the workload's clock: on a GPU what the kernels take, with no gap between them.
    host : Samples or None
        What the thread takes that launches those kernels; None where the two clocks are one, as on a CPU.
    wall : Samples or None
        The same executions by the wall clock, where the workload's clock is another.
    fidelity : Fidelity
        How the samples came about.
    saved_bytes : int
        Kept from forward for backward: unique storages, no parameters, each counted at the layer
        that saves it first in execution order, so that layers sum to the whole model.
    flops : int
        Forward floating-point operations (a multiply and an add are two).
    forward_transient_bytes, backward_transient_bytes : int
        The most that the pass holds for a while beyond what was there before it, `saved_bytes` (forward) and the
        parameters' gradients (backward).
    collectives : tuple of ShardCollective
        What this shard exchanges with its peers.
    attention : Attention or None
        Of its attention core; None where it has none, or that is not known.
    """

    microbatch: int
    tensor_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    sequence_parallel: bool = False
    samples: Samples
    host: Samples | None = None
    wall: Samples | None = None
    fidelity: Fidelity = Fidelity.GIVEN
    saved_bytes: int = 0
    flops: int = 0
    forward_transient_bytes: int = 0
    backward_transient_bytes: int = 0
    collectives: tuple[ShardCollective, ...] = ()
    attention: Attention | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        check_count(self.microbatch, "microbatch", 1)
        check_split(self.split)
        check_count(self.saved_bytes, "saved_bytes")
        check_count(self.flops, "flops")
        check_count(self.forward_transient_bytes, "forward_transient_bytes")
        check_count(self.backward_transient_bytes, "backward_transient_bytes")
        if self.attention is not None and self.attention.saved_bytes > self.saved_bytes:
            raise MpsimError(
                f"attention keeps {self.attention.saved_bytes} bytes, its layer {self.saved_bytes}: give no more"
            )
        for one in self.collectives:
            if getattr(self.split, one.axis) == 1:
                raise MpsimError(
                    f"a layer that no ranks share along {one.axis} ({self.split.text}) makes no collectives there"
                )

    @property
    def split(self) -> Split:
        """Among whom the layer is shared."""
        return Split(self.tensor_parallel, self.context_parallel, self.expert_parallel, self.sequence_parallel)


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A unit that a split can place.

    Attributes
    ----------
    name : str
        The module's path in the model.
    kind : str
        The module's class.
    shards : tuple of Shard
        One for each split traced.
    costs : tuple of Cost
        One for each micro-batch size and split traced.

    Examples
    --------
    >>> Layer.given("block", forward_s=0.5, backward_s=1.0).costs[0].samples.backward_weight_s
    (0.5,)
    """

    name: str
    kind: str = ""
    shards: tuple[Shard, ...] = (Shard(),)
    costs: tuple[Cost, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not self.name:
            raise MpsimError("a layer needs a name")
        keys = [(cost.microbatch, cost.split) for cost in self.costs]
        if len(set(keys)) < len(keys):
            raise MpsimError(f"layer {self.name!r} has two costs for one micro-batch and split")
        if not keys:
            raise MpsimError(f"layer {self.name!r} has no costs: trace the model, or give forward_s and backward_s")

    @classmethod
    @checked
    def given(
        cls,
        name: str,
        *,
        forward_s: _PerSize,
        backward_s: _PerSize,
        backward_weight_s: _PerSize | None = None,
        optimizer_s: float = 0.0,
        microbatch: int = 1,
        parameter_bytes: int = 0,
        saved_bytes: _PerSize = 0,
        attention_s: _PerSize = 0,
        attention_bytes: _PerSize = 0,
        collectives: Sequence[ShardCollective | tuple[str, int]] = (),
        split: Split | int | str = 1,
        shards: Mapping[Split | int | str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> Layer:
        """Make a layer by hand.

        `backward_s` is the whole backward; half of it is taken to be for the weights unless
        `backward_weight_s` says otherwise. `parameter_bytes` makes one float32 parameter and its gradient.

        Parameters
        ----------
        name : str
            Of the layer.
        forward_s, backward_s, backward_weight_s, saved_bytes : number, or mapping of int to number
            At `microbatch`, or by micro-batch.
        attention_s, attention_bytes : number, or mapping of int to number
            What of `forward_s` and `saved_bytes` its attention core takes, which selective recomputation runs again;
            0: it has none.
        optimizer_s : float
            Seconds of its update.
        microbatch : int
            Samples, where no mapping says it.
        parameter_bytes : int
            Of its parameters.
        collectives : sequence of ShardCollective, or of (kind, bytes)
            What the ranks that share it exchange, at `microbatch`, in proportion at others; a pair stands for one in
            each pass.
        split : Split, int or str
            Of which split all that is; a number is of tensor-parallel ranks.
        shards : mapping of Split, int or str to mapping
            The same words for one of the ranks of other splits; those left out are as here, collectives aside.

        Examples
        --------
        >>> half = {"forward_s": 0.3, "backward_s": 0.6, "collectives": [("all_reduce", 1024)]}
        >>> layer = Layer.given("a", forward_s={1: 0.5, 2: 0.9}, backward_s={1: 1.0, 2: 1.9}, shards={2: half})
        >>> [(cost.microbatch, cost.split.tp, len(cost.collectives)) for cost in layer.costs]
        [(1, 1, 0), (2, 1, 0), (1, 2, 2)]
        """
        own: dict[str, Any] = {
            "forward_s": forward_s,
            "backward_s": backward_s,
            "backward_weight_s": backward_weight_s,
            "optimizer_s": optimizer_s,
            "microbatch": microbatch,
            "parameter_bytes": parameter_bytes,
            "saved_bytes": saved_bytes,
            "attention_s": attention_s,
            "attention_bytes": attention_bytes,
        }
        words = [(split, own | {"collectives": collectives})]
        for other, said in shards.items():
            unknown = next((word for word in said if word not in words[0][1]), None)
            if unknown is not None:
                raise MpsimError(f"layer {name!r}: a shard has no {unknown!r}{did_you_mean(unknown, words[0][1])}")
            words.append((other, own | {"collectives": ()} | dict(said)))
        made = [_given(name, split_text(of) if isinstance(of, str) else split_of(of), **said) for of, said in words]
        return cls(
            name=name,
            kind="given",
            shards=tuple(shard for shard, _ in made),
            costs=tuple(cost for _, costs in made for cost in costs),
        )

    def shard(self, split: Split | int = 1) -> Shard:
        """Return what one of the ranks of a split holds, or of so many tensor-parallel ones.

        Raises
        ------
        MpsimError
            That shard was never traced.
        """
        split = split_of(split)
        tp, cp, ep, sequence = split
        for shard in self.shards:
            if (
                shard.tensor_parallel == tp
                and shard.context_parallel == cp
                and shard.expert_parallel == ep
                and shard.sequence_parallel == sequence
            ):
                return shard
        have, remedy = traced_splits([shard.split for shard in self.shards], split)
        raise MpsimError(f"layer {self.name!r} has no shard for {split.text}, traced: {have}; {remedy}")


def _given(
    name: str,
    split: Split,
    *,
    forward_s: _PerSize,
    backward_s: _PerSize,
    backward_weight_s: _PerSize | None,
    optimizer_s: float,
    microbatch: int,
    parameter_bytes: int,
    saved_bytes: _PerSize,
    attention_s: _PerSize,
    attention_bytes: _PerSize,
    collectives: Sequence[ShardCollective | tuple[str, int]],
) -> tuple[Shard, tuple[Cost, ...]]:
    """Return what one rank of a split holds, and its costs at each micro-batch, from what was said by hand."""
    axes = axes_of(split)
    parameter_bytes = whole(parameter_bytes, f"layer {name!r}: parameter_bytes")
    if parameter_bytes % 4:
        raise MpsimError(
            f"layer {name!r}: parameter_bytes is {parameter_bytes}, its parameters are float32, of 4 bytes each: give a"
            " multiple of 4"
        )
    parameter = Parameter(name=f"{name}.weight", shape=(parameter_bytes // 4,))
    gradient = Gradient(parameter=parameter.name, bytes=parameter_bytes)
    shard = Shard(**axes, parameters=(parameter,), gradients=(gradient,)) if parameter_bytes else Shard(**axes)
    sizes = next((list(item) for item in (forward_s, backward_s, saved_bytes) if isinstance(item, Mapping)), None)
    costs = []
    for size in sizes or [microbatch]:
        forward, backward = _at(forward_s, size, "forward_s"), _at(backward_s, size, "backward_s")
        weight = backward / 2 if backward_weight_s is None else _at(backward_weight_s, size, "backward_weight_s")
        samples = Samples(
            forward_s=(forward,),
            backward_input_s=(backward - weight,),
            backward_weight_s=(weight,),
            optimizer_s=(real(optimizer_s, "optimizer_s"),),
        )
        made = tuple(replace(one, bytes=one.bytes * size // microbatch) for one in _both(collectives, split))
        saved = round(_at(saved_bytes, size, "saved_bytes"))
        core = _at(attention_s, size, "attention_s"), round(_at(attention_bytes, size, "attention_bytes"))
        attention = _attention(*core, forward) if any(core) else None
        costs.append(
            Cost(
                microbatch=size,
                **axes,
                samples=samples,
                saved_bytes=saved,
                collectives=made,
                attention=attention,
            )
        )
    return shard, tuple(costs)


def _attention(seconds: float, count: int, forward_s: float) -> Attention:
    """Return the attention core of a layer, of its seconds and bytes."""
    if not 0 <= seconds <= forward_s:
        raise MpsimError(f"attention_s is {seconds}, expected 0 to forward_s, {forward_s}")
    return Attention(forward_fraction=seconds / forward_s if seconds else 0.0, saved_bytes=count)


def _at(value: _PerSize, size: int, what: str) -> float:
    """Return a number at a micro-batch: one stands for all."""
    if not isinstance(value, Mapping):
        return real(value, what)
    if size not in value:
        raise MpsimError(
            f"{what} is given at micro-batch {', '.join(map(str, value))}, not at {size}: give it there too"
        )
    return real(value[size], what)


def _both(collectives: Sequence[ShardCollective | tuple[str, int]], split: Split) -> Iterator[ShardCollective]:
    """Yield collectives as they are, and of a pair one in each pass, along the first axis that the split has."""
    axis = next((name for name in ("tp", "cp", "ep") if getattr(split, name) > 1), "tp")
    for one in collectives:
        if isinstance(one, ShardCollective):
            yield one
        else:
            for phase in ("forward", "backward"):
                yield ShardCollective(kind=one[0], bytes=one[1], phase=phase, axis=axis)


def traced_splits(have: Iterable[Split], split: Split) -> tuple[str, str]:
    """Return the splits that a trace has, and how to trace another, in words."""
    found = sorted(set(have))
    if {one._replace(tp=1) for one in (*found, split)} == {Split()}:
        traced, sizes = (",".join(map(str, sorted({one.tp for one in many}))) for many in (found, (*found, split)))
        return f"tp {traced}", f"trace again with --tensor {sizes}"
    asked = " ".join(f"--split {one.text.replace(' ', ',')}" for one in (*found, split) if one != Split())
    return "; ".join(one.text for one in found), f"trace again with {asked}"
