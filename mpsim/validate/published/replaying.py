"""Replay published figures, file by file and row by row: a row that cannot be is refused, and the others go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mpsim.bars import ShowProgress, progress_of
from mpsim.errors import MpsimError
from mpsim.validate.published.adapters import ADAPTERS, INPUTS
from mpsim.validate.published.model import (
    Adapter,
    FileErrors,
    Inputs,
    Outcome,
    Predictor,
    Published,
    errors_of,
    refused,
)
from mpsim.validate.published.table import Row, Table, load_table

__all__ = ["COMMITTED", "validate_published"]

COMMITTED = Path(__file__).parent / "data"


def validate_published(
    folder: str | Path | None = None,
    *,
    only: Sequence[str] = (),
    progress: ShowProgress = None,
) -> Published:
    """Predict what published files measured, from what they say went in.

    Parameters
    ----------
    folder : str or Path
        Of such files, each known by its name, else by its columns; by default those that come with mpsim. What a file
        is predicted from and is not there is taken from those.
    only : sequence of str
        Names of files, without suffix; by default all.
    progress : callable or bool, optional
        Called with the number of rows done and their total; by default a bar, in a terminal or a notebook, of what
        takes more than two seconds. False: none.

    Raises
    ------
    MpsimError
        No such folder, no files in it, or none of those that were asked for.

    Examples
    --------
    >>> found = validate_published(only=["vocab_parallel_stage_times"])
    >>> [(one.file, one.count) for one in found.files]
    [('vocab_parallel_stage_times', 8)]
    """
    place = COMMITTED if folder is None else Path(folder)
    tables, unknown = _tables(place)
    if only and (missing := [name for name in only if name not in {table.name for _, table in tables}]):
        raise MpsimError(f"no file of steps {missing[0]!r} in {str(place)!r}: it has {_names(tables)}")
    chosen = [(adapter, table) for adapter, table in tables if not only or table.name in only]
    total, outcomes = sum(len(table.rows) for _, table in chosen), []
    with progress_of(progress, "rows") as told:
        told(0, total)
        done = 0
        for adapter, table in chosen:
            for found in _replayed(adapter, table, _inputs(place)):
                outcomes += [replace(one, file=table.name) for one in found]
                done += 1
                told(done, total)
    return Published(outcomes=tuple(outcomes), files=tuple(_files(outcomes, chosen)), unknown=unknown)


def _names(tables: Sequence[tuple[Adapter, Table]]) -> str:
    return ", ".join(table.name for _, table in tables) or "none"


def _tables(place: Path) -> tuple[list[tuple[Adapter, Table]], tuple[tuple[str, str], ...]]:
    """Return the tables of a folder with what replays each, and the files that nothing replays, with the reason."""
    if not place.is_dir():
        raise MpsimError(f"no folder {str(place)!r}: name one with files of published steps, or none for mpsim's own")
    paths = sorted(place.glob("*.csv"))
    if not paths:
        raise MpsimError(f"no .csv file in {str(place)!r}: name a folder with files of published steps")
    found, unknown = [], []
    for path in paths:
        if path.stem in INPUTS:
            continue
        try:
            table = load_table(path)
            found.append((_adapter(table), table))
        except MpsimError as error:
            unknown.append((path.name, str(error)))
    order = list(ADAPTERS)
    return sorted(found, key=lambda pair: order.index(pair[0].file)), tuple(unknown)


def _adapter(table: Table) -> Adapter:
    """Return what replays a table: of its name, else of its columns."""
    if not table.rows:
        raise MpsimError("has no rows")
    named = ADAPTERS.get(table.name)
    for adapter in [named] if named else ADAPTERS.values():
        missing = [column for column in adapter.columns if column not in table.columns]
        if not missing:
            return adapter
        if named:
            raise MpsimError(f"has no column {missing[0]!r}, by which files of its name are replayed")
    raise MpsimError("is no file that is known here, by its name or by its columns")


def _inputs(place: Path) -> Inputs:
    def table(name: str, *, committed: bool = False) -> Table:
        own = place / f"{name}.csv"
        return load_table(own if own.is_file() and not committed else COMMITTED / f"{name}.csv")

    return table


def _replayed(adapter: Adapter, table: Table, inputs: Inputs) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each row."""
    try:
        predict = adapter.open(table, inputs)
    except MpsimError as error:
        for row in table.rows:
            yield [refused(adapter.case(row), str(error))]
        return
    for row in table.rows:
        yield _outcomes(adapter, row, predict)


def _outcomes(adapter: Adapter, row: Row, predict: Predictor) -> list[Outcome]:
    try:
        return [_finite(one, row) for one in predict(row)]
    except MpsimError as error:
        return [refused(adapter.case(row), str(error))]


def _finite(found: Outcome, row: Row) -> Outcome:
    """Refuse figures of which no error can be said: a number too large or too small makes one endless or nothing."""
    figures = [one for one in (found.measured, found.predicted) if one is not None]
    if not all(0 < one < math.inf for one in figures) or (found.judges and not math.isfinite(found.error_fraction)):
        said = " and ".join(f"{one:g}" for one in figures)
        raise MpsimError(f"{row.where}: {found.what} comes to {said}, which have no error to speak of")
    return found


def _files(outcomes: Sequence[Outcome], chosen: Sequence[tuple[Adapter, Table]]) -> Iterator[FileErrors]:
    for adapter, table in chosen:
        own = [one for one in outcomes if one.file == table.name]
        for what in dict.fromkeys(one.what for one in own):
            yield errors_of([one for one in own if one.what == what], adapter.goals)
