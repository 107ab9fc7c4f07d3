"""The workload and the topology of a table's rows, where their files still stand beside it or where one works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.files import read_head
from mpsim.sweeps.model import SweepResult
from mpsim.sweeps.question import digest

__all__ = ["file_beside"]

_MOST_FILES, _HEAD_BYTES = 300, 4_000
_NAMED = re.compile(r'\s*\{\s*"schema"\s*:\s*"mpsim\.(\w+)/\d+"\s*,\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_PARTS = {"workload": 1, "topology": 2}  # where the digest of each stands in the question of a row


def file_beside(sweep: SweepResult, table: str, noun: str, load: Callable[[str], Any]) -> str:
    """Return the file of the very workload or topology that all rows of a table are of; "" if none is found.

    Parameters
    ----------
    sweep : SweepResult
        The table's rows.
    table : str
        Its path: files are looked for in its folder and in this one, and in their folders ``workloads``.
    noun : str
        ``workload`` or ``topology``.
    load : callable
        Reads such a file.

    Examples
    --------
    >>> file_beside(SweepResult(rows=(), planned=0), "none.csv", "workload", str)
    ''
    """
    asked = {(row[noun], str(row["question"] or "").partition(":")[0]) for row in sweep.rows}
    wanted = {(name, question.split("-")[_PARTS[noun]]) for name, question in asked if question.count("-") > 1}
    if len(wanted) != 1:
        return ""
    ((name, part),) = wanted
    for path in islice(_files(table), _MOST_FILES):
        try:
            head = _NAMED.match(read_head(path, _HEAD_BYTES))
            if head and head[1] == noun and json.loads(head[2]) == name and digest(load(str(path))).startswith(part):
                return str(path)
        except (MpsimError, ValueError):
            continue  # whatever else stands there
    return ""


def _files(table: str) -> Iterator[Path]:
    folders = [Path(table).parent, Path()]
    for folder in dict.fromkeys((*folders, *(one / "workloads" for one in folders))):
        yield from sorted(path for path in folder.glob("*.json") if path.is_file())
