"""The bandwidth bound of each collective: what no algorithm beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpsim.collectives.traffic import check_ranks
from mpsim.errors import unknown

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
    "send_receive": lambda n: (n * n, n, n),
    "barrier": lambda n: (0, 0, 0),
}
# From the root, or to it where turned: what it and the others move, in n-ths of the tensor.
_ROOTED: dict[str, tuple[bool, Callable[[int], tuple[int, int]]]] = {
    "broadcast": (False, lambda n: (n, n)),
    "scatter": (False, lambda n: (n - 1, 1)),
    "reduce": (True, lambda n: (n, n)),
    "gather": (True, lambda n: (n - 1, 1)),
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

    Where switches add up and copy what passes through them, ranks need not send in all what they would without:
    then only what each must send and receive counts.

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
    check_ranks(kind, routes, ranks, bytes or int(kind == "barrier"))
    if kind not in _LEAST and kind not in _ROOTED:
        raise unknown("collective", kind, [*_LEAST, *_ROOTED])
    n = len(ranks)
    leaving, entering = _bandwidths(routes.topology, ranks)
    reduces = bool(routes.topology.reducing)
    if kind in _ROOTED:
        turned, least = _ROOTED[kind]
        of_root, of_each = least(n)
        root, others = (entering[0], leaving[1:]) if turned else (leaving[0], entering[1:])
        together_s = 0.0 if reduces else (n - 1) * of_each / sum(others)
        return bytes * max(of_root / root, of_each / min(others), together_s) / n
    together, each_out, each_in = _LEAST[kind](n)
    together_s = 0.0 if reduces else together / min(sum(leaving), sum(entering))
    return bytes * max(together_s, each_out / min(leaving), each_in / min(entering)) / n
