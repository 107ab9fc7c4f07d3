"""Where output goes: files that are checked before anything is computed, JSON, notes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mpsim.errors import MpsimError

__all__ = ["DOCUMENTS", "PICTURES", "TABLES", "json_option", "output_option", "print_json", "table_text", "tell"]

# What a suffix promises; a file of another kind is refused. "" is any suffix that promises nothing else.
DOCUMENTS = (".json", "")
PICTURES = (".png", ".svg", ".pdf")
TABLES = (".csv", ".parquet")


def output_option(
    *names: str, what: str, suffixes: tuple[str, ...], required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option for a file to write, refused at once where it could not be written."""

    def check(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
        if path is not None:
            check_output(path, option.opts[0], suffixes)
        return path

    return click.option(*names, metavar="FILE", callback=check, required=required, help=what)


def check_output(path: str, option: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that could not be written, or whose suffix promises something else.

    Raises
    ------
    MpsimError
        No such folder, a folder, a device, no permission, or another suffix.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    promised = suffix if suffix in (*DOCUMENTS, *PICTURES, *TABLES) else ""
    if promised not in suffixes:
        expected = " or ".join(known for known in suffixes if known)
        raise MpsimError(f"{option} {path!r}: its suffix is {suffix!r}, expected {expected}")
    if not target.parent.is_dir():
        raise MpsimError(f"{option} {path!r}: there is no folder {str(target.parent)!r}: make it first")
    if target.exists() and not target.is_file():
        raise MpsimError(f"{option} {path!r} is not a file: name the file to write")
    if not os.access(target.parent, os.W_OK):
        raise MpsimError(f"{option} {path!r}: no permission to write into {str(target.parent)!r}: choose another place")


def check_apart(outputs: Mapping[str, str | None], inputs: Iterable[str | None] = ()) -> None:
    """Refuse two outputs, by their option, to one file, and an output over a file that is read.

    Raises
    ------
    MpsimError
        They are one file.
    """
    seen: dict[str, str] = {}
    written = {name: path for name, path in outputs.items() if path}
    check_kept(written.values(), inputs)
    for name, path in written.items():
        target = os.path.realpath(path)
        if target in seen:
            raise MpsimError(f"--{seen[target]} and --{name} both write {path!r}: name two files")
        seen[target] = name


def check_kept(outputs: Iterable[str | Path], inputs: Iterable[str | Path | None]) -> None:
    """Refuse an output over a file that is read.

    Raises
    ------
    MpsimError
        It would be lost.
    """
    read = {os.path.realpath(path) for path in inputs if path and Path(path).is_file()}
    for output in outputs:
        if os.path.realpath(output) in read:
            raise MpsimError(f"{str(output)!r} is read, and written over it would be lost: name another file to write")


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, units in its keys.")


def print_json(value: dict[str, Any]) -> None:
    """Print one object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def tell(text: str) -> None:
    """Say something that is no part of the output."""
    click.echo(text, file=sys.stderr)


def table_text(rows: Sequence[Sequence[str]], left: Sequence[int] | None = None) -> str:
    """Align the columns; by default those of words to the left, those of figures to the right.

    Examples
    --------
    >>> print(table_text([("name", "count"), ("a", "10"), ("bc", "2")]))
    name  count
    a        10
    bc        2
    """
    columns = list(zip(*rows, strict=True))
    words = [i for i, column in enumerate(columns) if not any(cell[:1].isdigit() for cell in column[1:])]
    lefts = {0, *words} if left is None else set(left)
    widths = [max(map(len, column)) for column in columns]
    lines = (
        "  ".join(
            cell.ljust(w) if i in lefts else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
