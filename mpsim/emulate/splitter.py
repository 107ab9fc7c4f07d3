"""ModelSplitter: one model in several parts that work on the chunks of a batch at the same time."""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.calls import checked
from mpsim.emulate.balancing import measured_seconds
from mpsim.emulate.batches import batch_size, chunk_sizes, cut_leaf
from mpsim.emulate.call import Call, Chunk, Split, run
from mpsim.emulate.capture.check import checked_capture
from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.device import Device
from mpsim.emulate.failures import (
    DeviceFailure,
    DeviceFull,
    DeviceLost,
    blaming,
    check_on_failure,
    devices_in_words,
    told,
    warn,
)
from mpsim.emulate.parts import Part, make_parts, refuse_shared_state
from mpsim.emulate.processes import Crew, refuse_processes
from mpsim.emulate.resplit import balanced
from mpsim.emulate.seats import Seat, fewer, seats_for
from mpsim.errors import MpsimError
from mpsim.hints import shown
from mpsim.plan.model import Plan
from mpsim.units import format_bytes
from mpsim.workload.example import Example, flat_inputs
from mpsim.workload.source import arguments_of

__all__ = ["ModelSplitter"]

_MOST_PARTS = 10_000


@checked
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
    averaged over the chunks if it is one number, such as a loss. Random numbers (dropout) are others than the model's:
    each layer draws those of a chunk by itself, so that they are the same wherever it stands.

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
    on_failure : str
        ``"raise"``, or ``"resplit"``: a device that runs out of memory, its declared one included, or whose process is
        gone is dropped with a warning, the model is split again over the others, and the batch is run again from the
        statistics and random numbers that it began with; in a backward, forward and backward are. The chunks stay as
        they were. Other errors are raised as ever.
    processes : bool
        Whether each device is a process, which runs the passes of its part (on a CPU, with one thread) and can be
        lost; the weights stay in this one.

    Attributes
    ----------
    failures : tuple of DeviceFailure
        Each with its device, the batch (counted from 0) and reason.

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
        plan: Plan | str | Path | None = None,
        devices: Sequence[str | torch.device | Device] | None = None,
        chunks: int | None = None,
        example: Any = None,
        depth: int | str = "auto",
        on_failure: str = "raise",
        processes: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise MpsimError(f"model is a {type(model).__name__}: give a torch.nn.Module")
        self.model, self.depth = model, depth
        plan = None if plan is None else Plan.of(plan)
        number = _number(num_devices, plan, devices)
        self.chunks = chunks if chunks is not None or plan is None else plan.microbatches
        if self.chunks is not None and self.chunks < 1:
            raise MpsimError(f"chunks is {self.chunks}, expected 1 or more")
        self.on_failure = check_on_failure(on_failure)
        self.failures: tuple[DeviceFailure, ...] = ()
        self._pieces = number  # of a batch, whoever is left
        self._left = seats_for(devices, number, processes)
        self._seats = list(self._left)
        if processes:
            refuse_processes([seat.name for seat in self._left], self.devices, 1)
        self._crew = Crew() if processes else None
        self._boundaries = plan.boundaries if plan is not None else None
        self._whole = copy.deepcopy(model) if self.devices[0] is not None else model
        self._seconds: list[float] = []
        self._allocated: Split | None = None
        self._step = 0
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
        splits = tuple(self._split(chunk, len(chunks)) for chunk in chunks)
        splits = tuple(self._current(split) for split in splits)  # a later chunk's may have lost a device
        for split in dict.fromkeys(splits):
            _refresh(self.model, split.parts)
        repeats = self.on_failure == "resplit"
        call = Call(splits, chunks, self.model, self._lock, self._recover, self._step, repeats)
        self._step += 1
        whole = dict(zip(call.cut.feeds, pytree.tree_leaves((inputs, keywords, None)), strict=True))
        made = run(call)
        leaves = [made.get(name, whole.get(name)) if name else constant for name, constant in call.cut.leaves]
        return call.cut.form.rebuild(leaves)

    @property
    def num_devices(self) -> int:
        """How many devices have a part."""
        return len(self._seats)

    @property
    def devices(self) -> list[str | None]:
        """Where the parts run; None for where the model is."""
        return [seat.place for seat in self._seats]

    @property
    def processes(self) -> dict[str, int]:
        """The process of each device by its name, where devices are processes."""
        return self._crew.processes if self._crew is not None else {}

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
        lines = [*(_line(i, part) for i, part in enumerate(self.parts)), *(f"dropped {one}" for one in self.failures)]
        return "\n".join([head, *lines])

    def _known(self) -> Split:
        if self._latest is None:
            raise MpsimError("the model is not split yet: run a batch, or give ModelSplitter an example=")
        return self._latest

    def _chunks(self, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Chunk]:
        leaves, structure = pytree.tree_flatten((tuple(inputs), dict(keywords)))
        samples = batch_size(leaves)
        sizes = chunk_sizes(samples, self.chunks, self._pieces)
        columns = [cut_leaf(leaf, samples, sizes) for leaf in leaves]
        made = []
        for i, size in enumerate(sizes):
            positional, named = pytree.tree_unflatten([column[i] for column in columns], structure)
            made.append(Chunk(samples=size, inputs=positional, keywords=named))
        return made

    def _split(self, chunk: Chunk, chunks: int) -> Split:
        """Return the split for a chunk's shape and the model's present mode, capturing it if it is new."""
        if self._storage() != self._held:
            for split in self._splits.values():
                _withdraw(split.parts)
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
        self._measured(cut, chunk)
        while True:
            try:
                return self._place(cut)
            except DeviceLost as lost:
                self._go_on_without(_seat_of(lost.who, self._seats, ()), lost, self._step)

    def _place(self, cut: Cut) -> Split:
        """Give each device its part; the first split of all takes up their memory."""
        if self._boundaries is None:
            rooms = [seat.room if self.on_failure == "resplit" else math.inf for seat in self._seats]
            self._boundaries = balanced(cut, _state_of(self.model), self._seconds, rooms)
        parts = make_parts(cut, self._whole, self._boundaries, self.devices, state=_state_of(self.model))
        _hand_over(self.model, parts)
        made = Split(cut=cut, parts=parts, seats=tuple(self._seats))
        if self._allocated is None:
            self._allocate(made)
        for seat, part in zip(self._seats, parts, strict=True):
            if self._crew is not None:
                with blaming(seat):
                    self._crew.of(seat.name).hold(part)
        return made

    def _allocate(self, split: Split) -> None:
        self._allocated = split
        for seat, part in zip(self._seats, split.parts, strict=True):
            try:
                if seat.device is not None:
                    with blaming(seat):
                        seat.device.allocate(part)
            except (MpsimError, DeviceLost) as error:
                self._release()
                if self.on_failure == "raise" or isinstance(error, DeviceLost):
                    raise
                raise DeviceFull(seat, str(error)) from error

    def _release(self) -> None:
        for seat, part in zip(self._allocated.seats, self._allocated.parts, strict=True) if self._allocated else ():
            if seat.device is not None and any(part is held for held in seat.device.parts):
                seat.device.release(part)
        self._allocated = None

    def _recover(self, lost: DeviceLost, call: Call) -> tuple[Split, ...]:
        """Return the splits that a call goes on with when a device is lost."""
        failed: DeviceLost | None = lost
        while failed is not None:
            seat = _seat_of(failed.who, self._seats, call.splits)
            if seat in self._left:  # and not lost to another call before
                self._measured(call.cut, call.chunks[0])
                self._go_on_without(seat, failed, call.step)
            try:
                found, failed = tuple(map(self._current, call.splits)), None
            except DeviceLost as another:
                failed = another
        apart = len(set(self.devices)) > 1
        for split in found:
            refuse_shared_state(split.cut, [part.layers for part in split.parts], apart, len(call.chunks))
        return found

    def _current(self, split: Split) -> Split:
        """Return a split over the devices that are left."""
        if all(seat in self._seats for seat in split.seats):
            return split
        known = next((one for one in self._splits.values() if one.cut is split.cut), None)
        return known or self._place(split.cut)

    def _go_on_without(self, seat: Seat, lost: DeviceLost, step: int) -> None:
        """Drop a device, and whichever is lost meanwhile, and split over the others what was split."""
        before = len(self.failures)
        failed: DeviceLost | None = lost
        while failed is not None:
            self._drop(seat, failed, step)
            failed = self._on_fewer()
            seat = _seat_of(failed.who, self._seats, ()) if failed is not None else seat
        self._held = self._storage()
        gone = "; ".join(map(str, self.failures[before:]))
        warn(
            f"{gone}; {type(self.model).__name__} is split again over {devices_in_words(len(self._seats))}, boundaries"
            f" {list(self._boundaries or ())}, and the step is repeated"
        )

    def _drop(self, seat: Seat, lost: DeviceLost, step: int) -> None:
        if self.on_failure == "raise":
            raise told(lost, seat.name, step) from None
        self._release()
        self.failures += (DeviceFailure(device=seat.name, step=step, reason=lost.reason),)
        self._left = [one for one in self._left if one is not seat]
        if self._crew is not None:
            self._crew.end(seat.name)

    def _on_fewer(self) -> DeviceLost | None:
        """Split again over the devices that are left; return what is lost in the attempt."""
        failed, reason = self.failures[-1], "no device is left"
        for split in self._splits.values():
            _withdraw(split.parts)
        for seats in fewer(self._left):
            self._seats, self._boundaries = seats, None
            try:
                made = {key: self._place(split.cut) for key, split in self._splits.items()}
            except DeviceFull as error:
                if reason == "no device is left":
                    left = devices_in_words(len(self._left))
                    reason = f"{type(self.model).__name__} does not fit the {left} left: {error}"
            except DeviceLost as lost:
                return lost
            else:
                self._splits = made
                self._latest = next((one for one in made.values() if self._same(one)), self._latest)
                return None
        raise MpsimError(f"{failed}; {reason}; the model has the weights that it had before the step")

    def _same(self, split: Split) -> bool:
        return self._latest is not None and split.cut is self._latest.cut

    def _measured(self, cut: Cut, chunk: Chunk) -> None:
        """Time the units, once, where they are needed for cutting."""
        if self._seconds or (self._boundaries is not None and self.on_failure == "raise"):
            return
        example = Example(model=self._whole, inputs=chunk.inputs, keywords=chunk.keywords)
        feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
        feeds.pop("", None)
        self._seconds = measured_seconds(cut, self._whole, feeds, device=self.devices[0])

    def _check_units(self, cut: Cut) -> None:
        if len(cut.units) < self.num_devices:
            raise MpsimError(
                f"{type(self.model).__name__} has {len(cut.units)} layers to place, {self.num_devices} devices were"
                " asked for: ask for fewer, or give depth= to look deeper into its modules"
            )


def _seat_of(who: Any, seats: Sequence[Seat], splits: Sequence[Split]) -> Seat:
    """Return a seat by itself, by its place, or by the part that it has in one of some splits."""
    if isinstance(who, Seat):
        return who
    if isinstance(who, str):
        return next(seat for seat in seats if seat.place == who)
    return next(split.seats[i] for split in splits for i, part in enumerate(split.parts) if part is who)


def _withdraw(parts: Sequence[Part]) -> None:
    """Take parts away from their processes."""
    for part in parts:
        if part.worker is not None:
            part.worker.drop(part)


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
    if number > _MOST_PARTS:
        raise MpsimError(f"num_devices is {shown(number)}, more than {_MOST_PARTS:,} parts are too many: use fewer")
    return number


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
