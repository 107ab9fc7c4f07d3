"""What nccl-tests (``-J``) and rccl-tests (``-Z json``, ``-Z csv``) write for programs: each row a record of its own.

rccl-tests (https://github.com/ROCm/rccl-tests) has a record for each side of a row, its kind and ranks with it. Its
sizes are what a rank receives, so that of a reduce-scatter and a scatter they are one rank's part. Under MPI the rows
of its CSV have one cell more than the head names: the number of nodes, behind the collective.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mpsim.calibration.row import NUMBER, Row, Side, holds, printed, whole_size
from mpsim.calibration.spelling import kinds_in
from mpsim.errors import MpsimError
from mpsim.files import parse_json

__all__ = ["Records", "records_of_csv", "records_of_json"]

_OF_A_PART = ("reduce_scatter", "scatter")
_NEEDED = ("size", "time", "algbw", "busbw")


class Records(NamedTuple):
    """Rows of one kind over one number of ranks, each as far as it is told: "" and 0 where it is not."""

    kind: str
    groups: tuple[tuple[int, ...], ...]
    rows: list[Row]


def records_of_json(path: str, text: str) -> list[Records] | None:
    """Return what a file of nccl-tests or rccl-tests measured; None of any other file.

    Raises
    ------
    MpsimError
        A record without size, time and bandwidths.

    Examples
    --------
    >>> text = '{"name":"AllReduce", "ranks":4, "gpusPerRank":2, "size":1048576, "inPlace":0, "time":50.0, '
    >>> text += '"algBw":20.97, "busBw":36.70, "wrong":"0"}'
    >>> [(one.kind, len(one.groups[0]), one.rows[0].size) for one in records_of_json("a.json", text)]
    [('all_reduce', 8, 1048576)]
    """
    found = _loaded(text)
    if isinstance(found, dict) and isinstance(found.get("results"), list) and "schema" not in found:
        return [one for one in [_of_nccl_tests(path, found)] if one.rows]
    objects = found if isinstance(found, list) else [found]
    records = [{str(name).lower(): _text(cell) for name, cell in one.items()} for one in objects
               if isinstance(one, dict)]  # fmt: skip
    if not records or not any("busbw" in one for one in records):
        return None
    return _of_records(path, [(f"{path}: record {i}", one) for i, one in enumerate(records, start=1)])


def records_of_csv(path: str, text: str) -> list[Records] | None:
    """Return what a table of values parted by commas measured; None of any other file.

    Examples
    --------
    >>> text = "collective, gpus, size, inplace, time, algbw, busbw\\nAllGather, 8, 1048576, 0, 50.0, 20.97, 18.35\\n"
    >>> [(one.kind, len(one.groups[0]), one.rows[0].where) for one in records_of_csv("a.csv", text)]
    [('all_gather', 8, 'a.csv:2')]
    """
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if set(_NEEDED) <= set(_names(line.split(",")))), None)
    if at is None:
        return None
    names = _names(lines[at].split(","))
    # Behind the collective's name, of which the head says nothing.
    behind = names.index("collective") + 1 if "collective" in names else 0
    records = []
    for number, cells in enumerate(csv.reader(lines[at + 1 :], skipinitialspace=True), start=at + 2):
        more = ["nodes"] if len(cells) == len(names) + 1 and "nodes" not in names else []
        if cells and _names(cells) != names:
            if len(cells) != len(names) + len(more):
                raise MpsimError(
                    f"{path}:{number}: {len(cells)} cells below {len(names)} columns ({', '.join(names)}): it was cut"
                    " or edited"
                )
            named = (*names[:behind], *more, *names[behind:])
            records.append((f"{path}:{number}", dict(zip(named, (cell.strip() for cell in cells), strict=True))))
    return _of_records(path, records)


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip(' "#').lower() for cell in cells]


def _loaded(text: str) -> Any:
    """Return what JSON says, numbers as they were printed; of several objects one after another a list; else None."""
    try:
        return parse_json(text, parse_float=str, parse_int=str)
    except ValueError:
        pass
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    try:
        return [parse_json(line, parse_float=str, parse_int=str) for line in lines if line.strip("[] \t")]
    except ValueError:
        return None


def _text(cell: object) -> str:
    return str(cell).lower() if isinstance(cell, float) else "" if cell is None else str(cell).strip()


def _of_records(path: str, records: Sequence[tuple[str, Mapping[str, str]]]) -> list[Records]:
    sides = {one.get("inplace", "0") for _, one in records}
    taken = "0" if "0" in sides else "1"
    kept = [(where, one) for where, one in records if one.get("inplace", "0") == taken]
    found = []
    for (kind, ranks), group in groupby(kept, key=lambda item: (_kind(item[1]), _ranks(*item))):
        rows = [row for where, one in group for row in [_row(where, one, kind, ranks)] if row.size]
        if rows:
            found.append(Records(kind, (tuple(range(ranks)),) if ranks else (), rows))
    return found


def _kind(record: Mapping[str, str]) -> str:
    kinds = kinds_in(record.get("collective") or record.get("name", ""))
    return kinds[0] if len(kinds) == 1 else ""


def _ranks(where: str, record: Mapping[str, str]) -> int:
    """Return how many ranks took part: processes times the devices of each."""
    names = ("ranks", "gpusperrank") if "ranks" in record else ("gpus",)
    ranks = 1
    for name in names:
        cell = record.get(name, "1" if name == "gpusperrank" else "0")
        if not re.fullmatch(r"\d{1,9}", cell):
            raise MpsimError(f"{where}: {name} is {cell[:40]!r}, expected a number: it was edited")
        ranks *= int(cell)
    return ranks


def _row(where: str, record: Mapping[str, str], kind: str, ranks: int) -> Row:
    time_us, algbw, busbw = _cells(where, record, _NEEDED[1:])
    if not re.fullmatch(r"\d+", record.get("size", ""), re.ASCII):
        raise MpsimError(f"{where}: size is {record.get('size', '')[:40]!r}, expected bytes: it was cut or edited")
    size = whole_size(where, record["size"])
    wrong = record.get("wrong", record.get("#wrong", ""))
    side = Side(printed(time_us), printed(algbw), printed(busbw), wrong)
    if kind in _OF_A_PART and ranks and not holds(size, side) and holds(size * ranks, side):
        size *= ranks
    return Row(where=where, size=size, sides=(side,))


def _cells(where: str, record: Mapping[str, str], names: Sequence[str]) -> list[str]:
    for name in names:
        if not NUMBER.fullmatch(record.get(name, "")):
            raise MpsimError(
                f"{where}: {name} is {record.get(name, '')[:40]!r}, expected a number: it was cut or edited"
            )
    return [record[name] for name in names]


# nccl-tests


def _of_nccl_tests(path: str, found: Mapping[str, Any]) -> Records:
    rows = []
    for i, one in enumerate(found["results"]):
        where = f"{path}: results[{i}]"
        if not isinstance(one, dict):
            raise MpsimError(f"{where} is no object: the JSON of nccl-tests was edited")
        sides = [_side(where, one[name]) for name in ("out_of_place", "in_place") if isinstance(one.get(name), dict)]
        if not sides or not re.fullmatch(r"\d+", _text(one.get("size")), re.ASCII):
            raise MpsimError(
                f"{where} has no size or no side that was measured: the JSON of nccl-tests was cut or edited"
            )
        rows.append(Row(where=where, size=whole_size(where, _text(one["size"])), sides=tuple(sides)))
    arguments = found.get("args")
    program = str(arguments[0]).rpartition("/")[2] if isinstance(arguments, list) and arguments else ""
    named = [program, *(_text(one.get("experiment_name")) for one in found["results"])]
    kinds = list(dict.fromkeys(kind for name in named for kind in kinds_in(name)))
    return Records(kinds[0] if len(kinds) == 1 else "", _groups(path, found.get("config")), [r for r in rows if r.size])


def _side(where: str, side: Mapping[str, Any]) -> Side:
    if "cpu_time" in side:
        raise MpsimError(f"{where} has the host's time (cpu_time), in which nothing need be done: run without -C")
    record = {name.replace("_", ""): _text(cell) for name, cell in side.items()}
    time_us, algbw, busbw = _cells(where, record, _NEEDED[1:])
    return Side(printed(time_us), printed(algbw), printed(busbw), record.get("nwrong", ""))


def _groups(path: str, config: object) -> tuple[tuple[int, ...], ...]:
    """Return the ranks of each group; of each process nccl-tests writes its first rank only."""
    try:
        devices = [(int(one["rank"]), int(one.get("group", 0))) for one in config["devices"]]  # type: ignore[index]
        each = int(config["nthreads"]) * int(config["ngpus"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return ()
    first = sorted(rank for rank, _ in devices)
    if not 1 <= each <= 1024 or first != [i * each for i in range(len(first))]:
        each = 1
        if first != list(range(len(first))):
            raise MpsimError(f"{path}: its devices are ranks {', '.join(map(str, first[:8]))}: some are missing")
    groups: dict[int, list[int]] = {}
    for rank, group in sorted(devices):
        groups.setdefault(group, []).extend(range(rank, rank + each))
    return tuple(map(tuple, groups.values()))
