"""Lay a collective on devices: the rounds of an algorithm over these ranks, and which rank stands where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from mpsim.collectives.algorithms import ALGORITHMS
from mpsim.collectives.levelled import LEVELLED, rings_along
from mpsim.collectives.rounds import Rounds, Steps
from mpsim.errors import MpsimError, unknown
from mpsim.topology.cycles import link_cycles
from mpsim.topology.levels import Groups, find_levels, level_sizes

if TYPE_CHECKING:
    from mpsim.topology.routes import Routes

__all__ = ["AUTO", "algorithm_names", "algorithm_of", "check_algorithm", "laid_rounds", "rounds_of"]

AUTO = "auto"
# In these the levels do not matter, or only that of nodes does.
_WHOLE, _NODES = ("nvls",), ("rings", "trees", "nvls_tree", "collnet")


def algorithm_names(kind: str) -> list[str]:
    """Return the algorithms of a kind of collective.

    Examples
    --------
    >>> algorithm_names("reduce")
    ['direct', 'double_binary_tree', 'halving_doubling', 'ring']
    """
    return sorted(name for known, name in (*ALGORITHMS, *LEVELLED) if known == kind)


def check_algorithm(kind: str, algorithm: str) -> None:
    """Refuse an unknown kind or algorithm; ``auto`` stands for any, ``hierarchical:8`` for levels that are named.

    Raises
    ------
    MpsimError
        With the nearest name.

    Examples
    --------
    >>> check_algorithm("all_reduce", "rign")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown all_reduce algorithm 'rign'; did you mean 'ring'?
    """
    kinds = {known for known, _ in ALGORITHMS}
    if kind not in kinds:
        raise unknown("collective", kind, kinds)
    name = algorithm.partition(":")[0]
    if algorithm != AUTO and (kind, name) not in ALGORITHMS and (kind, name) not in LEVELLED:
        raise unknown(f"{kind} algorithm", algorithm, [*algorithm_names(kind), AUTO])
    named = algorithm[len(name) :]
    if named and not ((kind, name) in LEVELLED and re.fullmatch(r":[1-9]\d*(x[1-9]\d*)*", named)):
        raise MpsimError(f"algorithm {algorithm!r}: levels are named as in hierarchical:8 or hierarchical:4x2")


def algorithm_of(kind: str, algorithm: str) -> str:
    """Return the algorithm by which the collectives of a kind go, where a plan names one for all its collectives.

    No library passes the pieces of an all-to-all on around a ring, nor down a tree: each goes straight to whom it is
    for, but where levels are followed.

    Examples
    --------
    >>> [algorithm_of("all_to_all", name) for name in ("ring", "hierarchical:8")], algorithm_of("all_reduce", "ring")
    (['direct', 'hierarchical:8'], 'ring')
    """
    follows = algorithm == AUTO or algorithm.partition(":")[0] in ("hierarchical", "halving_doubling")
    return algorithm if kind != "all_to_all" or follows else "direct"


def rounds_of(kind: str, algorithm: str, n: int) -> Rounds:
    """Return the rounds of an algorithm that needs no topology, over n ranks.

    Raises
    ------
    MpsimError
        An unknown kind or algorithm, or one that follows the levels of a topology.

    Examples
    --------
    >>> rounds_of("all_reduce", "ring", 4).pieces
    4
    """
    check_algorithm(kind, algorithm)
    if (kind, algorithm) not in ALGORITHMS:
        raise MpsimError(f"{algorithm} follows the levels of a topology: give one, or another algorithm")
    return ALGORITHMS[kind, algorithm](n)


def laid_rounds(
    routes: Routes, kind: str, algorithm: str, ranks: tuple[int, ...]
) -> tuple[Rounds | Steps, tuple[int, ...]]:
    """Return the rounds of an algorithm, and the device of each rank in them.

    Raises
    ------
    MpsimError
        An unknown kind or algorithm, or ranks that do not make up levels of equal groups.

    Examples
    --------
    >>> from mpsim.topology.builders import nodes
    >>> from mpsim.topology.routes import Routes
    >>> routes = Routes(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr"))
    >>> laid_rounds(routes, "all_gather", "hierarchical", (0, 2, 1, 3))[1]
    (0, 1, 2, 3)
    """
    check_algorithm(kind, algorithm)
    if (kind, algorithm) in ALGORITHMS:
        return ALGORITHMS[kind, algorithm](len(ranks)), ranks
    name, _, named = algorithm.partition(":")
    if named:
        return LEVELLED[kind, name](_named_sizes(named, len(ranks))), ranks
    if name in _WHOLE:
        return LEVELLED[kind, name]((len(ranks),)), ranks
    levels = find_levels(routes, ranks)
    if name == "rings" and len(levels) == 1 and (cycles := link_cycles(routes, ranks)):
        place = {device: i for i, device in enumerate(ranks)}
        ways = [tuple(place[device] for device in cycle) for cycle in cycles]
        return rings_along(kind, [*ways, *(way[::-1] for way in ways)]), ranks
    if name in _NODES and len(levels) > 1:
        levels = (levels[0], levels[-1])
    return LEVELLED[kind, name](level_sizes(levels)), _nested(levels)


def _nested(levels: Sequence[Groups]) -> tuple[int, ...]:
    """Return all devices, those of each group of each level side by side."""
    order = levels[-1][0]
    for groups in reversed(levels[:-1]):
        group_of = {device: number for number, group in enumerate(groups) for device in group}
        first = {group_of[device]: place for place, device in reversed(list(enumerate(order)))}
        places = {device: first[group_of[device]] for device in order}
        order = tuple(sorted(order, key=places.__getitem__))
    return order


def _named_sizes(named: str, n: int) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in named.split("x"))
    if n % prod(sizes):
        raise MpsimError(f"levels of {named} do not divide {n} ranks: name sizes whose product does")
    return (*sizes, n // prod(sizes)) if n > prod(sizes) else sizes
