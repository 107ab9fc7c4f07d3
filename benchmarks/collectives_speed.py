"""How long collectives take to simulate: one event each, beside a peer's and beside all their messages.

    python benchmarks/collectives_speed.py

Each line is a process of its own, so that its memory is its own; its time is from when mpsim is imported. The peer's
figures are of ASTRA-sim 2, analytical and congestion-unaware, for the same 1 GiB ring all-reduce on another machine:
not a run for run comparison.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

DEVICES = (8, 64, 256, 1_024, 16_384)
# Wall seconds and MiB of the peer, by devices; it was not run on 16,384.
PEER = {8: "0.01, 12", 64: "0.04, 14", 256: "0.2, 36", 1_024: "3.0, 354"}
MOST_MESSAGES = 256


def one_event(devices: int) -> float:
    """Build the topology, lower and replay a 1 GiB ring all-reduce; return its simulated seconds."""
    from mpsim.simulation import simulate_collectives
    from mpsim.topology.builders import ring

    return simulate_collectives([2**30], ring(devices, link="50GB/s@500ns")).step_s


def by_messages(devices: int) -> float:
    """Replay every message of it."""
    from mpsim.collectives.traffic import messages, point_to_point
    from mpsim.engine.replay import replay
    from mpsim.program.model import Program, Stream, Task
    from mpsim.topology.builders import ring
    from mpsim.topology.routes import Routes

    topology = ring(devices, link="50GB/s@500ns")
    routes = Routes(topology)
    tasks: list[Task] = []
    heard: dict[int, tuple[int, ...]] = dict.fromkeys(range(devices), ())
    for one in messages("all_reduce", range(devices), 2**30):
        now = {}
        for source, target, count in one:
            now[target] = (len(tasks),)
            traffic = point_to_point(routes, source, target, count)
            tasks.append(Task("m", "send", (source,), heard[source], traffic=traffic))
        heard = now
    streams = tuple(Stream(device=i, name="ring") for i in range(devices))
    return replay(Program(streams=streams, tasks=tuple(tasks)), topology).step_s


def many_at_once(_: int) -> float:
    """Replay 512 all-reduces at once, of 64 ranks each, on 32,768 devices of a leaf-spine network."""
    from mpsim.collectives.traffic import collective
    from mpsim.engine.replay import replay
    from mpsim.program.model import Program, Stream, Task
    from mpsim.topology.builders import leaf_spine
    from mpsim.topology.routes import Routes

    topology = leaf_spine(1024, per_leaf=32, spines=16, link="50GB/s@2us")
    routes = Routes(topology)
    tasks, streams = [], []
    for group in range(512):
        # A group's ranks stand on two leaves next to each other, half on either.
        ranks = range(group * 64, group * 64 + 64)
        traffic = collective(routes, "all_reduce", ranks, 2**30)
        tasks.append(Task(f"group {group}", "all_reduce", tuple(ranks), traffic=traffic))
        streams += [Stream(device=rank, name="collectives") for rank in ranks]
    return replay(Program(streams=tuple(streams), tasks=tuple(tasks)), topology).step_s


CASES = {"one_event": one_event, "by_messages": by_messages, "many_at_once": many_at_once}


def measure(case: str, devices: int) -> dict[str, float]:
    """Run a case in a process of its own."""
    done = subprocess.run([sys.executable, __file__, case, str(devices)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _line(name: str, found: dict[str, float], peer: str = "-") -> str:
    memory = found["memory_bytes"] / 2**20
    return f"{name:<44} {found['wall_s']:>9.3f} {found['replayed_s']:>11.6f} {memory:>9.0f} {peer:>12}"


def main() -> None:
    """Print the table."""
    print(f"{'':<44} {'wall s':>9} {'simulated s':>11} {'MiB':>9} {'peer s, MiB':>12}")
    for devices in DEVICES:
        found = measure("one_event", devices)
        print(_line(f"1 GiB ring all-reduce, {devices:,} devices", found, PEER.get(devices, "-")))
    for devices in DEVICES:
        if devices <= MOST_MESSAGES:
            name = f"  every message, {devices:,} devices ({2 * (devices - 1) * devices:,})"
            print(_line(name, measure("by_messages", devices)))
    print(_line("512 all-reduces of 64 ranks, 32,768 devices", measure("many_at_once", 0)))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        import mpsim.simulation  # noqa: F401

        start = time.perf_counter()
        replayed_s = CASES[sys.argv[1]](int(sys.argv[2]))
        wall_s = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"wall_s": wall_s, "replayed_s": replayed_s, "memory_bytes": memory}))
