"""Judged recipes as text: errors by system, each row beside its measurement, and where it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mpsim.tables import Column, Text, align, joined
from mpsim.units import format_bytes
from mpsim.validate.recipes.judged import Judged, Recipes, SystemErrors
from mpsim.validate.text import percent

__all__ = ["beside_columns", "rank_columns", "recipes_table", "refusals", "search_columns", "system_columns"]


_ROUND = 100


def system_columns(found: Sequence[SystemErrors]) -> list[Column]:
    """Return errors by system in columns."""
    return [
        Column("system", True, [one.system for one in found]),
        Column("rows", False, [str(one.count) for one in found]),
        Column("mean error", False, [_unsigned(one.mean_fraction) for one in found]),
        Column("worst", False, [_unsigned(one.worst_fraction) for one in found]),
        Column("bias", False, ["" if one.bias_fraction is None else percent(one.bias_fraction) for one in found]),
        Column(
            "order", False, ["" if one.rank_correlation is None else f"{one.rank_correlation:.3f}" for one in found]
        ),
        Column("calibrate", False, [str(one.calibrating or "") for one in found]),
    ]


def _unsigned(fraction: float | None) -> str:
    return "" if fraction is None else percent(fraction)[1:]


def beside_columns(rows: Sequence[Judged]) -> list[Column]:
    """Return tokens a second and device, measured and predicted, and memory, in columns."""
    return [
        Column("row", True, [one.case for one in rows]),
        Column("measured", False, [_tokens(one.measured) for one in rows]),
        Column("predicted", False, [_tokens(one.predicted) for one in rows]),
        Column("error", False, ["calibrates" if one.calibrates else percent(one.error_fraction) for one in rows]),
        Column("needs", False, [format_bytes(one.needs_bytes) for one in rows]),
        Column(
            "measured memory", False, [format_bytes(one.measured_bytes) if one.measured_bytes else "" for one in rows]
        ),
        Column("has", False, [format_bytes(one.capacity_bytes) for one in rows]),
    ]


def rank_columns(rows: Sequence[Judged]) -> list[Column]:
    """Return where plans stand among others in columns."""
    return [
        Column("row", True, [one.case for one in rows]),
        Column("theirs", True, [one.plan for one in rows]),
        Column("rank", False, [f"{one.rank:,} of {one.others:,}" for one in rows]),
        Column("ours", True, ["theirs" if one.best == one.plan else one.best for one in rows]),
        Column("claims", False, [percent(one.gain_fraction) for one in rows]),
        Column("same kernels", False, [percent(one.alike_fraction) if one.alike else "" for one in rows]),
    ]


def search_columns(rows: Sequence[Judged]) -> list[Column]:
    """Return what searches found in columns."""
    return [
        Column("row", True, [one.case for one in rows]),
        Column("theirs", True, [one.plan for one in rows]),
        Column("plans", False, [f"{one.searched:,}" for one in rows]),
        Column("simulated", False, [f"{one.simulated:,}" for one in rows]),
        Column("best, proved", True, [one.searched_best or "none fits" for one in rows]),
        Column("gains", False, [percent(one.searched_fraction) if one.searched_best else "" for one in rows]),
    ]


def _tokens(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= _ROUND else f"{value:.3g}"


def refusals(rows: Sequence[Judged]) -> list[tuple[str, int, str]]:
    """Return why rows were refused: the reason, how many, and the first of them.

    Examples
    --------
    >>> refusals([Judged(file="f", case="a", refused="no"), Judged(file="f", case="b", refused="no")])
    [('no', 2, 'a')]
    """
    counts = Counter(one.refused for one in rows if one.refused)
    firsts = {one.refused: one.case for one in reversed(rows)}
    return [(reason, count, firsts[reason]) for reason, count in counts.items()]


def recipes_table(found: Recipes) -> Text:
    """Return the errors of each system, each row, where theirs stands, and what was refused.

    Examples
    --------
    >>> print(recipes_table(Recipes(rows=(Judged(file="f", case="a", refused="no"),))))
    a refused: no
    """
    judged = [one for one in found.rows if not one.refused]
    blocks: list[str] = [align(system_columns(found.systems)), align(beside_columns(judged))] if judged else []
    ranked = [one for one in judged if one.others]
    if ranked:
        blocks.append(align(rank_columns(ranked)))
    if proved := [one for one in judged if one.searched]:
        blocks.append(align(search_columns(proved)))
    if why := [f"{one.case}: {one.why}" for one in ranked if one.why]:
        blocks.append("\n".join(why))
    if lines := [
        f"{case}{f' and {count - 1} more' if count > 1 else ''} refused: {reason}"
        for reason, count, case in refusals(found.rows)
    ]:
        blocks.append("\n".join(lines))
    return joined("\n\n", blocks)
