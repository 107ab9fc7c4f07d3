"""Real work: the parts of a model that stand at a rank, their activations and gradients going from rank to rank.

With tensor parallelism a rank runs its shard, and exchanges as many bytes as the whole model would, but computes on
with its own partial sums: the time is that of the plan, the numbers are not the model's. Everywhere else they are.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from mpsim.emulate.balancing import untouched
from mpsim.emulate.capture.check import check
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.execute import Asleep
from mpsim.emulate.packing import Packing
from mpsim.emulate.parts import Part, crossing_tensors, refuse_shared_state
from mpsim.emulate.under_way import UnderWay
from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Bucket, Collective, Compute, Instruction, Post, Receive, Send, Tied
from mpsim.workload.example import Example, flat_inputs
from mpsim.workload.source import resolve_model
from mpsim.workload.update import OPTIMIZERS

__all__ = ["Own", "Recipe", "Running", "example_of"]


class Own(NamedTuple):
    """One of a rank's stages: its layers ``first..last-1``, and the parameters in each of its gradient buckets."""

    stage: int
    first: int
    last: int
    buckets: tuple[tuple[str, ...], ...] = ()

    @property
    def layers(self) -> range:
        """Of the model."""
        return range(self.first, self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a rank needs to make its parts of a model.

    Attributes
    ----------
    model : str or bytes
        A zoo name or ``package.module:factory``; or a pickled `Example` of one micro-batch.
    overrides : mapping
        Sizes of the model, if it is named.
    folder : str
        Where the factory's module is looked for.
    microbatch, microbatches, dp, tp : int
        Samples in a micro-batch, micro-batches of a replica, replicas, ranks that share a layer.
    layers : tuple of str
        Names of the workload's layers: the model must fall into the same ones.
    depth : int or "auto"
        How many modules deep they lie.
    optimizer : str
        A name of ``OPTIMIZERS``; its learning rate is zero, so that every step is the same work on the same numbers.
    stages : tuple of Own
        That live at this rank, ascending.
    tp_rank : int
        Which shard of them.
    """

    model: str | bytes
    overrides: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    microbatch: int
    microbatches: int
    dp: int
    tp: int
    layers: tuple[str, ...]
    depth: int | str = "auto"
    optimizer: str = "sgd"
    stages: tuple[Own, ...]
    tp_rank: int = 0


def example_of(recipe: Recipe) -> Example:
    """Return the model and one micro-batch for it: the same on every rank."""
    torch.manual_seed(0)
    if isinstance(recipe.model, bytes):
        example: Example = pickle.loads(recipe.model)
    else:
        if recipe.folder and recipe.folder not in sys.path:
            sys.path.insert(0, recipe.folder)
        example = resolve_model(recipe.model, recipe.overrides).build(recipe.microbatch)
    if recipe.tp == 1:
        return example
    from mpsim.workload.tensor_parallel import local_shard

    return local_shard(example, recipe.tp, rank=recipe.tp_rank).example


class Running:
    """The parts of the model at one rank, as `mpsim.emulate.execute.Executor` runs them.

    A stage hands what the next one needs over in place where that lives at the same rank, and in a message elsewhere.

    Attributes
    ----------
    losses : list of float
        Of each step that was run, the mean over its micro-batches; empty where no part makes the loss.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        example = example_of(recipe)
        cut = capture(example, recipe.depth)
        names = tuple(unit.name for unit in cut.units)
        if names != recipe.layers:
            raise MpsimError(
                f"the model falls into {len(names)} layers, the workload has {len(recipe.layers)}:"
                f" {_first_difference(names, recipe.layers)}; trace it again"
            )
        if recipe.tp == 1:  # a shard goes on with its own partial sums, and is not the model
            cut = check(cut, example)
            refuse_shared_state(cut, _slices(recipe.stages, len(names)), True, 1)
        self.feeds = {name: value for name, value in zip(cut.feeds, flat_inputs(example), strict=True) if name}
        self.packing = Packing(crossing_tensors(cut, example.model, self.feeds))
        self.stages = {own.stage: _Stage(own, Part(cut, example.model, own.layers)) for own in recipe.stages}
        self.shared = _share(list(self.stages.values()), recipe.optimizer)
        self.kept: dict[int, Any] = {}
        self.losses: list[float] = []
        self._losses: list[Any] = []
        self._asleep = Asleep()

    def compute(self, step: Compute) -> None:
        """Run the step's layers in its pass of its micro-batch."""
        if step.pass_kind == "U":
            self._update(self.stages[step.stage])
        elif step.pass_kind == "F":
            self._forward(step)
        else:
            self._backward(step)

    def computations(self, steps: Sequence[Instruction]) -> Callable[[], None]:
        """Return what runs the passes of a step in their order, on made-up messages, and leaves no trace of it."""
        passes = [step for step in steps if isinstance(step, Compute) and step.pass_kind != "U"]
        received = [step for step in steps if isinstance(step, Receive)]
        made = {step.bytes: torch.zeros(step.bytes, dtype=torch.uint8) for step in received}

        def run() -> None:
            with contextlib.ExitStack() as stack:
                for at in self.stages.values():
                    stack.enter_context(untouched(at.part))
                for step in received:
                    self._take(step, made[step.bytes])
                for one in passes:
                    self.compute(one)
            for at in self.stages.values():
                at.returned.clear()
            self._losses.clear()

        return run

    def tensor(self, step: Post) -> Callable[[], Any]:
        """Return what gives the activations, gradients or buckets of a step; a shard's exchange is of zeros."""
        if isinstance(step, Send):
            self._check_bytes(step, self._names(step.stage, step.direction, sent=True))
            return lambda: self._keep(step, self._outgoing(step))
        if isinstance(step, Receive):
            self._check_bytes(step, self._names(step.to, step.direction, sent=False))
            buffer = torch.empty(step.bytes, dtype=torch.uint8)
            return lambda: self._keep(step, buffer)
        if step.axis == "tp":
            return self._asleep.tensor(step)
        return lambda: self._keep(step, self._reduced(step))

    def landed(self, step: Post) -> None:
        """Take what was received, or a reduced bucket."""
        tensor = self.kept.pop(step.key, None)
        if isinstance(step, Receive):
            self._take(step, tensor)
        elif isinstance(step, Collective) and step.axis == "dp":
            self._spread(step, tensor)

    def end_step(self) -> None:
        """Forget the step's gradients and note its loss."""
        if self._losses:
            self.losses.append(float(sum(self._losses)) / len(self._losses))
            self._losses = []
        for at in self.stages.values():
            at.part.drop_gradients()

    def _forward(self, step: Compute) -> None:
        at, k = self.stages[step.stage], step.microbatch
        own = at.part.layers
        received = at.received.pop(("F", k), {}) if step.first == own.start else {}
        flight = at.under_way.forward(k, received, self.feeds, range(step.first, step.last))
        if step.last == own.stop:
            if (loss := flight.results.get(at.part.cut.loss)) is not None:
                self._losses.append(loss.detach())
            if step.stage + 1 in self.stages:
                self.stages[step.stage + 1].received["F", k] = flight.sends

    def _backward(self, step: Compute) -> None:
        at, k, kind = self.stages[step.stage], step.microbatch, step.pass_kind
        own = at.part.layers
        gradients = at.received.pop(("B", k), {}) if step.last == own.stop and kind != "W" else {}
        layers, weight = range(step.first, step.last), 1 / self.recipe.microbatches
        flight = at.under_way.backward(k, gradients, weight=weight, kind=kind, layers=layers)
        if step.first == own.start and kind != "W":
            if step.stage - 1 in self.stages:
                self.stages[step.stage - 1].received["B", k] = flight.returned
            else:
                at.returned[k] = flight.returned

    def _take(self, step: Receive, packed: Any) -> None:
        """Take a message as the stage wants it that it is for."""
        received = self.packing.unpack(packed, self._names(step.to, step.direction, sent=False))
        if step.direction == "F":
            for name, value in received.items():
                value.requires_grad_(self.packing.crossing[name].needs_gradient)
        self.stages[step.to].received[step.direction, step.microbatch] = received

    def _update(self, at: _Stage) -> None:
        """Let a stage's optimizer update what it owns, by the gradients of all of the rank's stages that hold it."""
        for name in self.shared & at.part.parameters.keys():
            self._gradient(at.part, name)
        if at.optimizer is not None:
            at.optimizer.step()

    def _names(self, stage: int, direction: str, *, sent: bool) -> Sequence[str]:
        """Return what a stage sends or receives in one direction."""
        part = self.stages[stage].part
        names = part.sends if (direction == "F") == sent else part.receives
        return names if direction == "F" else self.packing.differentiable(names)

    def _outgoing(self, step: Send) -> Any:
        at, k = self.stages[step.stage], step.microbatch
        values = at.under_way.flight(k).sends if step.direction == "F" else at.returned.pop(k)
        return self.packing.pack(values, self._names(step.stage, step.direction, sent=True))

    def _reduced(self, step: Collective) -> Any:
        if isinstance(step.of, Tied):
            name = step.of.parameter
            return self._gradient(next(at.part for at in self.stages.values() if name in at.part.parameters), name)
        part = self.stages[step.stage].part
        gradients = [_gradient(part, name).reshape(-1) for name in self._bucket(step)]
        return gradients[0] if len(gradients) == 1 else torch.cat(gradients)

    def _spread(self, step: Collective, flat: Any) -> None:
        """Give each parameter its mean gradient, as a view of the bucket."""
        flat /= self.recipe.dp
        at, part = 0, self.stages[step.stage].part
        for name in self._bucket(step):
            parameter = part.parameters[name]
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def _bucket(self, step: Collective) -> tuple[str, ...]:
        assert isinstance(step.of, Bucket)
        return self.stages[step.stage].own.buckets[step.of.number]

    def _gradient(self, part: Part, name: str) -> Any:
        """Return a parameter's gradient at a part, with what the rank's other parts that hold it have found added."""
        gradient = _gradient(part, name)
        for other in (at.part for at in self.stages.values() if at.part is not part):
            if name in other.parameters and other.parameters[name].grad is not None:
                gradient += other.parameters[name].grad
                other.parameters[name].grad = None
        return gradient

    def _keep(self, step: Post, tensor: Any) -> Any:
        """Hold on to what the runtime is at work on."""
        self.kept[step.key] = tensor
        return tensor

    def _check_bytes(self, step: Send | Receive, names: Sequence[str]) -> None:
        size = self.packing.bytes(names)
        if size != step.bytes:
            raise MpsimError(f"message {step.name} is of {size} bytes, the workload says {step.bytes}: trace it again")


class _Stage:
    """One of a rank's stages: its part, what is under way in it, and what has come and is to go, by micro-batch."""

    def __init__(self, own: Own, part: Part) -> None:
        self.own, self.part, self.under_way = own, part, UnderWay(part)
        self.optimizer: Any = None
        self.received: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.returned: dict[int, Mapping[str, Any]] = {}


def _share(stages: Sequence[_Stage], optimizer: str) -> frozenset[str]:
    """Give each stage an optimizer of what no earlier one holds; return what several hold."""
    seen: set[str] = set()
    shared: set[str] = set()
    for at in stages:
        own = [one for name, one in at.part.parameters.items() if one.requires_grad and name not in seen]
        at.optimizer = OPTIMIZERS[optimizer](own) if own else None
        shared |= seen & at.part.parameters.keys()
        seen |= at.part.parameters.keys()
    return frozenset(shared)


def _slices(stages: Sequence[Own], layers: int) -> list[range]:
    """Return the layers of the model in parts: each of these stages, and what lies between."""
    edges = sorted({0, layers, *(own.first for own in stages), *(own.last for own in stages)})
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def _gradient(part: Part, name: str) -> Any:
    parameter = part.parameters[name]
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad = parameter.grad.contiguous()  # what is reduced in place is the gradient itself
    return parameter.grad


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"layer {i} is {a!r}, not {b!r}"
    return f"the last of those is {found[-1]!r}, of these {expected[-1]!r}"
