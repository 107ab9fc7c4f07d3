"""One rank: the process that joins the others, runs its script trial after trial, and reports.

Started by `mpsim.emulate.launch` as ``python -m mpsim.emulate.rank DESCRIPTOR``, where the descriptor's file holds its
`Assignment`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from mpsim.emulate.assignment import Assignment, Memory, Report, Times
from mpsim.emulate.links import MeasuredPath
from mpsim.emulate.pace import Pace
from mpsim.emulate.progress import JOINING, MEASURING, PREPARING, READY, Progress
from mpsim.errors import MpsimError
from mpsim.processes import end_with

__all__ = ["LOST_A_PEER", "REFUSED", "main"]

# The exit code of a rank that failed because another one did.
LOST_A_PEER = 75
# That of one that refuses its job; it says why in one line.
REFUSED = 2
_SET_TIMER_SLACK = 29  # prctl(2)


def main(descriptor: int) -> int:
    """Run a job and return the exit code."""
    job: Assignment = Memory(descriptor).load()
    _live_no_longer_than(job.launcher)
    progress = Progress(Memory(job.progress))
    progress.note(job.rank, PREPARING, 0)
    from mpsim.emulate.execute import PeerLost

    try:
        report = _run(job, progress)
    except PeerLost as error:
        print(error, file=sys.stderr)
        return LOST_A_PEER
    except MpsimError as error:
        print(error, file=sys.stderr)
        return REFUSED
    Memory(job.outcome).dump(report)
    return 0


def _live_no_longer_than(launcher: int) -> None:
    """Die with the launcher, however it dies; sleep to the microsecond rather than to the fifty."""
    end_with(launcher)
    ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)


def _run(job: Assignment, progress: Progress) -> Report:
    import torch
    import torch.distributed as dist

    from mpsim.emulate.execute import Asleep, Executor, blaming_a_peer
    from mpsim.emulate.probing import measure_links, measure_smallest
    from mpsim.workload.allocator import keep_freed_memory

    torch.set_num_threads(1)
    with keep_freed_memory():
        work = _running(job.model) if job.model else Asleep()
        progress.note(job.rank, JOINING, 0)
        with blaming_a_peer():
            groups = _join(job)
            progress.note(job.rank, MEASURING, 0)
            paths = measure_links(job.pairs) if job.pairs else ()
            smallest_s = measure_smallest() if job.pairs else 0.0
            pace = _pace(job, work, paths, lambda: progress.note(job.rank, MEASURING, 0))
        progress.note(job.rank, READY, 0)
        rank_of = {device: rank for rank, device in enumerate(job.devices)}
        executor = Executor(job.script(0), rank_of, groups, dist.group.WORLD, work)
        with blaming_a_peer():
            trials = _trials(job, executor, progress)
    losses = tuple(getattr(work, "losses", ()))[-job.trials :]
    return Report(trials=trials, paths=paths, smallest_s=smallest_s, pace=pace, losses=losses)


def _pace(job: Assignment, work: Any, paths: Sequence[MeasuredPath], note: Callable[[], None]) -> Pace | None:
    """Measure how fast this rank computes, if it does and if links are measured."""
    from mpsim.emulate.pace import measure_pace

    if not job.pairs or not job.model:
        return None
    bandwidth = statistics.median(path.bandwidth_bytes_per_s for path in paths)
    return measure_pace(work.computations(job.script(0).steps), bandwidth, note=note)


def _running(model: bytes) -> Any:
    from mpsim.emulate.real import Running

    return Running(pickle.loads(model))


def _trials(job: Assignment, executor: Any, progress: Progress) -> tuple[Times, ...]:
    """Run the warm-ups and the trials, with the garbage collector off."""
    import torch.distributed as dist

    trials = []
    gc.collect()
    gc.freeze()
    gc.disable()
    for trial in range(-job.warm_ups, job.trials):
        executor.note = lambda step, trial=trial: progress.note(job.rank, trial, step)
        _start_together()
        times = executor.run(job.script(trial).steps)
        executor.work.end_step()
        if trial >= 0:
            trials.append(times)
    dist.barrier()
    return tuple(trials)


def _join(job: Assignment) -> dict[tuple[int, ...], Any]:
    """Meet the others; return the process group of each set of ranks that has collectives."""
    import torch.distributed as dist

    patience = timedelta(seconds=job.patience_s)
    store = dist.FileStore(Memory(job.store).path, -1)
    dist.init_process_group("gloo", store=store, rank=job.rank, world_size=len(job.devices), timeout=patience)
    return {ranks: dist.new_group(list(ranks), timeout=patience) for ranks in job.groups}


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
