"""Where output goes: files that are checked before anything is computed, JSON, notes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from mpsim.errors import MpsimError, printable
from mpsim.files import check_target, stream_of
from mpsim.tables import Text, show

__all__ = ["DOCUMENTS", "PAGES", "PICTURES", "TABLES", "json_option", "output_option", "print_json", "say", "tell"]

# What a suffix promises; a file of another kind is refused. "" is any suffix that promises nothing else.
DOCUMENTS = (".json", "")
PICTURES = (".png", ".svg", ".pdf")
TABLES = (".csv", ".parquet")
PAGES = (".html", ".htm", "")


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
    if stream_of(path) is not None:
        _check_stream(path, option, suffixes)
        return
    suffix = target.suffix.lower()
    promised = suffix if suffix in (*DOCUMENTS, *PICTURES, *TABLES) else ""
    if promised not in suffixes:
        expected = " or ".join(known for known in suffixes if known) or "that of what is written"
        raise MpsimError(f"{option} {path!r}: its suffix is {suffix!r}, expected {expected}")
    if not target.parent.is_dir():
        raise MpsimError(f"{option} {path!r}: there is no folder {str(target.parent)!r}: make it first")
    try:
        folder = check_target(path).parent
    except MpsimError as error:
        raise MpsimError(f"{option} {error}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MpsimError(f"{option} {path!r}: {why}: choose another place") from None
    if not folder.is_dir():
        raise MpsimError(
            f"{option} {path!r} is a link into {str(folder)!r}, and there is no such folder: make it first"
        )
    if not os.access(folder, os.W_OK):
        raise MpsimError(f"{option} {path!r}: no permission to write into {str(folder)!r}: choose another place")


def _check_stream(path: str, option: str, suffixes: tuple[str, ...]) -> None:
    """Refuse what a stream's name, which has no suffix, does not choose; of stdout, what is printed goes to stderr."""
    if "" not in suffixes:
        raise MpsimError(
            f"{option} {path!r} has no suffix that says what to write: name a {' or '.join(suffixes)} file"
        )
    context = click.get_current_context(silent=True)
    if context is not None and stream_of(path) == 1:
        context.find_root().meta[_TAKEN] = option


_TAKEN = "mpsim.stdout"


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
    say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def say(text: str, **style: bool) -> None:
    """Print what a command answers; what would command a terminal, from whatever file, is escaped.

    Where a file that is written goes to stdout, it goes to stderr.
    """
    context = click.get_current_context(silent=True)
    taken = context is not None and _TAKEN in context.find_root().meta
    stream = sys.stderr if taken else sys.stdout
    if isinstance(text, Text) and stream and stream.isatty():  # None where it is closed
        show(text, stream)
    else:
        click.secho(printable(text), err=taken, **style)  # type: ignore[arg-type]


def tell(text: str) -> None:
    """Say something that is no part of the output."""
    click.echo(printable(text), file=sys.stderr)
