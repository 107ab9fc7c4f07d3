"""What a search found: the best plans, what became of the others, and how near the nearest came to fitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mpsim.above import above
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.sweeps.model import Row, SweepResult, best_text

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["Found", "FoundInterrupted", "Unfit"]


class Unfit(NamedTuple):
    """A plan that does not fit, what its fullest device holds at least, and what that has; 0 if unknown."""

    plan: Plan
    bytes: float
    capacity_bytes: int = 0


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer of a search.

    Attributes
    ----------
    sweep : SweepResult
        Rows of the plans of the answer, ranked: of each number of devices the fastest, and the fastest of all.
    planned : int
        Plans in the space.
    counts : mapping of str to int
        How many were ``simulated``, are ``bounded`` (can be no part of the answer), ``too large`` for a memory
        (known before any replay), and ``impossible``.
    reasons : mapping of str to int
        Why plans are impossible, or combinations of axes, which are not among those planned.
    unfit : Unfit or None
        The plan that comes nearest to fitting, of those that do not.
    complete : bool
        Whether every plan was decided; otherwise this is the best so far.
    plans : mapping of str to Plan
        The plans of the rows, by their text.
    study : Study or None
        Whose plans they are, for `explain`.
    """

    sweep: SweepResult
    planned: int
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    unfit: Unfit | None = None
    complete: bool = True
    plans: Mapping[str, Plan] = field(default_factory=dict, compare=False)
    study: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        done = sum(self.counts.values())
        return f"<Found: {done:,} of {self.planned:,} plans decided{best_text(self.sweep)}>"

    @property
    def best(self) -> Row | None:
        """The fastest plan that is not known to overflow a memory; None if there is none."""
        return self.sweep.best

    @property
    def plan(self) -> Plan:
        """The plan of `best`, as `mpsim.simulate` takes it.

        Raises
        ------
        MpsimError
            There is none.
        """
        if self.best is None:
            raise MpsimError("no plan that was found can be run and fits: see counts, reasons and unfit")
        return self.plans[self.best["plan"]]

    @property
    def simulated(self) -> int:
        """Plans that were simulated."""
        return self.counts.get("simulated", 0)

    @property
    def by_devices(self) -> list[Row]:
        """The fastest plan of each number of devices, the fewest first."""
        return self.sweep.by_devices

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of the answer as a table, as a sweep has them: the fastest first."""
        return self.sweep.to_frame()

    def plot(self) -> Any:
        """Return a figure of the best plan of each number of devices.

        Raises
        ------
        MpsimError
            No plan has a speedup; matplotlib is not installed.
        """
        return above("cards.pictures").found_figure(self)

    def explain(self, rank: int = 1, **options: Any) -> Any:
        """Return an `Explanation` of the best plan's step, or of another rank's.

        Parameters
        ----------
        rank : int
            Of the plan.
        **options
            Those of `mpsim.explain`.

        Raises
        ------
        MpsimError
            There is no such rank.
        """
        return above("cards.explained").explain_found(self, rank, **options)

    def report(self, path: str | Path, **options: Any) -> None:
        """Write the answer as one page that needs no network: see docs/report.md.

        Parameters
        ----------
        path : path
            The page, ``.html`` by custom.
        **options
            ``what_ifs=False`` leaves out what is simulated with one thing changed, `top` says how many plans are
            ranked, `progress` is called with how many what-ifs are done of how many.

        Raises
        ------
        MpsimError
            There is nothing to report, or the file cannot be written there.
        """
        above("report.values").report_found(self, path, **options)

    def _repr_html_(self) -> str:
        return str(above("cards.sweep").found_card(self))


class FoundInterrupted(KeyboardInterrupt):
    """A search that was interrupted; `found` has the best so far."""

    def __init__(self, found: Found) -> None:
        super().__init__(f"interrupted after {sum(found.counts.values())} of {found.planned} plans")
        self.found = found
