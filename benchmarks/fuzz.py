"""Ten thousand inputs as a stranger would give them, each within 2 GiB and 10 s: what ended otherwise, and how.

    python benchmarks/fuzz.py [INPUTS] [SEED]

A worker process runs one input after another (tests/fuzz/ has what they are made of, files that unpack to gigabytes
among them here); its address space may grow by 2 GiB, and whatever takes 10 s of the processor ends it. Ends well: exit
code 0, or 2 with one line.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))

import fuzz_mutations
from fuzz_inputs import Input, inputs
from fuzz_running import judge, prepared
from fuzz_seeds import seeds
from hypothesis import HealthCheck, Phase, given, seed, settings

GIB = 2**30
MOST_BYTES, MOST_S, WAIT_S = 2 * GIB, 10.0, 120.0


def work(pipe: Connection, valid: dict[str, bytes]) -> None:
    """Run each input that comes, and answer how it ended, and the seconds and bytes that it took."""
    import torch
    import transformers

    assert torch, transformers  # imported here, so that what they take is nobody's
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as folder, prepared(Path(folder), valid):
        judge(Input(("plot", "result.json", "-o", "out/a.png")), valid)
        room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        pipe.send("ready")
        while (one := pipe.recv()) is not None:
            began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found = judge(one, valid)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            pipe.send((found, time.process_time() - began, grown))


class Worker:
    """A process that runs inputs; one that does not answer is ended, and another takes its place."""

    def __init__(self, valid: dict[str, bytes]) -> None:
        self.valid = valid
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.valid))
        self.process.start()
        assert self.pipe.recv() == "ready"

    def _seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def run(self, one: Input) -> tuple[str, float, int]:
        """Return how an input ended, and the seconds of the processor and bytes that it took."""
        began, before = time.monotonic(), self._seconds()
        self.pipe.send(one)
        while not self.pipe.poll(0.5):
            waits = time.monotonic() - began > WAIT_S
            if not self.process.is_alive() or self._seconds() - before > 2 * MOST_S or waits:
                took = MOST_S * 2 if self.process.is_alive() else 0.0
                what = ("it waits" if waits else "it does not end") if took else "the process was ended"
                self.process.kill()
                self.process.join()
                self._start()
                return what, took, 0
        answer: tuple[str, float, int] = self.pipe.recv()
        return answer

    def end(self) -> None:
        """Let it end."""
        self.pipe.send(None)
        self.process.join()


def main(count: int = 10_000, number: int = 0) -> int:
    """Run so many inputs; print what they were, and what ended otherwise than well."""
    fuzz_mutations.with_bombs()
    with tempfile.TemporaryDirectory() as folder:
        valid = seeds(Path(folder))
    worker = Worker(valid)
    runs: Counter[str] = Counter()
    seconds: list[float] = []
    grown: list[int] = []
    kinds: dict[str, list[Any]] = {"traceback": [], "memory": [], "time": [], "else": []}

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(inputs(valid))
    def each(one: Input) -> None:
        found, took_s, took_bytes = worker.run(one)
        runs[one.words[0]] += 1
        seconds.append(took_s)
        grown.append(took_bytes)
        kind = (
            "time" if took_s > MOST_S
            else "memory" if took_bytes > MOST_BYTES or found.startswith("memory") or "MemoryError" in found
            else "traceback" if found.startswith("traceback")
            else "else" if found else ""
        )  # fmt: skip
        if kind:
            kinds[kind].append((found, one))
            print(f"{kind}: {found[:400]}\n    {[word[:60] for word in one.words]} {list(one.files)}", flush=True)

    each()
    worker.end()
    print(f"\n{sum(runs.values())} inputs: " + ", ".join(f"{name} {n}" for name, n in runs.most_common()))
    print(f"tracebacks {len(kinds['traceback'])}, over 2 GiB {len(kinds['memory'])}, over 10 s {len(kinds['time'])}, "
          f"other ends {len(kinds['else'])}")  # fmt: skip
    different = {re.sub(r"\d+", "N", found) for many in kinds.values() for found, _ in many}
    ordered = sorted(seconds)
    print(f"kinds {len(different)}; processor: {sum(seconds):.0f} s, median {1e3 * ordered[len(ordered) // 2]:.1f} ms, "
          f"most {ordered[-1]:.1f} s; largest growth {max(grown) / GIB:.2f} GiB")  # fmt: skip
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
