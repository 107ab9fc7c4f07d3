"""Predict people's own configurations, row by row: a row that cannot be is refused, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mpsim.bars import ShowProgress, each
from mpsim.errors import MpsimError, unknown
from mpsim.validate.published.folding import speed_at
from mpsim.validate.published.replaying import COMMITTED
from mpsim.validate.published.table import Row, Table, load_table
from mpsim.validate.recipes.judged import Judged, Recipes
from mpsim.validate.recipes.ranking import ranked
from mpsim.validate.recipes.recipe import Recipe, Source, capacity_of, named, step_of
from mpsim.validate.recipes.searching import searched
from mpsim.validate.recipes.sources import SOURCES

__all__ = ["Speeds", "validate_recipes"]

_MOST_SEARCHED = 16


def validate_recipes(
    *,
    only: Sequence[str] = (),
    matching: str = "",
    ranking: bool = False,
    search: bool = False,
    done: Sequence[Judged] = (),
    keep: Callable[[Sequence[Judged]], None] = lambda rows: None,
    progress: ShowProgress = None,
) -> Recipes:
    """Predict the configurations that people chose and measured, and rank each among others.

    Parameters
    ----------
    only : sequence of str
        Names of files, without suffix; by default all that are known.
    matching : str
        Only rows whose name has this in it.
    ranking : bool
        Whether to look for better plans too.
    search : bool
        Whether to find the best with a proof, too, of recipes of up to 16 devices.
    done : sequence of Judged
        Rows that were found before, and are not again.
    keep : callable
        Called with all rows that there are, after each one.
    progress : callable or bool, optional
        Called with the number of rows done and their total; by default a bar, in a terminal or a notebook, of what
        takes more than two seconds. False: none.

    Raises
    ------
    MpsimError
        A file that is not known, or no row of that name.
    """
    for name in only:
        if name not in SOURCES:
            raise unknown("file of recipes", name, tuple(SOURCES))
    asked = [one for name, one in SOURCES.items() if not only or name in only]
    tables = {one.file: load_table(COMMITTED / f"{one.file}.csv") for one in asked}
    wanted = [(one, row) for one in asked for row in tables[one.file].rows if matching in one.case(row)]
    if not wanted:
        raise MpsimError(f"no recipe has {matching!r} in its name: they are named as `mpsim validate recipes` lists")
    before = {(one.file, one.case): one for one in done if one.refused or _has(one, ranking=ranking, search=search)}
    speeds = {one.file: Speeds(one, tables[one.file]) for one in asked}
    rows: list[Judged] = []
    for source, row in each(wanted, progress, "rows"):
        known = before.get((source.file, source.case(row)))
        rows.append(known or _judged(source, row, speeds[source.file], ranking=ranking, search=search))
        keep(rows)
    return Recipes(rows=tuple(rows))


def _has(row: Judged, *, ranking: bool, search: bool) -> bool:
    """Return whether a row has what is asked for."""
    return bool((row.others or not ranking) and (row.searched or not search or row.devices > _MOST_SEARCHED))


def _inputs(name: str, *, committed: bool = False) -> Table:
    return load_table(COMMITTED / f"{name}.csv")


@dataclass(slots=True)
class Speeds:
    """The speeds of kernels that rows of a file set, each found when it is first asked for.

    Attributes
    ----------
    source : Source
    table : Table
    """

    source: Source
    table: Table
    _setting: Mapping[tuple[str, ...], Recipe] | None = None
    _found: dict[str, float] = field(default_factory=dict)

    def of(self, recipe: Recipe) -> tuple[float, str]:
        """Return the speed at which a recipe runs, and the name of the row that sets it.

        Raises
        ------
        MpsimError
            No row sets it.
        """
        if recipe.speed:
            return recipe.speed, recipe.set_by
        if self._setting is None:
            self._setting = self.source.setting(list(self._readable()))
        first = self._setting.get(recipe.kind)
        if first is None:
            raise MpsimError(f"no row sets the speed of {', '.join(recipe.kind)}")
        if first.case not in self._found:
            self._found[first.case] = speed_at(lambda speed: step_of(first, speed).step_s, first.measured_s)
        return self._found[first.case], first.case

    def _readable(self) -> Iterator[Recipe]:
        for row in self.table.rows:
            try:
                yield self.source.read(row, _inputs)
            except MpsimError:
                continue


def _judged(source: Source, row: Row, speeds: Speeds, *, ranking: bool, search: bool) -> Judged:
    """Return what is predicted of a row, or why nothing is."""
    case = source.case(row)
    try:
        recipe = source.read(row, _inputs)
        speed, first = speeds.of(recipe)
        result = step_of(recipe, speed)
    except MpsimError as error:
        return Judged(file=source.file, case=case, refused=str(error))
    sets = f"the speed of {', '.join(recipe.kind)}: {speed:.3f} of its roofline"
    found = Judged(
        file=source.file,
        case=case,
        system=recipe.system,
        devices=recipe.devices,
        plan=named(recipe.plan),
        measured=recipe.tokens_per_s(recipe.measured_s),
        predicted=recipe.tokens_per_s(result.step_s),
        calibrates=sets if first == case else "",
        calibrated_by="" if first == case else first,
        needs_bytes=max(use.memory.peak_bytes for use in result.devices),
        measured_bytes=recipe.measured_bytes,
        capacity_bytes=capacity_of(recipe),
    )
    if ranking:
        found = ranked(recipe, speed, found, result)
    return searched(recipe, speed, found) if search and recipe.devices <= _MOST_SEARCHED else found
