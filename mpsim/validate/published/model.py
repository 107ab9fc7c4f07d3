"""What replayed published figures came to: an outcome for each, and the errors of each file together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mpsim.validate.agreement import error_fraction, errors_of_pairs
from mpsim.validate.published.table import Row, Table

__all__ = ["Adapter", "FileErrors", "Inputs", "Outcome", "Predictor", "Published", "errors_of", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A published figure, and what was predicted of it.

    Attributes
    ----------
    file, case : str
        The file's name without suffix, and which of its rows.
    what : str
        ``time``, ``memory`` or ``speedup``.
    unit : str
        Of both figures: ``s``, ``bytes``, or ``""`` of a ratio.
    measured : float or None
        None where the file has none.
    predicted : float or None
        None where the row was refused.
    calibrates : str
        What this row set, and so does not judge.
    calibrated_by : str
        The row that set something which the prediction used.
    refused : str
        Why there is no prediction.
    """

    file: str = ""
    case: str
    what: str = "time"
    unit: str = "s"
    measured: float | None = None
    predicted: float | None = None
    calibrates: str = ""
    calibrated_by: str = ""
    refused: str = ""

    def set_by(self, first: str, sets: str, *, same: bool) -> Outcome:
        """Return an outcome that the row of the case `first` set something for: if it is the `same` row, it says what.

        Examples
        --------
        >>> Outcome(case="b", measured=1.0, predicted=1.0).set_by("a", "a speed", same=False).calibrated_by
        'a'
        >>> Outcome(case="a", measured=1.0, predicted=1.0).set_by("a", "a speed", same=True).judges
        False
        """
        return replace(self, calibrates=sets if same else "", calibrated_by="" if same else first)

    @property
    def judges(self) -> bool:
        """Whether its error counts: there are both figures, and the measured one was not used."""
        return self.measured is not None and self.predicted is not None and not self.calibrates

    @property
    def error_fraction(self) -> float:
        """How much more was predicted than measured, as a part of the measured."""
        assert self.measured is not None
        assert self.predicted is not None
        return error_fraction(self.predicted, self.measured)


def refused(case: str, reason: str, what: str = "time") -> Outcome:
    """Return the outcome of a row that nothing is predicted of.

    Examples
    --------
    >>> refused("a", "needs a TPU").judges
    False
    """
    return Outcome(case=case, what=what, refused=reason)


class Inputs(Protocol):
    """Other tables by name: from the same folder, else those that come with mpsim."""

    def __call__(self, name: str, *, committed: bool = False) -> Table:
        """Return a table; `committed`: the one that comes with mpsim."""


Predictor = Callable[[Row], Iterable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How rows of one file are replayed.

    Attributes
    ----------
    file : str
        Its name without suffix.
    about : str
        In a sentence: what is replayed, from what.
    columns : tuple of str
        That it reads, and by which a file of another name is known.
    open : callable
        ``(table, inputs) -> predict``; ``predict(row)`` gives the row's outcomes.
    case : callable
        The name of a row.
    goals : mapping of str to float
        By `what`, the mean error that was aimed at.
    """

    file: str
    about: str
    columns: tuple[str, ...]
    open: Callable[[Table, Inputs], Predictor]
    case: Callable[[Row], str]
    goals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileErrors:
    """The errors of one file's rows, without their signs, in one of its figures.

    Attributes
    ----------
    file, what : str
    count, calibrating, refused : int
        Rows that judge, that set something, and that nothing is predicted of.
    mean_fraction, worst_fraction, bias_fraction : float or None
        The last with its sign: below zero, steps take longer than predicted.
    rank_correlation : float or None
        Spearman's, of predicted and measured.
    goal_fraction : float or None
        The mean that was aimed at.
    """

    file: str
    what: str
    count: int
    calibrating: int = 0
    refused: int = 0
    mean_fraction: float | None = None
    worst_fraction: float | None = None
    bias_fraction: float | None = None
    rank_correlation: float | None = None
    goal_fraction: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the mean is under what was aimed at; None where there is none of either."""
        if self.mean_fraction is None or self.goal_fraction is None:
            return None
        return self.mean_fraction < self.goal_fraction


def errors_of(rows: Sequence[Outcome], goals: Mapping[str, float]) -> FileErrors:
    """Return the errors of outcomes of one file and one figure.

    Examples
    --------
    >>> rows = [Outcome(file="f", case="a", measured=2.0, predicted=2.5), refused("b", "no")]
    >>> errors_of(rows, {"time": 0.5}).mean_fraction
    0.25
    """
    judging = [row for row in rows if row.judges]
    return FileErrors(
        file=rows[0].file,
        what=rows[0].what,
        count=len(judging),
        calibrating=sum(bool(row.calibrates) for row in rows),
        refused=sum(bool(row.refused) for row in rows),
        **errors_of_pairs([(row.predicted or 0.0, row.measured or 0.0) for row in judging]),
        goal_fraction=goals.get(rows[0].what),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Everything that was replayed.

    Attributes
    ----------
    outcomes : tuple of Outcome
        In the order of files and rows.
    files : tuple of FileErrors
    unknown : tuple of (str, str)
        Files that nothing was replayed of, each with the reason.
    """

    outcomes: tuple[Outcome, ...]
    files: tuple[FileErrors, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
