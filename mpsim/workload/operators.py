"""What is known of PyTorch's operators without calling them: which make a kernel, what memory they read and write."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from mpsim.workload.flops import Count, formula

__all__ = ["Operator", "learn", "moved_bytes", "tensors_of", "written_by"]

# Namespaces whose operators make no kernel, or a collective's, which is no layer's.
_SILENT = {"prim", "profiler", "c10d", "_c10d_functional", "c10d_functional", "_dtensor"}
_NO_KERNEL = ("empty", "new_empty", "_empty", "_unsafe_view", "record_stream", "_coalesced_")
_QUESTIONS_OF_VALUES = {"equal", "item", "_local_scalar_dense", "is_nonzero", "allclose"}
# Of what they write they read nothing before.
_WRITE_ONLY = {"copy_", "zero_", "fill_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_", "geometric_"}
_WRITE_ONLY |= {"cauchy_", "log_normal_", "_foreach_zero_", "_foreach_copy_"}
# Of a table they read only the rows that are looked up …
_LOOKUPS = {"embedding", "index", "_unsafe_index", "gather", "index_select", "take", "_embedding_bag"}
_LOOKUPS |= {"_embedding_bag_forward_only", "embedding_renorm_"}
# … and write only those that are given.
_SCATTERS = {"index_put_", "_index_put_impl_", "_unsafe_index_put_", "index_add_", "index_copy_", "scatter_", "put_"}
_SCATTERS |= {"scatter_add_", "scatter_reduce_", "index_reduce_"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What is known of an operator before it is called.

    Attributes
    ----------
    name : str
        With its namespace.
    count : callable or None
        Its FLOPs.
    free : bool
        Whether it makes no kernel: a view, an allocation, a question, a collective.
    remembered : bool
        Whether calls with alike arguments cost alike.
    composite : bool
        Whether it is made of other operators, which are charged.
    read, written : tuple of bool
        Of each argument.
    keywords : mapping of str to int
        Where an argument of a name stands.
    fresh : bool
        Whether the result is new memory.
    """

    name: str
    count: Count | None
    free: bool
    remembered: bool
    composite: bool
    read: tuple[bool, ...]
    written: tuple[bool, ...]
    keywords: Mapping[str, int]
    fresh: bool

    @property
    def word(self) -> str:
        """Its name without the namespace."""
        return self.name.partition("::")[2]


def learn(func: Any) -> Operator:
    """Return what an operator's schema says of what it costs.

    Examples
    --------
    >>> learn(torch.ops.aten.t.default).free, learn(torch.ops.aten.add_.Tensor).written[:2]
    (True, (True, False))
    """
    count = formula(func)
    if isinstance(func, torch._ops.HigherOrderOperator):
        return Operator(
            name=func.name(), count=count, free=count is None, remembered=True, composite=False, read=(), written=(),
            keywords={}, fresh=True,
        )  # fmt: skip
    schema, tags = func._schema, set(func.tags)
    arguments, word = schema.arguments, schema.name.partition("::")[2]
    written = tuple(bool(item.alias_info and item.alias_info.is_write) for item in arguments)
    aliases = any(item.alias_info is not None for item in schema.returns)
    composite = count is None and _is_composite(func)
    is_view = torch.Tag.inplace_view in tags or (aliases and not any(written) and not composite)
    depends = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & tags
    return Operator(
        name=schema.name,
        count=count,
        free=is_view or _makes_no_kernel(schema, any(written)),
        remembered=not depends and not any(re.match("cu_?m?_?seq", item.name) for item in arguments),
        composite=composite,
        read=tuple(
            not (writes and (word in _WRITE_ONLY or item.kwarg_only))
            for writes, item in zip(written, arguments, strict=True)
        ),
        written=written,
        keywords={item.name: at for at, item in enumerate(arguments)},
        fresh=not aliases,
    )


def _makes_no_kernel(schema: Any, writes: bool) -> bool:
    """Whether it is an allocation, a collective, or a question about a tensor that does not read it."""
    namespace, _, word = schema.name.partition("::")
    if namespace in _SILENT or word.startswith(_NO_KERNEL):
        return True
    makes = any("Tensor" in str(item.type) for item in schema.returns)
    return not (makes or writes or word in _QUESTIONS_OF_VALUES)


def _is_composite(func: Any) -> bool:
    """Whether it is made of others: such an operator comes here only where autograd is off (inference mode).

    What has a kernel of its own beside that (the backward of SiLU) is that kernel.
    """
    name = func.name()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    known = torch._C._dispatch_has_kernel(name)
    return bool(known and has(name, "CompositeImplicitAutograd") and not has(name, "CPU"))


def tensors_of(value: Any) -> Iterator[Any]:
    """Yield the tensors of an argument or a result.

    Examples
    --------
    >>> [tensor.item() for tensor in tensors_of([torch.tensor(1), (torch.tensor(2), None)])]
    [1, 2]
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


@cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """Return the position and name of each argument that an operation writes into."""
    return tuple(
        (i, argument.name)
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def written_by(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the tensors that an operation writes into.

    Examples
    --------
    >>> x, y = torch.ones(2), torch.zeros(2)
    >>> [one is x for one in written_by(torch.ops.aten.add_.Tensor, (x, y), {})]
    [True]
    """
    if not getattr(func, "_schema", None):
        return []
    found = [args[i] if i < len(args) else kwargs.get(name) for i, name in _writes(func)]
    return [tensor for item in found for tensor in tensors_of(item)]


def _bytes(value: Any) -> int:
    """Bytes that the tensors of a value occupy: what is expanded is one and the same memory."""
    return sum(map(_tensor_bytes, tensors_of(value)))


def _tensor_bytes(tensor: Any) -> int:
    try:
        if tensor.layout is torch.strided:
            sizes = zip(tensor.shape, tensor.stride(), strict=True)
            return int(math.prod(size for size, stride in sizes if stride or not size) * tensor.itemsize)
        if tensor.layout is torch.sparse_coo:
            return int(tensor._values().nbytes + tensor._indices().nbytes)
        return int(tensor.numel() * tensor.itemsize)
    except Exception:  # a size that depends on values that are not there
        return 0


def moved_bytes(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """Return the bytes read and written; of a table that is looked up or scattered into, only the rows that are.

    Examples
    --------
    >>> table, rows = torch.ones(100, 4), torch.tensor([7, 8])
    >>> moved_bytes(learn(torch.ops.aten.embedding.default), (table, rows), {}, table[rows])
    80
    """
    table = next(tensors_of(args), None)
    fresh = _bytes(result) if operator.fresh else 0
    if operator.word in _LOOKUPS and table is not None:
        rest = _bytes(list(args[1:])) + _bytes(list(kwargs.values()))
        return min(_bytes(table), _looked_up(operator.word, table, args, fresh)) + rest + fresh
    if operator.word in _SCATTERS and table is not None:
        rest = _bytes(list(args[1:])) + _bytes(list(kwargs.values()))
        return rest + 2 * min(_bytes(table), rest)
    moved = fresh
    places = [*enumerate(args), *((operator.keywords.get(name, -1), value) for name, value in kwargs.items())]
    for at, value in places:
        size = _bytes(value)
        if not size:
            continue
        known = 0 <= at < len(operator.read)
        moved += size * ((operator.read[at] + operator.written[at]) if known else 1)
    return moved


def _looked_up(word: str, table: Any, args: Sequence[Any], fresh: int) -> int:
    if word.startswith("_embedding_bag"):
        return int(args[1].numel() * math.prod(table.shape[1:]) * table.itemsize)
    return fresh
