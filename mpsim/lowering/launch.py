"""What launching a run of layers takes a device's host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["NO_LAUNCH", "Launch", "launch_of"]


class Launch(NamedTuple):
    """What launching a run of layers takes: until its first kernel may run so that no later one waits, and after."""

    lead_s: float
    rest_s: float


NO_LAUNCH = Launch(0.0, 0.0)


def launch_of(layers: Iterable[tuple[float, float]]) -> Launch:
    """Return what launching layers takes, given the host's and the device's seconds of each, in order.

    One layer after another is launched, and runs once it is and the device is free. Host and device finish then as if
    the device ran all the layers without a gap, begun `lead_s` after the host began::

        host    [a---][b--][c----]          lead_s: whatever the device would have to wait for, all of it at once
        device        [A-]  [B]   [C-]
        as one        ...... [A-][B][C-]

    Examples
    --------
    >>> launch_of([(3.0, 1.0), (3.0, 1.0)])
    Launch(lead_s=5.0, rest_s=1.0)
    >>> launch_of([(1.0, 4.0), (1.0, 4.0)])
    Launch(lead_s=1.0, rest_s=1.0)
    """
    issued_s = done_s = lead_s = 0.0
    for host_s, device_s in layers:
        issued_s += host_s
        if device_s:
            lead_s = max(lead_s, issued_s - done_s)
        done_s += device_s
    return Launch(lead_s, issued_s - lead_s)
