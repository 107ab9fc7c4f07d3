"""Execute a script: post its messages and collectives through torch.distributed, compute, wait, and note the times."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from mpsim.emulate.job import Times
from mpsim.errors import MpsimError
from mpsim.program.script import Collective, Compute, Receive, Script, Send, Step, Wait

__all__ = ["Executor", "PeerLost", "blaming_a_peer", "occupy", "sleep_until"]

# How long before its end a computation stops sleeping and watches the clock: what a wake-up takes on a busy machine.
WATCHFUL_S = 100e-6
_clock = time.monotonic
_Post = Callable[[], Any]


class PeerLost(Exception):
    """A message or collective failed: most likely another rank is to blame."""


@contextmanager
def blaming_a_peer() -> Iterator[None]:
    """Turn what torch.distributed raises into `PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost((str(error).splitlines() or [type(error).__name__])[0]) from None


def sleep_until(deadline_s: float) -> None:
    """Return at a moment of the shared clock, to a few microseconds where the processor is free."""
    rest_s = deadline_s - _clock()
    if rest_s > WATCHFUL_S:
        time.sleep(rest_s - WATCHFUL_S)
    while _clock() < deadline_s:
        pass


def occupy(step: Compute) -> None:
    """Do as a computation does: keep the rank busy for so long, and leave the processor to others."""
    sleep_until(_clock() + step.seconds)


class Executor:
    """Runs the steps of one rank's script; buffers are made once, of the bytes that the script names.

    Parameters
    ----------
    script : Script
        Any of the rank's: they differ in seconds alone.
    rank_of : mapping of int to int
        The rank at each device.
    groups : mapping of tuple of int to ProcessGroup
        By the ranks that they hold, ascending.
    messages : ProcessGroup
        That carries what goes from one rank to another.
    compute : callable
        Called with each `Compute`.
    note : callable
        Called with the index of each step before it is begun.
    """

    def __init__(
        self,
        script: Script,
        rank_of: Mapping[int, int],
        groups: Mapping[tuple[int, ...], Any],
        messages: Any,
        *,
        compute: Callable[[Compute], None] = occupy,
        note: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.rank_of, self.groups, self.messages = rank_of, groups, messages
        self.compute, self.note = compute, note
        self.buffers: dict[int, Any] = {}
        self.posts: dict[int, _Post] = {}
        self.index = {step.key: i for i, step in enumerate(script.steps) if not isinstance(step, Compute | Wait)}
        # Where the next step waits for a collective, that wait sees its end; elsewhere the collective must say.
        self.watched: set[int] = set()
        for step, following in zip(script.steps, (*script.steps[1:], Wait(())), strict=True):
            if isinstance(step, Send | Receive):
                self.posts[step.key] = self._message(step)
            elif isinstance(step, Collective):
                self.posts[step.key] = self._collective(step)
                if following != Wait((step.key,)):
                    self.watched.add(step.key)

    def run(self, steps: Sequence[Step]) -> Times:
        """Run the steps once and return when each one began and ended.

        Raises
        ------
        RuntimeError
            A message or collective failed.
        """
        start_s, end_s = array("d", bytes(8 * len(steps))), array("d", bytes(8 * len(steps)))
        works: dict[int, Any] = {}
        ended: dict[int, float] = {}
        for i, step in enumerate(steps):
            self.note(i)
            start_s[i] = _clock()
            if isinstance(step, Compute):
                self.compute(step)
            elif isinstance(step, Wait):
                for key in step.keys:
                    works.pop(key).wait()
                    end_s[self.index[key]] = ended.get(key) or _clock()
            else:
                works[step.key] = self._post(step.key, ended)
            end_s[i] = _clock()
        return Times(start_s, end_s)

    def _post(self, key: int, ended: dict[int, float]) -> Any:
        work = self.posts[key]()
        if key in self.watched:
            work.get_future().add_done_callback(lambda _: ended.setdefault(key, _clock()))
        return work

    def _message(self, step: Send | Receive) -> _Post:
        buffer = self.buffers[step.key] = _touched(step.bytes, torch.uint8)
        peer, group, tag = self.rank_of[step.peer], self.messages, step.key
        if isinstance(step, Send):
            return lambda: dist.isend(buffer, peer, group=group, tag=tag)
        return lambda: dist.irecv(buffer, peer, group=group, tag=tag)

    def _collective(self, step: Collective) -> _Post:
        if step.kind not in _COLLECTIVES:
            raise MpsimError(f"collective {step.name!r} is {step.kind!r}, a real run has {', '.join(_COLLECTIVES)}")
        ranks = [self.rank_of[device] for device in step.group]
        post, buffers = _COLLECTIVES[step.kind](step.bytes, ranks, self.groups[tuple(sorted(ranks))])
        self.buffers[step.key] = buffers
        return post


def _touched(count: int, dtype: Any) -> Any:
    """Return zeros whose memory is really there, so that no step pays for it."""
    return torch.empty(count, dtype=dtype).fill_(0)


def _all_reduce(count: int, ranks: Sequence[int], group: Any) -> tuple[_Post, Any]:
    # Zeros stay zeros however often they are added up.
    whole = _touched(-(-count // 4), torch.float32)
    return lambda: dist.all_reduce(whole, group=group, async_op=True), whole


def _reduce_scatter(count: int, ranks: Sequence[int], group: Any) -> tuple[_Post, Any]:
    share = -(-count // (4 * len(ranks)))
    whole, part = _touched(share * len(ranks), torch.float32), _touched(share, torch.float32)
    run = _newest("reduce_scatter_single", "reduce_scatter_tensor")
    return lambda: run(part, whole, group=group, async_op=True), (whole, part)


def _all_gather(count: int, ranks: Sequence[int], group: Any) -> tuple[_Post, Any]:
    share = -(-count // len(ranks))
    whole, part = _touched(share * len(ranks), torch.uint8), _touched(share, torch.uint8)
    run = _newest("all_gather_single", "all_gather_into_tensor")
    return lambda: run(whole, part, group=group, async_op=True), (whole, part)


def _all_to_all(count: int, ranks: Sequence[int], group: Any) -> tuple[_Post, Any]:
    share = -(-count // len(ranks))
    sent, received = _touched(share * len(ranks), torch.uint8), _touched(share * len(ranks), torch.uint8)
    return lambda: dist.all_to_all_single(received, sent, group=group, async_op=True), (sent, received)


def _broadcast(count: int, ranks: Sequence[int], group: Any) -> tuple[_Post, Any]:
    whole = _touched(count, torch.uint8)
    return lambda: dist.broadcast(whole, ranks[0], group=group, async_op=True), whole


def _newest(*names: str) -> Callable[..., Any]:
    """Return the function of torch.distributed under the first of its names that this torch has."""
    found: Callable[..., Any] = next(getattr(dist, name) for name in names if hasattr(dist, name))
    return found


# Sizes that do not divide are rounded up: reductions to whole floats, the others to equal shares of bytes.
_COLLECTIVES: dict[str, Callable[[int, Sequence[int], Any], tuple[_Post, Any]]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
}
