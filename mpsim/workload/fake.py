"""Models of fake tensors: shapes without memory, to be watched, counted and costed but not computed."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from mpsim.errors import MpsimError
from mpsim.workload.account import Account
from mpsim.workload.example import Example
from mpsim.workload.feeds import feeds_of
from mpsim.workload.folding import folds_of, shortened, unfolded
from mpsim.workload.model_source import Source
from mpsim.workload.point import Point, described
from mpsim.workload.shapes import ShapesMode, faked, without_logs
from mpsim.workload.step import step_of
from mpsim.workload.watch import Call, Watch

__all__ = ["fake_example", "fake_mode_of", "shape_point"]


def fake_example(source: Source, batch: int, *, only_fake: bool = False) -> Example:
    """Build an example of fake tensors: shapes without memory.

    A factory that needs values builds a real one, which is then made fake, unless `only_fake`.

    Examples
    --------
    >>> source = Source(name="big", build=lambda n: Example(model=torch.nn.Linear(10**6, 10**6), inputs=()))
    >>> fake_example(source, 1).model.weight.shape
    torch.Size([1000000, 1000000])
    """
    mode = ShapesMode(allow_non_fake_inputs=True)
    try:
        with mode:
            example = source.build(batch)
    except MpsimError:
        raise
    except Exception:  # whatever a user's factory does that has no fake form
        if only_fake:
            raise
        example = source.build(batch)
    return faked(example, mode)


def fake_mode_of(example: Example) -> Any:
    """Return the mode that a fake example was made in.

    Examples
    --------
    >>> source = Source(name="linear", build=lambda n: Example(model=torch.nn.Linear(2, 2), inputs=(torch.ones(n, 2),)))
    >>> type(fake_mode_of(fake_example(source, 1))).__name__
    'ShapesMode'
    """
    values = [*example.model.parameters(), *example.model.buffers(), *feeds_of(example).values()]
    return next(item.fake_mode for item in values if hasattr(item, "fake_mode"))


def shape_point(source: Source, microbatch: int, like: Point) -> Point:
    """Watch a forward for the shapes of what goes between layers alone; nothing is computed.

    Parameters
    ----------
    source : Source
        The model.
    microbatch : int
        Samples.
    like : Point
        Of the same model: it has the same layers.

    Examples
    --------
    >>> source = Source(name="linear", build=lambda n: Example(model=torch.nn.Linear(4, 2), inputs=(torch.ones(n, 4),)))
    >>> like = Point(microbatch=1, names=["Linear"], kinds=["Linear"], paths=[""])
    >>> [value.shape for value in shape_point(source, 3, like).values if value.output]
    [(3, 2)]
    """
    example = fake_example(source, microbatch)
    example.model.train()
    folds = folds_of(example.model)
    with contextlib.suppress(Exception), shortened(example.model, folds):  # whatever leaving blocks out does to it
        point = _shapes(example, microbatch, like)
        for fold in folds:
            point, _ = unfolded(point, fold)
        return point
    return _shapes(example, microbatch, like)


def _shapes(example: Example, microbatch: int, like: Point) -> Point:
    """Watch a forward of what there is of a model."""
    step = step_of(example, backward=False)
    modules = dict(example.model.named_modules(remove_duplicate=False))
    calls = [Call(n, p, modules[p]) for n, p in zip(like.names, like.paths, strict=True) if p in modules]
    with fake_mode_of(example), without_logs(), torch.no_grad():
        parameters, buffers = dict(example.model.named_parameters()), dict(example.model.named_buffers())
        account = Account(len(calls), parameters, buffers, feeds_of(example))
        with account:
            Watch(example.model, calls, account).run(step)
    return described(calls, account, example.model, microbatch)
