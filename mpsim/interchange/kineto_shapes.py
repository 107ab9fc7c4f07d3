"""What a profiled model's operators say of sizes, where they were recorded: tensors between layers, and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpsim.interchange.chrome import Around, Slice
from mpsim.interchange.losses import Losses
from mpsim.workload.model import Parameter, Tensor

__all__ = ["gradients_of", "tensors_between"]

# What PyTorch's profiler calls the types of tensors.
_DTYPES = {
    "float": "float32", "double": "float64", "c10::Half": "float16", "c10::BFloat16": "bfloat16", "long int": "int64",
    "long": "int64", "int": "int32", "short": "int16", "signed char": "int8", "unsigned char": "uint8", "bool": "bool",
    "c10::complex<float>": "complex64", "c10::Float8_e4m3fn": "float8_e4m3fn", "c10::Float8_e5m2": "float8_e5m2",
}  # fmt: skip
_FLOATS = ("float64", "float32", "float16", "bfloat16", "complex64", "float8_e4m3fn", "float8_e5m2")


def _shapes(operator: Slice) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the shape and type of each tensor that an operator reads."""
    dims, types = operator.args.get("Input Dims", []), operator.args.get("Input type", [])
    if not isinstance(dims, list) or not isinstance(types, list):
        return
    for shape, kind in zip(dims, types, strict=False):
        whole = isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)
        if whole and shape and isinstance(kind, str) and kind in _DTYPES:
            yield tuple(shape), _DTYPES[kind]


def tensors_between(
    names: Sequence[str], calls: Sequence[Slice], operators: Around, microbatch: int, losses: Losses
) -> tuple[Tensor, ...]:
    """Return what each layer reads, taken for the output of the one before: the first tensor of its first operators.

    Parameters
    ----------
    names, calls
        Of each layer, and its first call.
    operators : Around
        All of the trace's.
    microbatch : int
        Samples in a call: a tensor's first dimension is a multiple of it.
    losses : Losses
        Where to note what is not known.
    """
    losses.add("connections: layers are taken for a chain, each reading what the one before it makes")
    tensors = []
    for i, (name, call) in enumerate(zip(names, calls, strict=True)):
        read = [one for operator in operators.inside(call) for one in _shapes(operator) if one[0][0] % microbatch == 0]
        shape, dtype = read[0] if read else ((microbatch, 0), "float32")
        if not read:
            losses.add(
                "sizes of what a layer reads: nothing is sent to it; profile with record_shapes=True", repr(name)
            )
        producer = names[i - 1] if i else ""
        tensors.append(
            Tensor(
                name=f"{producer}.output" if i else "input",
                producer=producer,
                consumers=(name,),
                shape=shape,
                dtype=dtype,
                role="activation" if i else "input",
                needs_gradient=bool(i) and dtype in _FLOATS,
            )
        )
    last = Tensor(name=f"{names[-1]}.output", producer=names[-1], shape=(microbatch, 0), role="output")
    losses.add("the size of the model's output: taken for nothing")
    return (*tensors, last)


def gradients_of(layer: str, accumulated: Sequence[Slice], operators: Around) -> tuple[Parameter, ...]:
    """Return a layer's parameters in the order in which their gradients were added up, of those with sizes."""
    shapes = [next((one for o in operators.inside(slice) for one in _shapes(o)), None) for slice in accumulated]
    return tuple(
        Parameter(name=f"{layer}.parameter{i}", shape=one[0], dtype=one[1]) for i, one in enumerate(shapes) if one
    )
