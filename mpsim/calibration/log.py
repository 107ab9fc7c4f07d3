"""Read what collectives took: logs of nccl-tests (https://github.com/NVIDIA/nccl-tests), or results of real runs.

The out-of-place times are taken. The kind of collective stands above a table (``all_reduce_perf``) or in the file's
name; the ranks in the lines ``# Rank`` above the table. Where these are in groups (``NCCL_TESTS_SPLIT``), a table is of
the group of rank 0. Each row is held against itself, its kind and its ranks; where no line tells those, the ratio of
the two bandwidths does. A log of several runs has several tables, each with its own kind and ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpsim.calibration.measurement import KINDS, Measurement
from mpsim.calibration.records import Records, records_of_csv, records_of_json
from mpsim.calibration.row import check_ratio, check_row, factor, fits, ranks_by_bandwidths
from mpsim.calibration.spelling import kinds_in, kinds_told
from mpsim.calibration.table import tables_of
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.files import read_text
from mpsim.result.file import load_result

__all__ = ["read_log"]

_Groups = tuple[tuple[int, ...], ...]
_NONE: _Groups = ()
_RANK = re.compile(r"(?:#\s*|(?<!\w))Rank\s+(\d{1,9})\b(?:\s+Group\s+(\d{1,9})\b)?")


@checked
def read_log(path: str | Path) -> tuple[Measurement, ...]:
    """Return what a log measured.

    Raises
    ------
    MpsimError
        No such file, no table in it, no units or others than bytes and microseconds, a row that is none, whose values
        came out wrong or whose columns contradict each other, a kind or number of ranks that it does not tell.

    Examples
    --------
    >>> import tempfile
    >>> text = "# all_reduce_perf\\n# size time algbw busbw\\n# (B) (us) (GB/s) (GB/s)\\n1048576 50.0 20.97 36.70\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.log").write_text(text)
    ...     [(one.kind, one.ranks, one.bytes) for one in read_log(folder + "/a.log")]
    [('all_reduce', 8, 1048576)]
    """
    path = Path(path)
    text = read_text(path, "name a log of nccl-tests")
    records = None
    if text.lstrip()[:1] in ("{", "["):
        records = records_of_json(str(path), text)
        if records is None and text.lstrip().startswith("{"):
            return _of_result(path)
    if records is None:
        records = records_of_csv(str(path), text)
    if records is None:
        records = list(_of_tables(path, text))
    if not records:
        raise MpsimError(f"{path}: no table of nccl-tests in it: {_missing(text)}")
    return tuple(one for table in records for one in _measurements(path, table))


def _missing(text: str) -> str:
    if re.search(r"\bcputime\s+algbw\b", text):
        return "its times are the host's (cputime), a line of size, time, algbw, busbw is needed: log without -C"
    return "a line of size, time, algbw, busbw, and rows below"


def _of_tables(path: Path, text: str) -> Iterator[Records]:
    """Yield each table: what stands between the one before and its head is told of it, or else as of the one before."""
    kind, groups = "", _NONE
    of_all = next(filter(None, kinds_told(text.splitlines())), "")
    for table in tables_of(str(path), text):
        if told := kinds_told(table.above):
            kind, groups = told[-1], _NONE  # The nearest to the table: a script may list all that it runs.
            of_all = of_all if kind else ""
        groups = _groups_told(path, table.above) or groups
        yield Records(kind or of_all, groups, table.rows)


def _groups_told(path: Path, lines: Sequence[str]) -> _Groups:
    """Return the ranks of each group that the lines ``# Rank`` tell; none where there are none."""
    found: dict[int, int] = {}
    for line in lines:
        if match := _RANK.search(line):
            rank = int(match[1])
            # The same rank once more: another run began.
            found = {} if rank in found else found
            found[rank] = int(match[2] or 0)
    missing = next((rank for rank in range(len(found)) if rank not in found), None)
    if missing is not None:
        raise MpsimError(f"{path}: its lines '# Rank' go to {max(found)} and tell no rank {missing}: the log was cut")
    groups: dict[int, list[int]] = {}
    for rank in sorted(found):
        groups.setdefault(found[rank], []).append(rank)
    return tuple(map(tuple, groups.values()))


def _measurements(path: Path, table: Records) -> Iterator[Measurement]:
    for row in table.rows:
        check_row(row)
    kind = table.kind or _kind_by_name(path, table)
    ranks = table.groups[0] if table.groups else tuple(range(ranks_by_bandwidths(kind, table.rows)))
    if not ranks:
        raise MpsimError(f"{path}: it does not tell the number of ranks: keep its lines '# Rank'")
    for row in table.rows:
        if len(ranks) > 1:
            check_ratio(row, kind, len(ranks))
        first = row.sides[0]
        yield Measurement(
            kind=kind,
            ranks=len(ranks),
            bytes=row.size,
            seconds=first.time_us.value * 1e-6,
            source=row.where,
            places=() if len(table.groups) < 2 else ranks,
        )


def _kind_by_name(path: Path, table: Records) -> str:
    """Return the kind that the file's name tells; of several the one that the bandwidths admit."""
    kinds = kinds_in(path.stem)
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if _admits(kind, table)]
    if len(kinds) != 1:
        raise MpsimError(
            f"{path}: neither the log nor its name tells the collective: rename it, as in all_reduce_perf.log"
        )
    return kinds[0]


def _admits(kind: str, table: Records) -> bool:
    n = len(table.groups[0]) if table.groups else ranks_by_bandwidths(kind, table.rows)
    return n > 1 and all(fits(side, factor(kind, n)) for row in table.rows for side in row.sides)


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
