"""What follows from failures whatever the steps do: who is out until when, what is waited for, who goes on."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from mpsim.failures.components import Component
from mpsim.failures.model import Recovery

__all__ = ["NOBODY", "Row", "Situation", "Slow", "rows_of"]


class Situation(NamedTuple):
    """Which replicas are out, and which devices are slow by which factor: all that a step's time depends on."""

    out: tuple[int, ...] = ()
    slow: tuple[tuple[int, float], ...] = ()


NOBODY = Situation()
_NOBODY_OUT: frozenset[int] = frozenset()


class Slow(NamedTuple):
    """A device of a replica that is slow from a moment on."""

    at_s: float
    device: int
    replica: int
    factor: float
    lasting_s: float


class Row(NamedTuple):
    """An event of a trial: whether it stops the run, what goes on afterwards, and what is waited for before."""

    at_s: float
    stops: bool
    situation: Situation
    detect_s: float = 0.0
    wait_s: float = 0.0


def rows_of(
    failures: Iterable[tuple[float, Component]],
    slow: Iterable[Slow],
    recovery: Recovery,
    can_go_on: Callable[[frozenset[int]], bool],
    named: Callable[[Situation], Situation] | None = None,
) -> list[Row]:
    """Return the events of a trial in order of time.

    Parameters
    ----------
    failures : iterable of (float, Component)
        Seconds, and what fails then.
    slow : iterable of Slow
        Devices that are slow for a while.
    recovery : Recovery
        What is done about failures.
    can_go_on : callable
        Whether a smaller plan can do without some replicas.
    named : callable, optional
        The situation that stands for one.

    Examples
    --------
    >>> card = Component("d0", frozenset([0]), True, 1.0)
    >>> rows_of([(100.0, card)], [], Recovery(detect_s=5.0, repair_s=60.0, swap_s=10.0), lambda out: False)
    [Row(at_s=100.0, stops=True, situation=Situation(out=(), slow=()), detect_s=5.0, wait_s=65.0)]
    """
    run = _Run(recovery, can_go_on, named)
    run.plan((at_s, run.fail, component) for at_s, component in failures)
    for one in slow:
        run.plan([(one.at_s, run.slow_down, one), (one.at_s + one.lasting_s, run.speed_up, one)])
    heapq.heapify(run.agenda)
    while run.agenda:
        at_s, _, what, argument = heapq.heappop(run.agenda)
        what(at_s, argument)
    return run.rows


class _Run:
    """One trial's nodes; `ready_s` is when all that is waited for is there, `noticed_s` when all is noticed."""

    def __init__(
        self,
        recovery: Recovery,
        can_go_on: Callable[[frozenset[int]], bool],
        named: Callable[[Situation], Situation] | None,
    ) -> None:
        self.recovery, self.can_go_on, self.named = recovery, can_go_on, named
        self.agenda: list[tuple[float, int, Callable[..., None], object]] = []
        self.rows: list[Row] = []
        self.spares = [0.0] * recovery.spares
        self.back: dict[int, float] = {}
        self.slow: list[Slow] = []
        self.ready_s = self.noticed_s = 0.0
        self.planned = 0
        self.situation = NOBODY

    def plan(self, what: Iterable[tuple[float, Callable[..., None], object]]) -> None:
        """Put something on the agenda; of what is at one moment the first that was put there comes first."""
        self.agenda += [(at_s, i, do, of) for i, (at_s, do, of) in enumerate(what, self.planned)]
        self.planned = len(self.agenda)

    def fail(self, at_s: float, component: Component) -> None:
        """Let a component fail."""
        out = frozenset(self.back) if self.back else _NOBODY_OUT
        whole = component.swapped
        there_s = self._next_node(at_s) if whole else at_s + self.recovery.repair_s
        if out and whole and component.replicas <= out:
            # Nobody runs there: it is back the later, and who waits for it waits on.
            self._drop(component.replicas, there_s)
            if not self.can_go_on(out):
                self._stop(at_s)
            return
        self.noticed_s = max(self.noticed_s, at_s + self.recovery.detect_s)
        if there_s > self.noticed_s and whole and self.recovery.smaller:
            self._drop(component.replicas, there_s)
        else:
            swap_s = self.recovery.swap_s if whole else 0.0
            self.ready_s = max(self.ready_s, max(self.noticed_s, there_s) + swap_s)
        self._stop(at_s)

    def _next_node(self, at_s: float) -> float:
        """Return when the next node is there, a spare or the failed one repaired, which is a spare afterwards."""
        return heapq.heappushpop(self.spares, at_s + self.recovery.repair_s)

    def _drop(self, replicas: Iterable[int], there_s: float) -> None:
        for replica in replicas:
            self.back[replica] = max(self.back.get(replica, 0.0), there_s)
        if there_s < math.inf:
            heapq.heappush(self.agenda, (there_s, self.planned, self.come_back, None))
            self.planned += 1
        self._settle()

    def come_back(self, at_s: float, _: None) -> None:
        """Let replicas whose devices are there again take part again."""
        found = [replica for replica, there_s in self.back.items() if there_s <= at_s]
        if found:
            for replica in found:
                del self.back[replica]
            self._settle()
            self.ready_s = max(self.ready_s, at_s + self.recovery.swap_s)
            self._stop(at_s)

    def slow_down(self, at_s: float, one: Slow) -> None:
        """Let a device be slow."""
        self.slow.append(one)
        self._pace(at_s, one)

    def speed_up(self, at_s: float, one: Slow) -> None:
        """Let it be slow no longer."""
        self.slow.remove(one)
        self._pace(at_s, one)

    def _pace(self, at_s: float, one: Slow) -> None:
        if one.replica not in self.back:
            self._settle()
            self.rows.append(Row(at_s, False, self.situation))

    def _stop(self, at_s: float) -> None:
        detect_s = max(0.0, self.noticed_s - at_s)
        enough_s, situation = self._enough()
        wait_s = max(0.0, max(self.ready_s, enough_s) - at_s - detect_s)
        self.rows.append(Row(at_s, True, situation, detect_s, wait_s))

    def _enough(self) -> tuple[float, Situation]:
        """Return when as many replicas are there as a plan needs, and the situation then."""
        if not self.back or self.can_go_on(frozenset(self.back)):
            return 0.0, self.situation
        for there_s in sorted(set(self.back.values())):
            out = frozenset(replica for replica, back_s in self.back.items() if back_s > there_s)
            if not out or self.can_go_on(out):
                return there_s, self._named(out)
        return math.inf, NOBODY

    def _settle(self) -> None:
        """Note who is out and who is slow, once that changed."""
        self.situation = self._named(self.back)

    def _named(self, out: Collection[int]) -> Situation:
        factors: dict[int, float] = {}
        for one in self.slow:
            if one.replica not in out:
                factors[one.device] = max(factors.get(one.device, 1.0), one.factor)
        found = Situation(tuple(sorted(out)), tuple(sorted(factors.items())))
        return self.named(found) if self.named else found
