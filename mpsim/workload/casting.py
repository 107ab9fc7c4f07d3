"""A training step in a precision: the model and its batch converted, autocast, TF32 on or off."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.model import Precision
from mpsim.workload.nested import Done, map_tensors
from mpsim.workload.precision import PRECISIONS

__all__ = ["as_found", "cast", "check_runs", "computing", "loss_scale", "precision_of", "products"]

_SCALE = 1024.0  # the work is the same with any; GradScaler begins at 65,536 and halves it until nothing overflows


def check_runs(precision: Precision, device: str) -> None:
    """Refuse a precision that PyTorch does not run on a device.

    Examples
    --------
    >>> check_runs(PRECISIONS["fp8-mixed"], "cuda")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: precision fp8-mixed cannot be run by PyTorch alone: it is known only with --analytical
    """
    kind = torch.device(device).type
    if precision.compute.startswith(("float8", "float4")):
        raise MpsimError(
            f"precision {precision.name} cannot be run by PyTorch alone: it is known only with --analytical"
        )
    if precision.name == "tf32" and kind != "cuda":
        raise MpsimError(f"precision tf32 is of NVIDIA's GPUs, a {kind.upper()} has none: take fp32")
    if _is_mixed(precision):
        _check_autocast(precision, kind)


def cast(example: Example, precision: Precision) -> Example:
    """Return the example with its model and the floating-point numbers of its batch in the types of a precision.

    The model itself is converted, as by ``model.to(dtype)``: see :func:`as_found`. Whole numbers and complex ones stay.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> made = cast(Example(model=model, inputs=(torch.ones(1, 2), torch.tensor(3))), PRECISIONS["bf16"])
    >>> made.model.weight.dtype, [item.dtype for item in made.inputs]
    (torch.bfloat16, [torch.bfloat16, torch.int64])
    """
    dtype = getattr(torch, precision.parameters)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        return tensor.detach().to(dtype).requires_grad_(tensor.requires_grad)

    done: Done = {}  # a tensor that is both input and target is converted once
    return replace(
        example,
        model=_converted(example.model, dtype),
        inputs=tuple(map_tensors(change, item, done) for item in example.inputs),
        keywords={name: map_tensors(change, item, done) for name, item in example.keywords.items()},
        target=map_tensors(change, example.target, done),
    )


def _converted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a model's floating-point parameters and buffers.

    Fake parameters PyTorch would swap, which it refuses where anything refers to them weakly: they are made anew.
    """
    if not any(hasattr(item, "fake_mode") for item in model.parameters()):
        return model._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    made: dict[int, tuple[Any, Any]] = {}  # by identity: two modules may hold one parameter
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.is_floating_point():
                if id(tensor) not in made:
                    new = tensor.detach().to(dtype)
                    as_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = tensor, nn.Parameter(new, tensor.requires_grad) if as_parameter else new
                setattr(module, name, made[id(tensor)][1])
    return model


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Give a model's parameters and buffers back in the type, on the device and with the values that they had.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> with as_found(model):
    ...     _ = cast(Example(model=model, inputs=()), PRECISIONS["bf16"])
    >>> model.weight.dtype
    torch.float32
    """
    slots = [held for module in model.modules() for held in (module._parameters, module._buffers)]
    places = [(held, name, tensor) for held in slots for name, tensor in held.items() if tensor is not None]
    tensors = {id(tensor): tensor for _, _, tensor in places}.values()
    gradients = [(tensor, tensor.grad) for tensor in tensors if tensor.grad is not None]
    values = [(tensor, tensor.data) for tensor in (*tensors, *(gradient for _, gradient in gradients))]
    try:
        yield
    finally:
        for held, name, tensor in places:
            held[name] = tensor
        for tensor in tensors:
            tensor.grad = None
        for tensor, value in values:
            tensor.data = value
        for tensor, gradient in gradients:
            tensor.grad = gradient


def computing(precision: Precision | None, device: str) -> Any:
    """Return the context in which forward and loss run: autocast, where the precision is a mixed one.

    Backward runs outside of it, as PyTorch recommends: its operations take the types that forward had.

    Examples
    --------
    >>> with computing(PRECISIONS["bf16-mixed"], "cpu"):
    ...     nn.Linear(2, 1)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """
    if precision is None or not _is_mixed(precision):
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, precision.compute))


def _is_mixed(precision: Precision) -> bool:
    return precision.compute != precision.parameters


def _check_autocast(precision: Precision, kind: str) -> None:
    """Refuse autocast where PyTorch would only warn that it does nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.autocast(kind, dtype=getattr(torch, precision.compute))
    except (RuntimeError, Warning) as error:
        reason = " ".join(str(error).split())
        raise MpsimError(f"precision {precision.name} does not run on this {kind.upper()}: {reason}") from None


@contextlib.contextmanager
def products(precision: Precision | None) -> Iterator[None]:
    """Let float32 products be computed as a precision says while steps run: in TF32 for tf32, else in float32.

    Without a precision, and for other types, all stays as the user set it.

    Examples
    --------
    >>> with products(PRECISIONS["fp32"]):
    ...     torch.get_float32_matmul_precision()
    'highest'
    """
    if precision is None or precision.compute != "float32":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    narrow = precision.name == "tf32"
    torch.set_float32_matmul_precision("high" if narrow else "highest")
    torch.backends.cudnn.allow_tf32 = narrow
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def loss_scale(precision: Precision | None) -> float:
    """Return what a gradient scaler multiplies the loss by before backward; 1 where there is none.

    Examples
    --------
    >>> loss_scale(PRECISIONS["fp16-mixed"]), loss_scale(PRECISIONS["bf16-mixed"])
    (1024.0, 1.0)
    """
    return _SCALE if precision is not None and precision.name == "fp16-mixed" else 1.0


def precision_of(model: nn.Module, compute: str = "") -> Precision:
    """Return the precision of a model as it is: the type in which most bytes of its parameters are.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    compute : str
        The type in which it was seen to do most of its FLOPs, as under an autocast of its own; by default that of its
        parameters.

    Returns
    -------
    Precision
        Named where it is a known one. Float32 is tf32 where products on CUDA are computed so.

    Examples
    --------
    >>> precision_of(nn.Linear(2, 1).bfloat16()).name, precision_of(nn.Linear(2, 1), "bfloat16").name
    ('bf16', 'bf16-mixed')
    """
    parameters = list(model.parameters())
    dtype = _most(parameters, lambda _: True) or "float32"
    trained = _most(parameters, lambda item: item.requires_grad) or dtype
    computed = compute if "float" in compute else dtype
    found = Precision(compute=computed, parameters=dtype, gradients=trained, optimizer=trained)
    on_cuda = bool(parameters) and parameters[0].device.type == "cuda"
    narrow = on_cuda and torch.get_float32_matmul_precision() != "highest"
    names = [name for name, known in PRECISIONS.items() if replace(known, name="") == found]
    return replace(found, name="tf32" if narrow and "tf32" in names else next(iter(names), ""))


def _most(parameters: list[Any], counts: Callable[[Any], bool]) -> str:
    """Return the type of most bytes."""
    sizes: Counter[str] = Counter()
    for item in parameters:
        if counts(item):
            sizes[str(item.dtype).removeprefix("torch.")] += item.numel() * item.element_size()
    return max(sizes, key=lambda name: sizes[name]) if sizes else ""
