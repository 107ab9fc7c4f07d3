"""PyTorch's own runtime on real links: a process a rank over gloo, the links measured first, then its steps timed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from mpsim.emulate.fabric import open_fabric
from mpsim.emulate.links import imposed_topology, pairs_to_measure, topology_from
from mpsim.topology.model import Topology

Steps = list[tuple[float, float]]
"""When each step begins and ends, on the clock that all ranks share."""


def timed(script: str, case: Any, topology: Topology, fabric: str) -> tuple[Topology, list[float]]:
    """Run a case, a rank on each device: ``SCRIPT --rank I JOB`` calls `be_rank`. Return the links, and the steps."""
    imposed, ranks = imposed_topology(fabric, topology), range(len(topology.devices))
    with tempfile.TemporaryDirectory() as folder, open_fabric(fabric, topology, ranks) as links:
        job = Path(folder) / "job"
        job.write_bytes(pickle.dumps((case, len(ranks), pairs_to_measure(imposed, ranks))))
        processes = [
            subprocess.Popen(
                links.command(i, [sys.executable, script, "--rank", str(i), str(job)]),
                env={**os.environ, "GLOO_SOCKET_IFNAME": links.interface(i), "OMP_NUM_THREADS": "1"},
            )
            for i in ranks
        ]
        codes = [process.wait(180) for process in processes]
        if any(codes):
            raise SystemExit("a rank failed: see above")
        told = [pickle.loads(Path(f"{job}.{i}").read_bytes()) for i in ranks]
    steps = zip(*(steps for _, steps in told), strict=True)
    measured = [max(end for _, end in step) - max(begin for begin, _ in step) for step in steps]
    return topology_from(told[0][0], imposed, ranks), measured


def be_rank(job: Path, index: int, steps_of: Callable[[Any, int], Steps]) -> None:
    """Be one rank: measure the links with the others, then take steps, of which the first warms up."""
    import torch
    import torch.distributed as dist

    from mpsim.emulate.probing import measure_links

    case, ranks, pairs = pickle.loads(job.read_bytes())
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{job}.store", rank=index, world_size=ranks, timeout=timedelta(seconds=60)
    )
    paths = measure_links(pairs)
    steps = steps_of(case, index)
    Path(f"{job}.{index}").write_bytes(pickle.dumps((paths, steps[1:])))
    dist.barrier()


def until(end_s: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(max(left_s - 5e-5, 0))
