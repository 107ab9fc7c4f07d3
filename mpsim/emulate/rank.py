"""One rank: the process that joins the others, runs its script trial after trial, and reports.

Started by `mpsim.emulate.launch` as ``python -m mpsim.emulate.rank DESCRIPTOR``, where the descriptor's file holds its
`Job`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mpsim.emulate.job import Job, Memory, Report
from mpsim.emulate.progress import JOINING, MEASURING, Progress

if TYPE_CHECKING:
    from mpsim.emulate.execute import Executor

__all__ = ["LOST_A_PEER", "main"]

# The exit code of a rank that failed because another one did.
LOST_A_PEER = 75
_SET_DEATH_SIGNAL, _SET_TIMER_SLACK = 1, 29  # prctl(2)


def main(descriptor: int) -> int:
    """Run a job and return the exit code."""
    job: Job = Memory(descriptor).load()
    _live_no_longer_than(job.launcher)
    progress = Progress(Memory(job.progress))
    progress.note(job.rank, JOINING, 0)
    from mpsim.emulate.execute import PeerLost

    try:
        report = _run(job, progress)
    except PeerLost as error:
        print(error, file=sys.stderr)
        return LOST_A_PEER
    Memory(job.outcome).dump(report)
    return 0


def _live_no_longer_than(launcher: int) -> None:
    """Die with the launcher, however it dies; sleep to the microsecond rather than to the fifty."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)
    if os.getppid() != launcher:
        os._exit(1)


def _run(job: Job, progress: Progress) -> Report:
    import torch
    import torch.distributed as dist

    from mpsim.emulate.execute import blaming_a_peer

    torch.set_num_threads(1)
    with blaming_a_peer():
        groups = _join(job)
    progress.note(job.rank, MEASURING, 0)
    links = None
    executor, where = _executor(job, groups, progress)
    trials = []
    gc.collect()
    gc.freeze()
    gc.disable()
    with blaming_a_peer():
        for trial in range(-job.warm_ups, job.trials):
            where[0] = trial
            _start_together()
            times = executor.run(job.script(trial).steps)
            if trial >= 0:
                trials.append(times)
        dist.barrier()
    return Report(trials=tuple(trials), links=links)


def _join(job: Job) -> dict[tuple[int, ...], Any]:
    """Meet the others; return the process group of each set of ranks that has collectives."""
    import torch.distributed as dist

    patience = timedelta(seconds=job.patience_s)
    store = dist.FileStore(Memory(job.store).path, -1)
    dist.init_process_group("gloo", store=store, rank=job.rank, world_size=len(job.devices), timeout=patience)
    return {ranks: dist.new_group(list(ranks), timeout=patience) for ranks in job.groups}


def _executor(job: Job, groups: dict[tuple[int, ...], Any], progress: Progress) -> tuple[Executor, list[int]]:
    """Return the executor, and where it reads which trial it is in."""
    import torch.distributed as dist

    from mpsim.emulate.execute import Executor

    where = [0]
    executor = Executor(
        job.script(0),
        {device: rank for rank, device in enumerate(job.devices)},
        groups,
        dist.group.WORLD,
        note=lambda step: progress.note(job.rank, where[0], step),
    )
    return executor, where


def _start_together() -> None:
    """Return at one moment on all ranks: a barrier lets them go one after another, as its messages arrive."""
    import torch
    import torch.distributed as dist

    from mpsim.emulate.execute import sleep_until

    dist.barrier()
    before_s = time.monotonic()
    dist.barrier()
    now_s = time.monotonic()
    # The moment must reach all ranks before it comes: a broadcast takes no longer than a barrier.
    moment = torch.tensor([now_s + 2 * (now_s - before_s) + 5e-3], dtype=torch.float64)
    dist.broadcast(moment, 0)
    sleep_until(moment.item())


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # What gloo's threads still hold is of no use to anyone.
