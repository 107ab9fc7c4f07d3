"""Read logs of nccl-tests (https://github.com/NVIDIA/nccl-tests), and results that a real run of mpsim's left.

A table of nccl-tests::

    #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
    #        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
            1024           256     float     sum      -1    22.41    0.05    0.09      0    21.98    0.05    0.09      0

The out-of-place times are taken. The kind of collective stands in the log or in the file's name (``all_reduce_perf``);
the number of ranks follows from its lines ``# Rank``, else from the ratio of the two bandwidths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpsim.errors import MpsimError
from mpsim.result.file import load_result

__all__ = ["Measurement", "read_log"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured collective.

    Attributes
    ----------
    kind : str
        As `mpsim.program.collectives.collective` names it.
    ranks : int
        That took part: taken to be the first devices of the topology.
    bytes : int
        The whole tensor.
    seconds : float
        That it took.
    source : str
        Where it stands.
    """

    kind: str
    ranks: int
    bytes: int
    seconds: float
    source: str = ""


def read_log(path: str | Path) -> tuple[Measurement, ...]:
    """Return what a log measured.

    Raises
    ------
    MpsimError
        No such file, no table in it, units other than bytes and microseconds, a row that is none, a kind or number of
        ranks that it does not tell.

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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MpsimError(f"cannot read {str(path)!r}: {error.strerror}; name a log of nccl-tests") from None
    except ValueError:
        raise MpsimError(f"cannot read {str(path)!r}: it is no text; name a log of nccl-tests") from None
    if text.lstrip().startswith("{"):
        return _of_result(path)
    lines = text.splitlines()
    rows = list(_rows(path, lines))
    if not rows:
        raise MpsimError(f"{path}: no table of nccl-tests in it: a line of size, time, algbw, busbw, and rows below")
    kind = _kind(path, text)
    ranks = sum(bool(re.match(r"#\s+Rank\s+\d+", line)) for line in lines) or _ranks_by_bandwidths(path, kind, rows)
    if ranks < 2:
        raise MpsimError(f"{path}: {kind} over {ranks} rank: it takes at least 2")
    return tuple(
        Measurement(kind=kind, ranks=ranks, bytes=int(size), seconds=time_us * 1e-6, source=f"{path}:{number}")
        for number, (size, time_us, _, _) in rows
    )


_Row = tuple[int, tuple[float, float, float, float]]


def _rows(path: Path, lines: Sequence[str]) -> Iterable[_Row]:
    """Yield line number and (bytes, microseconds, algbw, busbw) of every row below a table's head."""
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        words = line.replace("#wrong", "wrong").lstrip("#").split()
        if {"size", "time", "busbw"} <= set(words):
            names = words
        elif names and line.lstrip().startswith("#") and "(us)" in line.replace("(ms)", "(us)").replace("(s)", "(us)"):
            _check_units(f"{path}:{number}", words)
        elif names and words and words[0].isdigit() and not line.lstrip().startswith("#"):
            row = _row(f"{path}:{number}", names, words)
            # Of few bytes over many ranks nccl-tests moves none, and says 0: nothing was measured.
            if row[0]:
                yield number, row


def _check_units(where: str, words: Sequence[str]) -> None:
    """Refuse a line of units with others than a table of nccl-tests has."""
    units = [word for word in words if word.startswith("(") and word != "(elements)"]
    for unit, expected in zip(units, ("(B)", "(us)", "(GB/s)", "(GB/s)"), strict=False):
        if unit != expected:
            raise MpsimError(f"{where}: the table is in {unit} where {expected} is due: convert it, or log again")


def _row(where: str, names: Sequence[str], words: Sequence[str]) -> tuple[float, float, float, float]:
    try:
        size, time_us, algbw, busbw = (float(words[names.index(name)]) for name in _UNITS)
    except (IndexError, ValueError):
        raise MpsimError(f"{where}: {' '.join(words)!r} is no row of {' '.join(names)}: it was cut") from None
    if size and not (0 < time_us < float("inf")):
        raise MpsimError(f"{where}: {size:.0f} bytes in {time_us} us: expected more than 0")
    return size, time_us, algbw, busbw


def _kind(path: Path, text: str) -> str:
    """Return the kind that the log or its name tells."""
    for told in [*re.findall(r"(\w+)_perf", text), path.stem.lower()]:
        for name, kind in _KINDS.items():
            if name in told:
                return kind
    raise MpsimError(f"{path}: neither the log nor its name tells the collective: rename it, as in all_reduce_perf.log")


def _ranks_by_bandwidths(path: Path, kind: str, rows: Sequence[_Row]) -> int:
    """Return the ranks by busbw/algbw, which is 2(n-1)/n of an all-reduce and (n-1)/n of what has half its traffic."""
    twice = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1, "gather": 1, "scatter": 1}
    _, (_, _, algbw, busbw) = max(rows, key=lambda row: row[1][2])
    part = busbw / algbw / twice[kind] if kind in twice and algbw else 1.0
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
        if kind in _KINDS.values() and len(devices) > 1 and size and end > start
    ]
    if not found:
        raise MpsimError(f"{path}: the run has no collectives: calibrate on one with dp or tp above 1")
    return tuple(found)
