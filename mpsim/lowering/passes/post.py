"""Post: when messages are handed to the runtime, and when they are waited for.

- ``eager``: a receive is posted right before its computation and awaited; nobody waits for a send.
- ``blocking``: as ``eager``, and a send is awaited before anything else.
- ``deferred``: as ``eager``, and sends are awaited at the end (torch's ``_PipelineScheduleRuntime``).
- ``at_turn``: as ``deferred``, and also before the first backward after a forward (``ScheduleGPipe``).
- ``fused``: a send is awaited before the next is posted while the rank warms up and cools down; in between a
  computation's send is posted together with the next one's receive, and both are awaited (``Schedule1F1B``).
- ``torch``: ``fused`` for the rows of 1F1B, ``at_turn`` for those of GPipe and of one micro-batch after another,
  ``deferred`` for all others: as the classes of ``torch.distributed.pipelining`` that run them. The rows count, not
  the name by which they were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpsim.lowering.instructions import Compute, Instruction, Instructions, Receive, Send, Wait
from mpsim.lowering.model import Lowering
from mpsim.plan.runtimes import resolve_runtime
from mpsim.plan.schedules import Operation, gpipe, naive, one_f_one_b

__all__ = ["POSTINGS", "post", "posting_of"]


class _Visit(NamedTuple):
    """A computation with its messages."""

    receive: Receive | None
    compute: Compute
    send: Send | None


def post(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put waits between messages and computations, and messages where the plan's runtime posts them."""
    if len(lowering.rows) == 1:
        return instructions
    posting = resolve_runtime(lowering.plan.runtime).posting
    if posting == "torch":
        posting = posting_of(lowering.rows)
    updates = next((i for i, one in enumerate(instructions) if isinstance(one, Compute) and one.microbatch < 0), None)
    row, rest = instructions[:updates], instructions[len(instructions) if updates is None else updates :]
    return POSTINGS[posting](_visits(row)) + rest


def posting_of(rows: Sequence[Sequence[Operation]]) -> str:
    """Return how torch's class for these rows posts.

    Examples
    --------
    >>> posting_of(one_f_one_b(2, 4)), posting_of(gpipe(2, 4)), posting_of(gpipe(2, 4)[::-1])
    ('fused', 'at_turn', 'deferred')
    """
    found = [list(row) for row in rows]
    ranks, microbatches = len(found), sum(operation.kind == "F" for operation in found[0])
    if found in (gpipe(ranks, microbatches), naive(ranks, microbatches)):
        return "at_turn"
    return "fused" if found == one_f_one_b(ranks, microbatches) else "deferred"


def _visits(row: Sequence[Instruction]) -> list[_Visit]:
    found = []
    for i, one in enumerate(row):
        if isinstance(one, Compute):
            before, behind = row[i - 1] if i else None, row[i + 1] if i + 1 < len(row) else None
            receive = before if isinstance(before, Receive) else None
            found.append(_Visit(receive, one, behind if isinstance(behind, Send) else None))
    return found


def _posted(message: Receive | Send | None) -> Instructions:
    return [] if message is None else [message]


def _waited(*messages: Receive | Send | None) -> Instructions:
    keys = tuple(message.key for message in messages if message is not None)
    return [Wait(keys)] if keys else []


def _eager(visits: Sequence[_Visit], blocking: bool = False) -> Instructions:
    found: Instructions = []
    for receive, compute, send in visits:
        found += [*_posted(receive), *_waited(receive), compute, *_posted(send)]
        if blocking:
            found += _waited(send)
    return found


def _deferred(visits: Sequence[_Visit], at_turn: bool = False) -> Instructions:
    found: Instructions = []
    pending: list[Send] = []
    before = "F"
    for receive, compute, send in visits:
        if at_turn and before == "F" and compute.pass_kind != "F":
            found += _waited(*pending)
            pending = []
        before = compute.pass_kind
        found += [*_posted(receive), *_waited(receive), compute, *_posted(send)]
        pending += [send] if send else []
    return found + _waited(*pending)


def _fused(visits: Sequence[_Visit]) -> Instructions:
    """Warm up, then fuse each send with the next receive, then cool down."""
    forwards = sum(visit.compute.pass_kind == "F" for visit in visits)
    warm_up = next((i for i, visit in enumerate(visits) if visit.compute.pass_kind != "F"), len(visits))
    found: Instructions = []
    sent: Send | None = None
    for i, (receive, compute, send) in enumerate(visits[:warm_up]):
        found += [*_posted(receive), *_waited(receive), compute, *_waited(sent)]
        sent = send if i < warm_up - 1 else None
        found += _posted(sent)
    last = visits[warm_up - 1].send
    steady = warm_up + 1 + 2 * (forwards - warm_up)
    for receive, compute, send in visits[warm_up:steady]:
        found += [*_posted(last), *_posted(receive), *_waited(last, receive), compute]
        last = send
    found += _posted(last)
    for receive, compute, send in visits[steady:]:
        found += [*_posted(receive), *_waited(receive), compute, *_waited(last), *_posted(send)]
        last = send
    return found + _waited(last)


POSTINGS: dict[str, Callable[[Sequence[_Visit]], Instructions]] = {
    "eager": _eager,
    "blocking": lambda visits: _eager(visits, blocking=True),
    "deferred": _deferred,
    "at_turn": lambda visits: _deferred(visits, at_turn=True),
    "fused": _fused,
}
