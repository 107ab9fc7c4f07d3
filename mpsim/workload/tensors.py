"""Tensors: their sizes, and those that go from one layer to others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpsim.errors import MpsimError, did_you_mean
from mpsim.reprs import short_repr
from mpsim.workload.split import WHOLE, Split, split_of

__all__ = ["DTYPE_BYTES", "Tensor", "TensorShard", "check_count", "check_dtype", "check_shape", "tensor_bytes"]

_BY_BYTES = {
    16: "complex128",
    8: "float64 complex64 int64 uint64",
    4: "float32 complex32 int32 uint32 qint32",
    2: "float16 bfloat16 int16 uint16 bits16",
    1: "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 int8 uint8 bool"
    " qint8 quint8 quint4x2 quint2x4 bits8 bits4x2 bits2x4 bits1x8"
    " int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7",
}
DTYPE_BYTES = {name: size for size, names in _BY_BYTES.items() for name in names.split()}  # all that torch has


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes of a tensor."""
    return math.prod(shape) * DTYPE_BYTES[dtype]


def check_dtype(dtype: str, what: str) -> None:
    """Refuse a dtype that is not known by its size."""
    if dtype not in DTYPE_BYTES:
        raise MpsimError(f"{what}: unknown dtype {dtype!r}{did_you_mean(dtype, DTYPE_BYTES)}")


def check_shape(shape: tuple[int, ...], what: str) -> None:
    """Refuse a negative size."""
    if any(size < 0 for size in shape):
        raise MpsimError(f"{what}: shape {list(shape)} has a negative size")


def check_count(value: int, what: str, least: int = 0) -> None:
    """Refuse a count below the least that makes sense."""
    if value < least:
        raise MpsimError(f"{what} is {value}, expected {least} or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShard:
    """The shape of a tensor on one of the ranks that share the layers around it, where it differs from the whole."""

    tensor_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1
    sequence_parallel: bool = False
    shape: tuple[int, ...]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.split == WHOLE:
            raise MpsimError("tensor shard is of no split: tensor_parallel is 1, expected 2 or more")
        check_shape(self.shape, "tensor shard")

    @property
    def split(self) -> Split:
        """Among whom it is shared."""
        return Split(self.tensor_parallel, self.context_parallel, self.expert_parallel, self.sequence_parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor that goes from one layer to others: the edges of the model's graph.

    Attributes
    ----------
    name : str
        Unique in the workload.
    producer : str
        The layer that makes it; ``""`` for what is fed to the model.
    consumers : tuple of str
        The layers that read it; none for the model's output.
    shape, dtype
        At the workload's reference micro-batch.
    batch_dim : int or None
        The dimension that grows in proportion to the micro-batch; None if none does.
    role : str
        ``activation``, ``input``, ``target`` or ``output``.
    needs_gradient : bool
        Whether backward sends a gradient of the same size the other way.
    saved_by : str
        The first layer that keeps it for backward (and counts it in its saved bytes); ``""`` if none does.
    shards : tuple of TensorShard
        Its shape on one of the ranks of a split; where absent every rank holds the whole.
    """

    name: str
    producer: str
    consumers: tuple[str, ...] = ()
    shape: tuple[int, ...]
    dtype: str = "float32"
    batch_dim: int | None = 0
    role: str = "activation"
    needs_gradient: bool = True
    saved_by: str = ""
    shards: tuple[TensorShard, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        what = f"tensor {self.name!r}"
        check_dtype(self.dtype, what)
        check_shape(self.shape, what)
        roles = ("activation", "input", "target", "output")
        if self.role not in roles:
            raise MpsimError(f"{what}: unknown role {self.role!r}{did_you_mean(self.role, roles)}")
        if self.batch_dim is not None and not 0 <= self.batch_dim < len(self.shape):
            raise MpsimError(f"{what}: batch_dim is {self.batch_dim}, the shape has {len(self.shape)} dimensions")

    def bytes(self, split: Split | int = 1) -> int:
        """Bytes on one of the ranks of a split at the reference micro-batch."""
        split = split_of(split)
        for shard in self.shards:
            if shard.split == split:
                return tensor_bytes(shard.shape, self.dtype)
        return tensor_bytes(self.shape, self.dtype)
