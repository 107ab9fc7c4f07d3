"""All that a step of training changes, as it was before the step: what a repeated step begins from.

It lies in the memory of this process, apart from every device: one copy of weights and buffers, of what the optimizers
keep, of gradients if there are any, and the state of the generators of random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.generators import Draws
from mpsim.emulate.failures import blaming
from mpsim.emulate.grid import Grid
from mpsim.emulate.parts import Part

__all__ = ["Kept", "MakeOptimizer", "Update", "updates_of"]

MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
_Name = tuple[int, str]  # a tensor-parallel rank, a parameter's name


class Update:
    """The optimizer of one part, over what it owns: a tied weight belongs to the first part of a line that holds it.

    Parameters
    ----------
    part : Part
    rank : int
        Its tensor-parallel rank.
    names : tuple of str
        Of the parameters.
    make : callable
        Makes the optimizer.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Linear(2, 1)
    >>> (part,) = make_parts(capture(Example(model=model, inputs=(torch.ones(1, 2),))), model, ())
    >>> update = Update(part, 0, ("weight",), lambda p: torch.optim.SGD(p, lr=1.0))
    >>> sorted(update.moments()[0, "weight"].options)[:2]
    ['dampening', 'differentiable']
    """

    def __init__(self, part: Part, rank: int, names: tuple[str, ...], make: MakeOptimizer) -> None:
        self.part, self.rank, self.names = part, rank, names
        self.optimizer = make([part.parameters[name] for name in names])

    def step(self) -> None:
        """Update the parameters."""
        with blaming(self.part):
            self.optimizer.step()

    def moments(self) -> dict[_Name, Moments]:
        """Return a copy of what the optimizer keeps, by parameter."""
        names = {id(self.part.parameters[name]): name for name in self.names}
        found = {}
        for group in self.optimizer.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                moments = Moments(options=_copied(options, None), state=_copied(state, parameter))
                found[self.rank, names[id(parameter)]] = moments
        return found

    def take(self, moments: Mapping[_Name, Moments]) -> None:
        """Go on from what optimizers kept; parameters with the same options make up a group."""
        groups: list[dict[str, Any]] = []
        for name in self.names:
            own, parameter = moments[self.rank, name], self.part.parameters[name]
            group = next((one for one in groups if _options(one) == own.options), None)
            if group is None:
                group = {**_copied(own.options, None), "params": []}
                groups.append(group)
            group["params"].append(parameter)
            if own.state:
                self.optimizer.state[parameter] = _placed(own.state, parameter)
        self.optimizer.param_groups[:] = groups


def updates_of(parts: Sequence[Part], rank: int, make: MakeOptimizer) -> list[Update]:
    """Make an optimizer for each part of a line that owns something.

    Examples
    --------
    >>> updates_of((), 0, torch.optim.SGD)
    []
    """
    seen: set[str] = set()
    made = []
    for part in parts:
        own = tuple(name for name, one in part.parameters.items() if one.requires_grad and name not in seen)
        seen.update(part.parameters)
        if own:
            made.append(Update(part, rank, own, make))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What an optimizer keeps for a parameter, and the options of its group."""

    options: dict[str, Any]
    state: dict[str, Any]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


class _Beside:
    """A tensor that lay where its parameter does."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _copied(tree: Any, parameter: Any) -> Any:
    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        copy = value.detach().to("cpu", copy=True)
        return _Beside(copy) if parameter is not None and value.device == parameter.device else copy

    return pytree.tree_map(copied, dict(tree))


def _placed(tree: Any, parameter: Any) -> Any:
    def placed(value: Any) -> Any:
        if isinstance(value, _Beside):
            return value.value.to(parameter.device, copy=True)
        return value.clone() if isinstance(value, torch.Tensor) else value

    return pytree.tree_map(placed, tree)


class Kept:
    """A copy of what a step changes.

    Parameters
    ----------
    grid : Grid
        All ranks.
    updates : sequence of Update
        Of all ranks.
    collected : bool
        Whether every part that holds a tied weight has the whole gradient of it, and not its own share.
    """

    def __init__(self, grid: Grid, updates: Sequence[Update], collected: bool) -> None:
        self.collected = collected
        self.generators = Draws()
        self.weights: dict[_Name, Any] = {}
        self.moments: dict[_Name, Moments] = {}
        for line in reversed(grid.lines):  # the first replica's count
            for part in reversed(line.parts):
                held = part.parameters | part.buffers
                self.weights |= {(line.rank, name): value.detach().to("cpu", copy=True) for name, value in held.items()}
        for update in reversed(updates):
            self.moments |= update.moments()
        self.gradients = [self._gradients_of(line.parts) for line in grid.lines]
        self._ranks = 1 + max(line.rank for line in grid.lines)

    def _gradients_of(self, parts: Sequence[Part]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in parts:
            for name, parameter in part.parameters.items():
                if parameter.grad is None or (self.collected and name in found):
                    continue
                gradient = parameter.grad.to("cpu", copy=True)
                found[name] = found[name] + gradient if name in found else gradient
        return found

    def put_into(self, models: Sequence[nn.Module]) -> None:
        """Give the model of each tensor-parallel rank its weights back, and the generators their state."""
        with torch.no_grad():
            for rank, model in enumerate(models):
                for name, value in (*model.named_parameters(), *model.named_buffers()):
                    if (rank, name) in self.weights:
                        value.copy_(self.weights[rank, name])
        self.generators.begin()

    def give_gradients(self, grid: Grid) -> None:
        """Give parts the gradients that there were; replicas that became one get the mean of theirs."""
        lines = grid.lines
        share = len(self.gradients) // len(lines)
        for i, line in enumerate(lines):
            d, t = divmod(i, self._ranks)
            merged = [self.gradients[(d * share + k) * self._ranks + t] for k in range(share)]
            self._give(line.parts, {name: sum(one[name] for one in merged) / share for name in merged[0]})

    def _give(self, parts: Sequence[Part], gradients: dict[str, Any]) -> None:
        given: set[str] = set()
        for part in parts:
            for name in part.parameters.keys() & gradients.keys():
                if self.collected or name not in given:
                    parameter = part.parameters[name]
                    parameter.grad = gradients[name].to(parameter.device, parameter.dtype, copy=True)
                    given.add(name)
