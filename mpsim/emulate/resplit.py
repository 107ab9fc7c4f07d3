"""How a plan goes on with fewer devices: the same arithmetic where it can, stages balanced anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpsim.emulate.capture.cut import Cut
from mpsim.emulate.device import Device
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.partition import balance

__all__ = ["balanced", "choices", "plans_for"]

_OVERFLOW = 1e100  # seconds, more than any that fit take


def choices(plan: Plan, devices: Sequence[Device], stateless: bool) -> Iterator[tuple[Plan, list[Device]]]:
    """Yield plans over devices that are left, and the device of each rank, the best first.

    Where none over all of them does, those with the most room alone may.

    Parameters
    ----------
    plan : Plan
        Of more devices.
    devices : sequence of Device
        That are left.
    stateless : bool
        As of `plans_for`.

    Examples
    --------
    >>> left = [Device("a", "1 GiB"), Device("b", "2 GiB")]
    >>> [(one.text, [device.id for device in placed]) for one, placed in choices(Plan(dp=3), left, False)]
    [('dp=3', ['a', 'a', 'b']), ('dp=3', ['b', 'b', 'b'])]
    """
    by_room = sorted(range(len(devices)), key=lambda i: (-devices[i].free_bytes, i))
    for count in range(len(devices), 0, -1):
        left = [devices[i] for i in sorted(by_room[:count])]
        for found in plans_for(plan, count, stateless):
            ranks = found.ranks
            yield found, left[:ranks] if ranks <= count else [left[i * count // ranks] for i in range(ranks)]


def plans_for(plan: Plan, devices: int, stateless: bool) -> Iterator[Plan]:
    """Yield what a plan becomes on fewer devices, the best first.

    Replicas and tensor-parallel ranks stay as many as they are: what each computes is then what it computed before, to
    the bit, and several of them share a device if need be. Pipelines get shorter. What comes after that, for models
    that do not fit so, has fewer replicas, each with the micro-batches of several.

    Parameters
    ----------
    plan : Plan
        Of more devices.
    devices : int
        That are left.
    stateless : bool
        Whether replicas may be merged: a forward moves nothing, which the first replica alone would have moved.

    Examples
    --------
    >>> [one.text for one in plans_for(Plan(dp=2, pp=2, microbatches=2, schedule="gpipe"), 3, True)]
    ['dp=2 micro-batches=2', 'pp=3 micro-batches=4 gpipe']
    >>> [one.text for one in plans_for(Plan(pp=4, microbatches=2, schedule="gpipe"), 3, True)]
    ['pp=3 micro-batches=2 gpipe']
    """
    for dp in range(plan.dp, 0, -1):
        if plan.dp % dp or (dp < plan.dp and not stateless):
            continue
        pp = max(1, devices // (dp * plan.tp))
        pp = min(plan.pp, pp) if dp == plan.dp else pp
        merged = replace(plan, dp=dp, microbatches=plan.microbatches * plan.dp // dp, devices=())
        if pp == plan.pp:
            yield merged
        else:
            yield _shorter(merged, pp)


def _shorter(plan: Plan, pp: int) -> Plan:
    """Return a plan with fewer pipeline ranks; rows that are given for so many give way to 1F1B."""
    try:
        found = replace(plan, pp=pp, boundaries=None)
        found.rows()
    except MpsimError:
        found = replace(plan, pp=pp, boundaries=None, chunks=0, schedule="1f1b")
    return found


def balanced(cut: Cut, state: Mapping[str, Any], seconds: Sequence[float], rooms: Sequence[float]) -> tuple[int, ...]:
    """Return the boundaries that leave the slowest stage fastest, of those whose stages fit where they go.

    Parameters
    ----------
    cut : Cut
        Of the model.
    state : mapping of str to torch.Tensor
        The model's parameters and buffers.
    seconds : sequence of float
        Of each unit.
    rooms : sequence of float
        Bytes that each stage may take. Where none of the cuts fits, the one that overflows least is returned.

    Examples
    --------
    >>> from mpsim.emulate.capture.cut import Unit
    >>> units = [Unit(name=x, kind="", module=None, inputs=(), outputs=(), parameters=(x,)) for x in "abc"]
    >>> cut = Cut(units=tuple(units), feeds=(), outputs=(), loss="")
    >>> state = {name: np.zeros(8) for name in "abc"}
    >>> inf = float("inf")
    >>> balanced(cut, state, [4, 1, 1], [inf, inf]), balanced(cut, state, [4, 1, 1], [inf, 64])
    ((1,), (2,))
    """
    before = np.cumsum([0.0, *seconds])
    sizes = _sizes(cut, state)
    seconds_of = before - before[:, None]
    return balance([np.where(sizes <= room, seconds_of, _OVERFLOW * sizes / max(room, 1.0)) for room in rooms])


def _sizes(cut: Cut, state: Mapping[str, Any]) -> Any:
    """Return the bytes of units ``first..last-1`` at ``[first, last]``, what several of them hold once."""
    count = len(cut.units)
    sizes = np.zeros((count + 1, count + 1))
    for first in range(count):
        held: set[str] = set()
        for last in range(first, count):
            new = {*cut.units[last].parameters, *cut.units[last].buffers} - held
            held |= new
            sizes[first, last + 1] = sizes[first, last] + sum(state[name].nbytes for name in new)
    return sizes
