"""The program as a process of its own: what it loads, how it ends when it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_inputs import HAND, RING

from mpsim.sweeps import load_sweep

HEAVY = ("torch", "transformers", "matplotlib", "pandas", "scipy", "jinja2")
REPORT = (
    "import sys\n"
    "from mpsim.cli import main\n"
    "try:\n"
    "    main()\n"
    "finally:\n"
    f"    print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
)


def run(*words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mpsim", *words], capture_output=True, text=True, timeout=120, **more)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("simulate", HAND, RING, "--pp", "4", "--microbatches", "4", "--trials", "3"),
        ("simulate", HAND, RING, "--pp", "4", "--json", "--perfetto", "trace.json", "-o", "r.json"),
        ("sweep", HAND, RING, "--batch", "16", "-o", "t.csv"),
        ("show", HAND),
        ("show", "catalog"),
        ("trace", "--list"),
        ("simulate", "--help"),
        ("trace", "--help"),
    ],
)
def test_nothing_heavy_is_loaded(words, tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", REPORT, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"


def test_a_process_refuses_as_the_runner_does(tmp_path) -> None:
    done = run("simulate", HAND, RING, "--pp", "9", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mpsim: error: plan needs")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error(tmp_path) -> None:
    words = [sys.executable, "-m", "mpsim", "sweep", HAND, RING, "--batch", "16", "--top", "0", "--json"]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert writer.stdout is not None
    writer.stdout.close()
    assert writer.wait(timeout=120) == 141
    assert writer.stderr is not None
    assert writer.stderr.read() == b""


def interrupt(words: list[str], folder: Path) -> tuple[int, str]:
    """Start a command whose bar is forced, wait until a plan is done, and press Ctrl-C as a terminal does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mpsim", *words, "--progress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=folder, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = b""
    while not any(f" {n}/".encode() in seen for n in range(3, 60)):
        seen += process.stderr.read1(200)
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    return process.returncode, rest.decode()


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_that_are_done(tmp_path, processes) -> None:
    words = ["sweep", HAND, RING, "--batch", "16", "--trials", "300", "--processes", processes, "-o", "t.csv"]
    code, said = interrupt(words, tmp_path)
    assert code == 130
    (line,) = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("mpsim:")]
    kept = load_sweep(tmp_path / "t.csv")
    where = "their rows are in t.csv: the same command goes on with them"
    assert line == f"mpsim: error: interrupted after {len(kept.rows)} of 53 plans; {where}"
    assert 3 <= len(kept.rows) < 53
    assert [item.name for item in tmp_path.iterdir()] == ["t.csv"]


def processor_s(pid: int) -> float:
    """Return the processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_elsewhere_is_one_line(tmp_path) -> None:
    words = [sys.executable, "-m", "mpsim", "simulate", HAND, RING, "--pp", "4", "--trials", "1000000", "-o", "r.json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    while processor_s(process.pid) < 1.5:  # Long after start, long before a million trials are over.
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, b"", b"mpsim: error: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_a_closed_stdout_is_no_traceback(tmp_path) -> None:
    words = f"exec {sys.executable} -m mpsim simulate {HAND} {RING} >&-"
    done = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_stdout_is_one_line(tmp_path) -> None:
    words = f"exec {sys.executable} -m mpsim simulate {HAND} {RING} > /dev/full"
    done = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No space left on device" in done.stderr
