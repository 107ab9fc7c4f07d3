"""The one place where files are opened: read within bounds, written whole or not at all.

What is read may come from a stranger, so nothing is waited for and nothing grows without end: a pipe, a device, a
folder or a socket is no file, of a compressed file so much is unpacked and no more, and JSON is no deeper than ours.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import re
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mpsim.errors import MpsimError

__all__ = [
    "MOST_BYTES", "check_target", "in_cell", "of_cell", "parse_json", "read_bytes", "read_head", "read_text",
    "stream_of", "write_text", "writing",
]  # fmt: skip

MOST_BYTES = 2**30
# JSON and traces shrink by 10 to 60 times; what would make a thousand times of itself is made to.
_MOST_RATIO, _ANY_RATIO = 100, 64 * 2**20
_DEEPEST = 100
_CHUNK = 2**20
_NONBLOCK, _BINARY = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_BINARY", 0)


def read_bytes(
    path: str | Path, wanted: str = "", *, most: int = MOST_BYTES, missing: Callable[[], str] | None = None
) -> bytes:
    """Return what a file holds, unpacked where gzip compressed it.

    Parameters
    ----------
    path : path
        The file.
    wanted : str
        What to name instead, for messages.
    most : int
        Bytes that are read, and unpacked, at most.
    missing : callable, optional
        Gives what to say of a file that is not there.

    Raises
    ------
    MpsimError
        No such file, what is no file, one that is too large, or whose compressed bytes were cut or edited.

    Examples
    --------
    >>> read_bytes("nowhere.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot read 'nowhere.json': No such file or directory
    """
    with _reading(path, wanted, missing) as file:
        data = _whole(file, path, most)
        return _unpacked(data, path, most) if _is_packed(data) else data


def _whole(file: BinaryIO, path: str | Path, most: int) -> bytes:
    """Return all of a file, whose memory is asked for as it comes: a pipe has no size."""
    found = io.BytesIO()
    while part := file.read(_CHUNK):
        if found.tell() + len(part) > most:
            raise MpsimError(f"cannot read {str(path)!r}: it has more than {most:,} bytes, the most that are read")
        found.write(part)
    return found.getvalue()


def read_head(path: str | Path, count: int, wanted: str = "") -> str:
    """Return the first `count` bytes of a file as text, unpacked; bytes that are no text are replaced.

    Raises
    ------
    MpsimError
        As `read_bytes`.
    """
    with _reading(path, wanted, None) as file:
        data = file.read(count)
        if _is_packed(data):
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as packed:
                data = packed.read(count)
        return _encoding(data)[1].decode(_encoding(data)[0], errors="replace")


def read_text(
    path: str | Path, wanted: str = "", *, most: int = MOST_BYTES, missing: Callable[[], str] | None = None
) -> str:
    r"""Return a text file's text: UTF-8, or what its byte-order mark says, each line's end as ``\n``.

    Raises
    ------
    MpsimError
        As `read_bytes`, or it is no text.
    """
    encoding, data = _encoding(read_bytes(path, wanted, most=most, missing=missing))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _unread(path, f"it is not text ({error.reason} at byte {error.start})", wanted) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _encoding(data: bytes) -> tuple[str, bytes]:
    """Return how text is encoded, and its bytes without the mark that says so."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return encoding, data[len(mark) :]
    return "utf-8", data.removeprefix(codecs.BOM_UTF8)


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return what JSON says, as `json.loads`; lists in lists without end are refused.

    Raises
    ------
    json.JSONDecodeError
        It is not whole JSON.
    ValueError
        It is too deep, or has a number of thousands of digits.

    Examples
    --------
    >>> parse_json("[" * 200 + "]" * 200)
    Traceback (most recent call last):
    ...
    ValueError: lists and objects lie 100 deep in each other and deeper
    """
    if isinstance(text, bytes):
        encoding, data = _encoding(text)
        text = data.decode(encoding)
    try:
        found = json.loads(text, **hooks)
    except RecursionError:
        raise _too_deep() from None
    if _may_be_deep(text) and _is_deep(found):
        raise _too_deep()
    return found


def _too_deep() -> ValueError:
    return ValueError(f"lists and objects lie {_DEEPEST} deep in each other and deeper")


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _may_be_deep(text: str) -> bool:
    """Whether brackets remain when those that lie in each other are taken off so often; some may stand in names."""
    left = text.encode(errors="replace").translate(None, _NO_BRACKETS)
    for _ in range(_DEEPEST):
        if not left:
            return False
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return True


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(_DEEPEST):
        inside = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [item for items in inside for item in items]
    return bool(level)


@contextmanager
def _reading(path: str | Path, wanted: str, missing: Callable[[], str] | None) -> Iterator[BinaryIO]:
    try:
        if kind := _no_file(os.stat(path).st_mode, path):
            raise _unread(path, f"it is {kind}, no file", wanted)
        # Nothing else may have taken its place meanwhile, and be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY), "rb") as file:
            if kind := _no_file(os.fstat(file.fileno()).st_mode, path):
                raise _unread(path, f"it is {kind}, no file", wanted)
            if _NONBLOCK:
                os.set_blocking(file.fileno(), True)
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unread(path, f"{error}: its gzip was cut or edited, copy it again", "") from None
    except FileNotFoundError as error:
        if missing is not None:
            raise MpsimError(f"no file {str(path)!r}{missing()}") from None
        raise _unread(path, error.strerror, wanted) from None
    except OSError as error:
        raise _unread(path, error.strerror or str(error), wanted) from None
    except MpsimError:
        raise
    except ValueError as error:  # No path that a file can have.
        raise _unread(path, str(error), wanted) from None


def _unread(path: str | Path, why: str | None, wanted: str) -> MpsimError:
    return MpsimError(f"cannot read {str(path)!r}: {why}{'; ' if wanted else ''}{wanted}")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def _no_file(mode: int, path: str | Path) -> str:
    """Return what it is that is no file; of a file, and of a pipe that the shell made for this process, nothing."""
    if stat.S_ISFIFO(mode) and not os.path.exists(os.path.realpath(path)):
        return ""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def _is_packed(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b"


def _unpacked(data: bytes, path: str | Path, most: int) -> bytes:
    most = min(most, max(_ANY_RATIO, _MOST_RATIO * len(data)))
    found = io.BytesIO()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        while part := packed.read(_CHUNK):
            if found.tell() + len(part) > most:
                raise MpsimError(
                    f"cannot read {str(path)!r}: its {len(data):,} bytes unpack to more than {most:,}, the most that"
                    " are read"
                )
            found.write(part)
    return found.getvalue()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with writing(path) as file:
        file.write(text.encode())


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once the block ends well; no half of it is ever there.

    What a link names is written, and the link stays. A file that was there keeps its mode; a new one has what the umask
    leaves. ``-`` and ``/dev/stdout`` are this process's output, which gets the whole at once.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(folder + "/a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    try:
        stream = stream_of(path)
        if stream is None:
            with _replacing(check_target(path)) as file:
                yield file
        else:
            whole = io.BytesIO()
            yield whole
            _pour(whole.getvalue(), stream)
    except BrokenPipeError:
        raise  # Whoever read it has left.
    except OSError as error:
        raise MpsimError(f"cannot write {str(path)!r}: {error.strerror}; choose another place with -o") from None
    except MpsimError:
        raise
    except ValueError as error:  # Text that is no Unicode, or no path that a file can have.
        raise MpsimError(f"cannot write {str(path)!r}: {error}") from None


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        with suppress(FileNotFoundError):
            _like(temporary, os.stat(target))
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _like(temporary: Path, before: os.stat_result) -> None:
    """Give a file the mode, and where this process may, the owner, of the one that it replaces."""
    if hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(temporary, before.st_uid, before.st_gid)
    os.chmod(temporary, stat.S_IMODE(before.st_mode) & 0o777)


def check_target(path: str | Path) -> Path:
    """Return the file that writing to `path` replaces: what a link names.

    Raises
    ------
    MpsimError
        It is no file, the system's own, or one that may not be written.
    OSError
        A folder on the way cannot be read, or links lead in a circle.

    Examples
    --------
    >>> check_target("/dev/null")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: '/dev/null' is a device: it is not a file, name the file to write
    """
    target = Path(os.path.realpath(path))
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise MpsimError(f"{str(path)!r} is {kind}: it is not a file, name the file to write")
    if target.parts[:2] in (("/", "dev"), ("/", "proc"), ("/", "sys")) and target.parts[:3] != ("/", "dev", "shm"):
        raise MpsimError(f"{str(path)!r} is the system's: name a file of your own to write")
    if mode is not None and not os.access(target, os.W_OK):
        raise MpsimError(f"{str(path)!r} may not be written (its mode is {stat.S_IMODE(mode):o}): name another file")
    return target


_STREAMS = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}


def stream_of(path: str | Path) -> int | None:
    """Return the descriptor of this process that a path means, itself or by links; None: it means a file.

    Examples
    --------
    >>> stream_of("-"), stream_of("/dev/fd/7"), stream_of("a.json")
    (1, 7, None)
    """
    text = os.fspath(path)
    for _ in range(40):
        if text in _STREAMS:
            return _STREAMS[text]
        if match := re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,6})", text):
            return int(match[1])
        try:
            text = os.path.join(os.path.dirname(text), os.readlink(text))
        except (OSError, ValueError):
            break
    return None


def _pour(data: bytes, descriptor: int) -> None:
    """Write to a stream of this process, behind what was printed before."""
    printed = {1: sys.stdout, 2: sys.stderr}.get(descriptor)
    if printed is not None and (buffer := getattr(printed, "buffer", None)) is not None:
        printed.flush()
        buffer.write(data)
        buffer.flush()
        return
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)


# A spreadsheet takes text that begins so for a formula, and runs it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def in_cell(text: str) -> str:
    """Return text as a cell of a table that people open in spreadsheets: no formula, an apostrophe before it.

    Examples
    --------
    >>> in_cell("=1+1"), in_cell("gpipe"), of_cell(in_cell("'=1+1"))
    ("'=1+1", 'gpipe', "'=1+1")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def of_cell(cell: str) -> str:
    """Return the text of a cell that `in_cell` made."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell
