"""Kill a rank or the launcher of a real run at a random moment, again and again: does it hang, is anything left?

    python benchmarks/emulate_robustness.py [--runs 50] [--fabric namespaces] [--seed 0]

Every run carries a mark in its environment, by which its processes are found among all others. What is looked for
afterwards: those processes, network namespaces, listening ports, files in the run's own temporary folder.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mpsim import Layer, Workload, save_workload
from mpsim.emulate.assignment import Memory
from mpsim.emulate.progress import Progress

PATIENCE_S = 30.0
PLANS = (
    ["--pp", "2", "--microbatches", "4"],
    ["--dp", "2"],
    ["--dp", "2", "--pp", "2", "--microbatches", "2"],
    ["--pp", "4", "--microbatches", "8", "--schedule", "gpipe"],
)


def processes(mark: str) -> dict[int, str]:
    """Return the command of each live process whose environment has the mark."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if f"MPSIM_MARK={mark}".encode() in environment.split(b"\0") and not zombie:
            found[int(entry.name)] = command
    return found


def namespaces(pids: set[int]) -> set[str]:
    """Return the network namespaces that are named after one of these processes: others may be at work here too."""
    if shutil.which("ip") is None:
        return set()
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    names = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    return {name for name in names if name.startswith("mpsim-") and int(name.split("-")[1]) in pids}


def ports() -> set[str]:
    """Return the listening TCP ports of this machine's own namespace."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(fields[1].rpartition(":")[2])
    return found


def has_begun(launcher: int, ranks: int) -> bool:
    """Return whether all ranks of a launcher are in their trials, by the page that it shares with them."""
    try:
        for entry in Path(f"/proc/{launcher}/fd").iterdir():
            if "memfd:mpsim-progress" in os.readlink(entry):
                descriptor = os.open(entry, os.O_RDWR)
                try:
                    page = Progress(Memory(descriptor))
                    return all(page.where(rank).trial >= 0 for rank in range(ranks))
                finally:
                    os.close(descriptor)
    except OSError:
        pass
    return False


def workload(folder: Path) -> Path:
    path = folder / "four.json"
    layers = [Layer.given(name, forward_s=0.01, backward_s=0.02, parameter_bytes=2**18) for name in "abcd"]
    save_workload(path, Workload.chain("four", layers, activation_bytes=2**18))
    return path


def until(condition, patience_s: float) -> float:
    """Return how long it took until a condition held, infinity if it never did."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience_s:
        if condition():
            return time.monotonic() - begin
        time.sleep(0.02)
    return float("inf")


def one(number: int, rng: random.Random, fabric: str, folder: Path) -> dict:
    mark, temporary = f"{os.getpid()}-{number}", folder / f"tmp-{number}"
    temporary.mkdir()
    plan, whom = rng.choice(PLANS), rng.choice(["a rank", "launcher"])
    in_trials, moment_s = rng.random() < 0.6, rng.uniform(0.2, 5.0)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "mpsim", "emulate", str(workload(folder)), "switch:4,link=1Gbit/s@1ms", *plan,
         "--fabric", fabric, "--trials", "400"],
        env=os.environ | {"MPSIM_MARK": mark, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if in_trials:
        n_ranks = 2 if plan in PLANS[:2] else 4
        until(lambda: launcher.poll() is not None or has_begun(launcher.pid, n_ranks), 60.0)
    until(lambda: launcher.poll() is not None, moment_s)
    seen = processes(mark)
    ranks = [pid for pid, command in seen.items() if "mpsim.emulate.rank" in command]
    if whom == "a rank" and ranks:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    else:
        whom = "launcher" if launcher.poll() is None else "nobody: it was done"
        if launcher.poll() is None:
            launcher.kill()
    ended_s = until(lambda: launcher.poll() is not None, PATIENCE_S)
    gone_s = until(lambda: not processes(mark) and not namespaces(set(seen)), PATIENCE_S)
    left, nets = processes(mark), namespaces(set(seen))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    _, said = launcher.communicate(timeout=PATIENCE_S)
    return {
        "plan": " ".join(plan),
        "moment_s": moment_s,
        "whom": whom,
        "phase": "trials" if in_trials else "start",
        "ended_s": ended_s,
        "gone_s": ended_s + gone_s,
        "processes": list(left.values()),
        "namespaces": sorted(nets),
        "files": [item.name for item in temporary.rglob("*")],
        "said": said.strip().splitlines(),
    }


def is_bad(row: dict) -> bool:
    """Return whether it hung, left something, or said more than a line."""
    left = row["processes"] or row["namespaces"] or row["files"]
    return bool(left) or row["gone_s"] > PATIENCE_S or len(row["said"]) > 1


def show(number: int, row: dict) -> None:
    """Print a line of the table; of a bad run, everything."""
    said = " | ".join(row["said"]).replace(" (by hand, or because the machine ran out of memory)", "")
    times = f"{row['moment_s']:>6.1f}s{row['ended_s']:>7.2f}s{row['gone_s']:>7.2f}s"
    wrong = f"   <-- {row}" if is_bad(row) else ""
    print(f"{number:>3}  {row['whom']:<20}{row['phase']:<7}{times}  {row['plan']:<41}{said[:120]}{wrong}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--fabric", default="namespaces" if shutil.which("ip") and os.geteuid() == 0 else "host")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, bad = random.Random(asked.seed), 0
    ports_before = ports()
    print(f"{'run':>3}  {'killed':<20}{'in':<7}{'after':>7}{'ended':>8}{'gone':>8}  {'plan':<41}said")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.runs):
            row = one(number, rng, asked.fabric, Path(folder))
            bad += is_bad(row)
            show(number, row)
    time.sleep(3.0)
    left = ports() - ports_before
    print(f"{asked.runs} runs over {asked.fabric}: {bad} bad, {len(left)} ports more than before {sorted(left) or ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
