"""A training step of the user's own, with a batch for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpsim.errors import MpsimError

__all__ = ["StepSource", "step_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSource:
    """A training step and one batch.

    Attributes
    ----------
    step : callable
        ``step(batch)`` does forward, loss, backward and update.
    batch : object
        Whatever the step takes.
    samples : int
        How many samples the batch holds.
    name : str
        For the workload.

    Examples
    --------
    >>> StepSource(step=print, batch=[1, 2], samples=2, name="mine").samples
    2
    """

    step: Callable[[Any], Any]
    batch: Any
    samples: int
    name: str = "step"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise MpsimError(f"a batch of {self.name} holds {self.samples} samples, expected 1 or more")

    def batch_of(self, size: int) -> Any:
        """Return the batch with so many samples, the first ones or all again and again.

        Raises
        ------
        MpsimError
            Nothing in the batch is of as many samples as it holds.
        """
        from mpsim.workload.batch import resized

        if type(self.batch) in (tuple, list):  # a loader's are the parts of a batch
            return type(self.batch)(resized(self.batch, self.samples, size))
        return resized([self.batch], self.samples, size)[0]


def step_source(
    step: Callable[[Any], Any],
    loader: Iterable[Any],
    *,
    microbatches: Sequence[int] | None = None,
    name: str | None = None,
) -> StepSource:
    """Return a training step with the first batch of a loader.

    Parameters
    ----------
    step : callable
        ``step(batch)`` does forward, loss, backward and update.
    loader : iterable
        A DataLoader, a list, a generator of batches; one is taken.
    microbatches : sequence of int
        If it is one number, the samples of the batch, where nothing in the batch says otherwise.
    name : str
        For the workload; by default the function's own.

    Raises
    ------
    MpsimError
        The loader is none, is empty or fails, or nothing says how many samples the batch holds.

    Examples
    --------
    >>> import torch
    >>> def train(batch): ...
    >>> source = step_source(train, [(torch.ones(8, 3), torch.ones(8))])
    >>> source.samples, source.name
    (8, 'train')
    """
    from mpsim.workload.batch import samples_of

    name = name or str(getattr(step, "__name__", None) or type(step).__name__)
    batch = _first(loader, name)
    asked = microbatches[0] if microbatches is not None and len(microbatches) == 1 else None
    samples = samples_of(*(batch if type(batch) in (tuple, list) else (batch,)), asked=asked)
    if not samples:
        raise MpsimError(
            f"the first batch for {name} ({type(batch).__name__}) holds no tensor whose first dimension could be the"
            " number of samples: give microbatches=(n,)"
        )
    return StepSource(step=step, batch=batch, samples=samples, name=name)


def _first(loader: Any, name: str) -> Any:
    """Return the first batch of a loader."""
    import torch

    if not isinstance(loader, Iterable) or isinstance(loader, torch.Tensor | Mapping | str | bytes):
        raise MpsimError(
            f"loader of {name} is a {type(loader).__name__}, expected an iterable of batches: give a DataLoader, or"
            " [batch] for one batch"
        )
    try:
        for batch in loader:
            return batch
    except MpsimError:
        raise
    except Exception as error:  # a user's loader may fail in any way
        from mpsim.workload.refusal import cause_of

        raise MpsimError(f"the loader of {name} failed: {cause_of(error)}") from error
    raise MpsimError(f"the loader of {name} has no batch: give one that yields at least one (a generator used up?)")
