"""Execute a script: post its messages and collectives through torch.distributed, compute, wait, note the times."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
import torch.distributed as dist

from mpsim.emulate.assignment import Times
from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Instruction, Post, Receive, Script, Send, Wait

__all__ = ["Asleep", "Executor", "PeerLost", "Work", "blaming_a_peer", "sleep_until", "touched"]

# How long before its end a computation stops sleeping and watches the clock: what a wake-up takes on a busy machine.
WATCHFUL_S = 100e-6
_clock = time.monotonic
_Start = Callable[[], Any]
_Tensor = Callable[[], Any]


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


class Work(Protocol):
    """What a rank computes, and the tensors that it exchanges."""

    def compute(self, step: Compute) -> None:
        """Do a computation."""

    def tensor(self, step: Post) -> _Tensor:
        """Return what gives, at the moment of the post, the tensor to send, to fill or to reduce."""

    def landed(self, step: Post) -> None:
        """Take notice that what was posted is complete."""

    def end_step(self) -> None:
        """Clear up after a step, outside of its time."""


class Asleep:
    """Replayed work: each computation is slept through, each buffer is made once, of the bytes that the script names.

    To the other ranks and to the links this is what a real computation is; to the processor it is nothing, so that
    two cores can stand for eight devices.
    """

    def compute(self, step: Compute) -> None:
        """Keep the rank busy for so long, and leave the processor to others."""
        sleep_until(_clock() + step.seconds)

    def tensor(self, step: Post) -> _Tensor:
        """Return what gives the step's own buffer; a reduction's is rounded up to whole floats."""
        if isinstance(step, Collective):
            # Zeros stay zeros however often they are added up.
            buffer = touched(-(-step.bytes // 4), torch.float32)
        else:
            buffer = touched(step.bytes, torch.uint8)
        return lambda: buffer

    def landed(self, step: Post) -> None:
        """Do nothing: nobody reads what was received."""

    def end_step(self) -> None:
        """Do nothing."""


class Executor:
    """Runs the steps of one rank's script.

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
    work : Work
        What computes, and whose tensors go around.
    note : callable
        Called with the index of each step before it is begun, and with their number at the end.
    """

    def __init__(
        self,
        script: Script,
        rank_of: Mapping[int, int],
        groups: Mapping[tuple[int, ...], Any],
        messages: Any,
        work: Work,
        *,
        note: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.rank_of, self.groups, self.messages = rank_of, groups, messages
        self.work, self.note = work, note
        self.posts: dict[int, _Start] = {}
        self.index = {step.key: i for i, step in enumerate(script.steps) if isinstance(step, Post)}
        self.of = {step.key: step for step in script.steps if isinstance(step, Post)}
        # Where the next step waits for a collective, that wait sees its end; elsewhere the collective must say.
        self.watched: set[int] = set()
        for step, following in zip(script.steps, (*script.steps[1:], Wait(())), strict=True):
            if isinstance(step, Send | Receive):
                self.posts[step.key] = self._message(step)
            elif isinstance(step, Collective):
                self.posts[step.key] = self._collective(step)
                if following != Wait((step.key,)):
                    self.watched.add(step.key)

    def run(self, steps: Sequence[Instruction]) -> Times:
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
            if isinstance(step, (Hold, Drop)):
                end_s[i] = start_s[i]
                continue
            if isinstance(step, Compute):
                self.work.compute(step)
            elif isinstance(step, Wait):
                for key in step.keys:
                    works.pop(key).wait()
                    end_s[self.index[key]] = ended.get(key) or _clock()
                    self.work.landed(self.of[key])
            else:
                works[step.key] = self._post(step.key, ended)
            end_s[i] = _clock()
        self.note(len(steps))
        return Times(start_s, end_s)

    def _post(self, key: int, ended: dict[int, float]) -> Any:
        work = self.posts[key]()
        if key in self.watched:
            # Gloo's reduce-scatter has none: its end is when it is waited for.
            with suppress(RuntimeError):
                work.get_future().add_done_callback(lambda _: ended.setdefault(key, _clock()))
        return work

    def _message(self, step: Send | Receive) -> _Start:
        tensor = self.work.tensor(step)
        peer, group, tag = self.rank_of[step.peer], self.messages, step.key
        if isinstance(step, Send):
            return lambda: dist.isend(tensor(), peer, group=group, tag=tag)
        return lambda: dist.irecv(tensor(), peer, group=group, tag=tag)

    def _collective(self, step: Collective) -> _Start:
        if step.kind not in ("all_reduce", *_COLLECTIVES):
            known = ", ".join(("all_reduce", *_COLLECTIVES))
            raise MpsimError(f"collective {step.name!r} is {step.kind!r}, a real run has {known}")
        ranks = [self.rank_of[device] for device in step.group]
        group = self.groups[tuple(sorted(ranks))]
        if step.kind == "all_reduce":
            tensor = self.work.tensor(step)
            return lambda: dist.all_reduce(tensor(), group=group, async_op=True)
        return _COLLECTIVES[step.kind](step.bytes, ranks, group)


def touched(count: int, dtype: Any) -> Any:
    """Return zeros whose memory is really there, so that no step pays for it."""
    return torch.empty(count, dtype=dtype).fill_(0)


def _reduce_scatter(count: int, ranks: Sequence[int], group: Any) -> _Start:
    share = -(-count // (4 * len(ranks)))
    whole, part = touched(share * len(ranks), torch.float32), touched(share, torch.float32)
    run = _newest("reduce_scatter_single", "reduce_scatter_tensor")
    return lambda: run(part, whole, group=group, async_op=True)


def _all_gather(count: int, ranks: Sequence[int], group: Any) -> _Start:
    share = -(-count // len(ranks))
    whole, part = touched(share * len(ranks), torch.uint8), touched(share, torch.uint8)
    run = _newest("all_gather_single", "all_gather_into_tensor")
    return lambda: run(whole, part, group=group, async_op=True)


def _all_to_all(count: int, ranks: Sequence[int], group: Any) -> _Start:
    share = -(-count // len(ranks))
    sent, received = touched(share * len(ranks), torch.uint8), touched(share * len(ranks), torch.uint8)
    return lambda: dist.all_to_all_single(received, sent, group=group, async_op=True)


def _broadcast(count: int, ranks: Sequence[int], group: Any) -> _Start:
    whole = touched(count, torch.uint8)
    return lambda: dist.broadcast(whole, ranks[0], group=group, async_op=True)


def _newest(*names: str) -> Callable[..., Any]:
    """Return the function of torch.distributed under the first of its names that this torch has."""
    found: Callable[..., Any] = next(getattr(dist, name) for name in names if hasattr(dist, name))
    return found


# Sizes that do not divide are rounded up: reductions to whole floats, the others to equal shares of bytes.
_COLLECTIVES: dict[str, Callable[[int, Sequence[int], Any], _Start]] = {
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
}
