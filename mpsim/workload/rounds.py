"""How far a trace has come."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

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
        from tqdm import tqdm

        file = sys.__stderr__ or sys.stderr  # where messages of the model's own are held back, the bar still shows
        shown = self._shown and (file.isatty() or "ipykernel" in sys.modules)
        total = self.rounds * sum(_weight(size, split) for size, split in self.points)
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = tqdm(total=total, disable=not shown, delay=2, leave=False, file=file, bar_format=form)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def at(self, size: int, split: Split) -> None:
        """A point begins."""
        self._weight = _weight(size, split)
        shard = f", {split.text}" if split != WHOLE else ""
        self._bar.set_description_str(f"{self.name}: micro-batch {size}{shard}", refresh=False)

    def one(self) -> None:
        """A round is done."""
        self._bar.update(self._weight)


def _weight(size: int, split: Split) -> float:
    """Return how long a round lasts, as if the ranks of a split shared all work."""
    return size / (split.tp * split.cp * split.ep)
