"""Post: when messages are handed to the runtime, and when they are waited for.

- ``eager``: a message is awaited right before its computation; no receive is posted, nobody waits for a send.
- ``blocking``: as ``eager``, and a send is awaited before anything else.
- ``early``: a receive is posted when its message is sent, were all operations of equal length, and awaited right
  before its computation; sends are awaited at the end (torch's ``_PipelineScheduleRuntime``).
- ``deferred``: as ``early``, and a receive is posted right before its computation (near torch's ``defer_pp_recv``).
- ``at_turn``: as ``deferred``, and also before the first backward after a forward (``ScheduleGPipe``).
- ``fused``: a send is awaited before the next is posted while the rank warms up and cools down; in between a
  computation's send is posted together with the next one's receive, and both are awaited (``Schedule1F1B``).
- ``turn_about``: a send is posted when the rank turns to its next computation, and awaited, ahead of the receive that
  this needs; behind it where a backward follows a forward at once (DeepSpeed's ``TrainSchedule``), so that neighbours
  meet pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpsim.lowering.instructions import Compute, Instruction, Instructions, Receive, Send, Wait
from mpsim.lowering.model import Lowering
from mpsim.plan.flat import one_f_one_b

__all__ = ["POSTINGS", "post"]


class _Visit(NamedTuple):
    """A computation with its messages."""

    receive: Receive | None
    compute: Compute
    send: Send | None


def post(instructions: Instructions, lowering: Lowering) -> Instructions:
    """Put waits between messages and computations, and messages where the plan's runtime posts them."""
    if len(lowering.rows) == 1:
        return instructions
    updates = next((i for i, one in enumerate(instructions) if isinstance(one, Compute) and one.microbatch < 0), None)
    row, rest = instructions[:updates], instructions[len(instructions) if updates is None else updates :]
    visits = _visits(row)
    if lowering.posting == "early":
        return _early(visits, lowering.early[lowering.shape.home[visits[0].compute.stage]]) + rest
    if lowering.posting == "turn_about":
        return _turn_about(visits, _depth(visits, lowering)) + rest
    return POSTINGS[lowering.posting](visits) + rest


def _depth(visits: Sequence[_Visit], lowering: Lowering) -> int:
    """Return the micro-batches that a rank of 1F1B has under way at most; 0 of any other schedule."""
    ranks, microbatches = len(lowering.rows), lowering.plan.microbatches
    if [list(row) for row in lowering.rows] != one_f_one_b(ranks, microbatches):
        return 0
    return ranks - visits[0].compute.stage


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
        if receive is not None:
            found.append(Wait((receive.key,)))
        found.append(compute)
        if send is not None:
            found += [send, Wait((send.key,))] if blocking else [send]
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


def _early(visits: Sequence[_Visit], posted: Sequence[Sequence[int]]) -> Instructions:
    """Post before each computation the receives of those, of the row, that are named there."""
    found: Instructions = []
    for (receive, compute, send), now in zip(visits, posted, strict=True):
        for i in now:
            found += _posted(visits[i].receive)
        found += [*_waited(receive), compute, *_posted(send)]
    return found + _waited(*(visit.send for visit in visits))


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


def _turn_about(visits: Sequence[_Visit], depth: int) -> Instructions:
    """Send what a computation has made when its rank turns to the next one, and receive what that needs.

    With as many micro-batches under way as the rank ever has (`depth`) a backward follows a forward at once, and the
    gradient is received first; otherwise the rank has nothing to compute in between, and sends meanwhile.
    """
    found: Instructions = []
    made: Send | None = None
    under_way, before = 0, ""
    for receive, compute, send in visits:
        sent, received = [*_posted(made), *_waited(made)], [*_posted(receive), *_waited(receive)]
        at_once = before == "F" and compute.pass_kind == "B" and under_way == depth
        found += [*received, *sent, compute] if at_once else [*sent, *received, compute]
        made, before = send, compute.pass_kind
        under_way += {"F": 1, "B": -1}.get(before, 0)
    return [*found, *_posted(made), *_waited(made)]


POSTINGS: dict[str, Callable[[Sequence[_Visit]], Instructions]] = {
    "eager": _eager,
    "blocking": lambda visits: _eager(visits, blocking=True),
    "deferred": _deferred,
    "at_turn": lambda visits: _deferred(visits, at_turn=True),
    "fused": _fused,
}
