"""Read logs of nccl-tests (https://github.com/NVIDIA/nccl-tests), and results that a real run of mpsim's left.

A table of nccl-tests::

    #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
    #        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
            1024           256     float     sum      -1    22.41    0.05    0.09      0    21.98    0.05    0.09      0

The out-of-place times are taken. The kind of collective stands above the table (``all_reduce_perf``) or in the file's
name; the number of ranks follows from the lines ``# Rank`` above the table, else from the ratio of the two bandwidths.
A log of several runs has several tables, each with its own kind and ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mpsim.calibrate.measurement import KINDS, LEAST_S, MOST_BYTES, MOST_S, Measurement
from mpsim.errors import MpsimError
from mpsim.result.file import load_result

__all__ = ["read_log"]

# The programs of nccl-tests, and their kinds of collective; the longer names first.
_KINDS = {
    "reduce_scatter": "reduce_scatter",
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "broadcast": "broadcast",
    "sendrecv": "send_receive",
    "gather": "gather",
    "scatter": "scatter",
    "reduce": "reduce",
}
_UNITS = {"size": "(B)", "time": "(us)", "algbw": "(GB/s)", "busbw": "(GB/s)"}
# What a row begins with: a number, or what was one before somebody wrote it shorter.
_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?[A-Za-z]{0,3}")


def read_log(path: str | Path) -> tuple[Measurement, ...]:
    """Return what a log measured.

    Raises
    ------
    MpsimError
        No such file, no table in it, no units or others than bytes and microseconds, a row that is none or whose
        values came out wrong, a kind or number of ranks that it does not tell.

    Examples
    --------
    >>> import tempfile
    >>> text = "# all_reduce_perf\\n# size time algbw busbw\\n# (B) (us) (GB/s) (GB/s)\\n1048576 50.0 21.0 36.75\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.log").write_text(text)
    ...     [(one.kind, one.ranks, one.bytes) for one in read_log(folder + "/a.log")]
    [('all_reduce', 8, 1048576)]
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MpsimError(f"cannot read {str(path)!r}: {error.strerror}; name a log of nccl-tests") from None
    except ValueError:
        raise MpsimError(f"cannot read {str(path)!r}: it is no text; name a log of nccl-tests") from None
    if text.lstrip().startswith("{"):
        return _of_result(path)
    # What mpirun --tag-output puts before each line says nothing.
    lines = [re.sub(r"^\[\d+,\d+\]<std(out|err)>: ?", "", line) for line in text.splitlines()]
    tables = [table for table in _tables(path, lines) if table.rows]
    if not tables:
        raise MpsimError(f"{path}: no table of nccl-tests in it: a line of size, time, algbw, busbw, and rows below")
    return tuple(
        Measurement(kind=kind, ranks=ranks, bytes=row.size, seconds=row.time_us * 1e-6, source=f"{path}:{row.line}")
        for kind, ranks, rows in tables
        for row in rows
    )


class _Row(NamedTuple):
    line: int
    size: int
    time_us: float
    algbw: float
    busbw: float


class _Table(NamedTuple):
    kind: str
    ranks: int
    rows: list[_Row]


def _tables(path: Path, lines: Sequence[str]) -> Iterator[_Table]:
    """Yield each table: what stands between the one before and its head is told of it, or else as of the one before."""
    heads = [i for i, line in enumerate(lines) if {"size", "time", "busbw"} <= set(_words(line))]
    kind, ranks = "", 0
    for before, head, after in zip([-1, *heads], heads, [*heads[1:], len(lines)], strict=False):
        above = lines[before + 1 : head]
        rows = list(_rows(path, head, lines[head:after]))
        if told := _kinds_told(above):
            kind, ranks = told[-1], 0  # The nearest to the table: a script may list all that it runs.
        ranks = _ranks_told(path, above) or ranks
        if rows:
            kind = kind or _kind_of_all(path, lines)
            yield _Table(kind, ranks or _ranks_by_bandwidths(path, kind, rows), rows)


def _words(line: str) -> list[str]:
    return line.replace("#wrong", "wrong").lstrip("# ").split()


def _rows(path: Path, head: int, lines: Sequence[str]) -> Iterator[_Row]:
    """Yield the rows of a table; its first line is the head, which stands on line `head` of the file, from 0."""
    names, units = _words(lines[0]), False
    for number, line in enumerate(lines[1:], start=head + 2):
        words = _words(line)
        if line.lstrip().startswith("#"):
            if re.search(r"\((us|ms|s|ns)\)", line):
                _check_units(f"{path}:{number}", words)
                units = True
        elif words and (_NUMBER.fullmatch(words[0]) or words[0].isnumeric()):
            if not units:
                raise MpsimError(f"{path}:{head + 1}: the table has no line of units below its head: keep (B), (us)")
            row = _row(f"{path}:{number}", number, names, words)
            # Of few bytes over many ranks nccl-tests moves none, and says 0: nothing was measured.
            if row.size:
                yield row


def _check_units(where: str, words: Sequence[str]) -> None:
    """Refuse a line of units with others than a table of nccl-tests has."""
    units = [word for word in words if word.startswith("(") and word != "(elements)"]
    for unit, expected in zip(units, ("(B)", "(us)", "(GB/s)", "(GB/s)"), strict=False):
        if unit != expected:
            raise MpsimError(f"{where}: the table is in {unit} where {expected} is due: convert it, or log again")


def _row(where: str, number: int, names: Sequence[str], words: Sequence[str]) -> _Row:
    try:
        size, *found = (words[names.index(name)] for name in _UNITS)
        time_us, algbw, busbw = map(float, found)
        wrong = words[names.index("wrong")] if "wrong" in names else "0"
    except (IndexError, ValueError):
        size = ""
    if not (size.isascii() and size.isdecimal()):
        shown = " ".join(words)[:80]
        raise MpsimError(f"{where}: {shown!r} is no row of {' '.join(names)}: it was cut or edited")
    if len(size) > 19 or int(size) > MOST_BYTES:
        raise MpsimError(f"{where}: a size of {len(size)} digits is no tensor's: it was edited")
    if int(size) and not LEAST_S <= time_us * 1e-6 <= MOST_S:
        raise MpsimError(f"{where}: {size} bytes in {time_us} us: expected more than 0, and less than days")
    if wrong.isdecimal() and int(wrong[:9]):
        raise MpsimError(f"{where}: {wrong[:20]} values came out wrong (#wrong): the run was broken, log it again")
    return _Row(number, int(size), time_us, algbw, busbw)


def _kinds_told(lines: Sequence[str]) -> list[str]:
    """Return the kinds whose programs are named, in order."""
    told = [word for line in lines for word in re.findall(r"(\w+)_perf", line)]
    return [kind for word in told for kind in [_kind_in(word)] if kind]


def _kind_in(word: str) -> str:
    return next((kind for name, kind in _KINDS.items() if name in word.lower()), "")


def _kind_of_all(path: Path, lines: Sequence[str]) -> str:
    """Return the kind of a table above which none stands: what the log tells below it, or its name."""
    kind = next(iter(_kinds_told(lines)), "") or _kind_in(path.stem)
    if not kind:
        raise MpsimError(
            f"{path}: neither the log nor its name tells the collective: rename it, as in all_reduce_perf.log"
        )
    return kind


def _ranks_told(path: Path, lines: Sequence[str]) -> int:
    """Return how many ranks the lines ``# Rank`` tell; 0 where there are none."""
    ranks: set[int] = set()
    for line in lines:
        if match := re.match(r"#\s+Rank\s+(\d{1,9})\b", line):
            # The same rank once more: another run began.
            ranks = {int(match[1])} if int(match[1]) in ranks else ranks | {int(match[1])}
    missing = next((rank for rank in range(len(ranks)) if rank not in ranks), None)
    if missing is not None:
        raise MpsimError(f"{path}: its lines '# Rank' go to {max(ranks)} and tell no rank {missing}: the log was cut")
    return len(ranks)


def _ranks_by_bandwidths(path: Path, kind: str, rows: Sequence[_Row]) -> int:
    """Return the ranks by busbw/algbw, which is 2(n-1)/n of an all-reduce and (n-1)/n of what has half its traffic."""
    twice = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1, "gather": 1, "scatter": 1}
    best = max(rows, key=lambda row: row.algbw)
    part = best.busbw / best.algbw / twice[kind] if kind in twice and best.algbw else 1.0
    if not 0.4 < part < 0.9999:
        raise MpsimError(f"{path}: it does not tell the number of ranks: keep its lines '# Rank'")
    return round(1 / (1 - part))


def _of_result(path: Path) -> tuple[Measurement, ...]:
    """Return the collectives of a real run."""
    result = load_result(path)
    if result.made_by != "emulate":
        raise MpsimError(f"{path} is a simulation's result: calibrate on what a real run measured (mpsim emulate -o)")
    spans = result.spans
    found = [
        Measurement(kind=kind, ranks=len(devices), bytes=size, seconds=end - start, source=f"{path}: {name}")
        for name, kind, devices, size, start, end in zip(
            spans.name, spans.kind, spans.devices, spans.bytes, spans.start_s, spans.end_s, strict=True
        )
        if kind in KINDS and len(devices) > 1 and size and end > start
    ]
    if not found:
        raise MpsimError(f"{path}: the run has no collectives: calibrate on one with dp or tp above 1")
    return tuple(found)
