"""ParallelTrainer: train a model that is distributed over devices by a plan, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.calls import checked
from mpsim.emulate.balancing import untouched
from mpsim.emulate.batches import micro_batches
from mpsim.emulate.captured import Captured
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
from mpsim.emulate.grid import Grid, part_ranks
from mpsim.emulate.kept import Kept, MakeOptimizer, Update, updates_of
from mpsim.emulate.parts import Part, refuse_shared_state
from mpsim.emulate.processes import Crew, refuse_processes
from mpsim.emulate.resplit import choices
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.operations import Operation
from mpsim.plan.partition import stage_slices
from mpsim.plan.shape import Shape, shape_of
from mpsim.workload.example import Example, flat_inputs
from mpsim.workload.source import arguments_of
from mpsim.workload.split import Split

__all__ = ["ParallelTrainer"]

Loss = Callable[[Any, Any], torch.Tensor]
SAME = 1e-4
"""By how much, of their greatest value, outputs may differ that are sums in another order."""
T = TypeVar("T")


@checked
class ParallelTrainer:
    """Train one model on several devices: layers in stages, layers shared, replicas of the data, or all of these.

    The plan says which. Between operators, ``Plan(pp=4)`` trains naively, one stage at work at a time;
    ``Plan(pp=4, microbatches=8, schedule="gpipe")`` or ``"1f1b"`` as a pipeline, or any other schedule of one direction
    that updates at its end, with several stages on a device too (``"interleaved-1f1b"``, ``"zb-v"``). Within
    operators, ``Plan(tp=2)`` shares the layers that the model's tensor-parallel styles name. ``Plan(dp=2)`` averages
    the gradients of replicas. ``Plan(dp=2, pp=2, tp=2)`` does all three. Every rank is a thread of this process with
    weights of its own; ``mpsim emulate`` runs a plan on processes and links.

    Losses and weights are those of training the model whole, with two exceptions that are the split's own: batch
    normalisation normalises over a micro-batch (its running statistics are those of the first replica), and dropout
    draws other numbers: a layer draws those of a micro-batch by itself, so that they are the same wherever it stands.

    Parameters
    ----------
    devices : sequence of mpsim.emulate.Device
        One for each rank, as the plan places them.
    plan : Plan
        Default: a stage for each device, one micro-batch.
    optimizer : callable
        Makes an optimizer of parameters; each device has one for its own.
    loss : callable
        ``loss(output, target)``, a mean over samples; default: the output's own ``.loss``, or its mean.
    on_failure : str
        ``"raise"``, or ``"resplit"``: a device that runs out of memory, its declared one included, or whose process is
        gone is dropped with a warning, the model is split again over the others, and the step is repeated from the
        weights, statistics, momenta, gradients, batch and random numbers that it began with. A copy of these in this
        process's memory is made before each step. Other errors are raised as ever.
    processes : bool
        Whether each device is a process, which runs the passes of its parts (on a CPU, with one thread) and can be
        lost; the weights and the optimizers stay in this one.

    Attributes
    ----------
    plan, devices : Plan, tuple of Device
        As they are now: those that failed are gone.
    failures : tuple of DeviceFailure
        Each with its device, step and reason.

    Raises
    ------
    MpsimError
        More ranks than devices, or a schedule that it cannot train with; no device is left, or none of the ways to
        split the model over those that are fits.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> devices = [Device(f"device {i}", "1 GiB") for i in range(2)]
    >>> trainer = ParallelTrainer(devices, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), loss=nn.functional.mse_loss)
    >>> model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    >>> x, y = torch.randn(10, 10), torch.randn(10, 10)
    >>> trainer.distribute_model(model, x, y)
    >>> losses = [trainer.step(x, y) for _ in range(3)]
    >>> losses[0] > losses[1] > losses[2]
    True
    >>> [len(device.parts) for device in devices]
    [1, 1]
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        plan: Plan | str | Path | None = None,
        optimizer: MakeOptimizer = torch.optim.AdamW,
        loss: Loss | None = None,
        on_failure: str = "raise",
        processes: bool = False,
    ) -> None:
        self.devices = tuple(devices)
        for device in self.devices:
            if not isinstance(device, Device):
                raise MpsimError(f"{device!r} is a {type(device).__name__}: give mpsim.emulate.Device(id, memory)")
        self.on_failure = check_on_failure(on_failure)
        self.failures: tuple[DeviceFailure, ...] = ()
        plan = Plan(pp=max(1, len(self.devices)), schedule="naive") if plan is None else Plan.of(plan)
        self._optimizer, self._loss = optimizer, loss
        self._take(plan, [self.devices[i] for i in plan.place(len(self.devices))])
        self._crew = Crew() if processes else None
        if processes:
            refuse_processes([one.id for one in self.devices], [one.place for one in self.devices], plan.tp)
        self._grid: Grid | None = None
        self._updates: list[Update] = []
        self._kept: Kept | None = None
        self._collected = False
        self._steps = 0

    def _take(self, plan: Plan, placed: Sequence[Device]) -> None:
        """Go by a plan, whose ranks stand on these devices."""
        self._rows = plan.rows()
        self._shape = shape_of(self._rows)
        _check_trains(plan, self._rows, self._shape)
        self.plan, self._placed = plan, list(placed)

    @property
    def processes(self) -> dict[str, int]:
        """The process of each device by its name, where devices are processes."""
        return self._crew.processes if self._crew is not None else {}

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first layer of each stage but the first."""
        grid = self._known()
        return tuple(part.layers.start for part in grid.lines[0].parts[1:])

    @property
    def _name(self) -> str:
        return type(self._example.model).__name__

    def __repr__(self) -> str:
        head = f"ParallelTrainer over {len(self.devices)} devices, {self.plan.text}"
        if self._grid is not None:
            head += f": {self._name}, boundaries {list(self.boundaries)}"
        return "\n".join([head, *(f"dropped {failure}" for failure in self.failures)])

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of all ranks, by replica, stage and tensor-parallel rank."""
        return self._known().parts

    def distribute_model(
        self,
        model: nn.Module | Example,
        batch: Any = None,
        target: Any = None,
        *,
        tensor_parallel: Mapping[str, str] | None = None,
    ) -> None:
        """Cut the model by the plan and give each device its part.

        The model's mode, training or evaluation, is kept. Its own parameters follow the training.

        Parameters
        ----------
        model : torch.nn.Module or Example
            An Example brings its batch, loss and tensor-parallel styles.
        batch : tensor, tuple or dict of tensors
            A batch of the size that `step` will get.
        target : tensor
            Labels.
        tensor_parallel : mapping of str to str
            See :func:`mpsim.workload.tensor_parallel.local_shard`; for plans with ``tp`` of 2 or more.

        Raises
        ------
        MpsimError
            The batch does not divide, the model cannot be captured, cut or sharded so, or a part does not fit.
        """
        if not isinstance(model, nn.Module | Example):
            raise MpsimError(f"model is a {type(model).__name__}: give a torch.nn.Module or an Example")
        if isinstance(model, Example):
            example = dataclasses.replace(model, loss=self._loss or model.loss)
        else:
            bare = Example(model=model, inputs=(), loss=self._loss, tensor_parallel=tensor_parallel or {})
            example = _with_batch(bare, batch, target)
        if self.plan.split != Split(tp=self.plan.tp):
            raise MpsimError(
                f"plan {self.plan.text}: ParallelTrainer trains by dp, pp and tp alone: leave out the rest"
            )
        first = micro_batches(example, self.plan.dp, self.plan.microbatches)[0][0]
        self._release()
        self._example, self._shapes, self._steps = example, _shapes(first), 0
        self._captured = Captured(first, self.plan.tp)
        if self._crew is not None and self.on_failure == "raise":
            self._crew.renew()
        try:
            self._spread(None)
        except DeviceLost as lost:
            self._split_again(lost, None)
        if self.plan.tp > 1:
            self._check_same(self._known(), first)

    def step(self, batch: Any, target: Any = None) -> float:
        """Train on one batch and return its loss: forward, backward, `collect_gradients`, `update_model`.

        Raises
        ------
        MpsimError
            The batch does not divide, or is not of the size that the model was distributed for.
        """

        def work() -> float:
            loss = self.run_batch(batch, target)
            self.collect_gradients()
            self.update_model()
            return loss

        return self._carried_out(work)

    def run_batch(self, batch: Any, target: Any = None) -> float:
        """Run one batch forward and backward and return its loss; its gradients are added to those of the parts.

        If it fails, the parts have no gradients.
        """
        self._known()
        return self._carried_out(lambda: self._run(*self._own(batch, target)))

    def _own(self, batch: Any, target: Any) -> tuple[Any, Any]:
        """Return a batch that a step may write into, where the step may have to be repeated."""
        return (batch, target) if self.on_failure == "raise" else pytree.tree_map(_copy, (batch, target))

    def _run(self, batch: Any, target: Any) -> float:
        grid = self._known()
        batches = micro_batches(_with_batch(self._example, batch, target), self.plan.dp, self.plan.microbatches)
        found = _shapes(batches[0][0])
        if found != self._shapes:
            raise MpsimError(
                f"micro-batch has tensors {found}, the model was distributed for {self._shapes}:"
                " call distribute_model with such a batch"
            )
        self._collected = False
        try:
            with torch.enable_grad():
                return grid.run(self._rows, [[_feeds(grid.cut.feeds, one) for one in row] for row in batches])
        except BaseException:
            for part in grid.parts:
                part.drop_gradients()
            raise

    def collect_gradients(self) -> dict[str, torch.Tensor]:
        """Sum what the parts found for tied weights, average over replicas, and give every part the outcome.

        Returns
        -------
        dict of str to torch.Tensor
            The gradients of the whole model by its parameters' names, shared ones put together.
        """
        self._known()
        return self._carried_out(self._collect)

    def _collect(self) -> dict[str, torch.Tensor]:
        found = self._known().collect(self._whole())
        self._collected = True
        return found

    def update_model(self) -> None:
        """Let every device's optimizer update its parameters; drop the gradients, bring the model up to date."""
        self._known()
        self._carried_out(self._update)
        self._steps += 1

    def _update(self) -> None:
        grid = self._known()
        for update in self._updates:
            update.step()
        for part in grid.parts:
            part.drop_gradients()
        grid.bring_up_to_date(self._whole())
        self._collected = False

    def _known(self) -> Grid:
        if self._grid is None:
            raise MpsimError("no model is distributed yet: call distribute_model(model, batch)")
        return self._grid

    def _whole(self) -> dict[str, Any]:
        model = self._example.model
        return dict(model.named_parameters()) | dict(model.named_buffers())

    def _carried_out(self, action: Callable[[], T]) -> T:
        """Return what an action returns; a device that fails in it is dropped, and the action begins again."""
        if self._kept is not None:  # as a part of a step
            return action()
        if self.on_failure == "resplit":
            self._kept = Kept(self._known(), self._updates, self._collected)
        try:
            while True:
                try:
                    return action()
                except DeviceLost as lost:
                    self._split_again(lost, self._kept)
        finally:
            self._kept = None

    def _split_again(self, lost: DeviceLost | None, kept: Kept | None) -> None:
        """Drop a device that is lost, and whichever is lost meanwhile, and go on with the others."""
        before = len(self.failures)
        while lost is not None:
            self._drop(lost)
            if kept is not None:
                kept.put_into([model for _, model in self._captured.shards])
            lost = self._on_fewer(kept)
        failed = "; ".join(map(str, self.failures[before:]))
        cut = f"boundaries {list(self.boundaries)}"
        warn(
            f"{failed}; {self._name} is split again over {devices_in_words(len(self.devices))}, {self.plan.text},"
            f" {cut}{', and the step is repeated' if kept is not None else ''}"
        )

    def _drop(self, lost: DeviceLost) -> None:
        """Leave a device out, if that is asked for."""
        device = self._device_of(lost.who)
        if self.on_failure == "raise":
            raise told(lost, device.id, self._steps) from None
        self.failures += (DeviceFailure(device=device.id, step=self._steps, reason=lost.reason),)
        self._release()
        if self._crew is not None:
            self._crew.end(device.id)
        order = dict.fromkeys([*self._placed, *self.devices])
        self.devices = tuple(one for one in order if one is not device)

    def _device_of(self, who: Any) -> Device:
        """Return a device by the part that it has, or its place."""
        if isinstance(who, Device):
            return who
        if isinstance(who, str):
            return next(one for one in self._placed if one.place == who)
        grid = self._known()
        return next(self._placed[rank] for rank, part in zip(grid.ranks, grid.parts, strict=True) if part is who)

    def _on_fewer(self, kept: Kept | None) -> DeviceLost | None:
        """Split the model over the devices that are left; return what is lost in the attempt."""
        failed, reason = self.failures[-1], "no device is left"
        for plan, placed in choices(self.plan, self.devices, not self._captured.cut.moved):
            try:
                self._take(plan, placed)
                self._spread(kept)
            except (DeviceFull, MpsimError) as error:
                self._release()
                if reason == "no device is left":
                    left = devices_in_words(len(self.devices))
                    reason = f"{self._name} cannot be split over the {left} left: {error}"
            except DeviceLost as lost:
                return lost
            else:
                return None
        raise MpsimError(f"{failed}; {reason}; the model has the weights that it had before the step")

    def _spread(self, kept: Kept | None) -> None:
        """Give each device its parts, with what was kept, if anything was."""
        boundaries = self._boundaries_for()
        apart = len({device.place for device in self._placed}) > 1
        cut = self._captured.cut
        refuse_shared_state(cut, stage_slices(boundaries, len(cut.units)), apart, self.plan.microbatches)
        places = [device.place for device in self._placed]
        grid = Grid(self.plan, self._captured.shards, boundaries, places, self._shape.home)
        self._allocate(grid)
        self._updates = [made for line in grid.lines for made in updates_of(line.parts, line.rank, self._optimizer)]
        if kept is not None:
            for update in self._updates:
                with blaming(update.part):
                    update.take(kept.moments)
            kept.give_gradients(grid)
            self._collected = kept.collected

    def _boundaries_for(self) -> tuple[int, ...]:
        """Return where the plan has the model cut."""
        stages, units = self._shape.stages, len(self._captured.cut.units)
        if units < stages:
            raise MpsimError(
                f"{self._name} has {units} layers to place, the plan has {stages} stages on"
                f" pp={self.plan.pp} ranks: lower pp, or the stages on each"
            )
        if self.plan.boundaries is not None:
            return self.plan.boundaries
        if self.on_failure == "raise":
            return self._captured.boundaries([math.inf] * stages)
        at_parts = [self._placed[rank] for rank in part_ranks(self.plan, self._shape.home)]
        holds, rooms = Counter(map(id, at_parts)), [math.inf] * stages
        for at, device in enumerate(at_parts):
            stage = at // self.plan.tp % stages
            rooms[stage] = min(rooms[stage], device.free_bytes / holds[id(device)])
        return self._captured.boundaries(rooms)

    def _allocate(self, grid: Grid) -> None:
        self._grid = grid
        try:
            for rank, part in zip(grid.ranks, grid.parts, strict=True):
                self._allot(self._placed[rank], part)
        except (MpsimError, DeviceLost):
            self._release()
            raise

    def _allot(self, device: Device, part: Part) -> None:
        with blaming(device):
            try:
                device.allocate(part)
            except MpsimError as error:
                if self.on_failure == "raise":
                    raise
                raise DeviceFull(device, str(error)) from error
            if self._crew is not None:
                self._crew.of(device.id).hold(part)

    def _release(self) -> None:
        """Free what an earlier model takes up."""
        for part in self._grid.parts if self._grid is not None else ():
            if part.worker is not None:
                part.worker.drop(part)
            for device in self._placed:
                if any(part is held for held in device.parts):
                    device.release(part)
        self._grid = None

    def _check_same(self, grid: Grid, example: Example) -> None:
        """Refuse a model whose shared layers compute something else than the whole.

        The outputs are compared and not the loss, which of an untrained model hardly depends on them.
        """
        rows = [[one for one in row if one.kind == "F" and one.microbatch == 0] for row in self._rows]
        buffers = [(buffer, buffer.clone()) for buffer in example.model.buffers()]
        with contextlib.ExitStack() as stack, torch.no_grad():
            for part in grid.parts:
                stack.enter_context(untouched(part))
            grid.run(rows, [[_feeds(grid.cut.feeds, example)]] * self.plan.dp)
            output = example.model(*example.inputs, **example.keywords)
            for buffer, value in buffers:
                buffer.copy_(value)
        pairs = zip(grid.cut.leaves, pytree.tree_leaves(output), strict=True)
        made = [(name, value) for (name, _), value in pairs if name in grid.cut.outputs]
        off = max((_difference(grid.outputs(name, 0), value) for name, value in made), default=0.0)
        if not off <= SAME:
            self._release()
            raise MpsimError(
                f"{type(example.model).__name__} over {self.plan.tp} tensor-parallel ranks gives outputs that differ by"
                f" {off:.2g} of their size, {SAME:g} is expected at most: its layers cannot be shared so (a fused"
                " projection?); give those 'replicate', or use tp=1"
            )


def _check_trains(plan: Plan, rows: Sequence[Sequence[Operation]], shape: Shape) -> None:
    """Refuse what has copies of stages, or several versions of their parameters."""
    if shape.directions > 1:
        raise MpsimError(
            f"schedule {plan.schedule_name!r} has {shape.directions} copies of each stage, ParallelTrainer one: use a"
            " schedule of one direction"
        )
    if any(operation.kind == "U" for row in rows for operation in row):
        raise MpsimError(
            f"schedule {plan.schedule_name!r} updates while micro-batches are under way, ParallelTrainer when all are"
            " back: use a schedule without U"
        )


def _difference(found: Any, expected: Any) -> float:
    """Return the greatest difference as a fraction of the greatest value."""
    scale = float(expected.abs().max())
    return float((found.to(expected.device) - expected).abs().max()) / scale if scale else 0.0


def _with_batch(example: Example, batch: Any, target: Any) -> Example:
    positional, keywords = arguments_of(batch)
    return dataclasses.replace(example, inputs=positional, keywords=keywords, target=target)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _feeds(names: Sequence[str], example: Example) -> dict[str, Any]:
    return dict(zip(names, flat_inputs(example), strict=True))


def _shapes(example: Example) -> list[str]:
    leaves = [leaf for leaf in flat_inputs(example) if isinstance(leaf, torch.Tensor)]
    return [f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}" for leaf in leaves]
