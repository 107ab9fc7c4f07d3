"""The file of a sweep while it runs: a row is appended as it is done, and is there whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mpsim.errors import MpsimError
from mpsim.sweeps.file import check_columns, csv_line, load_sweep, row_of
from mpsim.sweeps.model import COLUMNS, Row
from mpsim.sweeps.question import Question

__all__ = ["Journal", "journal_path", "open_journal"]

_ANEW = "name another file, or write over it with --no-resume (resume=False)"


class Journal:
    """Rows by the number of their plan: those that a file had, and those that are appended to it."""

    def __init__(self, path: Path, questions: Sequence[Question]) -> None:
        self.rows: dict[int, Row] = {}
        self._path, self._questions = path, questions
        self._descriptor, self._made = -1, False

    def append(self, number: int, row: Row) -> Row:
        """Write a row, and return it with the question that it answers."""
        row = row | {"question": f"{self._questions[number].text}:{number}"}
        self.rows[number] = row
        try:
            data = csv_line([row[name] for name in COLUMNS]).encode()
            if not os.fstat(self._descriptor).st_size:
                data = csv_line(COLUMNS).encode() + data
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise MpsimError(f"cannot write {str(self._path)!r}: {error.strerror}; the rows before are kept") from None
        return row

    def read(self, path: Path) -> None:
        """Take over the rows of a file.

        Raises
        ------
        MpsimError
            They answer another question, or are none of a sweep.
        """
        for row in _rows(path):
            text, _, number = (row["question"] or "").rpartition(":")
            known = number.isdecimal() and int(number) < len(self._questions)
            if other := self._questions[int(number) if known else 0].differs(text):
                what = f"a sweep of {other}" if text else "no sweep that can be gone on with"
                raise MpsimError(f"{str(path)!r} answers {what}; {_ANEW}")
            if not known:
                raise MpsimError(f"{str(path)!r} was edited: {row['question']!r} is no plan of this sweep; {_ANEW}")
            self.rows.setdefault(int(number), row)

    def open(self, *, anew: bool) -> None:
        """Open the file for appending, without the part of a row at its end that a killed sweep may have left."""
        self._made = not self._path.exists()
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise MpsimError(f"cannot write {str(self._path)!r}: {error.strerror}; choose another place") from None
        _lock(self._descriptor, self._path)
        # Not by another descriptor: to close that would be to give up the lock.
        data = b""
        while part := os.read(self._descriptor, 2**20):
            data += part
        os.ftruncate(self._descriptor, 0 if anew else whole_records(data))

    def close(self) -> None:
        """Close the file, and remove it where it is new and has come to nothing."""
        if self._descriptor < 0:
            return
        if self._made and not os.fstat(self._descriptor).st_size:
            with suppress(OSError):
                os.unlink(self._path)
        os.close(self._descriptor)


def journal_path(output: str | Path) -> Path:
    """Return the file that rows are appended to: the sweep's own, or beside it where no rows can be appended to that.

    Examples
    --------
    >>> str(journal_path("table.csv")), str(journal_path("table.parquet"))
    ('table.csv', 'table.parquet.csv')
    """
    return Path(output) if Path(output).suffix.lower() == ".csv" else Path(f"{output}.csv")


@contextmanager
def open_journal(output: str | Path, questions: Sequence[Question], *, resume: bool = True) -> Iterator[Journal]:
    """Open the file of a sweep with the rows that it already has.

    Parameters
    ----------
    output : path
        The file of the finished sweep.
    questions : sequence of Question
        What the row of each plan answers.
    resume : bool
        Go on with the rows that are there; otherwise they are lost.

    Raises
    ------
    MpsimError
        What is there answers another question, is being written, or cannot be.
    """
    journal = Journal(journal_path(output), questions)
    for path in {Path(output), journal_path(output)}:
        if path.exists() and not path.is_file():
            raise MpsimError(f"{str(path)!r} is not a file: name the file to write")
        if resume and path.exists():
            journal.read(path)
    try:
        journal.open(anew=not resume)
        yield journal
    finally:
        journal.close()


def _rows(path: Path) -> list[Row]:
    """Return the whole rows of a file; the beginning of one more at its end does not count."""
    if path.suffix.lower() != ".csv":
        return list(load_sweep(path).rows)
    try:
        data = path.read_bytes()
        text = data[: whole_records(data)].decode()
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if text or not csv_line(COLUMNS).encode().startswith(data):
            check_columns(path, reader.fieldnames or (), hint=_ANEW)
        return [row_of(path, line, cells) for line, cells in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MpsimError(f"cannot read {str(path)!r} as CSV: {error}; {_ANEW}") from None


def whole_records(data: bytes) -> int:
    r"""Return where the last whole record of a CSV file ends: at a line's end that is in no quoted cell.

    Examples
    --------
    >>> whole_records(b'a,b\n1,"x\ny"\n2,"x\n'), whole_records(b"a,b\n1")
    (12, 4)
    """
    end, start, quotes = 0, 0, 0
    while (found := data.find(b"\n", start)) >= 0:
        quotes += data.count(b'"', start, found)
        start = found + 1
        if quotes % 2 == 0:
            end = start
    return end


def _lock(descriptor: int, path: Path) -> None:
    """Keep others from writing the file; the lock ends with this process, however it ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise MpsimError(
            f"{str(path)!r} is being written by another sweep: wait for it, or name another file"
        ) from None
    except OSError:
        return  # A file system without locks.
