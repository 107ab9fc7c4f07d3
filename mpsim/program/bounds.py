"""The bandwidth bound of each collective: what no algorithm beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpsim.errors import unknown
from mpsim.program.collectives import check_ranks

if TYPE_CHECKING:
    from mpsim.topology.model import Topology
    from mpsim.topology.routes import Routes

__all__ = ["lower_bound_s"]

# In n-ths of the tensor: what all ranks send together, and what each must send and receive at least.
_LEAST: dict[str, Callable[[int], tuple[int, int, int]]] = {
    "all_reduce": lambda n: (2 * n * (n - 1), n, n),
    "all_gather": lambda n: (n * (n - 1), 1, n - 1),
    "reduce_scatter": lambda n: (n * (n - 1), n - 1, 1),
    "all_to_all": lambda n: (n * (n - 1), n - 1, n - 1),
    "broadcast": lambda n: (n * (n - 1), 0, n),
}


def _bandwidths(topology: Topology, ranks: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Return what leaves and what enters each rank per second, over all its links together."""
    leaving = dict.fromkeys((device.name for device in topology.devices), 0.0)
    entering = dict(leaving)
    for link in topology.links:
        if link.source in leaving:
            leaving[link.source] += link.bandwidth_bytes_per_s
        if link.target in entering:
            entering[link.target] += link.bandwidth_bytes_per_s
    names = [topology.devices[rank].name for rank in ranks]
    return [leaving[name] for name in names], [entering[name] for name in names]


def lower_bound_s(routes: Routes, kind: str, ranks: Sequence[int], bytes: int) -> float:
    """Return the time that no algorithm can beat: what must leave and enter the ranks, over their links' bandwidth.

    An all-reduce of S bytes sends at least 2(n-1)·S in all and S from each rank, an all-gather (n-1)·S in all and
    (n-1)/n·S into each rank, and so on: https://doi.org/10.1016/j.jpdc.2008.09.002. All links of a device
    count together; latency does not count.

    Raises
    ------
    MpsimError
        As `collective`.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> from mpsim.topology.routes import Routes
    >>> lower_bound_s(Routes(switch(4, link="50GB/s@2us")), "all_reduce", range(4), 100_000)
    3e-06
    """
    ranks = tuple(ranks)
    check_ranks(kind, routes, ranks, bytes)
    if kind not in _LEAST:
        raise unknown("collective", kind, _LEAST)
    n = len(ranks)
    leaving, entering = _bandwidths(routes.topology, ranks)
    if kind == "broadcast":
        # Only the first rank must send, and only the others receive.
        leaving, entering = leaving[:1], entering[1:]
        return bytes * max(1 / leaving[0], 1 / min(entering), (n - 1) / sum(entering))
    together, each_out, each_in = _LEAST[kind](n)
    all_s = together / min(sum(leaving), sum(entering))
    return bytes * max(all_s, each_out / min(leaving), each_in / min(entering)) / n
