"""Replayed published figures as text: a table of files, of rows, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mpsim.tables import Column, Text, align, joined
from mpsim.units import format_bytes, format_duration
from mpsim.validate.published.model import FileErrors, Outcome, Published
from mpsim.validate.text import percent

__all__ = ["file_columns", "published_table", "reasons", "row_columns"]


def file_columns(found: Sequence[FileErrors]) -> list[Column]:
    """Return the errors of each file in columns."""
    return [
        Column("file", True, [one.file for one in found]),
        Column("figure", True, [one.what for one in found]),
        Column("rows", False, [str(one.count) for one in found]),
        Column("mean error", False, [_unsigned(one.mean_fraction) for one in found]),
        Column("worst", False, [_unsigned(one.worst_fraction) for one in found]),
        Column("bias", False, [_signed(one.bias_fraction) for one in found]),
        Column(
            "order", False, ["" if one.rank_correlation is None else f"{one.rank_correlation:.3f}" for one in found]
        ),
        Column("aim", False, [_aim(one) for one in found]),
        Column("calibrate", False, [str(one.calibrating or "") for one in found]),
        Column("refused", False, [str(one.refused or "") for one in found]),
    ]


def _unsigned(fraction: float | None) -> str:
    return "" if fraction is None else percent(fraction)[1:]


def _signed(fraction: float | None) -> str:
    return "" if fraction is None else percent(fraction)


def _aim(one: FileErrors) -> str:
    if one.goal_fraction is None:
        return ""
    said = f"< {100 * one.goal_fraction:g} %"
    return said if one.reached is not False else f"{said} missed"


def row_columns(outcomes: Sequence[Outcome]) -> list[Column]:
    """Return each figure that has a prediction in columns."""
    return [
        Column("row", True, [one.case for one in outcomes]),
        Column("figure", True, [one.what for one in outcomes]),
        Column("measured", False, [_figure(one.measured, one.unit) for one in outcomes]),
        Column("predicted", False, [_figure(one.predicted, one.unit) for one in outcomes]),
        Column("error", False, [_error(one) for one in outcomes]),
    ]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s":
        return format_duration(value)
    return format_bytes(round(value)) if unit == "bytes" else f"{value:.4g}{unit and ' ' + unit}"


def _error(one: Outcome) -> str:
    if one.calibrates:
        return f"sets {one.calibrates}"
    return percent(one.error_fraction) if one.judges else ""


def reasons(outcomes: Sequence[Outcome]) -> list[tuple[str, str, int, str]]:
    """Return why rows were refused: file, reason, how many, and the first of them.

    Examples
    --------
    >>> from mpsim.validate.published.model import refused
    >>> reasons([refused("a", "no"), refused("b", "no")])
    [('', 'no', 2, 'a')]
    """
    counts = Counter((one.file, one.refused) for one in outcomes if one.refused)
    firsts: dict[tuple[str, str], str] = {}
    for one in outcomes:
        firsts.setdefault((one.file, one.refused), one.case)
    return [(file, reason, count, firsts[file, reason]) for (file, reason), count in counts.items()]


def published_table(found: Published) -> Text:
    """Return the errors of each file, and what was refused, calibrated with, and not known.

    Examples
    --------
    >>> from mpsim.validate.published.replaying import validate_published
    >>> print(published_table(validate_published(only=["vocab_parallel_stage_times"])).splitlines()[0][:34])
    file                        figure
    """
    blocks: list[str] = [align(file_columns(found.files))] if found.files else []
    setting = [one for one in found.outcomes if one.calibrates]
    if setting:
        blocks.append("\n".join(f"{one.file}: {one.case} sets {one.calibrates}" for one in setting))
    if left_out := reasons(found.outcomes):
        blocks.append("\n".join(_reason(*one) for one in left_out))
    if found.unknown:
        blocks.append("\n".join(f"{name}: {reason}" for name, reason in found.unknown))
    return joined("\n\n", blocks)


def _reason(file: str, reason: str, count: int, case: str) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return f"{file}: {case}{more} refused: {reason}"
