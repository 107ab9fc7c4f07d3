"""A topology with more of what its builder counts: devices, or nodes of them."""

from __future__ import annotations

from mpsim.errors import MpsimError
from mpsim.topology.builders import BUILDERS
from mpsim.topology.model import Topology
from mpsim.topology.presets import PRESETS
from mpsim.topology.spec import parse_topology

__all__ = ["grown"]


def grown(topology: Topology, times: int = 0) -> Topology:
    """Return the topology that its builder makes of so many times what it counts; by default of one more.

    Raises
    ------
    MpsimError
        It is of no builder, or one of several sizes.

    Examples
    --------
    >>> grown(parse_topology("switch:2,link=1GB/s@0")).name, len(grown(parse_topology("dgx_h100:2"), 2).devices)
    ('switch:3,link=1GB/s@0', 32)
    """
    name, _, rest = topology.name.partition(":")
    count, comma, others = rest.partition(",")
    count = count or "1"
    if name not in {*BUILDERS, *PRESETS} or not _is_made(topology):
        raise MpsimError(f"topology {topology.name[:40]!r} is not as a builder makes it: nobody knows how it grows")
    if not count.isdecimal():
        raise MpsimError(f"{name}:{count} has several sizes: it grows in more than one way")
    more = int(count) * times if times else int(count) + 1
    return parse_topology(f"{name}:{more}{comma}{others}")


def _is_made(topology: Topology) -> bool:
    """Return whether a topology is what its name makes."""
    try:
        made = parse_topology(topology.name)
    except MpsimError:
        return False
    return (made.devices, made.links, made.costs) == (topology.devices, topology.links, topology.costs)
