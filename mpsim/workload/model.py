"""The workload: what one training step of a model costs, layer by layer, and the tensors between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpsim.above import above
from mpsim.calls import checked
from mpsim.documents import Document, Provenance
from mpsim.errors import MpsimError, did_you_mean
from mpsim.reprs import short_repr
from mpsim.scaling import Scaling
from mpsim.units import whole
from mpsim.workload.layers import Attention, Cost, Fidelity, Gradient, Layer, Parameter, Samples, Shard, ShardCollective
from mpsim.workload.split import WHOLE, Split, axes_of
from mpsim.workload.tensors import DTYPE_BYTES, Tensor, TensorShard, check_count, check_dtype

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DTYPE_BYTES",
    "Attention",
    "Cost",
    "Fidelity",
    "Gradient",
    "Layer",
    "Parameter",
    "Precision",
    "Samples",
    "Shard",
    "ShardCollective",
    "StepCheck",
    "Tensor",
    "TensorShard",
    "Workload",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCheck:
    """How close the sum of layers came to the whole step, measured in the same run.

    Attributes
    ----------
    microbatch, tensor_parallel, context_parallel, expert_parallel : int
        Which point of the trace.
    sequence_parallel : bool
        Likewise.
    whole_s : tuple of float
        The plain step, unwatched: forward, loss, backward and optimizer; on a GPU among steps that follow one
        another. One entry a repetition (interleaved).
    layers_s : tuple of float
        The sum of the layers; where there are two clocks, the step that the two make.
    differences : tuple of str
        In words, what the trace says otherwise than the plain step: parameters that got a gradient, their norms,
        bytes kept for backward, the loss.
    """

    microbatch: int
    tensor_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    sequence_parallel: bool = False
    whole_s: tuple[float, ...]
    layers_s: tuple[float, ...]
    differences: tuple[str, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for value in (*self.whole_s, *self.layers_s):
            if not (math.isfinite(value) and value >= 0):
                raise MpsimError(f"step check holds {value}, expected seconds, zero or more")
        if 0 in self.whole_s:
            raise MpsimError("step check holds a whole step of 0 s, expected more: measure again")
        if not self.whole_s or len(self.whole_s) != len(self.layers_s):
            raise MpsimError(f"step check has {len(self.whole_s)} whole and {len(self.layers_s)} layered repetitions")

    @property
    def split(self) -> Split:
        """Among whom layers are shared."""
        return Split(self.tensor_parallel, self.context_parallel, self.expert_parallel, self.sequence_parallel)

    @property
    def ratio(self) -> float:
        """Median over repetitions of (sum of layers / whole step)."""
        ratios = sorted(a / b for a, b in zip(self.layers_s, self.whole_s, strict=True))
        middle = len(ratios) // 2
        return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The types of numbers of a training step.

    Attributes
    ----------
    name : str
        ``fp32``, ``tf32``, ``bf16``, ``fp16``, ``bf16-mixed``, ``fp16-mixed``, ``fp8-mixed``, ``mxfp8-mixed`` or
        ``nvfp4-mixed``; ``""``: not known.
    compute, parameters, gradients, optimizer : str
        Types of matrix products, parameters, their gradients and the optimizer's state: those of most bytes.
    master : str
        Type of the copy of the parameters that the optimizer updates; ``""``: it updates the parameters themselves.

    Examples
    --------
    >>> Precision(name="bf16-mixed", compute="bfloat16").parameters
    'float32'
    """

    name: str = ""
    compute: str = "float32"
    parameters: str = "float32"
    gradients: str = "float32"
    optimizer: str = "float32"
    master: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for what in ("compute", "parameters", "gradients", "optimizer"):
            check_dtype(getattr(self, what), f"precision of {what}")
        if self.master:
            check_dtype(self.master, "precision of master weights")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Document):
    """A model's training step: layers in execution order, the tensors between them, and how they were measured.

    Attributes
    ----------
    name : str
        The model, with its overrides.
    layers : tuple of Layer
        In execution order.
    tensors : tuple of Tensor
        Every tensor that goes between layers, in and out of the model.
    microbatch : int
        The reference micro-batch at which the tensors' shapes are given.
    device : str
        What it was measured on.
    clock : str
        ``cuda-kernel``, ``thread-cpu``, ``wall`` or ``given``; ``cuda-event`` in files of version 1, whose times
        include the gaps between kernels.
    threads : int
        Compute threads used (CPU); 0 where it has no meaning.
    optimizer : str
        The optimizer whose update was timed.
    precision : Precision
        Types of numbers.
    dataset_samples : int
        Samples in one epoch; 0 if unknown.
    checks : tuple of StepCheck
        Sum of layers against whole steps.
    notes : tuple of str
        What a reader must know of the trace: parameters that nothing reads, caches dropped, wrappers taken off.
    scaling : Scaling or None
        Where its times stand for another device than `device`: which, and by what they were multiplied.
    provenance : Provenance
        How the file was made.

    Examples
    --------
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> Workload.chain("two", layers, activation_bytes=1024).tensors[1].producer
    'a'
    """

    _file = "workload.file:workload"
    _reads = "workload.reading:read_workload"
    _written = "a Workload or the path of its file"

    name: str
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...] = ()
    microbatch: int = 1
    device: str = "given"
    clock: str = "given"
    threads: int = 0
    optimizer: str = ""
    precision: Precision = Precision()
    dataset_samples: int = 0
    checks: tuple[StepCheck, ...] = ()
    notes: tuple[str, ...] = ()
    scaling: Scaling | None = None
    provenance: Provenance = Provenance()

    def __repr__(self) -> str:
        return short_repr(self, **({} if self.fidelity == Fidelity.MEASURED.value else {"fidelity": self.fidelity}))

    @property
    def fidelity(self) -> str:
        """The weakest of its costs': ``measured``, ``scaled``, ``analytical`` (a roofline's) or ``given`` (by hand)."""
        return Fidelity.weakest(*{cost.fidelity for layer in self.layers for cost in layer.costs}).value

    def __post_init__(self) -> None:
        check_count(self.microbatch, "microbatch", 1)
        check_count(self.dataset_samples, "dataset_samples")
        if not self.layers:
            raise MpsimError(f"workload {self.name!r} has no layers")
        position = {layer.name: i for i, layer in enumerate(self.layers)}
        if len(position) < len(self.layers):
            twice = next(layer.name for i, layer in enumerate(self.layers) if position[layer.name] != i)
            raise MpsimError(f"workload {self.name!r} has two layers named {twice!r}: give each its own name")
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise MpsimError(f"workload {self.name!r} has two tensors of one name")
        for tensor in self.tensors:
            _check_edges(tensor, position)
        _check_clocks(self)

    @classmethod
    @checked
    def chain(
        cls,
        name: str,
        layers: list[Layer],
        *,
        activation_bytes: int | list[int] = 0,
        microbatch: int | None = None,
        sends: str = "",
    ) -> Workload:
        """Make a workload by hand: each layer reads what the one before it makes.

        Parameters
        ----------
        name : str
            Of the workload.
        layers : list of Layer
            In execution order.
        activation_bytes : int or list of int
            The output of a layer at the reference micro-batch: one number, or one a layer.
        microbatch : int, optional
            The reference micro-batch; by default the first layer's.
        sends : str
            What each of the ranks that share layers sends on, where any do: ``whole``, the activation as it is (of
            those that share sequences, their part of these), or ``part``, divided by all of them.

        Raises
        ------
        MpsimError
            Ranks share layers and nothing says what they send, a size does not divide.

        Examples
        --------
        >>> layer = Layer.given("a", forward_s=1.0, backward_s=2.0, shards={2: {"forward_s": 0.5}})
        >>> chain = Workload.chain("one", [layer], activation_bytes=64, sends="part")
        >>> chain.tensors[-1].bytes(), chain.tensors[-1].bytes(2)
        (64, 32)
        """
        if not layers:
            raise MpsimError(f"workload {name!r} has no layers")
        sizes = activation_bytes if isinstance(activation_bytes, list) else [activation_bytes] * len(layers)
        sizes = [whole(size, "activation_bytes") for size in sizes]
        if len(sizes) != len(layers):
            raise MpsimError(f"{len(sizes)} activation sizes given for {len(layers)} layers: give one for each")
        reference = microbatch or layers[0].costs[0].microbatch
        names = [layer.name for layer in layers]
        splits = sorted({shard.split for layer in layers for shard in layer.shards} - {WHOLE})
        if sends not in ("whole", "part") and (sends or (splits and any(sizes))):
            raise MpsimError(
                f"workload {name!r} has layers that ranks share ({splits[0].text if splits else 'none'}), sends is"
                f" {sends!r}: say 'whole' if each sends the whole activation, 'part' if each sends its part"
            )
        tensors = []
        for i, (producer, count) in enumerate(zip(names, sizes, strict=True)):
            if count % reference:
                raise MpsimError(f"activation of {count} bytes does not divide by micro-batch {reference}")
            last = i == len(names) - 1
            tensors.append(
                Tensor(
                    name=f"{producer}.output",
                    producer=producer,
                    consumers=() if last else (names[i + 1],),
                    shape=(reference, count // reference),
                    dtype="uint8",
                    role="output" if last else "activation",
                    shards=tuple(_part(split, reference, count, sends) for split in splits if sends and count),
                )
            )
        entry = Tensor(name="input", producer="", consumers=(names[0],), shape=(reference, 0), role="input")
        return cls(name=name, layers=tuple(layers), tensors=(entry, *tensors), microbatch=reference)

    def index(self, layer: str) -> int:
        """Return the position of a layer.

        Raises
        ------
        MpsimError
            There is no such layer.
        """
        for i, candidate in enumerate(self.layers):
            if candidate.name == layer:
                return i
        raise MpsimError(f"unknown layer {layer!r}{did_you_mean(layer, [item.name for item in self.layers])}")

    def plot(self) -> Any:
        """Return a figure of what each layer takes and holds, at the reference micro-batch.

        Raises
        ------
        MpsimError
            Matplotlib is not installed.
        """
        return above("cards.pictures").workload_figure(self)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each layer, in execution order, at the reference micro-batch.

        Examples
        --------
        >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
        >>> Workload.chain("two", layers).to_frame()[["layer", "forward_s", "backward_s"]].values.tolist()
        [['a', 1.0, 2.0], ['b', 1.0, 2.0]]
        """
        frame: pd.DataFrame = above("cards.tables").workload_frame(self)
        return frame

    def _repr_html_(self) -> str:
        return str(above("cards.workload").card(self))


def _part(split: Split, reference: int, count: int, sends: str) -> TensorShard:
    """Return what one of the ranks of a split has of an activation of so many bytes."""
    parts = split.cp * (split.tp if sends == "part" else 1)
    if count % (reference * parts):
        raise MpsimError(f"activation of {count} bytes does not divide into {parts} parts ({split.text})")
    return TensorShard(
        **axes_of(split),
        shape=(reference, count // reference // parts),
    )


def _check_edges(tensor: Tensor, position: dict[str, int]) -> None:
    """Refuse a tensor whose ends are no layers, or that is read before it is made."""
    # The batch is made, and kept, by no layer; what reads has a name.
    for name in (*filter(None, (tensor.producer, tensor.saved_by)), *tensor.consumers):
        if name not in position:
            raise MpsimError(f"tensor {tensor.name!r} names layer {name!r}{did_you_mean(name, position)}")
    made = position.get(tensor.producer, -1)
    for consumer in tensor.consumers:
        if position[consumer] < made:
            raise MpsimError(
                f"tensor {tensor.name!r} is read by {consumer!r} before {tensor.producer!r} makes it: order the layers"
            )


def _check_clocks(workload: Workload) -> None:
    """Refuse a point at which some layers say what launching takes: of the others it would count as nothing."""
    found: dict[tuple[int, Split], tuple[str, bool]] = {}
    for layer in workload.layers:
        for cost in layer.costs:
            point = (cost.microbatch, cost.split)
            name, with_host = found.setdefault(point, (layer.name, cost.host is not None))
            if with_host != (cost.host is not None):
                one, other = (name, layer.name) if with_host else (layer.name, name)
                raise MpsimError(
                    f"workload {workload.name!r} at micro-batch {point[0]}, {point[1].text}: layer {one!r} has host"
                    f" times, layer {other!r} has none: give all of them two clocks, or none"
                )
