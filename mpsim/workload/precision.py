"""Precisions by name: in which types a training step computes, and holds parameters, gradients and optimizer state.

Of the mixed ones ``bf16-mixed`` and ``fp16-mixed`` are PyTorch's autocast over a float32 model. ``fp8-mixed``,
``mxfp8-mixed`` and ``nvfp4-mixed`` are a bfloat16 model with a float32 master copy whose linear layers multiply in
eight or four bits, as NVIDIA's Transformer Engine does it
(https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/): PyTorch alone does not run them, they are costed
by a roofline.
"""

from __future__ import annotations

from mpsim.errors import unknown
from mpsim.workload.model import Precision

__all__ = ["PRECISIONS", "precision", "product_rate", "watched_dtype"]


def _alike(name: str, dtype: str) -> Precision:
    return Precision(name=name, compute=dtype, parameters=dtype, gradients=dtype, optimizer=dtype)


def _narrow(name: str, compute: str) -> Precision:
    return Precision(name=name, compute=compute, parameters="bfloat16", gradients="bfloat16", master="float32")


PRECISIONS: dict[str, Precision] = {
    each.name: each
    for each in (
        _alike("fp32", "float32"),
        _alike("tf32", "float32"),
        _alike("bf16", "bfloat16"),
        _alike("fp16", "float16"),
        Precision(name="bf16-mixed", compute="bfloat16"),
        Precision(name="fp16-mixed", compute="float16"),
        _narrow("fp8-mixed", "float8_e4m3fn"),
        _narrow("mxfp8-mixed", "float8_e4m3fn"),
        _narrow("nvfp4-mixed", "float4_e2m1fn_x2"),
    )
}
# Where the catalog's rate of products is not that of the type they are computed in.
_RATES = {"tf32": "tf32", "mxfp8-mixed": "mxfp8", "nvfp4-mixed": "nvfp4"}


def precision(name: str) -> Precision:
    """Return the precision of a name.

    Raises
    ------
    MpsimError
        There is none of that name.

    Examples
    --------
    >>> precision("bf16").optimizer
    'bfloat16'
    >>> precision("bf61")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown precision 'bf61'; did you mean 'bf16'?
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return PRECISIONS[name]


def watched_dtype(chosen: Precision) -> str:
    """Return the type in which products are seen to be computed while PyTorch runs the model.

    It is `compute`, or where PyTorch alone has none so narrow, that of the parameters.

    Examples
    --------
    >>> watched_dtype(precision("bf16-mixed")), watched_dtype(precision("mxfp8-mixed"))
    ('bfloat16', 'bfloat16')
    """
    return chosen.parameters if chosen.compute.startswith(("float8", "float4")) else chosen.compute


def product_rate(chosen: Precision) -> str:
    """Return the catalog's name of the rate at which the matrix products of linear layers are charged.

    Examples
    --------
    >>> [product_rate(precision(name)) for name in ("fp32", "tf32", "bf16-mixed", "fp8-mixed", "nvfp4-mixed")]
    ['float32', 'tf32', 'bfloat16', 'float8_e4m3fn', 'nvfp4']
    """
    return _RATES.get(chosen.name, chosen.compute)
