"""Where the step of the mean device goes: parts that add up to it, to the last bit.

In whole units of the step's last bit a device's parts are those of `mpsim.program.account`, told apart further. Sums
over devices are whole numbers; only the last division rounds, and each part goes down or up by less than a unit so that
all of them make the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mpsim.explanation.exposed import Busy, busy_of, exposed_transfers
from mpsim.explanation.kinds import Kinds
from mpsim.explanation.model import PARTS, Part
from mpsim.program.account import parts_of
from mpsim.program.model import Program, Timing
from mpsim.result.model import DeviceUse
from mpsim.sums import sum_of

__all__ = ["Idle", "mean_idle_s", "parts_of_step"]

_Key = tuple[str, str, str]


class Idle(NamedTuple):
    """For how long the mean device is idle, in seconds, where links are free.

    Attributes
    ----------
    schedule_s : float
        With stages that are alike, launched for nothing.
    stages_s : float
        With the stages as they are, launched for nothing.
    launched_s : float
        Launched as they are.
    """

    schedule_s: float
    stages_s: float
    launched_s: float


def mean_idle_s(program: Program, devices: Sequence[int], timing: Timing) -> float:
    """Return for how long the mean of some devices neither computes, communicates nor waits for its launch.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> program = Program(streams=(Stream(device=0, name="compute"),), tasks=(Task("a", "forward", (0,), (), 1.0),))
    >>> mean_idle_s(program, [0, 1], Timing(start_s=(0.0,), end_s=(1.0,)))
    0.5
    """
    parts, counts = parts_of(program, timing), [program.stands_for.get(device, 1) for device in devices]
    idle = ((timing.step_s - parts(device)[2], count) for device, count in zip(devices, counts, strict=True))
    return sum_of(idle) / sum(counts)


def parts_of_step(
    program: Program, timing: Timing, kinds: Kinds, devices: Sequence[int], uses: Sequence[DeviceUse], idle: Idle
) -> tuple[Part, ...]:
    """Return the parts of the step on the mean device, in the order of `PARTS`, of communication the longest first.

    Parameters
    ----------
    program, timing
        The step.
    kinds : Kinds
        Of the program's transfers.
    devices, uses : sequence of int, sequence of DeviceUse
        The devices by their index in the topology, and where the step of each went.
    idle : Idle
        For how long they are idle where links are free.
    """
    step_s, busy = timing.step_s, busy_of(program, timing)
    if not step_s:
        return ()
    unit = math.ulp(step_s)
    sums: dict[_Key, int] = {}
    for device, use in zip(devices, uses, strict=True):
        for key, count in _parts(busy.get(device, Busy()), use, kinds, unit).items():
            sums[key] = sums.get(key, 0) + count * use.count
    n = sum(use.count for use in uses)
    sums |= _idle_parts(sums.pop(("idle", "", "")), idle, n, unit)
    whole = _shared_out(sums, n, round(step_s / unit))
    order = list(PARTS)
    found = [Part(name=name, what=what, link=link, seconds=k * unit) for (name, what, link), k in whole.items() if k]
    return tuple(sorted(found, key=lambda part: (order.index(part.name), -part.seconds, part.label)))


def _parts(busy: Busy, use: DeviceUse, kinds: Kinds, unit: float) -> dict[_Key, int]:
    """Return the parts of one device's step in units."""
    compute = round(use.compute_s / unit)
    again = min(compute, round(math.fsum(busy.again_s) / unit))
    slowed = min(compute - again, round(math.fsum(busy.slowed_s) / unit))
    found: dict[_Key, int] = {
        ("compute", "", ""): compute - again - slowed,
        ("recompute", "", ""): again,
        ("slowed", "", ""): slowed,
        ("launch", "", ""): round(use.exposed_launch_s / unit),
        ("idle", "", ""): round(use.idle_s / unit),
    }
    exposed: dict[tuple[str, str], list[float]] = {}
    for task, seconds in exposed_transfers(busy).items():
        exposed.setdefault(kinds.of(task), []).append(seconds)
    units = {key: round(math.fsum(seconds) / unit) for key, seconds in exposed.items()}
    if units:
        # Rounded one by one they miss the device's exposed communication by a few units: the longest takes them.
        longest = max(units, key=lambda key: units[key])
        units[longest] += round(use.exposed_communication_s / unit) - sum(units.values())
    return found | {("communication", *key): count for key, count in units.items()}


def _idle_parts(total: int, idle: Idle, n: int, unit: float) -> dict[_Key, int]:
    """Tell idle units apart: each cause has what it would make of them alone, as far as there are any left."""
    causes = {
        "bubble": idle.schedule_s,
        "imbalance": idle.stages_s - idle.schedule_s,
        "behind launches": idle.launched_s - idle.stages_s,
    }
    found: dict[_Key, int] = {}
    for name, seconds in causes.items():
        found[name, "", ""] = min(total, max(0, round(seconds * n / unit)))
        total -= found[name, "", ""]
    return found | {("behind communication", "", ""): total}


def _shared_out(sums: dict[_Key, int], n: int, whole: int) -> dict[_Key, int]:
    """Divide by the number of devices: rounded down, and up where that leaves out most, until they make the whole."""
    found = {key: count // n for key, count in sums.items()}
    left = whole - sum(found.values())
    for key in sorted(sums, key=lambda key: (-(sums[key] % n), key))[:left]:
        found[key] += 1
    return found
