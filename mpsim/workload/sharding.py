"""One of the ranks that share layers as a point of a trace: its layers, and the collectives that each makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.experts import heaviest_rank
from mpsim.workload.model import ShardCollective
from mpsim.workload.point import Point
from mpsim.workload.split import Split
from mpsim.workload.tensor_parallel import LocalShard, RecordedCollective, local_shard

__all__ = ["exchanging", "sharded", "shared_by"]


def sharded(
    example: Example,
    split: Split,
    make: Callable[[Example], Point],
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    context: str = "all-gather",
    regather: bool = False,
) -> Point:
    """Return the point of one of the ranks of a split, with the collectives that its layers make.

    Forward and loss run in the context that `computing` makes, such as autocast.

    Raises
    ------
    MpsimError
        The model has no such form, or a collective belongs to no layer.
    """
    local = shared_by(example, split, computing, context=context, regather=regather)
    return exchanging(make(local.example), local, split, context=context, regather=regather)


def shared_by(
    example: Example,
    split: Split,
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    context: str = "all-gather",
    regather: bool = False,
    known: tuple[RecordedCollective, ...] | None = None,
) -> LocalShard:
    """Return what the rank of a split runs that has most to do, and what it exchanges.

    Raises
    ------
    MpsimError
        The model has no such form.
    """
    rank = heaviest_rank(example, split.ep) * split.tp * split.cp if split.ep > 1 else 0
    how: dict[str, Any] = {"context": context, "regather": regather, "known": known}
    return local_shard(example, split, rank=rank, computing=computing, **how)


def exchanging(
    point: Point, local: LocalShard, split: Split, *, context: str = "all-gather", regather: bool = False
) -> Point:
    """Return a point of what a rank runs with its split, and with what its layers exchange.

    Raises
    ------
    MpsimError
        A collective belongs to no layer.
    """
    point.split, point.partial, point.experts = split, local.partial, local.experts
    point.notes += local.notes
    point.collectives = [[] for _ in point.names]
    for item in local.collectives:
        point.collectives[_owner(item.module, point.names)].append(_collective(item))
    if regather and split.sequence:
        _keep_parts(point)
        point.notes.append(f"{split.text}: what a sequence is gathered for is gathered again in backward, not kept")
    if split.cp > 1:
        point.notes.append(f"{split.text}: ranks share attention by {context}")
    if wide := _wider_than_attention(local.collectives, point.names):
        point.notes.append(
            f"what goes round beside attention is taken to be hidden by all of a layer, such as {wide}: trace with a"
            " greater --depth for attention to be a layer of its own"
        )
    return point


def _keep_parts(point: Point) -> None:
    """Take from what layers keep what is gathered again: all but the rank's own part, there for a while in backward."""
    for account, collectives in zip(point.accounts, point.collectives, strict=True):
        again = [
            one.bytes
            for one in collectives
            if (one.kind, one.phase, one.axis, one.when) == ("all_gather", "backward", "tp", "beside")
        ]
        account.saved_bytes -= sum(size - size // point.split.tp for size in again)
        account.backward_transient_bytes += max(again, default=0)


def _wider_than_attention(collectives: Sequence[RecordedCollective], names: list[str]) -> str:
    """Return a layer that has more than the module beside whose work something is exchanged; empty if none has."""
    beside = {item.module for item in collectives if item.when == "beside" and item.axis == "cp"}
    return next((names[_owner(module, names)] for module in sorted(beside) if module not in names), "")


def _owner(module: str, names: list[str]) -> int:
    """Return the layer whose path leads to a module; several calls of one layer have it at the first.

    Of a module in which there are several layers it is the first, which has all that is done between its own call and
    that of the next.
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in names:
            return names.index(path)
    within = (i for i, name in enumerate(names) if name.startswith(f"{module}."))
    if (first := next(within, None)) is not None:
        return first
    raise MpsimError(f"a collective of module {module!r} belongs to no layer: trace with another --depth")


def _collective(item: RecordedCollective) -> ShardCollective:
    return ShardCollective(kind=item.kind, bytes=item.bytes, phase=item.phase, axis=item.axis, when=item.when)
