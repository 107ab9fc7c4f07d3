"""What recipes came to: tokens a second predicted beside measured, and errors by system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.validate.agreement import error_fraction, errors_of_pairs

__all__ = ["Judged", "Recipes", "SystemErrors", "errors_by_system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A recipe beside what was predicted of it, and where it stands among other plans.

    Attributes
    ----------
    file, case, system : str
        The file's name without suffix, which of its rows, and what it ran on.
    devices : int
    plan : str
        Theirs, in one line.
    measured, predicted : float or None
        Tokens a second and device; None of a row that was refused.
    calibrates : str
        What this row set, and so does not judge.
    calibrated_by : str
        The row that set something which the prediction used.
    refused : str
        Why there is no prediction.
    needs_bytes, measured_bytes, capacity_bytes : int
        Memory of the fullest device as predicted, as measured (0: unknown), and what a device has.
    others : int
        Plans that it was ranked among, itself one of them; 0: it was not.
    replayed : int
        How many of them were replayed, the rest being estimated.
    rank : int
        Its place among them, the first being the fastest.
    best : str
        The fastest of them, in one line.
    best_tokens_per_s : float
        Predicted of that, a device.
    best_needs_bytes : int
        Memory of its fullest device.
    alike : str
        The fastest of those that have their micro-batch and compute the same again, so that kernels are the same;
        ``""`` where replaying them takes long.
    alike_tokens_per_s : float
        Predicted of that, a device.
    why : str
        Where the two are more than a tenth apart, what is known of the reason.
    searched, simulated : int
        Plans in the space of a search, every cut of stages aside, and how many were simulated; 0: there was none.
    searched_best : str
        Its answer, which is that of simulating all.
    searched_tokens_per_s : float
        Predicted of that, a device; 0: none fits.
    """

    file: str
    case: str
    system: str = ""
    devices: int = 0
    plan: str = ""
    measured: float | None = None
    predicted: float | None = None
    calibrates: str = ""
    calibrated_by: str = ""
    refused: str = ""
    needs_bytes: int = 0
    measured_bytes: int = 0
    capacity_bytes: int = 0
    others: int = 0
    replayed: int = 0
    rank: int = 0
    best: str = ""
    best_tokens_per_s: float = 0.0
    best_needs_bytes: int = 0
    alike: str = ""
    alike_tokens_per_s: float = 0.0
    why: str = ""
    searched: int = 0
    simulated: int = 0
    searched_best: str = ""
    searched_tokens_per_s: float = 0.0

    @property
    def judges(self) -> bool:
        """Whether its error counts: there is a prediction, and its measured figure was not used."""
        return self.measured is not None and self.predicted is not None and not self.calibrates

    @property
    def error_fraction(self) -> float:
        """How many more tokens a second were predicted than measured, as a part of the measured."""
        assert self.predicted is not None
        assert self.measured is not None
        return error_fraction(self.predicted, self.measured)

    @property
    def gain_fraction(self) -> float:
        """What the best plan claims to gain on theirs, in tokens a second; 0 where it was not ranked."""
        return self.best_tokens_per_s / self.predicted - 1 if self.predicted and self.best_tokens_per_s else 0.0

    @property
    def alike_fraction(self) -> float:
        """Likewise the best with their micro-batch and recomputation."""
        return self.alike_tokens_per_s / self.predicted - 1 if self.predicted and self.alike_tokens_per_s else 0.0

    @property
    def searched_fraction(self) -> float:
        """What the best that was proved gains on theirs."""
        return self.searched_tokens_per_s / self.predicted - 1 if self.predicted and self.searched_tokens_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemErrors:
    """The errors of the rows of one system that judge.

    Attributes
    ----------
    system : str
    count, calibrating, refused : int
        Rows that judge, that set something, and that nothing is predicted of.
    mean_fraction, worst_fraction : float or None
        Without signs.
    bias_fraction : float or None
        With its sign: above zero, more tokens a second are predicted than measured.
    rank_correlation : float or None
        Spearman's, of predicted and measured tokens a second.
    """

    system: str
    count: int
    calibrating: int = 0
    refused: int = 0
    mean_fraction: float | None = None
    worst_fraction: float | None = None
    bias_fraction: float | None = None
    rank_correlation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """All that was predicted.

    Attributes
    ----------
    rows : tuple of Judged
        In the order of files and rows.
    """

    rows: tuple[Judged, ...]

    @property
    def systems(self) -> tuple[SystemErrors, ...]:
        """Errors by system, and of all together."""
        return errors_by_system(self.rows)


def errors_by_system(rows: Sequence[Judged]) -> tuple[SystemErrors, ...]:
    """Return the errors of the rows of each system in turn; of several systems, all together last.

    Examples
    --------
    >>> row = Judged(file="f", case="a", system="s", measured=100.0, predicted=75.0)
    >>> [(one.system, one.count, one.bias_fraction) for one in errors_by_system([row])]
    [('s', 1, -0.25)]
    """
    names = list(dict.fromkeys(row.system for row in rows if row.system))
    found = [_errors(name, [row for row in rows if row.system == name]) for name in names]
    return tuple(found if len(names) < 2 else [*found, _errors("all", rows)])


def _errors(system: str, rows: Sequence[Judged]) -> SystemErrors:
    judging = [row for row in rows if row.judges]
    return SystemErrors(
        system=system,
        count=len(judging),
        calibrating=sum(bool(row.calibrates) for row in rows),
        refused=sum(bool(row.refused) for row in rows),
        **errors_of_pairs([(row.predicted or 0.0, row.measured or 0.0) for row in judging]),
    )
