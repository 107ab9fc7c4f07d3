"""Hold a capture against the model: one step of each, the same numbers, or a refusal that says which and why.

    the model's step ───▶ outputs, gradients, what moved ─┐
        (all put back)                                    ├─ the same, or a refusal
    the capture's step ─▶ outputs, gradients, what moved ─┘

A capture is a graph of operations. Where the model is more than that (a backward pass of its own, a region that runs
again, a path that it takes only outside of export, numbers from elsewhere) the two differ. Backward starts from the
loss, or from random gradients of the outputs; where a backward pass is the model's own also from a million times as
much, for a true gradient is proportional to what it starts from, and one that is clipped is not.

This takes the memory of one copy of the gradients: the capture's step adds its own to the negative of the model's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.attributes import counts
from mpsim.emulate.capture.cut import Cut, capture
from mpsim.emulate.capture.difference import Refusals, norm, same, tolerance
from mpsim.emulate.capture.form import take_apart
from mpsim.emulate.capture.functions import Functions
from mpsim.emulate.capture.generators import Draws, generators_kept
from mpsim.emulate.capture.piece import run_step
from mpsim.emulate.capture.state import State
from mpsim.errors import MpsimError
from mpsim.workload.example import Example, default_loss

__all__ = ["check", "checked_capture"]

_SCALE = 2.0**20  # a power of two rounds nothing
_SCALE_OF_HALF = 2.0**8  # float16 ends at 65504
_NOISE = 5e-7  # of the largest gradient: a smaller one may be rounding alone, as that of a bias before a normalisation
_MAGNITUDE = 10.0


def checked_capture(
    example: Example, depth: int | str = "auto", *, with_loss: bool = True, with_gradients: bool = True
) -> Cut:
    """Return a cut that was held against its model; see :func:`mpsim.emulate.capture.cut.capture` and :func:`check`.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2)
    >>> checked_capture(Example(model=model, inputs=(torch.rand(3, 2),))).moved
    ('running_mean', 'running_var', 'num_batches_tracked')
    """
    return check(capture(example, depth, with_loss=with_loss), example, with_gradients=with_gradients)


def check(cut: Cut, example: Example, *, with_gradients: bool = True) -> Cut:
    """Run one step of the model and one of its cut, put all back, and return the cut with what a step moves.

    Without gradients the forward alone is compared. Where the two draw different random numbers, only which parameters
    get a gradient is, and each one's order of magnitude.

    Raises
    ------
    MpsimError
        Outputs, gradients or the state after the step differ; the message names the parameter and the likely cause.
    """
    halves = any(item.dtype is torch.float16 for item in example.model.parameters())
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(with_gradients),
        generators_kept() as draws,
        _gradients_set_aside(example.model),
    ):
        pair = _Pair(cut, example, draws)
        moved = pair.compare(1.0)
        if pair.functions.classes() and with_gradients:
            pair.compare(_SCALE_OF_HALF if halves else _SCALE)
    return dataclasses.replace(cut, moved=tuple(moved))


@dataclass(slots=True, kw_only=True)
class _Step:
    """What a step gave, of the model or of its cut."""

    leaves: list[Any]  # of the output; the loss before them, if there is one
    gradients: dict[str, Any]
    moved: Mapping[str, Any]
    drawn: Any


class _Pair:
    """A cut and its model."""

    def __init__(self, cut: Cut, example: Example, draws: Draws) -> None:
        self.cut, self.example, self.draws = cut, example, draws
        self.state = State(example.model)
        self.trained = {name: item for name, item in example.model.named_parameters() if item.requires_grad}
        self.names = [*([cut.loss] if cut.loss else []), *(name for name, _ in cut.leaves)]
        self.functions = Functions([])
        self.starts: dict[str, Any] = {}
        self.fed: dict[str, Any] = {}
        self.leaves: dict[str, Any] = {}

    @property
    def refusals(self) -> Refusals:
        return Refusals(self.example.model, self.state, self.functions)

    def compare(self, scale: float) -> list[str]:
        """Compare a step of each whose backward starts from `scale`; return the state that a step moves."""
        model = self._model_step(scale)
        norms = {name: norm(value) for name, value in model.gradients.items()}
        parts = self._cut_step(model.gradients)
        try:
            self._hold_outputs(parts.leaves, model.leaves)
            self._hold_presence(set(parts.gradients), set(norms))
            self._hold_gradients(parts.gradients, norms)
            self._hold_state(parts.moved, model.moved)
        except MpsimError:
            if parts.drawn == model.drawn:  # the same random numbers, or none
                raise
            found = {name: norm(value) for name, value in self._cut_step({}).gradients.items()}
            self._hold_presence(set(found), set(norms))
            self._hold_magnitudes(found, norms)
        return [name for name in parts.moved if name not in self.state.plain]

    def _model_step(self, scale: float) -> _Step:
        self.draws.begin()
        own = self._with_own_batch()
        before = counts(own.model)
        with self.state.kept() as moved:
            output = own.model(*own.inputs, **own.keywords)
            leaves, _ = take_apart(output)
            if self.cut.loss:
                leaves.insert(0, (own.loss or default_loss)(output, own.target))
            del output
            self.functions = Functions(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
            self.leaves = self.trained | self.fed
            after = counts(own.model)
            if self.draws.unlike_torch:
                raise self.refusals.drawn(self.draws.unlike_torch[0])
            if len(leaves) != len(self.names):
                raise self.refusals.outputs(f"it returns {len(leaves)} values, its parts return {len(self.names)}")
            self.starts = self._random_starts(leaves, scale)
            gradients = self._gradients_of_model(dict(zip(self.names, leaves, strict=True)))
            leaves = [_cut_off(leaf) for leaf in leaves]
        step = _Step(leaves=leaves, gradients=gradients, moved=moved, drawn=self.draws.now())
        changed = {
            name: (before[name], after[name]) for name in before if after.get(name, before[name]) != before[name]
        }
        self._refuse_counters(changed, leaves)
        return step

    def _with_own_batch(self) -> Example:
        """Return the example with a copy of its batch, cut off from how it was made; note what wants a gradient."""
        one = self.example
        batch, structure = pytree.tree_flatten((tuple(one.inputs), dict(one.keywords), one.target))
        batch = [_copy(item) for item in batch]
        inputs, keywords, target = pytree.tree_unflatten(batch, structure)
        self.fed = {name: item for name, item in zip(self.cut.feeds, batch, strict=True) if name}
        return dataclasses.replace(one, inputs=inputs, keywords=keywords, target=target)

    def _random_starts(self, leaves: list[Any], scale: float) -> dict[str, Any]:
        """Return the gradients that backward starts from, of the loss or else of each output."""
        generator = torch.Generator().manual_seed(0)
        starts: dict[str, Any] = {}
        for name, leaf in zip(self.names, leaves, strict=True):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad and torch.is_grad_enabled():
                if self.cut.loss:
                    starts[name] = torch.full_like(leaf, scale)
                    break
                if name in self.cut.outputs:
                    random = torch.randn(leaf.shape, generator=generator, dtype=torch.float32)
                    starts[name] = (random * scale).to(leaf)
        return starts

    def _gradients_of_model(self, made: Mapping[str, Any]) -> dict[str, Any]:
        if not self.starts:
            return {}
        if (checkpoint := self.refusals.checkpoint) is not None:
            raise checkpoint
        wanted = self.trained | {name: item for name, item in self.fed.items() if _is_trained(item)}
        try:
            found = torch.autograd.grad(
                [made[name] for name in self.starts],
                list(wanted.values()),
                list(self.starts.values()),
                allow_unused=True,
            )
        except RuntimeError as error:
            raise self.refusals.backward(error) from error
        gradients = {name: value for name, value in zip(wanted, found, strict=True) if value is not None}
        for name, item in self.trained.items():  # of a function that goes backward inside of its own backward
            if item.grad is not None:
                gradients[name], item.grad = item.grad, None
        return gradients

    def _cut_step(self, minus: dict[str, Any]) -> _Step:
        """Run the cut; its gradients are added to the negative of those given, which are used up."""
        self.draws.begin()
        self._with_own_batch()
        for name, item in self.trained.items():
            item.grad = -minus.pop(name) if name in minus else None
        # Not held, so that each is gone as soon as the sum with the capture's own stands in its place.
        before = {name: weakref.ref(item.grad) for name, item in self.trained.items() if item.grad is not None}
        with self.state.kept() as moved:
            values, fed = run_step(self.cut, self.fed, dict(self.example.model.named_parameters()), self.starts)
            constants = [constant for _, constant in self.cut.leaves]
            constants = [None, *constants] if self.cut.loss else constants
            leaves = [values.get(name, one) for name, one in zip(self.names, constants, strict=True)]
            leaves = [_cut_off(leaf) for leaf in leaves]
        kept = {name for name, gradient in before.items() if gradient() is self.trained[name].grad}
        gradients = {n: item.grad for n, item in self.trained.items() if item.grad is not None and n not in kept}
        gradients |= {name: value - minus[name] if name in minus else value for name, value in fed.items()}
        for item in self.trained.values():
            item.grad = None
        return _Step(leaves=leaves, gradients=gradients, moved=moved, drawn=self.draws.now())

    def _hold_outputs(self, found: list[Any], expected: list[Any]) -> None:
        for name, one, other in zip(self.names, found, expected, strict=True):
            what = "the loss" if name == self.cut.loss and name else "an output"
            if not same(one, other):
                raise self.refusals.outputs(f"{what} of its parts is not the model's{_both(one, other)}")
            if torch.is_grad_enabled() and _is_trained(one) != _is_trained(other):
                raise self.refusals.outputs(
                    f"gradients go back from {what} of {'it' if _is_trained(other) else 'its parts'} alone"
                )

    def _hold_presence(self, found: set[str], expected: set[str]) -> None:
        for name in self.trained | self.fed:
            if (name in found) != (name in expected):
                one, other = ("in its parts", "in the model") if name in found else ("in the model", "in its parts")
                unseen = not any(name in unit.parameters for unit in self.cut.units)
                raise self.refusals.gradient(name, self.leaves[name], f"gets a gradient {one} and none {other}", unseen)

    def _hold_gradients(self, differences: Mapping[str, Any], norms: Mapping[str, float]) -> None:
        largest = max((value for value in norms.values() if math.isfinite(value)), default=0.0)
        for name, difference in differences.items():
            off = norm(difference)
            if math.isfinite(norms[name]) and not off <= tolerance(difference) * norms[name] + _NOISE * largest:
                raise self.refusals.gradient(
                    name,
                    self.leaves[name],
                    f"has a gradient that is {off:.3g} off the model's, whose norm is {norms[name]:.3g}",
                )

    def _hold_magnitudes(self, found: Mapping[str, float], expected: Mapping[str, float]) -> None:
        largest = max((value for value in expected.values() if math.isfinite(value)), default=0.0)
        for name, one in expected.items():
            low, high = sorted((found[name], one))
            if math.isfinite(high) and high > _MAGNITUDE * low + _NOISE * largest:
                what = f"has a gradient of norm {found[name]:.3g}, in the model of {one:.3g}"
                raise self.refusals.gradient(name, self.leaves[name], what)

    def _hold_state(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        read = {tensor.data_ptr() for unit in self.cut.units for tensor in unit.module.buffers()}
        for name in dict.fromkeys((*expected, *found)):
            if name in self.state.plain:
                if self.state.before(name).data_ptr() in read:
                    raise self.refusals.attribute(name)
            elif name not in found or name not in expected:
                one, other = ("its parts", "the model") if name in found else ("the model", "its parts")
                raise self.refusals.state(name, f"is moved by a step of {one} and not of {other}")
            elif not same(found[name], expected[name]):
                raise self.refusals.state(name, "is moved otherwise by a step of its parts than of the model")

    def _refuse_counters(self, changed: Mapping[str, tuple[Any, Any]], leaves: list[Any]) -> None:
        """Refuse numbers and lists that each step changes, where the next step's output shows it."""
        with self.state.kept(), torch.no_grad():
            for _ in range(2 if changed else 0):
                self.draws.begin()
                self.state.restore_tensors()
                own = self._with_own_batch()
                output = own.model(*own.inputs, **own.keywords)
            if changed and not all(map(same, take_apart(output)[0], leaves[-len(self.cut.leaves) :])):
                name, (before, after) = next(iter(changed.items()))
                raise self.refusals.number_changed(name, before, after)


@contextlib.contextmanager
def _gradients_set_aside(model: nn.Module) -> Iterator[None]:
    saved = [(item, item.grad) for item in model.parameters()]
    for item, _ in saved:
        item.grad = None
    try:
        yield
    finally:
        for item, gradient in saved:
            item.grad = gradient


def _is_trained(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(value.requires_grad)


def _copy(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def _cut_off(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def _both(found: Any, expected: Any) -> str:
    """Return two values in words, where they are few."""
    if (
        isinstance(found, torch.Tensor)
        and isinstance(expected, torch.Tensor)
        and found.numel() == 1 == expected.numel()
    ):
        return f" ({found.item():.6g}, {expected.item():.6g})"
    return ""
