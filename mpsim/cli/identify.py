"""What kind of mpsim file something is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mpsim import documents
from mpsim.errors import MpsimError

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
    try:
        with open(path, encoding="utf-8") as file:
            head = file.read(200)
    except (OSError, UnicodeDecodeError) as error:
        raise MpsimError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    match = re.match(r'\s*\{\s*"schema"\s*:\s*"mpsim\.([a-z]+)/\d+"', head)
    if match and match[1] in NOUNS:
        return match[1]
    return _from_whole(path)


def _from_whole(path: str) -> str:
    """Look for a schema that does not come first, in a file that was edited; or say what is wrong with the file."""
    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8")).get("schema")
    except (ValueError, AttributeError):
        schema = None
        documents.read(path, "workload", 1, documents.Provenance)  # says where the JSON ends, or that it has no schema
    match = re.fullmatch(r"mpsim\.([a-z]+)/\d+", str(schema))
    if match is None or match[1] not in NOUNS:
        raise MpsimError(f"{path}: schema is {schema!r}, expected mpsim.workload/1, or one of {', '.join(NOUNS[1:])}")
    return match[1]
