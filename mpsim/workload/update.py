"""The optimizer's update of a model and of each of its units, on one shared state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from mpsim.errors import unknown
from mpsim.workload.graph import Cut
from mpsim.workload.sparse_adam import AdamOfSparse

__all__ = ["OPTIMIZERS", "Updates", "optimizer_state_bytes", "owned_parameters"]

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


def owned_parameters(cut: Cut) -> list[tuple[str, ...]]:
    """Return for each unit the parameters that it updates: a tied one is updated by the first unit that holds it.

    Examples
    --------
    >>> owned_parameters(Cut(units=(), feeds=(), outputs=(), loss=""))
    []
    """
    seen: set[str] = set()
    owned = []
    for unit in cut.units:
        owned.append(tuple(name for name in unit.parameters if name not in seen))
        seen.update(unit.parameters)
    return owned


class Updates:
    """One optimizer over the whole model, and one over each unit, that share their state.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(4))
    >>> updates = Updates("adamw", [("w",)], {"w": weight})
    >>> weight.grad = torch.ones(4)
    >>> updates.whole()
    >>> updates.state_bytes(0), weight.tolist()
    (36, [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, optimizer: str, owned: list[tuple[str, ...]], parameters: Mapping[str, Any]) -> None:
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer", optimizer, OPTIMIZERS)
        make = OPTIMIZERS[optimizer]
        trained = [[parameters[name] for name in names if parameters[name].requires_grad] for names in owned]
        everything = [item for names in trained for item in names]
        self._whole = make(everything) if everything else None
        self._units: list[Any] = [make(names) if names else None for names in trained]
        for unit in self._units:
            if unit is not None and self._whole is not None:
                unit.state = self._whole.state

    def whole(self) -> None:
        """Update all parameters, then drop their gradients."""
        if self._whole is not None:
            self._whole.step()
            self._whole.zero_grad(set_to_none=True)

    def step_unit(self, index: int) -> None:
        """Update the parameters that one unit owns."""
        self._units[index].step()

    def drop_unit(self, index: int) -> None:
        """Drop the gradients of one unit: after all are updated, as they take up memory until then."""
        self._units[index].zero_grad(set_to_none=True)

    def updates(self, index: int) -> bool:
        """Whether a unit owns any parameter that is trained."""
        return self._units[index] is not None

    def state_bytes(self, index: int) -> int:
        """Return what the optimizer keeps for one unit, after a first update."""
        optimizer = self._units[index]
        if optimizer is None or self._whole is None:
            return 0
        kept = [self._whole.state[item] for group in optimizer.param_groups for item in group["params"]]
        states = [x for state in kept for x in state.values() if isinstance(x, torch.Tensor)]
        return sum(x.numel() * x.element_size() for x in states)  # of a sparse one as if it were dense
