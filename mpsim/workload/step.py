"""A training step to be watched: forward, loss, backward and update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mpsim.workload.example import Example, default_loss

__all__ = ["Step", "step_of"]


@dataclass(slots=True)
class Step:
    """A training step of a model.

    Attributes
    ----------
    model : torch.nn.Module
        What is trained.
    run : callable
        Does one step.
    optimizer : torch.optim.Optimizer or None
        Updates the parameters at the end of `run`; None: `run` does that by itself, or nothing is trained.
    own : bool
        Whether the step is its user's own.
    updates : str
        Names of a user's own optimizers.
    steady : callable
        Puts back what steers a step, such as a schedule, so that the next one is like the last.
    """

    model: nn.Module
    run: Callable[[], None]
    optimizer: Any = None
    own: bool = False
    updates: str = ""
    steady: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        """Do one step."""
        self.run()


def step_of(
    example: Example, computing: Callable[[], Any] = contextlib.nullcontext, scale: float = 1.0, backward: bool = True
) -> Step:
    """Return the step of an example: its update is done by the step's `optimizer`, where it has one.

    Parameters
    ----------
    example : Example
        The model and its batch.
    computing : callable
        Makes the context in which forward and loss run, such as autocast.
    scale : float
        What the loss is multiplied by before backward, as a gradient scaler does.
    backward : bool
        False for a step of forward and loss alone.

    Examples
    --------
    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> step = step_of(Example(model=model, inputs=(torch.ones(1, 2),)))
    >>> step()
    >>> model.weight.grad.tolist()
    [[1.0, 1.0]]
    """
    criterion = example.loss or default_loss
    step = Step(example.model, lambda: None)

    def run() -> None:
        with computing():
            output = example.model(*example.inputs, **example.keywords)
            loss = criterion(output, example.target)
        del output
        if loss.requires_grad and backward:
            (loss if scale == 1.0 else loss * scale).backward()
        if step.optimizer is not None:
            step.optimizer.step()
            step.optimizer.zero_grad(set_to_none=True)

    step.run = run
    return step
