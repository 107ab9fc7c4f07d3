"""All ranks of a plan in one process: ``dp × tp`` lines of stages, and what they owe each other after a step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import nn

from mpsim.emulate.call import sum_gradients
from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.failures import blaming
from mpsim.emulate.meeting import Meeting
from mpsim.emulate.parts import Part, make_parts
from mpsim.emulate.pipeline import Rows
from mpsim.emulate.replica import Line
from mpsim.emulate.seeds import new_key
from mpsim.plan.model import Plan
from mpsim.workload.partial_styles import packed_halves

__all__ = ["Grid", "part_ranks"]


def part_ranks(plan: Plan, home: Sequence[int]) -> tuple[int, ...]:
    """Return the rank of each part, by replica, stage and tensor-parallel rank.

    Parameters
    ----------
    plan : Plan
        Its ``dp``, ``pp`` and ``tp``.
    home : sequence of int
        The pipeline rank of each stage.

    Examples
    --------
    >>> part_ranks(Plan(dp=2, pp=2), (0, 1, 0))
    (0, 1, 0, 2, 3, 2)
    """
    return tuple((d * plan.pp + p) * plan.tp + t for d in range(plan.dp) for p in home for t in range(plan.tp))


class Grid:
    """Parts on every rank of a plan.

    Parameters
    ----------
    plan : Plan
        Its ``dp``, ``pp`` and ``tp``.
    shards : sequence of (Cut, torch.nn.Module)
        The model as each tensor-parallel rank has it. The first replica uses these weights themselves, as long as
        they stay on their device; others have copies.
    boundaries : tuple of int
        Between stages.
    places : sequence of str
        Where each rank ``(d, p, t)`` runs, in order of rank.
    home : sequence of int
        The pipeline rank of each stage; by default one stage lives at each.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> grid = Grid(Plan(dp=2, pp=2), [(cut, model)], (1,), ["cpu"] * 4)
    >>> loss = grid.run(gpipe(2, 1), [[{"input": torch.ones(3, 4)}]] * 2)
    >>> grid.collect(dict(model.named_parameters()))["1.bias"]
    tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        plan: Plan,
        shards: Sequence[tuple[Cut, nn.Module]],
        boundaries: tuple[int, ...],
        places: Sequence[str],
        home: Sequence[int] = (),
    ) -> None:
        self._plan = plan
        self._home = tuple(home) or tuple(range(plan.pp))
        self.cut = shards[0][0]
        self._packed = packed_halves(shards[0][1])
        self._lines = [
            [
                Line(make_parts(cut, model, boundaries, self._places(places, d, t), copy=d > 0), t)
                for t, (cut, model) in enumerate(shards)
            ]
            for d in range(plan.dp)
        ]

    def _places(self, places: Sequence[str], d: int, t: int) -> list[str]:
        return [places[self._rank(d, stage, t)] for stage in range(len(self._home))]

    def _rank(self, d: int, stage: int, t: int) -> int:
        return (d * self._plan.pp + self._home[stage]) * self._plan.tp + t

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts by replica, stage and tensor-parallel rank."""
        return tuple(line.parts[stage] for row in self._lines for stage in range(len(self._home)) for line in row)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each of the parts."""
        return part_ranks(self._plan, self._home)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The stages of each rank ``(d, :, t)``."""
        return tuple(line for row in self._lines for line in row)

    def outputs(self, name: str, microbatch: int) -> Any:
        """Return an output of the first replica, after a run without gradients."""
        return self._lines[0][0].outputs[name, microbatch]

    def run(self, rows: Rows, feeds: Sequence[list[dict[str, Any]]]) -> float:
        """Run rows on all ranks at the same time and return the mean loss.

        Parameters
        ----------
        rows : sequence of sequence of Operation
            A row for each pipeline rank.
        feeds : sequence of list of dict of str to torch.Tensor
            For each replica, for each micro-batch.
        """
        self._share_buffers()
        enabled = torch.is_grad_enabled()
        key = new_key() if any(any(part.draws) for part in self.parts) else None

        def run(line: Line, own: list[dict[str, Any]], meetings: list[Meeting], first: int) -> None:
            with torch.set_grad_enabled(enabled):
                line.run(rows, own, meetings, key, first)

        jobs = []
        for d, (row, own) in enumerate(zip(self._lines, feeds, strict=True)):
            meetings = [Meeting(self._plan.tp) for _ in self._home]
            jobs += [(line, own, meetings, d * len(own)) for line in row]
        with ThreadPoolExecutor(len(jobs)) as pool:
            done = [pool.submit(run, *job) for job in jobs]
            try:
                wait(done)
            except BaseException:  # Ctrl-C: nobody may be at work when the next step begins
                for line in self.lines:
                    line.stop()
                _settle(done)
                raise
        _raise_first([one.exception() for one in done])
        losses = [float(loss) for row in self._lines for loss in row[0].losses.values()]
        return sum(losses) / len(losses)

    def collect(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Sum the gradients of tied weights, average over replicas, give them to every part; return the whole ones.

        Parameters
        ----------
        whole : mapping of str to torch.Tensor
            The model's parameters, for their shapes.
        """
        shards = [self._average([row[t] for row in self._lines]) for t in range(self._plan.tp)]
        return {name: self._assembled(name, [shard[name] for shard in shards], whole[name]) for name in shards[0]}

    def _assembled(self, name: str, shards: Sequence[Any], whole: Any) -> Any:
        return _assemble(shards, whole, 2 if name in self._packed else 1)

    def _average(self, lines: Sequence[Line]) -> dict[str, Any]:
        """Average over the replicas of one tensor-parallel rank."""
        own = _held(lines[0].parts)
        sums = [sum_gradients(line.parts, own) for line in lines]
        averages = {name: _mean([one[name] for one in sums]) for name in sums[0]}
        for line in lines:
            for part in line.parts:
                with blaming(part):
                    for name in part.parameters.keys() & averages.keys():
                        parameter = part.parameters[name]
                        parameter.grad = averages[name].to(parameter.device, copy=True)
        return averages

    def bring_up_to_date(self, whole: Mapping[str, Any]) -> None:
        """Copy what each part updated to where else it is held: tied weights, and the model itself."""
        with torch.no_grad():
            for line in self.lines:
                first = _held(line.parts)
                for part in line.parts:
                    for name, tensor in part.parameters.items():
                        _copy(tensor, first[name])
            held = [_held(line.parts) for line in self._lines[0]]
            for name in held[0]:
                _copy(whole[name], self._assembled(name, [one[name].data for one in held], whole[name]))

    def _share_buffers(self) -> None:
        """Give every replica the first one's running statistics, as DistributedDataParallel does before a forward."""
        for t, line in enumerate(self._lines[0]):
            for row in self._lines[1:]:
                for part, other in zip(line.parts, row[t].parts, strict=True):
                    for name, buffer in part.buffers.items():
                        _copy(other.buffers[name], buffer)


def _settle(done: Sequence[Future[None]]) -> None:
    """Wait until all have ended, however often that is interrupted."""
    while not all(one.done() for one in done):
        with contextlib.suppress(KeyboardInterrupt):
            wait(done)


def _held(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the parameters and buffers of parts; of tied ones the first part's."""
    held: dict[str, Any] = {}
    for part in reversed(parts):
        held |= part.parameters | part.buffers
    return held


def _copy(to: Any, value: Any) -> None:
    if to.data_ptr() != value.data_ptr():
        to.data.copy_(value.data)


def _mean(values: Sequence[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = total + value.to(total.device)
    return total / len(values)


def _assemble(shards: Sequence[Any], whole: Any, pieces: int) -> Any:
    """Put the shards of one tensor together along the dimension in which they are not as long as the whole.

    A shard may have a part of each of several `pieces` of the whole; rows that padded a vocabulary are left out.
    """
    unlike = [i for i, (a, b) in enumerate(zip(shards[0].shape, whole.shape, strict=True)) if a != b]
    if not unlike:
        return shards[0]
    dim = unlike[0]
    parts = [shard.to(shards[0].device).chunk(pieces, dim) for shard in shards]
    joined = torch.cat([part for piece in zip(*parts, strict=True) for part in piece], dim=dim)
    return joined.narrow(dim, 0, whole.shape[dim])


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """Raise what went wrong, rather than that somebody waited in vain for who it happened to."""
    found = [error for error in errors if error is not None]
    causes = [error for error in found if not isinstance(error, threading.BrokenBarrierError)]
    if found:
        raise (causes or found)[0]
