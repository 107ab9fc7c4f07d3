"""The trials: what is drawn and what is listed for each, and what follows from it, as columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from mpsim.bars import Progress
from mpsim.errors import MpsimError
from mpsim.failures.components import Component, Components, listed_index
from mpsim.failures.draws import Floats, failure_times, generator
from mpsim.failures.lanes import Rows
from mpsim.failures.model import Failures, Recovery, Stragglers
from mpsim.failures.outages import NOBODY, Row, Situation, Slow, rows_of
from mpsim.failures.replays import alike
from mpsim.garbage import collector_paused
from mpsim.lowering.model import Lowering

__all__ = ["Drawn", "Draws"]

_MOST_EVENTS = 5_000_000
_MOST_IN_A_TRIAL = 50_000
_MOST_DRAWS = 1_000_000_000
_MOST_EXACT = 16  # situations that are replayed as they are; of more, like ones are one
_MOST_SITUATIONS = 400
_FAILURES, _SLOW = 0, 1  # what random numbers are for


class Drawn(NamedTuple):
    """The events of all trials, and the situations that they name by number; the first is that of nobody out or slow.

    `unused` listed events are of what the plan does not use; `alike`: situations stand for others like them.
    """

    rows: Rows
    situations: tuple[Situation, ...]
    unused: int
    alike: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What trials are drawn from; without a lowered plan nothing is listed and nobody is slow.

    Examples
    --------
    >>> things = Components((Component("d0", frozenset(), True, 50.0),), np.array([50.0]), 1)
    >>> draws = Draws(components=things, failures=Failures(mtbf_s=50.0), recovery=Recovery(), seed=0, horizon_s=100.0)
    >>> draws.trials(3).rows.stops.sum(axis=1).shape
    (3,)
    """

    components: Components
    failures: Failures
    recovery: Recovery
    seed: int
    horizon_s: float
    stragglers: Stragglers | None = None
    lowering: Lowering | None = None
    can_go_on: Callable[[frozenset[int]], bool] = lambda out: False

    def trials(self, count: int, progress: Progress = lambda done, total: None) -> Drawn:
        """Return the events of so many trials; `progress` is called with how many are drawn, and of how many.

        Raises
        ------
        MpsimError
            More than can be played, or a listed failure of what there is not.
        """
        self._check(count)
        fails, slow, unused = self._listed()
        exact = self._events(count, fails, slow, None, _MOST_EXACT, progress)
        if exact is not None:
            return Drawn(_padded(exact[0]), exact[1], unused, False)
        named = None
        if self.lowering:
            rank_of = {device: rank for rank, device in enumerate(self.lowering.place)}
            named = partial(alike, lowering=self.lowering, rank_of=rank_of)
        found = self._events(count, fails, slow, named, _MOST_SITUATIONS, progress)
        if found is None:
            raise MpsimError(
                f"more than {_MOST_SITUATIONS} situations of slow devices and replicas that are out differ, each would"
                " have to be replayed: give fewer or shorter slow spells, or a shorter run"
            )
        return Drawn(_padded(found[0]), found[1], unused, True)

    def _check(self, count: int) -> None:
        spells = len(self.lowering.place) / float(self.stragglers.every_s) if self.stragglers and self.lowering else 0.0
        events = self.horizon_s * (self.components.rate_per_s + 2 * spells) + len(self.failures.listed)
        if events > _MOST_IN_A_TRIAL:
            raise MpsimError(
                f"a trial has about {events:,.0f} failures and slow spells, {_MOST_IN_A_TRIAL:,} can be played: ask for"
                " a shorter run, or check how often things fail"
            )
        if count * events > _MOST_EVENTS or count * len(self.components.each) > _MOST_DRAWS:
            raise MpsimError(
                f"{count:,} trials have about {count * events:,.0f} failures and slow spells of"
                f" {len(self.components.each):,} things, {_MOST_EVENTS:,} can be played: ask for fewer trials or a"
                " shorter run"
            )

    def _events(
        self,
        count: int,
        fails: Sequence[tuple[float, Component]],
        slow: Sequence[Slow],
        named: Callable[[Situation], Situation] | None,
        most: int,
        progress: Progress,
    ) -> tuple[list[Floats], tuple[Situation, ...]] | None:
        """Return the events of each trial, and the situations; None where there are more of those than `most`."""
        numbers: dict[Situation, int] = {NOBODY: 0}
        found = []
        with collector_paused():
            for trial in range(count):
                drawn = rows_of(
                    [*self._failures(trial), *fails],
                    [*self._spells(trial), *slow],
                    self.recovery,
                    self.can_go_on,
                    named,
                )
                found.append(_columns(drawn, numbers, self.horizon_s))
                progress(trial + 1, count)
                if len(numbers) > most:
                    return None
        return found, tuple(numbers)

    def _failures(self, trial: int) -> list[tuple[float, Component]]:
        rng, things = generator(self.seed, trial, _FAILURES), self.components.each
        times, which = failure_times(rng, self.components.scales, self.failures.shape, self.horizon_s)
        return list(zip(times.tolist(), [things[i] for i in which.tolist()], strict=True))

    def _spells(self, trial: int) -> list[Slow]:
        if self.stragglers is None or self.lowering is None:
            return []
        grid, place, spell = self.lowering.grid, self.lowering.place, self.stragglers
        means = np.full(len(place), float(spell.every_s))
        times, ranks = failure_times(generator(self.seed, trial, _SLOW), means, 1.0, self.horizon_s)
        return [
            Slow(at_s, place[rank], grid.at(rank)["dp"], spell.factor, float(spell.lasting_s))
            for at_s, rank in zip(times.tolist(), ranks.tolist(), strict=True)
        ]

    def _listed(self) -> tuple[list[tuple[float, Component]], list[Slow], int]:
        """Return the listed failures and slow spells of what the plan uses, and how many are of what it does not."""
        fails: list[tuple[float, Component]] = []
        slow: list[Slow] = []
        if self.lowering is None:
            return fails, slow, 0
        topology, place, names = self.lowering.topology, self.lowering.place, self.components.by_name()
        rank_of = {topology.devices[device].name: rank for rank, device in enumerate(place)}
        unused = 0
        for event in self.failures.listed:
            index = listed_index(event, self.components, names, topology)
            if index is None:
                unused += 1
            elif not event.slow:
                fails.append((event.at_s, self.components.each[index]))
            elif event.what in rank_of:
                rank = rank_of[event.what]
                replica = self.lowering.grid.at(rank)["dp"]
                slow.append(Slow(event.at_s, place[rank], replica, event.factor, event.lasting_s))
            else:
                raise MpsimError(f"{event.what!r} is slow, but only devices compute: name a device")
        return fails, slow, unused


def _columns(rows: Sequence[Row], numbers: dict[Situation, int], horizon_s: float) -> Floats:
    """Return a trial's events as columns, shape (5, events)."""
    found = [
        (row.at_s, row.stops, numbers.setdefault(row.situation, len(numbers)), row.detect_s, row.wait_s)
        for row in rows
        if row.at_s < horizon_s
    ]
    return np.array(found, dtype=float).reshape(-1, 5).T


def _padded(each: Sequence[Floats]) -> Rows:
    most = max(columns.shape[1] for columns in each)
    table = np.zeros((5, len(each), most))
    table[0] = math.inf
    for trial, columns in enumerate(each):
        table[:, trial, : columns.shape[1]] = columns
    return Rows(table[0], table[1].astype(bool), table[2].astype(np.int64), table[3], table[4])
