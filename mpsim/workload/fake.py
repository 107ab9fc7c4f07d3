"""Models of fake tensors: shapes without memory, to be watched, counted and costed but not computed."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree

from mpsim.errors import MpsimError
from mpsim.workload.account import Account
from mpsim.workload.example import Example
from mpsim.workload.feeds import feeds_of
from mpsim.workload.model_source import Source
from mpsim.workload.point import Point, described
from mpsim.workload.step import step_of
from mpsim.workload.watch import Call, Watch

__all__ = ["ShapesMode", "fake_example", "fake_mode_of", "shape_point", "without_logs"]


class ShapesMode(FakeTensorMode):  # type: ignore[misc]
    """Fake tensors on which a grouped product runs in every type and size in which PyTorch's kernels run it.

    PyTorch's own shape function takes bfloat16 and rows of whole 16 bytes alone, as one of its kernels does.

    Examples
    --------
    >>> with ShapesMode():
    ...     rows, weights, ends = torch.empty(6, 3), torch.empty(2, 3, 5), torch.empty(2, dtype=torch.int32)
    ...     torch.nn.functional.grouped_mm(rows, weights, offs=ends).shape
    torch.Size([6, 5])
    """

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Give the shape of a grouped product; leave all else to PyTorch."""
        if func is torch.ops.aten._grouped_mm.default:
            return _grouped_shape(*args, **(kwargs or {}))
        return super().dispatch(func, types, args, kwargs)


def _grouped_shape(left: Any, right: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Return the product of two matrices, of which either, both or none come one for each group."""
    groups = [left.shape[0]] if left.dim() == right.dim() == 3 else [offs.shape[0]] if left.dim() == right.dim() else []
    return left.new_empty([*groups, left.shape[-2], right.shape[-1]], dtype=out_dtype or left.dtype)


@contextlib.contextmanager
def without_logs() -> Iterator[None]:
    """Hold back what PyTorch logs of an operator that has no fake form: pages, and the error says it in a line.

    Examples
    --------
    >>> with without_logs():
    ...     logging.getLogger("torch").error("pages")
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def fake_example(source: Source, batch: int) -> Example:
    """Build an example of fake tensors: shapes without memory.

    A factory that needs values builds a real one, which is then made fake.

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
        target=pytree.tree_map(fake, example.target),
    )


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
    step = step_of(example, backward=False)
    calls = [Call(n, p, example.model.get_submodule(p)) for n, p in zip(like.names, like.paths, strict=True)]
    with fake_mode_of(example), without_logs(), torch.no_grad():
        parameters, buffers = dict(example.model.named_parameters()), dict(example.model.named_buffers())
        account = Account(len(calls), parameters, buffers, feeds_of(example))
        with account:
            Watch(example.model, calls, account).run(step)
    return described(calls, account, example.model, microbatch)
