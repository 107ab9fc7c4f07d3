"""How far a trace has come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpsim.bars import PATIENCE_S, new_bar, watched
from mpsim.workload.split import WHOLE, Split

__all__ = ["Rounds"]


class Rounds:
    """A bar over the rounds of all points, each as long as its micro-batch is large, that says the time left.

    It shows in a terminal or a notebook once a trace has taken two seconds.

    Parameters
    ----------
    name : str
        The model's.
    points : sequence of (int, Split)
        Micro-batch and split of each.
    rounds : int
        Of each point.

    Examples
    --------
    >>> with Rounds("mine", [(4, WHOLE), (8, Split(tp=2))], 3) as rounds:
    ...     rounds.at(4, WHOLE)
    ...     rounds.one()
    """

    def __init__(self, name: str, points: Sequence[tuple[int, Split]], rounds: int) -> None:
        self.name, self.points, self.rounds = name, points, rounds
        self._weight = 0.0
        self._shown = True
        self._bar: Any = None

    def unseen(self) -> Rounds:
        """Show nothing."""
        self._shown = False
        return self

    def __enter__(self) -> Rounds:
        total = self.rounds * sum(_weight(size, split) for size, split in self.points)
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        shown = self._shown and watched()
        self._bar = new_bar(total=total, delay=PATIENCE_S, bar_format=form) if shown else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, size: int, split: Split) -> None:
        """A point begins."""
        self._weight = _weight(size, split)
        shard = f", {split.text}" if split != WHOLE else ""
        if self._bar is not None:
            self._bar.set_description_str(f"{self.name}: micro-batch {size}{shard}", refresh=False)

    def one(self) -> None:
        """A round is done."""
        if self._bar is not None:
            self._bar.update(self._weight)


def _weight(size: int, split: Split) -> float:
    """Return how long a round lasts, as if the ranks of a split shared all work."""
    return size / (split.tp * split.cp * split.ep)
