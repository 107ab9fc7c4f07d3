"""One line of a grid: the stages of one replica on one tensor-parallel rank, with what is in flight between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mpsim.emulate.failures import blaming
from mpsim.emulate.meeting import Meeting, seated
from mpsim.emulate.parts import Part
from mpsim.emulate.pipeline import Message, Rows, play
from mpsim.emulate.processes import Away, passes_of
from mpsim.emulate.under_way import UnderWay
from mpsim.errors import MpsimError
from mpsim.plan.schedules import Operation

__all__ = ["Line"]


class Line:
    """The parts of rank ``(d, :, t)`` of a plan's grid.

    Parameters
    ----------
    parts : sequence of Part
        A stage each.
    rank : int
        Which of the ranks that share each stage's layers this is.

    Attributes
    ----------
    losses : dict of int to torch.Tensor
        Of the latest run, by micro-batch.
    outputs : dict of (str, int) to torch.Tensor
        Of the latest run, by name and micro-batch, if it was without gradients.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.plan.schedules import gpipe
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> cut = capture(Example(model=model, inputs=(torch.ones(3, 4),)))
    >>> line = Line(make_parts(cut, model, (1,)), 0)
    >>> line.run(gpipe(2, 2), [{"input": torch.ones(3, 4)}] * 2, [Meeting(1), Meeting(1)])
    >>> sorted(line.losses)
    [0, 1]
    """

    def __init__(self, parts: Sequence[Part], rank: int) -> None:
        self.parts, self.rank = tuple(parts), rank
        self.losses: dict[int, Any] = {}
        self.outputs: dict[tuple[str, int], Any] = {}
        self._under_way: list[UnderWay | Away] = []
        self._feeds: list[dict[str, Any]] = []
        self._meetings: Sequence[Meeting] = ()
        self._stopped = False

    def run(
        self,
        rows: Rows,
        feeds: list[dict[str, Any]],
        meetings: Sequence[Meeting],
        key: int | None = None,
        first: int = 0,
    ) -> None:
        """Run the rows over micro-batches; gradients are added to the parts' parameters, losses are kept.

        Parameters
        ----------
        rows : sequence of sequence of Operation
            A row for each pipeline rank.
        feeds : list of dict of str to torch.Tensor
            For each micro-batch.
        meetings : sequence of Meeting
            For each stage, of the ranks that share it. If anything fails here they are broken off, for whoever waits
            there waits for one that may not come.
        key, first : int
            As of :class:`mpsim.emulate.under_way.UnderWay`.

        Raises
        ------
        DeviceLost
            A part's device ran out of memory, or its process is gone.
        """
        self.losses, self.outputs, self._stopped = {}, {}, False
        self._feeds, self._meetings = feeds, meetings
        try:
            for part in self.parts:
                with self._blaming(part):
                    self._under_way.append(passes_of(part, key, first))
            play(rows, self._work)
            self._finish()
        finally:
            self._under_way, self._feeds = [], []

    def stop(self) -> None:
        """Let the run that is under way end with the passes at work."""
        self._stopped = True

    def _finish(self) -> None:
        """Fetch the gradients that other processes have found."""
        for one in self._under_way:
            if isinstance(one, Away):
                with self._blaming(one.part):
                    one.finish()

    def _work(self, operation: Operation, received: Message) -> Message:
        work = self._forward if operation.kind == "F" else self._back
        if self._stopped:
            raise MpsimError("the step was interrupted: run the batch again")
        with self._blaming(self.parts[operation.stage]), seated(self._meetings[operation.stage], self.rank):
            return work(operation, received)

    @contextlib.contextmanager
    def _blaming(self, part: Part) -> Iterator[None]:
        """Blame a part for what its device suffers; let nobody wait for this line if anything fails."""
        try:
            with blaming(part):
                yield
        except BaseException:
            for meeting in self._meetings:
                meeting.break_off()
            raise

    def _forward(self, operation: Operation, received: Message) -> Message:
        stage, k = operation.stage, operation.microbatch
        flight = self._under_way[stage].forward(k, received, self._feeds[k])
        loss = self.parts[stage].cut.loss
        if loss in flight.results:
            self.losses[k] = flight.results[loss].detach()
        if not torch.is_grad_enabled():
            self.outputs.update({(name, k): value for name, value in flight.results.items()})
        return dict(flight.sends)

    def _back(self, operation: Operation, received: Message) -> Message:
        stage, kind, k, _ = operation
        flight = self._under_way[stage].backward(k, received, weight=1.0 / len(self._feeds), kind=kind)
        return {} if kind == "W" else dict(flight.returned)
