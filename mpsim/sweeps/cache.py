"""Rows that are known from other sweeps, in the user's cache folder, by the digest of all that they depend on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from mpsim.sweeps.model import COLUMNS, Row
from mpsim.sweeps.question import Question

__all__ = ["Cache", "cache_folder"]

MOST_BYTES = 128 * 2**20
_OWN = ("rank", "tie", "question")  # of a whole sweep, not of a plan
_SEAL = 16


def cache_folder() -> Path:
    """Return the folder of mpsim in the user's caches: under ``XDG_CACHE_HOME``, by default ``~/.cache``.

    Raises
    ------
    RuntimeError
        There is neither.
    """
    said = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(said):  # a relative one does not count, by the XDG Base Directory Specification
        return Path(said) / "mpsim"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "mpsim" / "cache"
    return Path.home() / ".cache" / "mpsim"


class Cache:
    """The rows of plans on one workload and topology with the same options, in whatever grid they stood.

    One file has them, a line each: its digest, then the plan and its row. Lines are appended in one go, so that
    several processes may do so at once; a line whose digest does not fit, such as one that was cut or into which
    another fell, does not count. A folder that cannot be read or written is an empty one.

    Parameters
    ----------
    folder : path
        Where the files are.
    question : Question
        Whose rows.
    most_bytes : int
        Of all files together; those that were not used for the longest are dropped.
    """

    def __init__(self, folder: str | Path, question: Question, most_bytes: int = MOST_BYTES) -> None:
        self._folder = Path(folder) / "sweeps"
        self._path = self._folder / f"{question.shared}.jsonl"
        self._most_bytes = most_bytes
        self._shared = question.shared
        self._rows = dict(self._read())
        self._written = False

    def get(self, plan: str) -> Row | None:
        """Return the row of a plan, as `mpsim.sweeps.question.cell_text` writes it; None if it is not known."""
        return self._rows.get(plan)

    def put(self, plan: str, row: Row) -> None:
        """Keep the row of a plan."""
        if plan in self._rows:
            return
        self._rows[plan] = row
        body = json.dumps([plan, {name: row[name] for name in COLUMNS if name not in _OWN}])
        # The first line's end closes a line that a killed process may have left open.
        line = f"\n{self._seal(body)} {body}\n".encode()
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
                self._written = True
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Drop the files that were not used for the longest where all are too large together."""
        if not self._written:
            return
        with suppress(OSError):
            files = sorted(self._folder.glob("*.jsonl"), key=lambda path: -path.stat().st_mtime)
            left = self._most_bytes
            for path in files:
                left -= path.stat().st_size
                if left < 0:
                    path.unlink(missing_ok=True)

    def _read(self) -> Iterator[tuple[str, Row]]:
        with suppress(OSError):
            data = self._path.read_bytes()
            os.utime(self._path)
            for line in data.decode(errors="replace").split("\n"):
                seal, _, body = line.partition(" ")
                if body and seal == self._seal(body):
                    plan, row = json.loads(body)
                    yield plan, dict.fromkeys(COLUMNS) | row

    def _seal(self, body: str) -> str:
        return sha256(f"{self._shared}{body}".encode()).hexdigest()[:_SEAL]
