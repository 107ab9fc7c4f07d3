"""ModelSplitter: one model in several parts that work on the chunks of a batch at the same time."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.emulate.balancing import measured_boundaries
from mpsim.emulate.batches import batch_size, chunk_sizes, cut_leaf
from mpsim.emulate.call import Call, Chunk, Split, run
from mpsim.emulate.capture.check import checked_capture
from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.device import Device
from mpsim.emulate.parts import Part, make_parts, refuse_shared_state
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.units import format_bytes
from mpsim.workload.example import Example, flat_inputs
from mpsim.workload.source import arguments_of

__all__ = ["ModelSplitter"]


class ModelSplitter:
    """Split a model into parts, and run batches through them as a pipeline.

    The batch is cut into chunks along its first dimension; the parts work on different chunks at the same time, each
    on a CUDA device of its own where there are several, else each in a thread; the outputs are put together again.
    They are those of the model, and so are the gradients that go back through them, into the model's own parameters.

    The model is captured on the first batch of each shape (``torch.export``), in the mode that it is in, training or
    evaluation; hooks on its modules do not run. One step of the capture is then held against one of the model: output,
    the gradient of each parameter, state that moves. A model of which they differ is refused. On CUDA devices its
    parameters are moved to where they are used.
    What depends on the whole batch is computed on each chunk: batch normalisation in training normalises over a chunk,
    as in GPipe, and what a forward moves is moved by each chunk. An output that holds no entry for each sample is
    averaged over the chunks if it is one number, such as a loss. Random numbers (dropout) are drawn in another order
    than the model draws them.

    Parameters
    ----------
    model : torch.nn.Module
        Any that ``torch.export`` can capture and that has a layer for each device. A cache in its output becomes None.
    num_devices : int
        Parts; the plan's stages where a plan is given, the number of `devices` where those are.
    plan : Plan
        Its ``pp`` is the number of parts, its `boundaries` where they are cut (balanced by measurement where None),
        its `microbatches` the chunks unless `chunks` says otherwise.
    devices : sequence of str, torch.device or mpsim.emulate.Device
        Where the parts run; a Device's memory is taken up by its part.
    chunks : int
        Into how many equal chunks a batch is cut; by default one for each part, the last of which may be smaller.
    example : tensor, tuple or dict of tensors
        A batch, to split the model now and not at the first one.
    depth : int or "auto"
        How many modules deep the units lie; see :class:`mpsim.workload.layering.Layering`.

    Raises
    ------
    MpsimError
        Fewer units than devices, a batch that does not divide, a model that cannot be exported, or that computes
        something else than what was exported of it.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> splitter = ModelSplitter(model, num_devices=3)
    >>> input_data = torch.randn(100, 64)
    >>> output = splitter.forward(input_data)
    >>> torch.testing.assert_close(output, model(input_data))
    >>> [unit.name for part in splitter.parts for unit in part.units]
    ['0', '2', '4']
    """

    def __init__(
        self,
        model: nn.Module,
        num_devices: int | None = None,
        *,
        plan: Plan | None = None,
        devices: Sequence[str | torch.device | Device] | None = None,
        chunks: int | None = None,
        example: Any = None,
        depth: int | str = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise MpsimError(f"model is a {type(model).__name__}: give a torch.nn.Module")
        self.model, self.depth = model, depth
        self.num_devices = _number(num_devices, plan, devices)
        self.chunks = chunks if chunks is not None or plan is None else plan.microbatches
        if self.chunks is not None and self.chunks < 1:
            raise MpsimError(f"chunks is {self.chunks}, expected 1 or more")
        self._holders = [device for device in devices or () if isinstance(device, Device)]
        self.devices = _devices(devices, self.num_devices)
        self._boundaries = plan.boundaries if plan is not None else None
        self._whole = copy.deepcopy(model) if self.devices[0] is not None else model
        self._splits: dict[Any, Split] = {}
        self._held: list[Any] = []
        self._latest: Split | None = None
        self._lock = threading.Lock()
        if example is not None:
            positional, keywords = arguments_of(example)
            cut = self._chunks(positional, keywords)
            self._split(cut[0], len(cut))

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Run a batch; see :meth:`forward`."""
        return self.forward(*inputs, **keywords)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Return what the model returns for a batch.

        Parameters
        ----------
        *inputs, **keywords
            The model's own. Tensors with as many entries as the first tensor are cut along their first dimension;
            each chunk gets the whole of all others.

        Raises
        ------
        MpsimError
            The batch does not divide into chunks, or the model cannot be captured for it.
        """
        chunks = self._chunks(inputs, keywords)
        call = Call(tuple(self._split(chunk, len(chunks)) for chunk in chunks), chunks, self.model, self._lock)
        for split in dict.fromkeys(call.splits):
            _refresh(self.model, split.parts)
        whole = dict(zip(call.cut.feeds, pytree.tree_leaves((inputs, keywords, None)), strict=True))
        made = run(call)
        leaves = [made.get(name, whole.get(name)) if name else constant for name, constant in call.cut.leaves]
        return call.cut.form.rebuild(leaves)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts, as of the latest batch."""
        return self._known().parts

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first unit of each part but the first."""
        return tuple(part.layers.start for part in self.parts[1:])

    def __repr__(self) -> str:
        name = type(self.model).__name__
        if self._latest is None:
            return f"ModelSplitter of {name} over {self.num_devices} devices, not split yet: run a batch"
        head = f"ModelSplitter of {name} over {self.num_devices} devices, boundaries {list(self.boundaries)}"
        return "\n".join([head, *(_line(i, part) for i, part in enumerate(self.parts))])

    def _known(self) -> Split:
        if self._latest is None:
            raise MpsimError("the model is not split yet: run a batch, or give ModelSplitter an example=")
        return self._latest

    def _chunks(self, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Chunk]:
        leaves, structure = pytree.tree_flatten((tuple(inputs), dict(keywords)))
        samples = batch_size(leaves)
        sizes = chunk_sizes(samples, self.chunks, self.num_devices)
        columns = [cut_leaf(leaf, samples, sizes) for leaf in leaves]
        made = []
        for i, size in enumerate(sizes):
            positional, named = pytree.tree_unflatten([column[i] for column in columns], structure)
            made.append(Chunk(samples=size, inputs=positional, keywords=named))
        return made

    def _split(self, chunk: Chunk, chunks: int) -> Split:
        """Return the split for a chunk's shape and the model's present mode, capturing it if it is new."""
        if self._storage() != self._held:
            self._splits.clear()  # weights were replaced: parts would go on with the old ones
        trained = tuple(item.requires_grad for item in self.model.parameters())
        modes = tuple(module.training for module in self.model.modules())
        key = (chunk.form, trained, modes, torch.is_grad_enabled())
        if key not in self._splits:
            self._splits[key] = self._make(chunk)
            self._held = self._storage()  # on CUDA devices the weights have moved
        self._latest = self._splits[key]
        apart = len(set(self.devices)) > 1
        refuse_shared_state(self._latest.cut, [part.layers for part in self._latest.parts], apart, chunks)
        return self._latest

    def _storage(self) -> list[Any]:
        return [(item.data_ptr(), item.dtype) for item in _state_of(self.model).values()]

    def _make(self, chunk: Chunk) -> Split:
        for whole, own in zip(self._whole.modules(), self.model.modules(), strict=True):
            whole.training = own.training
        example = Example(model=self._whole, inputs=chunk.inputs, keywords=chunk.keywords)
        gradients = torch.is_grad_enabled()
        with torch.inference_mode(False):
            cut = checked_capture(example, self.depth, with_loss=False, with_gradients=gradients)
        if cut.form.dropped and self._latest is None:
            what = ", ".join(cut.form.dropped)
            warnings.warn(f"{type(self.model).__name__} returns a {what}: in parts it returns None there", stacklevel=4)
        self._check_units(cut)
        boundaries = self._cut_at(cut, example)
        parts = make_parts(cut, self._whole, boundaries, self.devices, state=_state_of(self.model))
        _hand_over(self.model, parts)
        if self._latest is None:
            for device, part in zip(self._holders, parts, strict=False):
                device.allocate(part)
        return Split(cut=cut, parts=parts)

    def _check_units(self, cut: Cut) -> None:
        if len(cut.units) < self.num_devices:
            raise MpsimError(
                f"{type(self.model).__name__} has {len(cut.units)} layers to place, {self.num_devices} devices were"
                " asked for: ask for fewer, or give depth= to look deeper into its modules"
            )

    def _cut_at(self, cut: Cut, example: Example) -> tuple[int, ...]:
        if self._boundaries is None:
            feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
            feeds.pop("", None)
            self._boundaries = measured_boundaries(cut, self._whole, feeds, self.num_devices, device=self.devices[0])
        return self._boundaries


def _line(index: int, part: Part) -> str:
    first, last = part.units[0].name, part.units[-1].name
    names = first if len(part.units) == 1 else f"{first} to {last}"
    return f"part {index} on {part.device or 'the CPU'}: {len(part.units)} layers, {names}, {format_bytes(part.bytes)}"


def _number(num_devices: int | None, plan: Plan | None, devices: Sequence[Any] | None) -> int:
    """Return how many parts are asked for, by number, by plan or by a list of devices."""
    if plan is not None and plan.ranks > plan.pp:
        raise MpsimError(
            f"plan has dp={plan.dp} and tp={plan.tp}, a ModelSplitter is one pipeline: use mpsim.ParallelTrainer"
        )
    asked = {"num_devices": num_devices, "plan.pp": plan.pp if plan else None}
    asked["devices"] = len(devices) if devices is not None else None
    given = {name: value for name, value in asked.items() if value is not None}
    if len(set(given.values())) > 1:
        raise MpsimError(
            f"{', '.join(f'{name} is {value}' for name, value in given.items())}: give one number of parts"
        )
    number = next(iter(given.values()), 4)
    if number < 1:
        raise MpsimError(f"num_devices is {number}, expected 1 or more")
    return number


def _devices(devices: Sequence[Any] | None, number: int) -> list[str | None]:
    """Return where each part runs; None for where the model is."""
    if devices is not None:
        return [device.place if isinstance(device, Device) else str(torch.device(device)) for device in devices]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i % count}" for i in range(number)] if count > 1 else [None] * number


def _state_of(model: nn.Module) -> dict[str, Any]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _hand_over(model: nn.Module, parts: Sequence[Part]) -> None:
    """Move the model's own parameters and buffers to where they are used first."""
    own = _state_of(model)
    for part in reversed(parts):
        for name, tensor in (part.parameters | part.buffers).items():
            own[name].data = tensor.data


def _refresh(model: nn.Module, parts: Sequence[Part]) -> None:
    """Bring copies up to date: of a tied weight that is used on two devices, one is the model's."""
    own = _state_of(model)
    for part in parts:
        for name, tensor in (part.parameters | part.buffers).items():
            if tensor.data_ptr() != own[name].data_ptr():
                tensor.data.copy_(own[name].data)
