"""Layers: what each holds, and its table of costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.tensors import check_count, check_dtype, check_shape, tensor_bytes

__all__ = ["TIMES", "Cost", "Fidelity", "Gradient", "Layer", "Parameter", "Samples", "Shard", "ShardCollective"]


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
    """

    parameter: str
    bytes: int
    dtype: str = ""

    def __post_init__(self) -> None:
        check_count(self.bytes, f"gradient of {self.parameter!r}: bytes")
        if self.dtype:
            check_dtype(self.dtype, f"gradient of {self.parameter!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one rank of a tensor-parallel group holds of a layer; independent of the micro-batch.

    Attributes
    ----------
    tensor_parallel : int
        Ranks that share the layer; 1 is the whole layer.
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
    parameters: tuple[Parameter, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    optimizer_bytes: int = 0
    buffer_bytes: int = 0

    def __post_init__(self) -> None:
        check_count(self.tensor_parallel, "tensor_parallel", 1)
        check_count(self.optimizer_bytes, "optimizer_bytes")
        check_count(self.buffer_bytes, "buffer_bytes")

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
    """A collective that one layer's shard makes with its tensor-parallel peers.

    Attributes
    ----------
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``all_to_all``.
    bytes : int
        The whole tensor (of an all-gather: the gathered result; of a reduce-scatter: its input).
    phase : str
        ``forward`` or ``backward``.
    """

    kind: str
    bytes: int
    phase: str

    def __post_init__(self) -> None:
        kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
        if self.kind not in kinds:
            raise MpsimError(f"unknown collective {self.kind!r}{did_you_mean(self.kind, kinds)}")
        if self.phase not in ("forward", "backward"):
            raise MpsimError(f"phase is {self.phase!r}, expected 'forward' or 'backward'")
        check_count(self.bytes, "collective bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One measured point of a layer: a micro-batch size and a tensor shard.

    Attributes
    ----------
    microbatch : int
        Samples in the micro-batch.
    tensor_parallel : int
        Ranks that share the layer.
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
        What this shard exchanges with its tensor-parallel peers.
    """

    microbatch: int
    tensor_parallel: int = 1
    samples: Samples
    host: Samples | None = None
    wall: Samples | None = None
    fidelity: Fidelity = Fidelity.GIVEN
    saved_bytes: int = 0
    flops: int = 0
    forward_transient_bytes: int = 0
    backward_transient_bytes: int = 0
    collectives: tuple[ShardCollective, ...] = ()

    def __post_init__(self) -> None:
        check_count(self.microbatch, "microbatch", 1)
        check_count(self.tensor_parallel, "tensor_parallel", 1)
        check_count(self.saved_bytes, "saved_bytes")
        check_count(self.flops, "flops")
        check_count(self.forward_transient_bytes, "forward_transient_bytes")
        check_count(self.backward_transient_bytes, "backward_transient_bytes")
        if self.tensor_parallel == 1 and self.collectives:
            raise MpsimError("a whole layer (tensor_parallel 1) makes no collectives")


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
        One for each tensor-parallel size traced.
    costs : tuple of Cost
        One for each micro-batch size and tensor-parallel size traced.

    Examples
    --------
    >>> Layer.given("block", forward_s=0.5, backward_s=1.0).costs[0].samples.backward_weight_s
    (0.5,)
    """

    name: str
    kind: str = ""
    shards: tuple[Shard, ...] = (Shard(),)
    costs: tuple[Cost, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise MpsimError("a layer needs a name")
        keys = [(cost.microbatch, cost.tensor_parallel) for cost in self.costs]
        if len(set(keys)) < len(keys):
            raise MpsimError(f"layer {self.name!r} has two costs for one (microbatch, tensor_parallel)")
        if not keys:
            raise MpsimError(f"layer {self.name!r} has no costs: trace the model, or give forward_s and backward_s")

    @classmethod
    def given(
        cls,
        name: str,
        *,
        forward_s: float,
        backward_s: float,
        backward_weight_s: float | None = None,
        optimizer_s: float = 0.0,
        microbatch: int = 1,
        parameter_bytes: int = 0,
        saved_bytes: int = 0,
    ) -> Layer:
        """Make a layer by hand.

        `backward_s` is the whole backward; half of it is taken to be for the weights unless
        `backward_weight_s` says otherwise. `parameter_bytes` makes one float32 parameter and its gradient.
        """
        weight_s = backward_s / 2 if backward_weight_s is None else backward_weight_s
        parameter = Parameter(name=f"{name}.weight", shape=(parameter_bytes // 4,))
        gradient = Gradient(parameter=parameter.name, bytes=parameter_bytes)
        samples = Samples(
            forward_s=(forward_s,),
            backward_input_s=(backward_s - weight_s,),
            backward_weight_s=(weight_s,),
            optimizer_s=(optimizer_s,),
        )
        shard = Shard(parameters=(parameter,), gradients=(gradient,)) if parameter_bytes else Shard()
        cost = Cost(microbatch=microbatch, samples=samples, saved_bytes=saved_bytes)
        return cls(name=name, kind="given", shards=(shard,), costs=(cost,))

    def shard(self, tensor_parallel: int = 1) -> Shard:
        """Return what one of `tensor_parallel` ranks holds.

        Raises
        ------
        MpsimError
            That shard was never traced.
        """
        for shard in self.shards:
            if shard.tensor_parallel == tensor_parallel:
                return shard
        have = sorted(shard.tensor_parallel for shard in self.shards)
        raise MpsimError(
            f"layer {self.name!r} has no shard for tp={tensor_parallel}, traced: {_join(have)};"
            f" trace again with --tensor {_join(sorted([*have, tensor_parallel]))}"
        )


def _join(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
