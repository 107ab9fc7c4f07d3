"""Models of fake tensors: shapes without memory, to be exported, counted and costed but not computed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree

from mpsim.errors import MpsimError
from mpsim.workload.account import Account
from mpsim.workload.example import Example
from mpsim.workload.graph import capture, flat_inputs
from mpsim.workload.point import Point, describe
from mpsim.workload.run import forward
from mpsim.workload.source import Source

__all__ = ["fake_example", "fake_mode_of", "shape_point"]


def fake_example(source: Source, batch: int) -> Example:
    """Build an example of fake tensors: shapes without memory.

    A factory that needs values builds a real one, which is then made fake.

    Examples
    --------
    >>> source = Source(name="big", build=lambda n: Example(model=torch.nn.Linear(10**6, 10**6), inputs=()))
    >>> fake_example(source, 1).model.weight.shape
    torch.Size([1000000, 1000000])
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            example = source.build(batch)
    except MpsimError:
        raise
    except Exception:  # whatever a user's factory does that has no fake form
        example = source.build(batch)
    return _faked(example, mode)


def _faked(example: Example, mode: Any) -> Example:
    """Turn what was built before, outside the mode, into fake tensors as well."""
    if all(hasattr(item, "fake_mode") for item in example.model.parameters()):
        model = example.model
    else:
        with FakeCopyMode(mode):
            model = copy.deepcopy(example.model)

    def fake(item: Any) -> Any:
        return mode.from_tensor(item) if isinstance(item, torch.Tensor) and not hasattr(item, "fake_mode") else item

    return replace(
        example,
        model=model,
        inputs=pytree.tree_map(fake, tuple(example.inputs)),
        keywords=pytree.tree_map(fake, dict(example.keywords)),
        target=fake(example.target),
    )


def fake_mode_of(example: Example) -> Any:
    """Return the mode that a fake example was made in.

    Examples
    --------
    >>> source = Source(name="linear", build=lambda n: Example(model=torch.nn.Linear(2, 2), inputs=(torch.ones(n, 2),)))
    >>> type(fake_mode_of(fake_example(source, 1))).__name__
    'FakeTensorMode'
    """
    values = [*example.model.parameters(), *example.model.buffers(), *flat_inputs(example)]
    return next(item.fake_mode for item in values if hasattr(item, "fake_mode"))


def shape_point(source: Source, microbatch: int, depth: int | str) -> Point:
    """Capture a model for the shapes of its tensors alone; nothing is computed.

    Examples
    --------
    >>> source = Source(name="linear", build=lambda n: Example(model=torch.nn.Linear(4, 2), inputs=(torch.ones(n, 4),)))
    >>> shape_point(source, 3, "auto").account.shapes["linear"]
    ((3, 2), 'float32')
    """
    example = fake_example(source, microbatch)
    example.model.train()
    cut = capture(example, depth)
    values = dict(zip(cut.feeds, flat_inputs(example), strict=True))
    values.pop("", None)
    with fake_mode_of(example), torch.no_grad():
        for unit in cut.units:
            forward(unit, values)
    shapes = {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in values.items()}
    return describe(example, cut, microbatch, Account(shapes=shapes))
