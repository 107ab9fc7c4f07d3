"""By how much communication slows the computation beside it: the `overlap_slowdown` of this machine's devices.

    python benchmarks/overlap.py

Two processes on loopback. The first computes, a matrix product or an addition at a time, first alone and then while the
two all-reduce without a pause; both phases alternate. Printed is the median ratio of their wall times, with its spread.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta

ROUNDS, SECONDS = 7, 0.5
SIZES = {"matrix products (compute-bound)": 512, "additions of 64 MiB (memory-bound)": 0}


def main() -> None:
    if len(sys.argv) > 1:
        rank(int(sys.argv[1]), sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [
            subprocess.Popen([sys.executable, __file__, str(i), f"{folder}/store"], env=environment) for i in range(2)
        ]
        codes = [process.wait(300) for process in ranks]
    sys.exit(max(codes))


def rank(index: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=index, world_size=2, timeout=timedelta(seconds=120)
    )
    payload = torch.zeros(4 * 2**20)
    go = torch.zeros(1)
    for name, size in SIZES.items():
        ratios = []
        for _ in range(ROUNDS):
            dist.barrier()
            alone = _rate(size) if index == 0 else 0.0
            dist.barrier()
            # Rank 0 says with each all-reduce whether another one follows.
            stop = threading.Event()
            talking = threading.Thread(target=_talk, args=(dist, payload, go, index, stop))
            talking.start()
            if index == 0:
                ratios.append(alone / _rate(size))
                stop.set()
            talking.join()
        if index == 0:
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{name}: overlap_slowdown {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _talk(dist, payload, go, index: int, stop: threading.Event) -> None:
    while True:
        go[0] = 0.0 if index == 0 and stop.is_set() else 1.0
        dist.broadcast(go, 0)
        if not go[0]:
            return
        dist.all_reduce(payload)


def _rate(size: int) -> float:
    """Return operations a second over about half a second."""
    import torch

    if size:
        a, b = torch.rand(size, size), torch.rand(size, size)

        def once() -> None:
            torch.mm(a, b)
    else:
        a, b = torch.zeros(16 * 2**20), torch.ones(16 * 2**20)

        def once() -> None:
            a.add_(b)

    once()
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < SECONDS:
        once()
        count += 1
    return count / (time.monotonic() - begin)


if __name__ == "__main__":
    main()
