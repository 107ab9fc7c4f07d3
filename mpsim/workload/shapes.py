"""Fake tensors, which have shapes and no memory: their mode, and examples made of them."""

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

from mpsim.workload.example import Example

__all__ = ["ShapesMode", "faked", "without_logs"]


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


def faked(example: Example, mode: Any) -> Example:
    """Turn what was built before, outside the mode, into fake tensors as well; a model of real ones is copied.

    Examples
    --------
    >>> example = faked(Example(model=torch.nn.Linear(2, 1), inputs=(torch.ones(1, 2),)), ShapesMode())
    >>> type(example.model.weight.data).__name__, type(example.inputs[0]).__name__
    ('FakeTensor', 'FakeTensor')
    """
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
