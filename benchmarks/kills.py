"""Kill mpsim at random moments, and count what is lost: ``python benchmarks/kills.py [--kills N] [--only NAME]``.

Each kind of run is first made once undisturbed. Then it is started again and again and ended by SIGKILL, SIGTERM or
SIGINT, in turn, at a moment drawn from as long as the first one took. Counted are

- rows lost: those that the file had when the signal was sent and has no more, or has otherwise;
- orphans: processes of the run that are there two seconds after it (of Ray's twenty), told by a variable of their
  environment;
- half files: what cannot be read, and files that no run of its kind ends with;
- not one line: runs that said a traceback, or more than one line of error, or ended by another code than 128 and the
  signal; in Python's start: those of them that Python itself said so early that nothing of mpsim was read yet;
- resumed: the same command brought to its end, with the bytes of the undisturbed run. What is measured anew in each
  run has other bytes each time: of it the rows that were there must be.

Ray and Dask are tried where they are installed. One kind takes a core or two for some minutes at 100 kills.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
HAND = str(ROOT / "tests/data/hand.workload.json")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MARK = "MPSIM_KILLS_RUN"
PATIENCE_S = 2.0
# Two agents of Ray's notice after a minute only that a killed cluster is gone: they are counted.
PATIENCE_WITH_RAY_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A command, the file that it writes, how that is read into rows, and whether its bytes are always the same."""

    words: tuple[str, ...]
    output: str
    rows: Callable[[Path], dict[str, str]]
    same: bool = True
    chained: bool = False  # not brought to its end after each kill, but gone on with by the next one
    needs: str = ""
    patience_s: float = PATIENCE_S


@dataclass(kw_only=True)
class Tally:
    """What was counted."""

    kills: int = 0
    early: int = 0
    rows_lost: int = 0
    orphans: int = 0
    half_files: int = 0
    lines: int = 0
    python: int = 0
    resumed: int = 0
    notes: list[str] = field(default_factory=list)


def table_rows(path: Path) -> dict[str, str]:
    """Return the whole rows of a table that is appended to, by what they answer: their step, or why there is none."""
    text = path.read_text() if path.exists() else ""
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return {row["question"]: row["step_s"] + row["reason"] for row in rows}


def case_rows(path: Path) -> dict[str, str]:
    """Return the rows of a validation, by their case."""
    from mpsim.validate import Comparison, load_rows

    return {row.name: repr(row) for row in load_rows(path, Comparison)} if path.exists() else {}


def no_rows(path: Path) -> dict[str, str]:
    """Return no rows of a document, which is read."""
    import json

    if path.exists():
        json.loads(path.read_text())
    return {}


def sweep_kind(*more: str, trials: int = 20, needs: str = "", patience_s: float = PATIENCE_S) -> Kind:
    words = ("sweep", HAND, "ring:3,link=eth_10g", "--batch", "16", "--trials", str(trials), "--no-cache", *more)
    return Kind(words=(*words, "-o", "t.csv"), output="t.csv", rows=table_rows, needs=needs, patience_s=patience_s)


KINDS = {
    "sweep, 2 processes": sweep_kind("--processes", "2"),
    "sweep, 1 process": sweep_kind("--processes", "1", trials=5),
    "sweep, Dask": sweep_kind("--executor", "dask", "--processes", "1", needs="distributed"),
    "sweep, Ray": sweep_kind("--executor", "ray", "--processes", "1", needs="ray", patience_s=PATIENCE_WITH_RAY_S),
    "validate": Kind(
        words=(
            *("validate", "emulated", "--quick", "--fabric", "host", "--models", "mnist-mlp", "--processes", "2"),
            *("--workloads", str(ROOT / "workloads"), "-o", "t.csv"),
        ),
        output="t.csv", rows=case_rows, same=False, chained=True, needs="torch",
    ),
    "trace": Kind(
        words=("trace", "mnist-mlp", "--batch", "64", "--analytical", "H200-SXM-141GB", "-o", "w.json"),
        output="w.json", rows=no_rows, needs="torch",
    ),
    "emulate": Kind(
        words=("emulate", HAND, "ring:2,link=eth_10g", "--dp", "2", "--trials", "5", "-o", "r.json"),
        output="r.json", rows=no_rows, same=False, needs="torch",
    ),
    "simulate, 2 processes": Kind(
        words=(
            *("simulate", HAND, "ring:4,link=eth_10g", "--pp", "4", "--microbatches", "8", "--trials", "100"),
            *("--processes", "2", "-o", "r.json"),
        ),
        output="r.json", rows=no_rows,
    ),
}  # fmt: skip


def start(kind: Kind, folder: Path, mark: str) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own, as a terminal does."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "mpsim", *kind.words],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, MARK: mark, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def marked(mark: str) -> list[int]:
    """Return the processes that have a run's mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def orphans(mark: str, patience_s: float = PATIENCE_S) -> list[int]:
    """Return the processes of a run that do not end by themselves, and end them."""
    until_s = time.monotonic() + patience_s
    while (left := marked(mark)) and time.monotonic() < until_s:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def to_the_end(kind: Kind, folder: Path) -> float:
    """Run to the end and return how long it took."""
    began_s = time.monotonic()
    process = start(kind, folder, uuid4().hex)
    said = process.communicate()[1].decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(kind.words)} ended with {process.returncode}: {said}")
    return time.monotonic() - began_s


def kill_once(kind: Kind, folder: Path, number: signal.Signals, after_s: float, tally: Tally) -> bool:
    """Start a run, end it after a time, and count; return whether it was there to be ended."""
    mark, path = uuid4().hex, folder / kind.output
    process = start(kind, folder, mark)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        before = kind.rows(path)
        # Ctrl-C goes to all of a terminal's processes, the others to the one that is meant.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.communicate(timeout=60)[1].decode()
        tally.kills += 1
        tally.early += after_s < 0.5
        count_end(process.returncode, number, said, tally)
        there = True
    else:
        process.communicate()
        before, there = kind.rows(path), False
    tally.orphans += len(orphans(mark, kind.patience_s))
    count_files(kind, folder, before, tally)
    return there


def count_end(code: int, number: signal.Signals, said: str, tally: Tally) -> None:
    if number == signal.SIGKILL or code == 0:  # 0: it was done before it heard of it
        return
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip() and not line.startswith("wrote ")]
    if code != 128 + number or len([line for line in lines if line.startswith("mpsim: ")]) != 1 or len(lines) > 3:
        if "KeyboardInterrupt" in said and "mpsim" not in said:
            tally.python += 1
            return
        tally.lines += 1
        tally.notes.append(f"{number.name}: ended with {code}: {lines[-1] if lines else ''}"[:160])


def count_files(kind: Kind, folder: Path, before: dict[str, str], tally: Tally) -> None:
    try:
        after = kind.rows(folder / kind.output)
    except ValueError as error:
        tally.half_files += 1
        tally.notes.append(f"cannot be read: {error}"[:160])
        return
    tally.rows_lost += sum(after.get(name) != row for name, row in before.items())
    for item in folder.iterdir():
        if item.name != kind.output:
            tally.half_files += 1
            tally.notes.append(f"left behind: {item.name}")
            item.unlink()


def campaign(kind: Kind, kills: int, seed: int = 0) -> Tally:
    """Kill runs of a kind so many times."""
    draws, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as folder:
        took_s = to_the_end(kind, Path(whole))
        expected, path = (Path(whole) / kind.output).read_bytes(), Path(folder) / kind.output
        while tally.kills < kills:
            # One in five while it still starts.
            moment_s = draws.uniform(0.03, 0.5 if draws.random() < 0.2 else took_s)
            number = SIGNALS[tally.kills % len(SIGNALS)]
            if not kill_once(kind, Path(folder), number, moment_s, tally):
                path.unlink()
            elif kind.chained:
                tally.resumed += 1
                if len(kind.rows(path)) == len(kind.rows(Path(whole) / kind.output)):
                    path.unlink()
            else:
                to_the_end(kind, Path(folder))
                tally.resumed += not kind.same or path.read_bytes() == expected
                path.unlink()
    return tally


def report(tallies: dict[str, tuple[int, Tally]]) -> Iterator[str]:
    """Yield the lines of a table."""
    heads = ("run", "kills", "of them in its first 0.5 s", "rows lost", "orphans", "half files", "not one line")
    yield f"| {' | '.join((*heads, 'in Python’s start', 'resumed'))} |"
    yield "|---" * 9 + "|"
    for name, (_, one) in tallies.items():
        lost = (one.rows_lost, one.orphans, one.half_files, one.lines, one.python)
        yield f"| {name} | {' | '.join(map(str, (one.kills, one.early, *lost, one.resumed)))} |"
    yield from (f"{name}: {note}" for name, (_, one) in tallies.items() for note in one.notes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of all kinds together")
    parser.add_argument("--only", action="append", choices=KINDS, help="a kind; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    kinds = {name: KINDS[name] for name in given.only or KINDS if not KINDS[name].needs or find_spec(KINDS[name].needs)}
    tallies = {}
    for i, (name, kind) in enumerate(kinds.items()):
        count = given.kills // len(kinds) + (i < given.kills % len(kinds))
        tallies[name] = (count, campaign(kind, count, given.seed + i))
        print(f"{name}: {tallies[name][1]}", file=sys.stderr, flush=True)
    print("\n".join(report(tallies)))


if __name__ == "__main__":
    main()
