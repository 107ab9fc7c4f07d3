"""Run an input in this process, and judge how it ended."""

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from fuzz_inputs import Input

from mpsim.cli import cli
from mpsim.errors import MpsimError, printable

__all__ = ["judge", "prepared", "untouched"]

# What measures, starts processes or builds models is stopped where it would begin: the rest is fuzzed.
_STOPPED = (
    "mpsim.emulate.run.emulate_lowering", "mpsim.emulate.run.emulate_collectives", "mpsim.workload.trace.trace",
    "mpsim.cli.validate.validate_emulated", "mpsim.cli.validate.validate_exchanges",
    "mpsim.cli.emulate._traced",
)  # fmt: skip


def _stop(*_: object, **__: object) -> None:
    raise MpsimError("not run by the fuzzer")


@contextmanager
def prepared(folder: Path, valid: dict[str, bytes]) -> Iterator[None]:
    """Work in a folder of valid files, with a pipe nobody writes into, a folder and a link among them."""
    before = os.getcwd()
    for name, data in valid.items():
        (folder / name).write_bytes(data)
    for name in ("folder", "out", "published"):
        (folder / name).mkdir()
    os.mkfifo(folder / "fifo")
    os.symlink("small.json", folder / "link.json")
    os.chdir(folder)
    try:
        with _patched(list(_STOPPED)):
            yield
    finally:
        os.chdir(before)


@contextmanager
def _patched(names: list[str]) -> Iterator[None]:
    if not names:
        yield
        return
    with patch(names[0], _stop), _patched(names[1:]):
        yield


@contextmanager
def untouched(one: Input, valid: dict[str, bytes]) -> Iterator[None]:
    """Have an input's files in the place of the valid ones, and the valid ones back behind it."""
    published = {f"published/{name}": data for name, data in one.files.items() if name.endswith(".csv")}
    tables = [name for name in valid if name.endswith(".csv") and f"published/{name}" not in published]
    if "published" in one.words:
        published |= {f"published/{name}": valid[name] for name in tables if name.split(".")[0] in one.words}
    for name, data in (*one.files.items(), *published.items()):
        _put(Path(name), data)
    try:
        yield
    finally:
        for name in {*one.files, "small.json"}:
            _put(Path(name), valid[name])
        for name in published:
            Path(name).unlink(missing_ok=True)
        for path in Path("out").iterdir():
            path.unlink()


def _put(path: Path, data: bytes) -> None:
    """Write a file anew: to cut off one that is there makes ext4 wait for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def judge(one: Input, valid: dict[str, bytes], only: int | None = None) -> str:
    """Run an input; return what was wrong with how it ended, "" if nothing was; `only`: with which exit code it may."""
    with untouched(one, valid), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = CliRunner().invoke(cli, list(one.words))
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        return "traceback: " + "".join(traceback.format_exception(error)[-1:]).strip()[:300] + _where(error)
    if result.exit_code not in ((0, 2) if only is None else (only,)):
        return f"exit code {result.exit_code}: {result.stderr[:300]}"
    lines = [line for line in result.stderr.splitlines() if line.startswith("mpsim: error:")]
    if len(lines) != (1 if result.exit_code else 0):
        return f"exit code {result.exit_code} with {len(lines)} lines of error: {result.stderr[:300]!r}"
    if lines and "out of memory" in lines[0]:
        return f"memory: {lines[0]}"
    if lines and len(lines[0]) > 1100:
        return f"a line of {len(lines[0])} characters: {lines[0][:200]}"
    if printable(result.output) != result.output and "/dev/stdout" not in one.words and "-" not in one.words:
        return f"unprintable: {result.output[:300]!r}"
    if heard:
        what = heard[0]
        return f"warning: {what.category.__name__}: {str(what.message)[:200]} at {what.filename[-50:]}:{what.lineno}"
    return ""


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/mpsim/" in frame.filename]
    at = ours[-1] if ours else frames[-1]
    return f" at {at.filename.rpartition('/mpsim/')[2]}:{at.lineno} in {at.name}"
