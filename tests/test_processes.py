"""Processes end with the one that started them, and the program ends by one line, however it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_inputs import HAND, RING

from mpsim.processes import worker_pool

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="children are looked for in /proc")


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that run."""
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(word) for word in text.split()]


def ended(pids: list[int]) -> bool:
    """Return whether none of the processes is left, waiting a moment for it."""
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        if not any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in pids):
            return True
        time.sleep(0.01)
    return False


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def started(words: list[str], folder: Path, workers: int) -> tuple[subprocess.Popen, list[int]]:
    """Start a command and wait until its workers are there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mpsim", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    )
    while len(found := children(process.pid)) < workers:
        assert process.poll() is None
        time.sleep(0.01)
    return process, found


MANY = [HAND, RING, "--trials", "1000000", "--processes", "2"]


@pytest.mark.parametrize("words", [["simulate", *MANY, "--pp", "4"], ["sweep", *MANY, "--batch", "16"]])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_workers_end_with_their_parent(words, number, code, tmp_path) -> None:
    process, workers = started(words, tmp_path, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)  # which waits for whoever holds the pipes
    assert process.returncode == code
    assert len(said.splitlines()) == (number != signal.SIGKILL)
    assert ended(workers)


def test_a_signal_amid_the_imports_is_one_line(tmp_path) -> None:
    """The import is held up where it is, by a module that says so and waits."""
    (tmp_path / "click.py").write_text("import sys, time\nprint('here', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "mpsim", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b"mpsim: error: interrupted\n"
    assert process.returncode == 130


def test_a_signal_amid_code_given_as_text_keeps_the_exit_code(tmp_path) -> None:
    """Python 3.11 remembers such an interrupt as unhandled and ends ``python -m`` by SIGINT."""
    (tmp_path / "sitecustomize.py").write_text(
        "import click, os, signal\n"
        "click.Group.invoke = lambda *_: exec('import os, signal; os.kill(os.getpid(), signal.SIGTERM)')\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "mpsim"], capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stderr) == (143, b"mpsim: error: ended by SIGTERM\n")


def test_workers_leave_signals_to_their_parent() -> None:
    with worker_pool(1) as pool:
        handlers = [pool.submit(signal.getsignal, number).result() for number in (signal.SIGINT, signal.SIGTERM)]
        masked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert handlers == [signal.SIG_IGN, signal.SIG_IGN]
    assert not masked & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def test_a_pool_that_is_left_by_an_error_ends_its_workers() -> None:
    workers: list[int] = []

    def fail() -> None:
        with worker_pool(2) as pool:
            pool.submit(time.sleep, 3600)
            workers.extend(pool._processes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ended(workers)
