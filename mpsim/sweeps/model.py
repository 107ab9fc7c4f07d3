"""What a sweep found: one row for each plan, ranked among those of its workload and batch, ties marked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from typing import TYPE_CHECKING, Any

from mpsim.above import above, needed
from mpsim.calls import checked
from mpsim.documents import Document
from mpsim.errors import MpsimError, printable, shortened
from mpsim.result.frames import summary_row
from mpsim.result.model import Origin, Result
from mpsim.result.plan_text import PlanText
from mpsim.units import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = [
    "COLUMNS",
    "COUNTS",
    "FIRST",
    "FLAGS",
    "TEXTS",
    "Row",
    "SweepInterrupted",
    "SweepResult",
    "best_text",
    "finish",
    "frame_of",
    "grouped",
]

Row = dict[str, Any]

FIRST = (
    "rank", "plan", "strategy", "n_devices", "dp", "pp", "tp", "global_batch", "microbatches", "microbatch_size",
    "schedule", "step_s", "step_p5_s", "step_p95_s", "throughput_samples_per_s", "speedup",
    "communication_overhead_s", "communication_overhead_fraction", "bubble_fraction", "highest_peak_memory_bytes",
    "fits", "tie", "fidelity", "runtime", "algorithm", "reason",
)  # fmt: skip
_EMPTY = summary_row(Result(workload="", topology="", plan="", step_s=1.0, trial_step_s=(1.0,), free_step_s=1.0))
# `tokens_per_sample`: see `mpsim.workload.tokens`. `question`: which sweep a row answers, and which of its plans: see
# `mpsim.sweeps.question`.
COLUMNS = (*FIRST, *(name for name in _EMPTY if name not in FIRST), "tokens_per_sample", "question")


def _columns_of(kind: type, *others: str) -> tuple[str, ...]:
    """Return the columns that hold values of a type: as a result has them, and those of the sweep's own."""
    return tuple(name for name in COLUMNS if name in others or type(_EMPTY.get(name)) is kind)


TEXTS = _columns_of(str, "strategy", "schedule", "algorithm", "reason", "baseline", "caveats", "question")
FLAGS = _columns_of(bool, "fits", "tie")
COUNTS = _columns_of(int, "rank", "dp", "pp", "tp", "microbatches", "microbatch_size", "tokens_per_sample")


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult(Document):
    """The rows of a sweep, in the order of the grid.

    Attributes
    ----------
    rows : tuple of dict
        One for each plan, all with the keys ``COLUMNS``. A plan that cannot be run has a ``reason`` and None for its
        numbers. ``plan`` is text from which `mpsim.simulate` reads the row's very plan, with its batch and runtime.
        ``rank`` counts the plans of one workload and global batch that are not known to overflow a memory,
        the fastest is 1; of plans that take equally long the one of fewer devices comes first. ``tie``: the 5-95 %
        interval overlaps that of rank 1.
    planned : int
        Plans in the grid; more than there are rows if the sweep was interrupted.
    processes : int
        That were used; the rows do not depend on it.
    known : int
        Rows that were there already, in the sweep's file or in the cache.
    notes : tuple of str
        What the traces have to say in words; not in a table's file.
    origin_of : callable or None
        Returns what a row was replayed from, for `explain`; None of a sweep from a file. No part of its value.

    Examples
    --------
    >>> SweepResult(rows=(), planned=3).complete
    False
    """

    _file = "sweeps.file:sweep"
    _reads = "sweeps.file:load_sweep"
    _written = "a SweepResult or the path of its table"

    rows: tuple[Row, ...]
    planned: int
    processes: int = field(default=1, compare=False)
    known: int = field(default=0, compare=False)
    notes: tuple[str, ...] = ()
    origin_of: Callable[[Row], Origin] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(_with_settings, self.rows)))

    def __repr__(self) -> str:
        return f"<SweepResult: {len(self.rows):,} of {self.planned:,} plans{best_text(self)}>"

    @property
    def complete(self) -> bool:
        """Whether every plan of the grid has a row."""
        return len(self.rows) == self.planned

    @property
    def groups(self) -> tuple[SweepResult, ...]:
        """The rows of each workload, topology and global batch by themselves: only these compare by their steps."""
        return tuple(replace(self, rows=tuple(rows), planned=len(rows)) for rows in grouped(self.rows))

    @property
    def ranked(self) -> list[Row]:
        """The rows with a rank, the fastest first; group after group."""
        return [row for rows in grouped(self.rows) for row in _ranked(rows)]

    @property
    def best(self) -> Row | None:
        """The fastest plan that is not known to overflow a memory; None if there is none.

        Raises
        ------
        MpsimError
            Of several workloads or batches: each has a best of its own.
        """
        groups = grouped(self.rows)
        if len(groups) > 1:
            raise MpsimError(
                f"{len(groups)} workloads and batches have a best plan each: ask each of groups for its best"
            )
        return next(iter(_ranked(self.rows)), None)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What may make the ranked plans wrong, in a phrase each, those of the fastest first."""
        phrases = (phrase for row in self.ranked for phrase in (row["caveats"] or "").split("; ") if phrase)
        return tuple(dict.fromkeys(phrases))

    @property
    def too_large(self) -> list[Row]:
        """The rows of plans that would run, but do not fit, the fastest first."""
        return sorted((row for row in self.rows if row["fits"] is False), key=lambda row: float(row["step_s"]))

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why plans cannot be run, like reasons together: the first of each kind, and how many, most frequent first."""
        groups: dict[str, list[str]] = {}
        for row in self.rows:
            if row["reason"]:
                groups.setdefault(re.sub(r"'[^']*'|\d+(,\d+)*", "*", row["reason"]), []).append(row["reason"])
        return sorted(((group[0], len(group)) for group in groups.values()), key=lambda pair: -pair[1])

    @property
    def by_devices(self) -> list[Row]:
        """The fastest plan of each number of devices, the fewest first."""
        found: dict[int, Row] = {}
        for row in self.ranked:
            found.setdefault(row["n_devices"], row)
        return [found[count] for count in sorted(found)]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table, missing numbers NA: the ranked, then those too large, then those with a reason.

        Examples
        --------
        >>> list(SweepResult(rows=(), planned=0).to_frame().columns[:4])
        ['rank', 'plan', 'strategy', 'n_devices']
        """
        first = [*self.ranked, *self.too_large]
        known = set(map(id, first))
        return frame_of([*first, *(row for row in self.rows if id(row) not in known)])

    def plot(self) -> Any:
        """Return a figure of plans' speedups by devices, or, of several batches or workloads, of what devices bring.

        Raises
        ------
        MpsimError
            No plan has a speedup; matplotlib is not installed.
        """
        return above("cards.pictures").sweep_figure(self)

    def explain(self, rank: int = 1, **options: Any) -> Any:
        """Return an `Explanation` of where the step of the best plan goes, or of that of another rank.

        Parameters
        ----------
        rank : int
            Of the plan.
        **options
            Those of `mpsim.explain`.

        Raises
        ------
        MpsimError
            There is no such rank, several workloads or batches have one each, or the sweep is from a file.
        """
        return above("cards.explained").explain_sweep(self, rank, **options)

    def report(self, path: str | Path, **options: Any) -> None:
        """Write the sweep as one page that needs no network: see docs/report.md.

        Parameters
        ----------
        path : path
            The page, ``.html`` by custom.
        **options
            ``what_ifs=False`` leaves out what is simulated with one thing changed, `top` says how many plans are
            ranked, `batch` of which batch it is, `progress` is called with how many what-ifs are done of how many.

        Raises
        ------
        MpsimError
            There are several workloads or batches and none is named, or the file cannot be written there.
        """
        above("report.values").report_sweep(self, path, **options)

    def _repr_html_(self) -> str:
        return str(above("cards.sweep").sweep_card(self))


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as a table, in their order."""
    frame: pd.DataFrame = needed("pandas").DataFrame(list(rows), columns=list(COLUMNS))
    kinds = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(FLAGS, "boolean") | dict.fromkeys(TEXTS, "string")
    return frame.astype({name: kinds.get(name, "float64") for name in COLUMNS})


def best_text(found: SweepResult) -> str:
    """Return the best plan of a sweep as it stands in its short form, of several workloads or batches how many.

    Examples
    --------
    >>> best_text(SweepResult(rows=(), planned=0))
    ', none of which can be run and fits'
    """
    groups = found.groups
    if len(groups) > 1:
        return f" of {len(groups)} workloads and batches, each with its own ranks"
    best = found.best
    if best is None:
        return ", none of which can be run and fits"
    return f"; best: {shortened(printable(best['plan']), 200)}, {format_duration(best['step_s'])} a step"


class SweepInterrupted(KeyboardInterrupt):
    """A sweep that was interrupted; `result` has the rows that were ready.

    Examples
    --------
    >>> str(SweepInterrupted(SweepResult(rows=(), planned=3)))
    'interrupted after 0 of 3 plans'
    """

    def __init__(self, result: SweepResult) -> None:
        super().__init__(f"interrupted after {len(result.rows)} of {result.planned} plans")
        self.result = result


def _with_settings(row: Row) -> Row:
    """Return a row whose plan's text knows its batch and runtime."""
    text = row.get("plan")
    if not isinstance(text, str) or isinstance(text, PlanText):
        return row
    return {**row, "plan": PlanText(text, row.get("global_batch") or 0, row.get("runtime") or "ideal")}


def finish(rows: Sequence[Row], planned: int, processes: int) -> SweepResult:
    """Return the rows with ranks, ties and one baseline: each among those of its workload, topology and batch."""
    rows = [dict(row) for row in rows]
    for group in grouped(rows):
        _give_one_baseline(group)
        order = sorted((row for row in group if row["step_s"] is not None and row["fits"] is not False), key=_order)
        for rank, row in enumerate(order, 1):
            row["rank"], row["tie"] = rank, rank > 1 and _overlap(row, order[0])
    return SweepResult(rows=tuple(rows), planned=planned, processes=processes)


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each workload, topology and global batch, in the order in which these first appear.

    Examples
    --------
    >>> rows = [{"workload": "w", "topology": "t", "global_batch": batch} for batch in (8, 16, 8)]
    >>> [[row["global_batch"] for row in group] for group in grouped(rows)]
    [[8, 8], [16]]
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["workload"], row["topology"], row["global_batch"]), []).append(row)
    return [*groups.values()]


def _ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted((row for row in rows if row["rank"]), key=lambda row: int(row["rank"]))


def _order(row: Row) -> tuple[float, int]:
    """Return what ranks a plan: its step to 12 digits, below which replays round differently, then its devices."""
    return float(f"{row['step_s']:.12g}"), row["n_devices"]


def _overlap(a: Row, b: Row) -> bool:
    apart = max(a["step_p5_s"], b["step_p5_s"]) - min(a["step_p95_s"], b["step_p95_s"])
    return apart <= 0 or isclose(a["step_s"], a["step_s"] + apart, rel_tol=1e-12)


def _give_one_baseline(rows: Sequence[Row]) -> None:
    """Give the rows their speedups over one and the same step.

    The baseline of a plan alone is the fastest way to run the batch on one of *its* devices, at the measured sizes
    or its own; in a table all are held against the fastest of these.
    """
    known = [row for row in rows if row["baseline_step_s"]]
    best = min(known, key=lambda row: float(row["baseline_step_s"]), default=None)
    for row in rows:
        if best is not None and row["step_s"]:
            row |= {name: best[name] for name in ("baseline", "baseline_step_s")}
            row["speedup"] = best["baseline_step_s"] / row["step_s"]
