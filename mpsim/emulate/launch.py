"""Start one process a rank, watch them, end them all when one fails, and collect what they report."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mpsim.bars import Progress as Told
from mpsim.emulate.assignment import Assignment, Memory, Report, groups_of, own_environment
from mpsim.emulate.fabric import Fabric
from mpsim.emulate.progress import JOINING, MEASURING, PREPARING, READY, STARTING, Progress, Where, make_progress
from mpsim.emulate.rank import LOST_A_PEER, REFUSED
from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Compute, Post, Script, Wait

__all__ = ["Launch", "launch"]

_PHASES = {
    STARTING: "while it started",
    PREPARING: "while it prepared",
    JOINING: "while the ranks met",
    MEASURING: "while links were measured",
    READY: "while it made its buffers",
}
_GLANCE_S = 0.5
# A rank that loses a peer ends a moment before or after it: wait this long for whoever is to blame.
_BLAME_S = 2.0
_FAREWELL_S = 2.0
_PREPARATION_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is to be run.

    Attributes
    ----------
    scripts : tuple of tuple of Script
        For each trial the script of every rank; a single entry stands for all trials.
    names : tuple of str
        Of each rank's device, for messages.
    trials, warm_ups : int
        Steps that are recorded, and steps before that are not.
    patience_s : float
        How long no rank may go on before the run is given up.
    pairs : tuple of (int, int)
        Ranks between which links are measured first.
    models : tuple of bytes
        For each rank a pickled `mpsim.emulate.real.Recipe`; empty: computations are slept through.
    """

    scripts: tuple[tuple[Script, ...], ...]
    names: tuple[str, ...]
    trials: int
    warm_ups: int = 1
    patience_s: float = 30.0
    pairs: tuple[tuple[int, int], ...] = ()
    models: tuple[bytes, ...] = ()

    def title(self, rank: int) -> str:
        """Return a rank as messages name it."""
        return f"rank {rank} ({self.names[rank]})"


@dataclass(slots=True, kw_only=True)
class _Rank:
    """A process that was started, and the nameless files that it was handed."""

    process: subprocess.Popen[bytes]
    outcome: Memory
    words: Memory


@dataclass(slots=True, kw_only=True)
class _Crew:
    """All processes of a launch."""

    order: Launch
    progress: Progress
    ranks: list[_Rank] = field(default_factory=list)


def launch(fabric: Fabric, order: Launch, told: Told = lambda done, total: None) -> list[Report]:
    """Run scripts on processes of their own, and return each rank's report.

    Parameters
    ----------
    fabric : Fabric
        What carries their bytes.
    order : Launch
        What they run.
    told : callable
        Called now and then with how many of all steps, warm-ups included, all are through, and how many there are.

    Raises
    ------
    MpsimError
        Too many processes; or one of them died, hung or ran out of memory: the message names it and has its last
        words. None of them is left then, nor after Ctrl-C.
    """
    _check_number(len(order.names))
    with contextlib.ExitStack() as stack:
        store, page = (
            stack.enter_context(_closing(memory)) for memory in (Memory.make("store"), make_progress(len(order.names)))
        )
        crew = _Crew(order=order, progress=Progress(page))
        stack.callback(_end, crew.ranks)
        for rank in range(len(order.names)):
            crew.ranks.append(_start(fabric, order, rank, store, page, stack))
        _watch(crew, fabric, told)
        return [rank.outcome.load() for rank in crew.ranks]


@contextlib.contextmanager
def _closing(memory: Memory) -> Iterator[Memory]:
    try:
        yield memory
    finally:
        memory.close()


def _check_number(ranks: int) -> None:
    if not hasattr(os, "memfd_create") or not hasattr(os, "pidfd_open"):
        raise MpsimError(f"a real run needs Linux, this is {sys.platform}: mpsim simulate runs anywhere")
    cores = len(os.sched_getaffinity(0))
    if ranks > max(64, 4 * cores):
        raise MpsimError(
            f"the plan needs {ranks} processes, this machine has {cores} cores: more than {max(64, 4 * cores)} would"
            " measure the machine, not the plan; use fewer devices, or mpsim simulate"
        )


def _start(fabric: Fabric, order: Launch, rank: int, store: Memory, page: Memory, stack: contextlib.ExitStack) -> _Rank:
    outcome, words, handed = (stack.enter_context(_closing(Memory.make(name))) for name in ("outcome", "words", "job"))
    job = Assignment(
        rank=rank,
        devices=tuple(script.device for script in order.scripts[0]),
        scripts=tuple(scripts[rank] for scripts in order.scripts),
        groups=groups_of(order.scripts[0]),
        trials=order.trials,
        warm_ups=order.warm_ups,
        patience_s=2 * order.patience_s,
        launcher=os.getpid(),
        store=store.descriptor,
        progress=page.descriptor,
        outcome=outcome.descriptor,
        pairs=order.pairs,
        model=order.models[rank] if order.models else b"",
    )
    handed.dump(job)
    argv = [sys.executable, "-P", "-m", "mpsim.emulate.rank", str(handed.descriptor)]
    process = subprocess.Popen(
        fabric.command(rank, argv),
        stdin=subprocess.DEVNULL,
        stdout=words.descriptor,
        stderr=words.descriptor,
        pass_fds=[memory.descriptor for memory in (store, page, outcome, handed)],
        env=_environment(fabric.interface(rank)),
        process_group=0,  # Ctrl-C is for the launcher, who then ends them.
    )
    return _Rank(process=process, outcome=outcome, words=words)


def _environment(interface: str) -> dict[str, str]:
    """Return this process's environment with what a rank needs."""
    return own_environment() | {"GLOO_SOCKET_IFNAME": interface}


def _watch(crew: _Crew, fabric: Fabric, told: Told) -> None:
    """Return when all ranks have ended well."""
    steps = crew.order.warm_ups + crew.order.trials
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        waiting = {}
        for i, rank in enumerate(crew.ranks):
            descriptor = os.pidfd_open(rank.process.pid)
            stack.callback(os.close, descriptor)
            poll.register(descriptor, select.POLLIN)
            waiting[descriptor] = i
        page, since_s = crew.progress.all(), time.monotonic()
        while waiting:
            for descriptor, _ in poll.poll(1000 * _GLANCE_S):
                poll.unregister(descriptor)
                _check_end(crew, waiting.pop(descriptor))
            fabric.check()
            told(_steps_done(crew), steps)
            if (now := crew.progress.all()) != page:
                page, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > _patience_s(crew):
                raise MpsimError(_hung(crew, list(waiting.values())))
        told(steps, steps)


def _steps_done(crew: _Crew) -> int:
    """Return how many steps, warm-ups first, every rank is through."""
    return max(0, crew.order.warm_ups + min(crew.progress.where(i).trial for i in range(len(crew.ranks))))


def _patience_s(crew: _Crew) -> float:
    """Return how long no rank may go on: exporting a large model says nothing for minutes."""
    preparing = any(crew.progress.where(i).trial == PREPARING for i in range(len(crew.ranks)))
    return crew.order.patience_s + (_PREPARATION_S if preparing and crew.order.models else 0.0)


def _check_end(crew: _Crew, rank: int) -> None:
    """Raise if a rank that has ended did not end well; what it says is that of the rank to blame."""
    code = crew.ranks[rank].process.wait()
    if code == 0:
        return
    if code == LOST_A_PEER:
        rank = _to_blame(crew, rank)
    raise MpsimError(_died(crew, rank))


def _to_blame(crew: _Crew, rank: int) -> int:
    """Return the rank that failed for a reason of its own, if one shows up, else the one given."""
    until_s = time.monotonic() + _BLAME_S
    while time.monotonic() < until_s:
        for i, other in enumerate(crew.ranks):
            if other.process.poll() not in (None, 0, LOST_A_PEER):
                return i
        time.sleep(0.02)
    return rank


def _died(crew: _Crew, rank: int) -> str:
    process, words = crew.ranks[rank].process, crew.ranks[rank].words.text()
    code = process.returncode
    # torch puts the rank before each line of a traceback.
    lines = [re.sub(r"^\[rank\d+\]: ", "", line.strip()) for line in words.splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    if code == REFUSED:
        return f"{crew.order.title(rank)}{last}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        how += " (by hand, or because the machine ran out of memory)" if code == -signal.SIGKILL else ""
    else:
        how = "lost the others" if code == LOST_A_PEER else f"ended with {code}"
    return f"{crew.order.title(rank)} {how} {_place(crew, rank)}{last}; the other ranks were ended"


def _hung(crew: _Crew, waiting: Sequence[int]) -> str:
    """Name the rank that is in the middle of something of its own, or else the one that is least far."""
    order = crew.order
    where = {i: crew.progress.where(i) for i in waiting}
    least = min(place.trial for place in where.values())
    behind = [i for i in waiting if where[i].trial == least]
    busy = [i for i in behind if not isinstance(_step(crew, i), Wait | None)]
    rank = min(busy or behind, key=lambda i: where[i].step)
    return (
        f"no rank has gone on for {order.patience_s:.0f} s: {order.title(rank)} stands {_place(crew, rank)};"
        " all ranks were ended"
    )


def _step(crew: _Crew, rank: int) -> object:
    where = crew.progress.where(rank)
    steps = crew.order.scripts[0][rank].steps
    return steps[where.step] if where.trial > READY and where.step < len(steps) else None


def _place(crew: _Crew, rank: int) -> str:
    """Return where a rank was, in words."""
    where: Where = crew.progress.where(rank)
    if where.trial <= READY:
        return _PHASES[where.trial]
    trial = f"trial {where.trial}" if where.trial >= 0 else "the warm-up"
    step = _step(crew, rank)
    if step is None:
        return f"at the end of {trial}"
    if isinstance(step, Wait):
        return f"in {trial}, waiting for {_names(crew.order.scripts[0][rank], step)}"
    doing = "computing" if isinstance(step, Compute) else "posting"
    return f"in {trial}, {doing} {getattr(step, 'name', '?')}"


def _names(script: Script, wait: Wait) -> str:
    return ", ".join(step.name for step in script.steps if isinstance(step, Post) and step.key in wait.keys)


def _end(ranks: Sequence[_Rank]) -> None:
    """End every process that is still there: asked first, then not asked."""
    alive = [rank.process for rank in ranks if rank.process.poll() is None]
    for process in alive:
        process.terminate()
    until_s = time.monotonic() + _FAREWELL_S
    for process in alive:
        try:
            process.wait(max(until_s - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
