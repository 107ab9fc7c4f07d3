"""Measured steps beside their predictions, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpsim.tables import Column, Text, align, joined
from mpsim.units import format_bytes, format_duration
from mpsim.validate.steps import StepComparison, StepSummary, summarize_steps
from mpsim.validate.text import percent

__all__ = ["step_columns", "steps_table", "summary_columns"]

_ROW: tuple[tuple[str, bool, Callable[[StepComparison], str]], ...] = (
    ("model", True, lambda row: row.model),
    ("size", False, lambda row: str(row.microbatch)),
    ("tp", False, lambda row: str(row.tensor_parallel)),
    ("parts", False, lambda row: str(row.microbatches)),
    ("bound", True, lambda row: row.bound),
    ("back to back", False, lambda row: format_duration(row.steady_s)),
    ("measured", False, lambda row: format_duration(row.measured_steady_s)),
    ("error", False, lambda row: percent(row.steady_error_fraction)),
    ("one step", False, lambda row: format_duration(row.step_s)),
    ("measured", False, lambda row: format_duration(row.measured_step_s)),
    ("error", False, lambda row: percent(row.step_error_fraction)),
    ("spread", False, lambda row: percent(row.spread_fraction)[1:]),
    ("peak", False, lambda row: format_bytes(row.peak_bytes)),
    ("measured", False, lambda row: _bytes(row.measured_peak_bytes)),
    ("error", False, lambda row: _percent(row.peak_error_fraction)),
    ("reserved", False, lambda row: format_bytes(row.reserved_bytes)),
    ("measured", False, lambda row: _bytes(row.measured_reserved_bytes)),
    ("error", False, lambda row: _percent(row.reserved_error_fraction)),
)


def _bytes(count: int) -> str:
    return format_bytes(count) if count else ""


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else percent(fraction)


def step_columns(rows: Sequence[StepComparison]) -> list[Column]:
    """Return a column for each thing that is said of a step."""
    return [Column(heading, left, [text(row) for row in rows]) for heading, left, text in _ROW]


def summary_columns(found: Sequence[StepSummary]) -> list[Column]:
    """Return the errors together, in columns."""
    return [
        Column("", True, [one.name for one in found]),
        Column("steps", False, [str(one.count) for one in found]),
        Column("mean error", False, [percent(one.mean_fraction)[1:] for one in found]),
        Column("worst", False, [percent(one.worst_fraction)[1:] for one in found]),
    ]


def steps_table(rows: Sequence[StepComparison]) -> Text:
    """Return each step, and the errors together.

    Examples
    --------
    >>> from mpsim.validate.steps import validate_steps
    >>> from mpsim.validate.steps_file import load_steps
    >>> print(steps_table(validate_steps(load_steps()[:1])).splitlines()[0][:38])
    model      size  tp  parts  bound   ba
    """
    blocks: list[str] = [align(step_columns(rows)), align(summary_columns(summarize_steps(rows)))]
    if any(row.beside_bytes for row in rows):
        blocks.append(
            "memory of tp > 1: with the whole model's parameters, which the process that ran a shard held too"
        )
    return joined("\n\n", blocks)
