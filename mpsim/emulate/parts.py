"""A part of a model that runs: consecutive units of a cut, on a device of its own, several micro-batches in flight.

The units are those of :func:`mpsim.emulate.capture.cut.capture`, which cuts the graph of ``torch.export``. PyTorch's
own ``torch.distributed.pipelining.pipeline`` cuts the same graph, and the tests hold the two against each other; it is
not used here because a part must do what it does not: relay a skip connection over every boundary on its way, as the
predicted plan does (there, it goes from its maker to its reader directly), hold the loss inside the last part, and
run unit by unit, so that the gradients of one are exchanged while the next is at work. (PyTorch 2.13's also cannot
run what it makes of a Llama from transformers: its rotary embedding loses an input.)

Batch normalisation in training mode normalises over what it is given, hence over a micro-batch, as in GPipe.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.cut import Cut, Unit
from mpsim.emulate.capture.piece import forward
from mpsim.emulate.failures import blaming
from mpsim.emulate.flight import Flight, Section
from mpsim.emulate.seeds import Seeds, make_seeded
from mpsim.errors import MpsimError
from mpsim.plan.partition import stage_slices

__all__ = ["CrossingTensor", "Part", "crossing_tensors", "make_parts", "refuse_shared_state"]


class Part:
    """A run of consecutive units with the state that they read.

    Parameters
    ----------
    cut : Cut
        The whole model.
    model : torch.nn.Module
        The model that was captured: it names the parameters and buffers.
    layers : range
        Which units.
    device : str or None
        Where it runs; None: where the model is.
    state : mapping of str to torch.Tensor
        Values of parameters and buffers by name, where they are not those of `model`.
    copy : bool
        Whether parameters and buffers get storage of their own; otherwise, on the model's device, they are the
        model's: what an optimizer does to the part's it does to the model's.

    Attributes
    ----------
    parameters : dict of str to torch.nn.Parameter
        By the model's names. The part's own objects, with a ``.grad`` of their own: a tied parameter collects its
        gradient in each part that holds it, and whoever updates it sums them.
    buffers : dict of str to torch.Tensor
        By the model's names.
    receives, sends : tuple of str
        What comes from the previous part and goes to the next, values that it only passes on included.
    feeds : tuple of str
        Those of the cut's feeds that it reads.
    results : tuple of str
        Those of the model's outputs and the loss that it makes.
    draws : tuple of bool
        Which of its units draw random numbers.
    worker : mpsim.emulate.processes.Worker or None
        The process that runs it, if it is not this one.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> first, last = make_parts(cut, model, (1,))
    >>> first.sends, last.receives, last.results
    (('relu',), ('relu',), ('linear_1', 'mean'))
    >>> flight = first.start({}, {"input": torch.ones(3, 4)})
    >>> flight.forward(0, 1)
    >>> tuple(flight.sends["relu"].shape)
    (3, 8)
    """

    def __init__(
        self,
        cut: Cut,
        model: nn.Module,
        layers: range,
        *,
        device: str | None = None,
        state: Mapping[str, Any] | None = None,
        copy: bool = False,
    ) -> None:
        self.cut, self.layers, self.device = cut, layers, device
        self.worker: Any = None
        self.parameters: dict[str, Any] = {}
        self.buffers: dict[str, Any] = {}
        images = _Images(self, model, state or {}, copy)
        self.units = tuple(_own_unit(cut.units[i], images, device) for i in layers)
        self.draws = tuple(make_seeded(unit.module) for unit in self.units)
        self.receives = _crossing(cut, layers.start)
        self.sends = _crossing(cut, layers.stop)
        made = {name for unit in self.units for name in unit.outputs}
        read = dict.fromkeys(name for unit in self.units for name in unit.inputs)
        self.feeds = tuple(name for name in read if name in cut.feeds)
        self.results = tuple(name for name in (*cut.outputs, cut.loss) if name in made)

    @property
    def bytes(self) -> int:
        """Bytes of its parameters and buffers, a tied one once."""
        return sum(tensor.nbytes for tensor in (*self.parameters.values(), *self.buffers.values()))

    def drop_gradients(self) -> None:
        """Drop the gradients of all parameters."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def to(self, device: str) -> None:
        """Move the part: its parameters, buffers, constants, and the tensors that its graphs make.

        What shared its storage with the model's no longer does, if the device is another.
        """
        for unit in self.units:
            _aim(unit.module, device)
        for tensor in (*self.parameters.values(), *self.buffers.values()):
            tensor.data = tensor.data.to(device)
        self.device = device

    def start(self, received: Mapping[str, Any], feeds: Mapping[str, Any], seeds: Seeds | None = None) -> Flight:
        """Return a micro-batch that is about to enter the part, kept for a backward where gradients are enabled.

        Parameters
        ----------
        received : mapping of str to torch.Tensor
            Every name of `receives`. One that requires a gradient gets one in the backward.
        feeds : mapping of str to torch.Tensor
            At least the names of `feeds`.
        seeds : Seeds
            Of its random numbers; None: as PyTorch's generators have them.
        """
        return Flight(self.section(), received, feeds, seeds)

    def section(self) -> Section:
        """Return what a micro-batch that enters now needs to know of the part."""
        held = ((self.parameters[name] for name in unit.parameters) for unit in self.units)
        return Section(
            layers=self.layers,
            units=self.units,
            trained=tuple(tuple(one for one in parameters if one.requires_grad) for parameters in held),
            draws=self.draws,
            receives=self.receives,
            sends=self.sends,
            feeds=self.feeds,
            results=self.results,
            loss=self.cut.loss,
            device=self.device,
        )

    def __repr__(self) -> str:
        names = ", ".join(unit.name for unit in self.units)
        return f"Part(layers {self.layers.start}..{self.layers.stop - 1}: {names}, {self.bytes} bytes)"


def make_parts(
    cut: Cut,
    model: nn.Module,
    boundaries: tuple[int, ...],
    devices: Sequence[str | None] = (),
    *,
    state: Mapping[str, Any] | None = None,
    copy: bool = False,
) -> tuple[Part, ...]:
    """Return the parts between boundaries, each the first unit of a part but the first; see :class:`Part`.

    Raises
    ------
    MpsimError
        Boundaries that leave a part empty.
    DeviceLost
        A device that is named has no memory for its part.
    """
    slices = stage_slices(boundaries, len(cut.units))
    places = devices or [None] * len(slices)
    parts = []
    for layers, place in zip(slices, places, strict=True):
        with blaming(place) if place is not None else contextlib.nullcontext():
            parts.append(Part(cut, model, layers, device=place, state=state, copy=copy))
    return tuple(parts)


def refuse_shared_state(cut: Cut, slices: Sequence[range], apart: bool, chunks: int) -> None:
    """Refuse parts of which one moves, in its forward, what another reads.

    Parameters
    ----------
    cut : Cut
        The whole model.
    slices : sequence of range
        The layers of each part.
    apart : bool
        Whether each part has state of its own.
    chunks : int
        How many of them are in flight: what is shared holds only if there is but one.

    Raises
    ------
    MpsimError
        There is such state.

    Examples
    --------
    >>> refuse_shared_state(Cut(units=(), feeds=(), outputs=(), loss=""), [], True, 2)
    """
    for name in cut.moved if apart or chunks > 1 else ():
        held = [layers for layers in slices for i in layers if _holds(cut.units[i], name)]
        if held and held[0] != held[-1]:
            first, last = (next(i for i in part if _holds(cut.units[i], name)) for part in (held[0], held[-1]))
            raise MpsimError(
                f"forward moves {name} in place, which layers {cut.units[first].name} and {cut.units[last].name} of"
                " different parts hold: cut so that one part has both" + ("" if apart else ", or use one chunk")
            )


def _holds(unit: Unit, name: str) -> bool:
    return name in unit.parameters or name in unit.buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossingTensor:
    """A tensor that crosses a boundary.

    Attributes
    ----------
    shape : tuple of int
        Of one micro-batch.
    dtype : torch.dtype
        Its type.
    needs_gradient : bool
        Whether a gradient of the same shape and type comes back for it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    needs_gradient: bool


def crossing_tensors(cut: Cut, model: nn.Module, feeds: Mapping[str, Any]) -> dict[str, CrossingTensor]:
    """Run one micro-batch through all units and return what each value looks like that a boundary can cut.

    A process that receives it from another makes room by this, and sets ``requires_grad`` where it is needed. The
    model stays as it is.

    Examples
    --------
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> crossing_tensors(cut, model, {"input": torch.ones(3, 4)})["relu"]
    CrossingTensor(shape=(3, 8), dtype=torch.float32, needs_gradient=True)
    """
    whole = Part(cut, model, range(len(cut.units)), copy=True)
    values = dict(feeds)
    with torch.random.fork_rng(), torch.enable_grad():
        for unit in whole.units:
            forward(unit, values)
    names = {name for i in range(1, len(cut.units)) for name in _crossing(cut, i)}
    return {
        name: CrossingTensor(shape=tuple(value.shape), dtype=value.dtype, needs_gradient=value.requires_grad)
        for name, value in values.items()
        if name in names
    }


def _crossing(cut: Cut, boundary: int) -> tuple[str, ...]:
    """Return what is made before a unit and read by it or after it, in the order in which it is made."""
    later = {name for unit in cut.units[boundary:] for name in unit.inputs}
    return tuple(name for unit in cut.units[:boundary] for name in unit.outputs if name in later)


class _Images:
    """The part's own of each tensor that the captured model's units read."""

    def __init__(self, part: Part, model: nn.Module, state: Mapping[str, Any], copy: bool) -> None:
        self.part, self.state, self.copy = part, state, copy
        self.parameters = {id(item): name for name, item in model.named_parameters()}
        self.buffers = {id(item): name for name, item in model.named_buffers()}

    def of(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value  # the body of a region without gradient
        if id(value) in self.parameters:
            return self._kept(self.part.parameters, self.parameters[id(value)], value)
        if id(value) in self.buffers:
            return self._kept(self.part.buffers, self.buffers[id(value)], value)
        return self._placed(value)

    def _kept(self, kept: dict[str, Any], name: str, value: Any) -> Any:
        if name not in kept:
            value = self.state.get(name, value)
            placed = self._placed(value.detach())
            is_parameter = isinstance(value, nn.Parameter)
            kept[name] = nn.Parameter(placed, requires_grad=value.requires_grad) if is_parameter else placed
        return kept[name]

    def _placed(self, value: Any) -> Any:
        placed = value if self.part.device is None else value.to(self.part.device)
        return placed.clone() if self.copy and placed.data_ptr() == value.data_ptr() else placed


def _own_unit(unit: Unit, images: _Images, device: str | None) -> Unit:
    """Return a unit with the same work on the part's own state."""
    old = unit.module
    graph = fx.Graph()
    graph.output(graph.graph_copy(old.graph, {}))
    targets = dict.fromkeys(node.target for node in graph.nodes if node.op == "get_attr")
    attributes = {target: images.of(operator.attrgetter(target)(old)) for target in targets}
    module = fx.GraphModule(attributes, graph, class_name=unit.kind)
    if device is not None:
        _aim(module, device)
    return replace(unit, module=module)


def _aim(module: fx.GraphModule, device: str) -> None:
    """Make what a graph makes out of nothing (positions, masks) on a device, and move its constants there."""
    target = torch.device(device)

    def aimed(value: Any) -> Any:
        return target if isinstance(value, torch.device) else value

    for inner in module.modules():
        if isinstance(inner, fx.GraphModule):
            for node in inner.graph.nodes:
                node.args, node.kwargs = pytree.tree_map(aimed, (node.args, node.kwargs))
            inner.recompile()
        for name, value in list(vars(inner).items()):
            if isinstance(value, torch.Tensor):
                setattr(inner, name, value.to(target))
