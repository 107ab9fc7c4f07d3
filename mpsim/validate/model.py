"""What a validation found: its rows, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mpsim.reprs import short_repr
from mpsim.validate.agreement import rank_correlation
from mpsim.validate.compare import Comparison

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Summary", "Validation", "summarize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Errors of several rows, without their signs.

    Attributes
    ----------
    count : int
    mean_fraction, worst_fraction : float
        Of the runtime that was run.
    ideal_mean_fraction, ideal_worst_fraction : float
        Of the runtime ``ideal``.
    bias_fraction : float
        Mean with its sign: below zero, steps take longer than predicted.
    """

    count: int
    mean_fraction: float
    worst_fraction: float
    ideal_mean_fraction: float
    ideal_worst_fraction: float
    bias_fraction: float


def summarize(rows: Sequence[Comparison]) -> Summary | None:
    """Return the errors of some rows together; None of none.

    Examples
    --------
    >>> summarize([]) is None
    True
    """
    if not rows:
        return None
    ours = [abs(row.error_fraction) for row in rows]
    ideal = [abs(row.ideal_error_fraction) for row in rows]
    return Summary(
        count=len(rows),
        mean_fraction=sum(ours) / len(rows),
        worst_fraction=max(ours),
        ideal_mean_fraction=sum(ideal) / len(rows),
        ideal_worst_fraction=max(ideal),
        bias_fraction=sum(row.error_fraction for row in rows) / len(rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The rows of a validation.

    Attributes
    ----------
    rows : tuple of Comparison
        In the order in which they were run.
    planned : int
        Cases of the grid.
    failures : tuple of (str, str)
        Cases that could not be run, each with the reason.

    Examples
    --------
    >>> Validation(rows=(), planned=8).orders
    {}
    """

    rows: tuple[Comparison, ...]
    planned: int
    failures: tuple[tuple[str, str], ...] = ()

    __repr__ = short_repr

    @property
    def kinds(self) -> dict[str, Summary]:
        """Errors by kind of plan, in the order in which the kinds first appear."""
        found = {kind: summarize([row for row in self.rows if row.kind == kind]) for kind in self._names()}
        return {kind: summary for kind, summary in found.items() if summary is not None}

    def _names(self) -> list[str]:
        return list(dict.fromkeys(row.kind for row in self.rows))

    @property
    def orders(self) -> dict[tuple[str, str], tuple[int, float, float | None]]:
        """Of each model and link: plans, and how well their predicted order is the measured one; then by ``ideal``."""
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for row in self.rows:
            groups.setdefault((row.model, row.wire), []).append(row)
        found: dict[tuple[str, str], tuple[int, float, float | None]] = {}
        for key, rows in groups.items():
            measured = [row.measured_s for row in rows]
            ours = rank_correlation([row.predicted_s for row in rows], measured)
            ideal = rank_correlation([row.ideal_s for row in rows], measured)
            if ours is not None:
                found[key] = (len(rows), ours, ideal)
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])
