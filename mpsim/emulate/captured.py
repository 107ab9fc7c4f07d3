"""A model captured once, which can be cut again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpsim.emulate.balancing import measured_seconds
from mpsim.emulate.capture.check import checked_capture
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.resplit import balanced
from mpsim.emulate.shared_layers import rank_examples
from mpsim.workload.example import Example, flat_inputs

__all__ = ["Captured"]


class Captured:
    """A model's step for one micro-batch, whole and as each tensor-parallel rank has it.

    Parameters
    ----------
    example : Example
        The model and a micro-batch.
    tp : int
        Ranks that share its layers.

    Attributes
    ----------
    cut : Cut
        Of the whole model.
    shards : list of (Cut, torch.nn.Module)
        Of each rank.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> captured = Captured(Example(model=model, inputs=(torch.ones(3, 4),)), 1)
    >>> captured.boundaries([float("inf")] * 2)
    (1,)
    """

    def __init__(self, example: Example, tp: int) -> None:
        self.cut = checked_capture(example)
        self._example, self._tp = example, tp
        self._shards: list[tuple[Any, Any]] = []
        self._seconds: list[float] = []

    @property
    def shards(self) -> list[tuple[Any, Any]]:  # noqa: D102
        if not self._shards:
            whole = self._tp == 1
            examples = [] if whole else rank_examples(self._example, self._tp)
            self._shards = [(capture(one), one.model) for one in examples] or [(self.cut, self._example.model)]
        return self._shards

    def boundaries(self, rooms: Sequence[float]) -> tuple[int, ...]:
        """Return where to cut for stages that may take so many bytes; layers are timed once.

        Parameters
        ----------
        rooms : sequence of float
            Of each stage.
        """
        if len(rooms) == 1:
            return ()
        model = self._example.model
        if not self._seconds:
            feeds = dict(zip(self.cut.feeds, flat_inputs(self._example), strict=True))
            self._seconds = measured_seconds(self.cut, model, feeds)
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        return balanced(self.cut, state, self._seconds, [room * self._tp for room in rooms])
