"""One forward of a split model, and the backward that may follow, as one operation of autograd."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from mpsim.emulate.batches import join
from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.failures import DeviceLost, blaming
from mpsim.emulate.parts import Part
from mpsim.emulate.pipeline import Message, play
from mpsim.emulate.processes import Away, passes_of
from mpsim.emulate.seats import Seat
from mpsim.emulate.seeds import new_key
from mpsim.emulate.under_way import UnderWay
from mpsim.plan.schedules import Operation

__all__ = ["Call", "Chunk", "Split", "run", "sum_gradients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A model's arguments for some of a batch's samples.

    Examples
    --------
    >>> Chunk(samples=2, inputs=(torch.ones(2, 3),), keywords={"scale": 4}).form[1]
    (((2, 3), torch.float32), '4')
    """

    samples: int
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def leaves(self) -> list[Any]:
        """The arguments as a flat list."""
        return list(pytree.tree_leaves((self.inputs, dict(self.keywords))))

    @property
    def form(self) -> tuple[Any, ...]:
        """What a captured graph holds for: structure, shapes and types, and what is no tensor."""
        leaves, structure = pytree.tree_flatten((self.inputs, dict(self.keywords)))
        return str(structure), tuple(_form(leaf) for leaf in leaves)


def _form(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else repr(leaf)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A model captured for one shape of chunk, in parts, each with its seat.

    Examples
    --------
    >>> Split(cut=Cut(units=(), feeds=(), outputs=(), loss=""), parts=()).parts
    ()
    """

    cut: Cut
    parts: tuple[Part, ...]
    seats: tuple[Seat, ...] = ()


class Call:
    """One batch on its way through the parts: a split for each chunk, as the last may have a shape of its own.

    Parameters
    ----------
    splits : tuple of Split
        For each chunk.
    chunks : list of Chunk
        The batch.
    model : torch.nn.Module
        Whose parameters the gradients are for.
    lock : threading.Lock
        Held during a backward: the parts' gradients belong to one call at a time.
    recover : callable
        ``recover(lost, call) -> splits``: what to go on with when a device is lost; None: nothing, it is raised.
    step : int
        Calls before this one.
    repeats : bool
        Whether what a forward moves is kept, so that it can be run again.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)), with_loss=False)
    >>> split = Split(cut=cut, parts=make_parts(cut, model, (1,)))
    >>> chunks = [Chunk(samples=3, inputs=(torch.ones(3, 4),), keywords={})] * 2
    >>> run(Call((split, split), chunks, model, threading.Lock()))["linear_1"].shape
    torch.Size([6, 2])
    """

    def __init__(
        self,
        splits: tuple[Split, ...],
        chunks: list[Chunk],
        model: nn.Module,
        lock: threading.Lock,
        recover: Recover | None = None,
        step: int = 0,
        repeats: bool = False,
    ) -> None:
        self.splits, self.chunks, self._lock, self._recover, self.step = splits, chunks, lock, recover, step
        self.cut = splits[0].cut
        self._feeds = [
            dict(zip(split.cut.feeds, [*chunk.leaves, None], strict=True))
            for split, chunk in zip(splits, chunks, strict=True)
        ]
        self._trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._fed = [(k, name) for k, feeds in enumerate(self._feeds) for name in feeds if _is_trained(feeds[name])]
        drawn = any(any(part.draws) for split in splits for part in split.parts)
        self._key = new_key() if drawn else None
        self._under_way: dict[int, UnderWay | Away] = {}
        self._state = _moved_state(model, self.cut) if repeats else {}
        self._before = _copied(self._state)
        self._results: list[dict[str, Any]] = []
        self._fed_gradients: dict[tuple[int, str], Any] = {}
        self._adding = threading.Lock()

    def tensors(self) -> list[Any]:
        """Return what gradients go to: what is fed of each chunk, then parameters."""
        return [*(self._feeds[k][name] for k, name in self._fed), *self._trained.values()]

    def forward(self) -> tuple[Any, ...]:
        """Return the outputs of every chunk, one chunk after another."""
        while True:
            try:
                self._run_forward()
                break
            except DeviceLost as lost:
                self._go_on(lost)
                _put(self._state, self._before)
        made, self._results = self._results, []
        return tuple(
            values[name] for values, split in zip(made, self.splits, strict=True) for name in split.cut.outputs
        )

    def backward(self, gradients: tuple[Any, ...]) -> list[Any]:
        """Return the gradients of `tensors`, given those of the outputs."""
        given = iter(gradients)
        wanted = [{name: next(given) for name in split.cut.outputs} for split in self.splits]
        with self._lock:
            while True:
                try:
                    summed = self._run_backward(wanted)
                    break
                except DeviceLost as lost:
                    self._go_on(lost)
                    self._forward_again()
        fed = [self._fed_gradients.get(key) for key in self._fed]
        return [*fed, *(summed.get(name) for name in self._trained)]

    def _go_on(self, lost: DeviceLost) -> None:
        """Take the splits over the devices that are left."""
        if self._recover is None:
            raise lost
        self.splits = self._recover(lost, self)
        self._fed_gradients.clear()

    def _run_forward(self) -> None:
        self._results = [{} for _ in self.chunks]
        self._under_way.clear()
        for part in (part for split in self.splits for part in split.parts):
            with blaming(part):
                self._under_way.setdefault(id(part), passes_of(part, self._key))
        play(self._rows("F"), self._forward)

    def _forward_again(self) -> None:
        """Run the forward anew for the backward to go through; it moves nothing a second time."""
        now = _copied(self._state)
        while True:
            try:
                _put(self._state, self._before)
                with torch.enable_grad():
                    self._run_forward()
                break
            except DeviceLost as lost:
                self._go_on(lost)
            finally:
                _put(self._state, now)
        self._results = []

    def _run_backward(self, wanted: Sequence[Message]) -> dict[str, Any]:
        def work(operation: Operation, received: Message) -> Message:
            own = wanted[operation.microbatch]
            return self._backward(operation, received, {name: one for name, one in own.items() if one is not None})

        parts = {id(part): part for split in self.splits for part in split.parts}.values()
        for part in parts:
            part.drop_gradients()
        play(self._rows("B"), work)
        for part in parts:
            if isinstance(passes := self._under_way[id(part)], Away):
                with blaming(part):
                    passes.finish()
        return sum_gradients(tuple(parts), self._trained)

    def _rows(self, kind: str) -> list[list[Operation]]:
        stages, chunks = len(self.splits[0].parts), range(len(self.chunks))
        return [[Operation(stage, kind, k) for k in chunks] for stage in range(stages)]

    def _forward(self, operation: Operation, received: Message) -> Message:
        k = operation.microbatch
        at = self._at(operation)
        with blaming(at.part):
            flight = at.forward(k, received, self._feeds[k])
        self._results[k].update(flight.results)
        return dict(flight.sends)

    def _backward(self, operation: Operation, received: Message, wanted: Message) -> Message:
        k, at = operation.microbatch, self._at(operation)
        mine = {name: one for name, one in wanted.items() if name in at.part.results}
        with blaming(at.part):
            flight = at.backward(k, received, mine)  # an output may be read by the next part as well
        with self._adding:
            for name, value in flight.feed_gradients.items():
                known = self._fed_gradients.get((k, name))
                placed = value.to(self._feeds[k][name].device)
                self._fed_gradients[k, name] = placed if known is None else known + placed
        return dict(flight.returned)

    def _at(self, operation: Operation) -> UnderWay | Away:
        return self._under_way[id(self.splits[operation.microbatch].parts[operation.stage])]


Recover = Callable[[DeviceLost, Call], tuple[Split, ...]]


def _moved_state(model: nn.Module, cut: Cut) -> dict[str, Any]:
    """Return what a forward moves of a model."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: own[name] for name in cut.moved}


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in state.items()}


def _put(state: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)


def _is_trained(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def sum_gradients(parts: Sequence[Part], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return each parameter's gradient, summed over the parts that hold it, on the parameter's device; drop theirs.

    Examples
    --------
    >>> sum_gradients((), {})
    {}
    """
    summed: dict[str, Any] = {}
    for part in parts:
        for name, held in part.parameters.items():
            if held.grad is not None:
                gradient = held.grad.to(parameters[name].device)
                summed[name] = summed[name] + gradient if name in summed else gradient
        part.drop_gradients()
    return summed


def run(call: Call) -> dict[str, Any]:
    """Run a call and return the model's outputs by the names of the first chunk's cut, differentiable; see `Call`."""
    tensors = call.tensors()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        flat = _Pipeline.apply(call, *tensors)
    else:
        with torch.no_grad():
            flat = call.forward()
    width = len(call.cut.outputs)
    sizes = [chunk.samples for chunk in call.chunks]
    return {name: join(name, flat[i::width], sizes) for i, name in enumerate(call.cut.outputs)}


class _Pipeline(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> tuple[Any, ...]:
        ctx.call = call
        ctx.set_materialize_grads(False)
        with torch.enable_grad():
            made = call.forward()
        ctx.mark_non_differentiable(*(value for value in made if not value.requires_grad))
        return tuple(value.detach() if value.requires_grad else value for value in made)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return None, *ctx.call.backward(gradients)
