"""ParallelTrainer: train a model that is distributed over devices by a plan, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.emulate.balancing import measured_boundaries, untouched
from mpsim.emulate.batches import micro_batches
from mpsim.emulate.capture.check import checked_capture
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.device import Device
from mpsim.emulate.grid import Grid
from mpsim.emulate.parts import Part, refuse_shared_state
from mpsim.emulate.shared_layers import rank_examples
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
Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


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
    draws other numbers.

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

    Raises
    ------
    MpsimError
        More ranks than devices, or a schedule that it cannot train with.

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
        plan: Plan | None = None,
        optimizer: Optimizer = torch.optim.AdamW,
        loss: Loss | None = None,
    ) -> None:
        self.devices = tuple(devices)
        for device in self.devices:
            if not isinstance(device, Device):
                raise MpsimError(f"{device!r} is a {type(device).__name__}: give mpsim.emulate.Device(id, memory)")
        self.plan = plan or Plan(pp=max(1, len(self.devices)), schedule="naive")
        self._placed = [self.devices[i] for i in self.plan.place(len(self.devices))]
        self._optimizer, self._loss = optimizer, loss
        self._rows = self.plan.rows()
        self._shape = shape_of(self._rows)
        _check_trains(self.plan, self._rows, self._shape)
        self._grid: Grid | None = None
        self._optimizers: list[torch.optim.Optimizer] = []

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
        grid = self._cut(first)
        self._allocate(grid)
        self._example, self._shapes = example, _shapes(first)
        if self.plan.tp > 1:
            self._check_same(grid, first)
        self._grid = grid
        self._optimizers = [made for line in grid.lines for made in self._optimizers_of(line.parts)]

    def step(self, batch: Any, target: Any = None) -> float:
        """Train on one batch and return its loss: forward, backward, `collect_gradients`, `update_model`.

        Raises
        ------
        MpsimError
            The batch does not divide, or is not of the size that the model was distributed for.
        """
        loss = self.run_batch(batch, target)
        self.collect_gradients()
        self.update_model()
        return loss

    def run_batch(self, batch: Any, target: Any = None) -> float:
        """Run one batch forward and backward and return its loss; its gradients are added to those of the parts.

        If it fails, the parts have no gradients.
        """
        grid = self._known()
        batches = micro_batches(_with_batch(self._example, batch, target), self.plan.dp, self.plan.microbatches)
        found = _shapes(batches[0][0])
        if found != self._shapes:
            raise MpsimError(
                f"micro-batch has tensors {found}, the model was distributed for {self._shapes}:"
                " call distribute_model with such a batch"
            )
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
        return self._known().collect(self._whole())

    def update_model(self) -> None:
        """Let every device's optimizer update its parameters; drop the gradients, bring the model up to date."""
        grid = self._known()
        for optimizer in self._optimizers:
            optimizer.step()
        for part in grid.parts:
            part.drop_gradients()
        grid.bring_up_to_date(self._whole())

    def _known(self) -> Grid:
        if self._grid is None:
            raise MpsimError("no model is distributed yet: call distribute_model(model, batch)")
        return self._grid

    def _whole(self) -> dict[str, Any]:
        model = self._example.model
        return dict(model.named_parameters()) | dict(model.named_buffers())

    def _cut(self, example: Example) -> Grid:
        """Capture the model as each tensor-parallel rank has it, for one micro-batch."""
        cut = checked_capture(example)
        stages = self._shape.stages
        if len(cut.units) < stages:
            raise MpsimError(
                f"{type(example.model).__name__} has {len(cut.units)} layers to place, the plan has {stages} stages on"
                f" pp={self.plan.pp} ranks: lower pp, or the stages on each"
            )
        boundaries = self.plan.boundaries
        if boundaries is None:
            feeds = _feeds(cut.feeds, example)
            boundaries = measured_boundaries(cut, example.model, feeds, stages) if stages > 1 else ()
        apart = len({device.place for device in self._placed}) > 1
        refuse_shared_state(cut, stage_slices(boundaries, len(cut.units)), apart, self.plan.microbatches)
        shards = [(cut, example.model)]
        if self.plan.tp > 1:
            shards = [(capture(shard), shard.model) for shard in rank_examples(example, self.plan.tp)]
        return Grid(self.plan, shards, boundaries, [device.place for device in self._placed], self._shape.home)

    def _allocate(self, grid: Grid) -> None:
        self._grid = grid
        try:
            for rank, part in zip(grid.ranks, grid.parts, strict=True):
                self._placed[rank].allocate(part)
        except MpsimError:
            self._release()
            raise

    def _release(self) -> None:
        """Free what an earlier model takes up."""
        for part in self._grid.parts if self._grid is not None else ():
            for device in self._placed:
                if any(part is held for held in device.parts):
                    device.release(part)
        self._grid = None

    def _optimizers_of(self, parts: Sequence[Part]) -> list[torch.optim.Optimizer]:
        """Make an optimizer for each part, over what it owns: a tied weight belongs to the first part that holds it."""
        seen: set[str] = set()
        made = []
        for part in parts:
            own = [p for name, p in part.parameters.items() if p.requires_grad and name not in seen]
            seen.update(part.parameters)
            if own:
                made.append(self._optimizer(own))
        return made

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


def _feeds(names: Sequence[str], example: Example) -> dict[str, Any]:
    return dict(zip(names, flat_inputs(example), strict=True))


def _shapes(example: Example) -> list[str]:
    leaves = [leaf for leaf in flat_inputs(example) if isinstance(leaf, torch.Tensor)]
    return [f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}" for leaf in leaves]
