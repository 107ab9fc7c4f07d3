"""How fast mpsim itself is, each case with its peak memory: ``python benchmarks/speed.py [--repeats N]``.

Every case runs in a process of its own, so that its peak memory is its own. An operation is a forward or a backward
of one micro-batch on one stage; its transfers are replayed too and not counted. Times are medians over the repeats,
with the fastest and the slowest beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("torch", "transformers", "pandas", "matplotlib", "pyarrow", "scipy", "numpy", "simpy", "click")


def pipeline(stages: int, microbatches: int) -> Callable[[], dict[str, float]]:
    """Return a case: 1F1B, lowered and replayed once on links that take time."""

    def run() -> dict[str, float]:
        from mpsim import Layer, Plan, Workload, parse_topology
        from mpsim.engine.replay import replay
        from mpsim.lowering.emit import program_of
        from mpsim.lowering.lower import lower

        layers = [Layer.given(f"layer{i}", forward_s=2**-10, backward_s=2**-9) for i in range(stages)]
        workload = Workload.chain("chain", layers, activation_bytes=2**20)
        topology = parse_topology(f"chain:{stages},bandwidth=16GB/s,latency=2us")
        plan = Plan(pp=stages, microbatches=microbatches, schedule="1f1b")
        start = time.perf_counter()
        program = program_of(lower(workload, topology, plan))
        lowered = time.perf_counter()
        replay(program, topology)
        replayed = time.perf_counter()
        operations = 2 * stages * microbatches
        return {
            "operations": operations,
            "tasks": len(program.tasks),
            "lower_s": lowered - start,
            "replay_s": replayed - lowered,
            "operations_per_s": operations / (replayed - lowered),
        }

    return run


def all_reduce(devices: int, size: int) -> Callable[[], dict[str, float]]:
    """Return a case: one ring all-reduce, its traffic found from the routes and replayed."""

    def run() -> dict[str, float]:
        from mpsim import parse_topology, simulate_collectives

        topology = parse_topology(f"ring:{devices},bandwidth=50GB/s,latency=2us")
        start = time.perf_counter()
        result = simulate_collectives([size], topology)
        return {"wall_s": time.perf_counter() - start, "predicted_s": result.step_s}

    return run


CASES: dict[str, Callable[[], dict[str, float]]] = {
    "1F1B, 8 stages x 32 micro-batches": pipeline(8, 32),
    "1F1B, 64 stages x 1,024 micro-batches": pipeline(64, 1024),
    "1 GiB ring all-reduce over 1,024 devices": all_reduce(1024, 2**30),
}


def cold_start(folder: Path) -> dict[str, object]:
    """Time ``mpsim simulate`` on a stored workload, interpreter included, and list the modules it left alone."""
    from mpsim import Layer, Workload
    from mpsim.workload.file import save_workload

    layers = [Layer.given(f"layer{i}", forward_s=2**-10, backward_s=2**-9) for i in range(24)]
    path = folder / "chain.json"
    save_workload(path, Workload.chain("chain", layers, activation_bytes=2**20))
    code = (
        "import sys\nfrom mpsim.cli import main\n"
        f"sys.argv = ['mpsim', 'simulate', {str(path)!r}, 'chain:4,bandwidth=16GB/s,latency=2us', '--pp', '4',"
        " '--microbatches', '8', '--json']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print([m for m in {PACKAGES!r} if m not in sys.modules], file=sys.stderr)\n"
        "import resource\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall = time.perf_counter() - start
    *_, unloaded, peak = done.stderr.strip().splitlines()
    return {"wall_s": wall, "not_loaded": unloaded, "peak_mb": float(peak)}


def one(name: str) -> None:
    """Run one case in this process and print its figures."""
    figures = CASES[name]()
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def spread(values: list[float]) -> str:
    """Write a median with its fastest and slowest."""
    return f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        one(options.case)
        return
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(options.repeats)]
        print(name)
        for key in runs[0]:
            print(f"  {key:20} {spread([run[key] for run in runs])}")
    with tempfile.TemporaryDirectory() as folder:
        starts = [cold_start(Path(folder)) for _ in range(options.repeats)]
    print("mpsim simulate on a stored workload, cold start to answer")
    print(f"  {'wall_s':20} {spread([float(str(start['wall_s'])) for start in starts])}")
    print(f"  {'peak_mb':20} {starts[-1]['peak_mb']:,.4g}")
    print(f"  {'not loaded':20} {starts[-1]['not_loaded']}")


if __name__ == "__main__":
    main()
