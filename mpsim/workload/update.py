"""The optimizer's update: one call over all that a rank owns, and each layer's share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import torch

from mpsim.errors import unknown
from mpsim.workload.clock import Clock
from mpsim.workload.sparse_adam import AdamOfSparse

__all__ = ["OPTIMIZERS", "optimizer_state_bytes", "shares", "state_bytes", "update_rates", "updated_bytes"]

# A learning rate of zero: every operation of the update runs, and the traced model stays as it was given.
OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Any]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.0),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.0),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.0, momentum=0.9),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.0),
    "sparse-adam": AdamOfSparse,
}
# (tensors of the parameter's size, bytes beside them) that each keeps for one parameter tensor.
_STATE = {"adam": (2, 4), "adamw": (2, 4), "momentum": (1, 0), "sgd": (0, 0), "sparse-adam": (2, 4)}


def optimizer_state_bytes(optimizer: str, parameter_bytes: int, tensors: int = 1) -> int:
    """Return what an optimizer keeps for parameters of so many bytes in so many tensors.

    Raises
    ------
    MpsimError
        An unknown optimizer.

    Examples
    --------
    >>> optimizer_state_bytes("adamw", 1000), optimizer_state_bytes("sgd", 1000)
    (2004, 0)
    """
    if optimizer not in _STATE:
        raise unknown("optimizer", optimizer, _STATE)
    copies, beside = _STATE[optimizer]
    return copies * parameter_bytes + beside * tensors


def updated_bytes(parameter: Any, dtype: str = "") -> int:
    """Return the bytes of what an optimizer updates for a parameter: itself, or a copy in another type.

    Examples
    --------
    >>> parameter = torch.ones(3, dtype=torch.bfloat16)
    >>> updated_bytes(parameter), updated_bytes(parameter, "float32")
    (6, 12)
    """
    size = getattr(torch, dtype).itemsize if dtype and parameter.is_floating_point() else parameter.element_size()
    return int(parameter.numel() * size)


def state_bytes(optimizer: Any, parameters: Sequence[Any]) -> int:
    """Return what an optimizer keeps for some parameters, after its first update.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(4))
    >>> optimizer = OPTIMIZERS["adamw"]([weight])
    >>> weight.grad = torch.ones(4)
    >>> _ = optimizer.step()
    >>> state_bytes(optimizer, [weight]), weight.tolist()
    (36, [1.0, 1.0, 1.0, 1.0])
    """
    kept = [optimizer.state.get(parameter, {}) for parameter in parameters]
    states = [item for state in kept for item in state.values() if isinstance(item, torch.Tensor)]
    return sum(item.numel() * item.element_size() for item in states)  # of a sparse one as if it were dense


def update_rates(name: str, optimizer: Any, clock: Clock, repeats: int = 5) -> list[tuple[float, float]]:
    """Measure how an update grows: seconds for each tensor and for each byte, by each of a clock's names.

    One call updates all parameters, one the smaller half of them, one the smallest alone; what a call costs
    whatever it updates is in none of the rates.
    """
    if isinstance(optimizer, AdamOfSparse):  # whose parts are by the kind of their gradients
        return [(0.0, 1.0)] * len(clock.names)
    everything = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    ordered = sorted(everything, key=lambda parameter: parameter.nbytes)
    parts = [ordered, ordered[: (len(ordered) + 1) // 2], ordered[:1]]
    measured = [[_updated(name, optimizer, part, clock) for part in parts] for _ in range(repeats + 1)][1:]
    sizes = [(len(part), sum(parameter.nbytes for parameter in part)) for part in parts]
    return [
        _rates(sizes, [median(one[part][i] for one in measured) for part in range(len(parts))])
        for i in range(len(clock.names))
    ]


def _updated(name: str, optimizer: Any, part: list[Any], clock: Clock) -> tuple[float, ...]:
    """Return what updating some parameters takes, with the state that they have."""
    own = OPTIMIZERS[name](part)
    own.state = optimizer.state
    for parameter in part:
        parameter.grad = torch.zeros_like(parameter)
    piece = clock.start(("part", len(part)))
    own.step()
    own.zero_grad(set_to_none=True)
    piece = clock.end(piece)
    clock.finish()
    return clock.seconds(piece)


def _rates(sizes: list[tuple[int, int]], seconds: list[float]) -> tuple[float, float]:
    """Return seconds for each tensor and each byte from what all, the smaller half and one take.

    Examples
    --------
    >>> _rates([(4, 1000), (2, 0), (1, 0)], [1.0 + 4 * 0.25 + 1000 * 0.5, 1.5, 1.25])
    (0.25, 0.5)
    """
    (tensors, size), (few, small), _ = sizes
    for_tensor = max(0.0, (seconds[1] - seconds[2]) / (few - 1)) if few > 1 else 0.0
    rest = seconds[0] - seconds[1] - for_tensor * (tensors - few)
    return for_tensor, max(0.0, rest / (size - small)) if size > small else 0.0


def shares(owned: Sequence[tuple[int, int]], rates: tuple[float, float]) -> list[float]:
    """Return each layer's share of one update, by the tensors and bytes that it owns; they add up to one.

    Examples
    --------
    >>> shares([(1, 0), (1, 100), (0, 0)], (1.0, 0.02))
    [0.25, 0.75, 0.0]
    """
    for_tensor, for_byte = rates if any(rates) else (0.0, 1.0)
    parts = [for_tensor * tensors + for_byte * size for tensors, size in owned]
    total = sum(parts)
    return [part / total if total else 0.0 for part in parts]
