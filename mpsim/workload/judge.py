"""One plain step of a model, which judges what a trace says of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsim.workload.account import Account, memory_of, norm
from mpsim.workload.watch import taking_over

__all__ = ["PlainStep", "differences", "judging"]

_KEPT, _NORM, _LOSS = 0.01, 0.05, 0.01  # how far bytes kept, norms of gradients and the loss may be off


@dataclass(slots=True)
class PlainStep:
    """What one step does that nobody watches.

    Attributes
    ----------
    loss : float
        Nan if it is no number.
    gradient_norms : dict of str to float
        Of the parameters that got a gradient.
    saved_bytes : int
        Kept for backward: unique storages without parameters and buffers.

    Examples
    --------
    >>> PlainStep().saved_bytes
    0
    """

    loss: float = float("nan")
    gradient_norms: dict[str, float] = field(default_factory=dict)
    saved_bytes: int = 0


@contextlib.contextmanager
def judging(parameters: Mapping[str, Any], buffers: Mapping[str, Any]) -> Iterator[PlainStep]:
    """Note what the step does that runs in the block.

    Examples
    --------
    >>> model = torch.nn.Linear(4, 2)
    >>> with judging(dict(model.named_parameters()), {}) as plain:
    ...     model(torch.ones(3, 4)).mean().backward()
    >>> plain.saved_bytes, sorted(plain.gradient_norms)
    (48, ['bias', 'weight'])
    """
    state = (*parameters.values(), *buffers.values())
    own = {storage._cdata for tensor in state for storage in memory_of(tensor)}
    found, kept, running = PlainStep(), dict[int, Any](), [True]

    def keep(tensor: Any) -> Any:
        for storage in memory_of(tensor):
            if storage._cdata not in own:
                kept[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    def backward(original: Any, tensors: Any, *rest: Any, **how: Any) -> None:
        outermost = bool(running)
        if outermost:
            running.clear()
            hooks.__exit__(None, None, None)
            found.saved_bytes = sum(storage.nbytes() for storage in kept.values())
            kept.clear()
            root = tensors if isinstance(tensors, torch.Tensor) else tensors[0]
            found.loss = float(root.detach()) if root.numel() == 1 else math.nan
        original(tensors, *rest, **how)
        if outermost:
            found.gradient_norms = {
                name: norm(parameter.grad) for name, parameter in parameters.items() if parameter.grad is not None
            }

    hooks.__enter__()
    try:
        with taking_over(backward):
            yield found
    finally:
        if running:
            hooks.__exit__(None, None, None)


def differences(plain: PlainStep, account: Account) -> tuple[str, ...]:
    """Say what an account has otherwise than the plain step.

    Examples
    --------
    >>> account = Account(1, {}, {}, {})
    >>> differences(PlainStep(saved_bytes=100), account)
    ('kept for backward 0 bytes, the plain step 100',)
    """
    found = []
    seen, real = account.gradient_norms, plain.gradient_norms
    if odd := sorted(set(seen) ^ set(real)):
        found.append(f"gradients of other parameters than in the plain step: {_some(odd)}")
    listed = {name for layer in account.layers for name in layer.gradients}
    if lost := sorted(set(real) & set(seen) - listed):
        found.append(f"gradients that no layer makes: {_some(lost)}")
    off = [name for name in real if name in seen and not _close(real[name], seen[name], _NORM)]
    if off:
        one = f"{off[0]} {seen[off[0]]:.4g}, {real[off[0]]:.4g}"
        found.append(f"{len(off)} gradients of other norm than in the plain step: {one}")
    saved = sum(layer.saved_bytes for layer in account.layers)
    if abs(saved - plain.saved_bytes) > _KEPT * plain.saved_bytes:
        found.append(f"kept for backward {saved} bytes, the plain step {plain.saved_bytes}")
    if not _close(plain.loss, account.loss, _LOSS) and not (math.isnan(plain.loss) and math.isnan(account.loss)):
        found.append(f"loss {account.loss:.6g}, the plain step's {plain.loss:.6g}")
    return tuple(found)


def _close(a: float, b: float, part: float) -> bool:
    return math.isclose(a, b, rel_tol=part, abs_tol=1e-6)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
