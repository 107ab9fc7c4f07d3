"""What kind of mpsim file something is."""

from __future__ import annotations

import re
from pathlib import Path

from mpsim import documents
from mpsim.errors import MpsimError
from mpsim.files import parse_json, read_head, read_text

__all__ = ["NOUNS", "noun_of"]

NOUNS = ("workload", "topology", "plan", "result", "goodput")


def noun_of(path: str) -> str:
    """Return the noun of a file's schema, ``sweep`` for a table.

    Raises
    ------
    MpsimError
        No such file, not whole JSON, or of no kind that is known.
    """
    if Path(path).suffix.lower() in (".csv", ".parquet"):
        return "sweep"
    match = re.match(r'\s*\{\s*"schema"\s*:\s*"mpsim\.([a-z]+)/\d+"', read_head(path, 200))
    if match and match[1] in NOUNS:
        return match[1]
    return _from_whole(path)


def _from_whole(path: str) -> str:
    """Look for a schema that does not come first, in a file that was edited; or say what is wrong with the file."""
    try:
        schema = parse_json(read_text(path)).get("schema")
    except (ValueError, AttributeError):
        schema = None
    if schema is None:  # Not while the error holds on to what was read.
        documents.read(path, "workload", 1, documents.Provenance)  # says where the JSON ends, or that it has no schema
    match = re.fullmatch(r"mpsim\.([a-z]+)/\d+", str(schema))
    if match is None or match[1] not in NOUNS:
        raise MpsimError(f"{path}: schema is {schema!r}, expected mpsim.workload/1, or one of {', '.join(NOUNS[1:])}")
    return match[1]
