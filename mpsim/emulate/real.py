"""Real work: the part of a model that stands at a rank, its activations and gradients going from rank to rank.

With tensor parallelism a rank runs its shard, and exchanges as many bytes as the whole model would, but computes on
with its own partial sums: the time is that of the plan, the numbers are not the model's. Everywhere else they are.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsim.emulate.balancing import untouched
from mpsim.emulate.capture.check import check
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.execute import Asleep
from mpsim.emulate.parts import Part, crossing_tensors, refuse_shared_state
from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Bucket, Collective, Compute, Instruction, Post, Receive, Send, Tied
from mpsim.workload.example import Example, flat_inputs
from mpsim.workload.source import resolve_model
from mpsim.workload.update import OPTIMIZERS

__all__ = ["Recipe", "Running", "example_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a rank needs to make its part of a model.

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
    first, last, tp_rank : int
        This rank's layers ``first..last-1``, and which shard of them.
    buckets : tuple of tuple of str
        The parameters in each of its gradient buckets.
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
    first: int
    last: int
    tp_rank: int = 0
    buckets: tuple[tuple[str, ...], ...] = ()


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
    """The part of the model at one rank, as `mpsim.emulate.execute.Executor` runs it.

    Attributes
    ----------
    losses : list of float
        Of each step that was run, the mean over its micro-batches; empty where the part does not make the loss.
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
            elsewhere = [range(recipe.first), range(recipe.last, len(names))]
            refuse_shared_state(cut, [range(recipe.first, recipe.last), *elsewhere], True, 1)
        self.feeds = {name: value for name, value in zip(cut.feeds, flat_inputs(example), strict=True) if name}
        self.crossing = crossing_tensors(cut, example.model, self.feeds)
        self.part = Part(cut, example.model, range(recipe.first, recipe.last))
        trained = [parameter for parameter in self.part.parameters.values() if parameter.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](trained) if trained else None
        self.flights: dict[int, Any] = {}
        self.returned: dict[int, Mapping[str, Any]] = {}
        self.received: dict[tuple[str, int], Any] = {}
        self.kept: dict[int, Any] = {}
        self.losses: list[float] = []
        self._losses: list[Any] = []
        self._asleep = Asleep()

    def compute(self, step: Compute) -> None:
        """Run the step's layers in its pass of its micro-batch."""
        if step.kind == "optimizer":
            self._update()
        elif step.kind == "forward":
            self._forward(step)
        else:
            self._backward(step)

    def computations(self, steps: Sequence[Instruction]) -> Callable[[], None]:
        """Return what runs the passes of a step in their order, on made-up messages, and leaves no trace of it."""
        passes = [step for step in steps if isinstance(step, Compute) and step.kind != "optimizer"]
        names = {"F": self.part.receives, "B": self._differentiable(self.part.sends)}
        made = {
            way: torch.zeros(sum(_bytes_of(self.crossing[name]) for name in crossing), dtype=torch.uint8)
            for way, crossing in names.items()
        }

        def run() -> None:
            with untouched(self.part):
                for step in passes:
                    if names[way := "F" if step.kind == "forward" else "B"]:
                        self.received.setdefault((way, step.microbatch), made[way])
                    self.compute(step)
            self.received.clear()
            self.returned.clear()
            self._losses.clear()

        return run

    def tensor(self, step: Post) -> Callable[[], Any]:
        """Return what gives the activations, gradients or buckets of a step; a shard's exchange is of zeros."""
        if isinstance(step, Send):
            self._check_bytes(step, self.part.sends if step.direction == "F" else self.part.receives)
            return lambda: self._keep(step, self._outgoing(step))
        if isinstance(step, Receive):
            self._check_bytes(step, self.part.receives if step.direction == "F" else self.part.sends)
            buffer = torch.empty(step.bytes, dtype=torch.uint8)
            return lambda: self._keep(step, buffer)
        if step.axis == "tp":
            return self._asleep.tensor(step)
        return lambda: self._keep(step, self._reduced(step))

    def landed(self, step: Post) -> None:
        """Take what was received, or a reduced bucket."""
        tensor = self.kept.pop(step.key, None)
        if isinstance(step, Receive):
            self.received[step.direction, step.microbatch] = tensor
        elif isinstance(step, Collective) and step.axis == "dp":
            self._spread(step, tensor)

    def end_step(self) -> None:
        """Forget the step's gradients and note its loss."""
        if self._losses:
            self.losses.append(float(sum(self._losses)) / len(self._losses))
            self._losses = []
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)

    def _forward(self, step: Compute) -> None:
        k = step.microbatch
        if step.first == self.part.layers.start:
            received = self._unpack(self.received.pop(("F", k), None), self.part.receives)
            for name, value in received.items():
                value.requires_grad_(self.crossing[name].needs_gradient)
            self.flights[k] = self.part.start(received, self.feeds)
        self.flights[k].forward(step.first, step.last)
        if step.last == self.part.layers.stop and (loss := self.flights[k].results.get(self.part.cut.loss)) is not None:
            self._losses.append(loss.detach())

    def _backward(self, step: Compute) -> None:
        k, layers = step.microbatch, self.part.layers
        flight = self.flights[k]
        if step.last == layers.stop and step.kind != "backward_weight":
            names = self._differentiable(self.part.sends)
            gradients = self._unpack(self.received.pop(("B", k), None), names)
            flight.receive(gradients, 1 / self.recipe.microbatches)
        flight.backward(step.first, step.last, step.kind)
        if step.first == layers.start:
            if step.kind != "backward_weight":
                self.returned[k] = flight.returned
            if step.kind != "backward_input":
                del self.flights[k]

    def _update(self) -> None:
        if self.optimizer is not None:
            self.optimizer.step()

    def _outgoing(self, step: Send) -> Any:
        k = step.microbatch
        if step.direction == "F":
            return self._pack(self.flights[k].sends, self.part.sends)
        return self._pack(self.returned.pop(k), self._differentiable(self.part.receives))

    def _reduced(self, step: Collective) -> Any:
        if isinstance(step.of, Tied):
            return self._gradient(step.of.parameter)
        gradients = [self._gradient(name).reshape(-1) for name in self._bucket(step)]
        return gradients[0] if len(gradients) == 1 else torch.cat(gradients)

    def _spread(self, step: Collective, flat: Any) -> None:
        """Give each parameter its mean gradient, as a view of the bucket."""
        flat /= self.recipe.dp
        at = 0
        for name in self._bucket(step):
            parameter = self.part.parameters[name]
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def _bucket(self, step: Collective) -> tuple[str, ...]:
        assert isinstance(step.of, Bucket)
        return self.recipe.buckets[step.of.number]

    def _gradient(self, name: str) -> Any:
        parameter = self.part.parameters[name]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad.contiguous()

    def _keep(self, step: Post, tensor: Any) -> Any:
        """Hold on to what the runtime is at work on."""
        self.kept[step.key] = tensor
        return tensor

    def _pack(self, values: Mapping[str, Any], names: Sequence[str]) -> Any:
        """Return tensors as one run of bytes, those of wide elements first, so that each begins where it may."""
        flat = []
        for name in self._ordered(names):
            value = values.get(name)
            if value is None:
                seen = self.crossing[name]
                value = torch.zeros(seen.shape, dtype=seen.dtype)
            flat.append(value.detach().contiguous().reshape(-1).view(torch.uint8))
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def _unpack(self, buffer: Any, names: Sequence[str]) -> dict[str, Any]:
        found, at = {}, 0
        for name in self._ordered(names) if buffer is not None else ():
            seen = self.crossing[name]
            size = _bytes_of(seen)
            found[name] = buffer[at : at + size].view(seen.dtype).view(seen.shape)
            at += size
        return found

    def _differentiable(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.crossing[name].needs_gradient]

    def _ordered(self, names: Sequence[str]) -> list[str]:
        return sorted(names, key=lambda name: -self.crossing[name].dtype.itemsize)

    def _check_bytes(self, step: Send | Receive, names: Sequence[str]) -> None:
        seen = [self.crossing[name] for name in names]
        size = sum(_bytes_of(one) for one in seen if step.direction == "F" or one.needs_gradient)
        if size != step.bytes:
            raise MpsimError(f"message {step.name} is of {size} bytes, the workload says {step.bytes}: trace it again")


def _bytes_of(seen: Any) -> int:
    count: int = torch.Size(seen.shape).numel() * seen.dtype.itemsize
    return count


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"layer {i} is {a!r}, not {b!r}"
    return f"the last of those is {found[-1]!r}, of these {expected[-1]!r}"
