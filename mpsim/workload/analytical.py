"""Analytical costs: the roofline of each operation, for a model too large for the device at hand.

Nothing is computed: the model is built, exported and run, forward and backward, on fake tensors, which have shapes and
no memory, and every operation that would reach the device is charged

    max(FLOPs / (peak · matmul_fraction), bytes read and written / memory bandwidth) + kernel floor

(https://doi.org/10.1145/1498765.1498785). Views are free. Fused kernels, caches and overlap are not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mpsim.workload.account import account, attention_flops
from mpsim.workload.example import Example
from mpsim.workload.fake import fake_example, fake_mode_of
from mpsim.workload.graph import Cut, capture, flat_inputs
from mpsim.workload.measure import Measured
from mpsim.workload.model import Fidelity, Samples
from mpsim.workload.point import Point, describe, state_of
from mpsim.workload.roofline import DeviceSpec
from mpsim.workload.run import run_step
from mpsim.workload.sharding import sharded
from mpsim.workload.source import Source
from mpsim.workload.update import optimizer_state_bytes, owned_parameters

__all__ = ["DeviceSpec", "analytical_point"]

# Reads gradient, parameter and state, writes parameter and state: passes over memory of the parameters' size.
_OPTIMIZER_PASSES = {"adam": 7, "adamw": 7, "momentum": 5, "sgd": 3}
_OPTIMIZER_KERNELS = {"adam": 12, "adamw": 13, "momentum": 3, "sgd": 1}
_NO_KERNEL = ("empty", "new_empty", "detach", "_unsafe_view", "_assert", "sym_", "lift_fresh")
_LOOKUPS = ("aten::embedding", "aten::index", "aten::gather", "aten::index_select")


@dataclass(slots=True)
class _Total:
    seconds: float = 0.0
    marks: list[float] = field(default_factory=list)


class _Roofline(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
    """Charge every operation that reaches the device."""

    def __init__(self, spec: DeviceSpec, total: _Total) -> None:
        super().__init__()
        self.spec, self.total = spec, total
        self.formulas = {**flop_registry, **{key: _raw(formula) for key, formula in attention_flops().items()}}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _is_free(func):
            tensors = {id(item): item for item in pytree.tree_leaves((args, kwargs, result)) if _is_tensor(item)}
            formula = self.formulas.get(func._overloadpacket)
            flops = formula(*args, **kwargs, out_val=result) if formula else 0
            moved = _moved_bytes(func, list(tensors.values()), result)
            floating = [item.dtype for item in tensors.values() if item.is_floating_point()]
            dtype = str(floating[0]).removeprefix("torch.") if floating else ""
            self.total.seconds += self.spec.seconds(flops, moved, dtype)
        return result


def _raw(formula: Any) -> Any:
    def on_tensors(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return int(formula(*(item.shape if _is_tensor(item) else item for item in args)))

    return on_tensors


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor)


def _is_free(func: Any) -> bool:
    """Whether an operation makes no kernel: a view, an allocation, a question about a tensor."""
    name = func._schema.name
    aliases = [item.alias_info for item in func._schema.returns if item.alias_info is not None]
    views = bool(aliases) and not any(item.is_write for item in aliases)
    return views or not name.startswith("aten::") or name.removeprefix("aten::").startswith(_NO_KERNEL)


def _moved_bytes(func: Any, tensors: list[Any], result: Any) -> int:
    """Bytes read and written; of a table that is looked up, only the rows that are."""
    if func._schema.name in _LOOKUPS:
        return 2 * sum(int(item.nbytes) for item in pytree.tree_leaves(result) if _is_tensor(item))
    return sum(int(item.nbytes) for item in tensors)


def analytical_point(
    source: Source, microbatch: int, ranks: int, spec: DeviceSpec, *, depth: int | str, optimizer: str
) -> Point:
    """Return a point of roofline costs; nothing is computed and no memory is needed.

    Raises
    ------
    MpsimError
        The model cannot be built or exported on fake tensors, or a tensor shard was asked for.
    """
    example = fake_example(source, microbatch)
    if ranks == 1:
        return _costed(example, microbatch, spec, depth, optimizer)
    return sharded(example, ranks, lambda local: _costed(local, microbatch, spec, depth, optimizer))


def _costed(example: Example, microbatch: int, spec: DeviceSpec, depth: int | str, optimizer: str) -> Point:
    example.model.train()
    cut = capture(example, depth)
    parameters, buffers = state_of(example)
    feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
    feeds.pop("", None)
    with fake_mode_of(example):
        found = account(cut, feeds, parameters, buffers)
        whole = _roofline_step(cut, feeds, parameters, spec, accumulate=True)
        inputs = _roofline_step(cut, feeds, parameters, spec, accumulate=False)
    owned = [[parameters[name] for name in names if parameters[name].requires_grad] for names in owned_parameters(cut)]
    sizes = [sum(item.nbytes for item in items) for items in owned]
    samples = [
        Samples(
            forward_s=(forward,),
            backward_input_s=(backward_input,),
            backward_weight_s=(max(0.0, backward - backward_input),),
            optimizer_s=(_update_s(optimizer, size, spec),),
        )
        for (forward, backward), (_, backward_input), size in zip(whole, inputs, sizes, strict=True)
    ]
    return replace(
        describe(example, cut, microbatch, found),
        measured=Measured(samples=samples, wall=None, whole_s=(), layers_s=()),
        optimizer_bytes=tuple(
            optimizer_state_bytes(optimizer, size, len(items)) for size, items in zip(sizes, owned, strict=True)
        ),
        fidelity=Fidelity.ANALYTICAL,
    )


def _roofline_step(
    cut: Cut, feeds: Mapping[str, Any], parameters: Mapping[str, Any], spec: DeviceSpec, accumulate: bool
) -> list[tuple[float, float]]:
    """Return (forward, backward) seconds of each unit."""
    total = _Total()
    with _Roofline(spec, total):
        run_step(cut, feeds, parameters, lambda again=False: total.marks.append(total.seconds), accumulate)
    for parameter in parameters.values():
        parameter.grad = None
    marks = [float(f"{end - start:.4g}") for start, end in zip(total.marks[::2], total.marks[1::2], strict=True)]
    count = len(cut.units)
    return list(zip(marks[:count], marks[count:][::-1], strict=True))


def _update_s(optimizer: str, parameter_bytes: int, spec: DeviceSpec) -> float:
    """Return the update's cost: passes over memory, and its kernels (each for all tensors of a layer at once)."""
    optimizer_state_bytes(optimizer, 0)
    if not parameter_bytes:
        return 0.0
    moved_s = _OPTIMIZER_PASSES[optimizer] * parameter_bytes / spec.memory_bytes_per_s
    return float(f"{moved_s + _OPTIMIZER_KERNELS[optimizer] * spec.kernel_floor_s:.4g}")
