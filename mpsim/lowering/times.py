"""How long each layer takes on one rank, on its device and to launch: medians, or what a trial drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsim.lowering.draws import Draw
from mpsim.lowering.launch import NO_LAUNCH, Launch, launch_of
from mpsim.workload.costs import median_s
from mpsim.workload.model import Cost, Samples

__all__ = ["LayerSeconds", "RankTimes", "drawn", "medians", "pick"]

_Rows = list[list[float]]


class LayerSeconds:
    """Seconds of each layer of one rank's stage by one clock, by kind of pass and micro-batch.

    Parameters
    ----------
    rows : mapping of str to list of list
        For each of F, I, W and B a row of layers for each micro-batch; a single row stands for all of them.
    added : list of list
        What W and B take longer where they add to gradients that are there; empty: nothing.
    """

    def __init__(self, rows: dict[str, _Rows], added: _Rows) -> None:
        rows = dict(rows)
        for kind in "WB":
            if any(map(any, added)):
                table, more = rows[kind], added
                rows[f"{kind}+"] = [
                    [a + b for a, b in zip(*pair, strict=True)] for pair in zip(table, more, strict=True)
                ]
        self._rows = rows
        self._totals = {kind: [sum(row) for row in table] for kind, table in rows.items()}

    def layers(self, kind: str, microbatch: int, first: int, last: int) -> list[float]:
        """Return the time of each of the layers ``first..last-1``."""
        table = self._rows.get(kind, self._rows[kind[0]])
        return table[microbatch if len(table) > 1 else 0][first:last]

    def seconds(self, kind: str, microbatch: int, first: int, last: int) -> float:
        """Return the time of the layers ``first..last-1`` together."""
        table = self._rows.get(kind, self._rows[kind[0]])
        row = microbatch if len(table) > 1 else 0
        if last - first == len(table[row]):
            return self._totals.get(kind, self._totals[kind[0]])[row]
        return sum(table[row][first:last])


class RankTimes:
    """Seconds of each layer of one rank's stage.

    Parameters
    ----------
    device, host : LayerSeconds
        By the two clocks; without a host nothing is launched.
    optimizer_s : float
        The update of all the stage's parameters, on the device.
    launch_update : Launch
        What launching it takes.
    makes_gradients : int
        The micro-batch whose backward, the first of the rank, makes the gradients; the others add to them.
    again : sequence of float
        What of each layer's forward runs again, where anything does; empty: all of it.
    """

    def __init__(
        self,
        device: LayerSeconds,
        host: LayerSeconds | None,
        optimizer_s: float,
        launch_update: Launch,
        makes_gradients: int,
        again: Sequence[float] = (),
    ) -> None:
        self._device, self._host, self._makes_gradients = device, host, makes_gradients
        self._again = again
        self.optimizer_s, self.launch_update = optimizer_s, launch_update

    def _kind(self, kind: str, microbatch: int) -> str:
        if kind == "R":
            return "F"
        return f"{kind}+" if kind in "WB" and microbatch != self._makes_gradients else kind

    def seconds(self, kind: str, microbatch: int, first: int, last: int) -> float:
        """Return the device's time for the stage's layers ``first..last-1`` in one pass of a micro-batch."""
        if kind == "R" and self._again:
            parts = zip(self._device.layers("F", microbatch, first, last), self._again[first:last], strict=True)
            return sum(seconds * part for seconds, part in parts)
        return self._device.seconds(self._kind(kind, microbatch), microbatch, first, last)

    def launch(self, kind: str, microbatch: int, first: int, last: int) -> Launch:
        """Return what launching those layers takes, in the order in which the pass runs them."""
        if self._host is None:
            return NO_LAUNCH
        which = (self._kind(kind, microbatch), microbatch, first, last)
        pairs = list(zip(self._host.layers(*which), self._device.layers(*which), strict=True))
        if kind == "R" and self._again:
            parts = self._again[first:last]
            pairs = [(host * part, device * part) for (host, device), part in zip(pairs, parts, strict=True)]
        return launch_of(pairs if kind in "FR" else reversed(pairs))


def medians(
    costs: Sequence[Cost],
    speed: float,
    host_speed: float | None = None,
    makes_gradients: int = 0,
    again: Sequence[float] = (),
) -> RankTimes:
    """Return the times of a rank at the median of every layer's samples; without a host speed nothing is launched."""
    device = _at_median([cost.samples for cost in costs], speed)
    host = None if host_speed is None else _at_median([cost.host for cost in costs], host_speed)
    return _rank(device, host, makes_gradients, again)


class _Clock(NamedTuple):
    """One clock's passes, and each layer's part of the update, not yet divided by the clock's speed."""

    passes: LayerSeconds
    update: list[float]
    speed: float

    @property
    def update_s(self) -> float:
        """All parts together."""
        return sum(self.update) / self.speed


def _rank(device: _Clock, host: _Clock | None, makes_gradients: int, again: Sequence[float]) -> RankTimes:
    if not host:
        return RankTimes(device.passes, None, device.update_s, NO_LAUNCH, makes_gradients, again)
    pairs = zip(host.update, device.update, strict=True)
    launch = launch_of((host_s / host.speed, device_s / device.speed) for host_s, device_s in pairs)
    return RankTimes(device.passes, host.passes, device.update_s, launch, makes_gradients, again)


def _at_median(samples: Sequence[Samples | None], speed: float) -> _Clock:
    forward, inputs, weights, optimizer, added = zip(*(median_s(one or _NOTHING) for one in samples), strict=True)
    rows = {"F": forward, "I": inputs, "W": weights, "B": [i + w for i, w in zip(inputs, weights, strict=True)]}
    divided = {kind: [[value / speed for value in row]] for kind, row in rows.items()}
    return _Clock(LayerSeconds(divided, [[value / speed for value in added]]), list(optimizer), speed)


def drawn(
    costs: Sequence[Cost],
    speed: float,
    draw: Draw,
    *,
    first_layer: int,
    tp_rank: int,
    replica: int,
    microbatches: int,
    host_speed: float | None = None,
    makes_gradients: int = 0,
    again: Sequence[float] = (),
) -> RankTimes:
    """Return the times of a rank as one trial draws them: of every execution of every layer one of its samples.

    Host and device of one execution, and what it adds to gradients, are taken at the same quantile.
    """
    passes = [draw.layer(first_layer + i, tp_rank, replica * microbatches, microbatches) for i in range(len(costs))]
    update = [draw.optimizer(first_layer + i, tp_rank, replica) for i in range(len(costs))]
    device = _as_drawn([cost.samples for cost in costs], speed, passes, update)
    host = None if host_speed is None else _as_drawn([cost.host for cost in costs], host_speed, passes, update)
    return _rank(device, host, makes_gradients, again)


# A layer without a host, on a device whose trace has one clock, beside others that have two.
_NOTHING = Samples(forward_s=(0.0,), backward_input_s=(0.0,), backward_weight_s=(0.0,))


def _as_drawn(
    samples: Sequence[Samples | None], speed: float, passes: Sequence[NDArray[np.float64]], update: Sequence[float]
) -> _Clock:
    found = np.empty((4, len(passes[0]), len(samples)))
    updates = []
    for i, (one, quantiles) in enumerate(zip(samples, passes, strict=True)):
        one = one or _NOTHING
        for j, values in enumerate((one.forward_s, one.backward_input_s, one.backward_weight_s)):
            found[j, :, i] = pick(values, quantiles[:, j])
        found[3, :, i] = pick(one.accumulate_s, quantiles[:, 2])
        updates.append(float(pick(one.optimizer_s, np.array([update[i]]))[0]))
    found /= speed
    tables = dict(zip("FIW", found[:3].tolist(), strict=True))
    tables["B"] = (found[1] + found[2]).tolist()
    return _Clock(LayerSeconds(tables, found[3].tolist()), updates, speed)


def pick(values: tuple[float, ...], quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sample at each quantile, in 0 to 1, 1 excluded."""
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    picked: NDArray[np.float64] = ascending[(quantiles * len(ascending)).astype(np.intp)]
    return picked
