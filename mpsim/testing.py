"""Contract checks: what every registered schedule, topology builder and collective passes, for your own as well.

Each check returns nothing, or raises an `MpsimError` that says in one line what was broken and where.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mpsim.calls import checked
from mpsim.collectives.bounds import lower_bound_s
from mpsim.collectives.rounds import Round, Rounds, must_hear
from mpsim.errors import MpsimError, at
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Rows, Schedule, check_rows, format_rows, parse_rows, takes_chunks
from mpsim.plan.shape import shape_of
from mpsim.plan.timing import unit_times
from mpsim.simulation import simulate, simulate_collectives
from mpsim.topology.builders import chain, switch
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire
from mpsim.workload.model import Layer, Workload

__all__ = ["check_collective", "check_schedule", "check_topology"]

# Ranks and micro-batches; and with stages a rank, for schedules that take a number of them.
GRID = ((1, 1), (1, 4), (2, 1), (2, 2), (2, 5), (3, 4), (4, 4), (4, 16), (8, 9))
CHUNKED = ((1, 3, 2), (2, 3, 1), (2, 4, 2), (3, 2, 2), (3, 7, 3), (4, 8, 4))


@checked
def check_schedule(schedule: Schedule, grid: Iterable[tuple[int, ...]] | None = None) -> None:
    """Check that a schedule is whole, the same each time, can be written as text, and runs to its end.

    Parameters
    ----------
    schedule : callable
        ``(ranks, microbatches[, chunks]) -> rows``; it may refuse some of the numbers with an `MpsimError`, not all.
    grid : iterable of tuples of int
        The numbers of ranks and micro-batches to try, or of ranks, micro-batches and stages a rank; by default several
        of both, the latter if the schedule has a third parameter.

    Raises
    ------
    MpsimError
        The first of them at which it does not.

    Examples
    --------
    >>> from mpsim.plan.schedules import gpipe
    >>> check_schedule(gpipe)
    >>> check_schedule(lambda ranks, microbatches: gpipe(ranks, microbatches)[:1], grid=[(2, 1)])
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 2 ranks, 1 micro-batches: schedule has 1 rows, the plan has 2 pipeline ranks: give one row\
 a rank
    """
    points = list(grid) if grid is not None else [*GRID, *(CHUNKED if takes_chunks(schedule) else ())]
    answered = 0
    for point in points:
        try:
            rows = schedule(*point)
        except MpsimError:
            continue
        answered += 1
        where = ", ".join(map("{} {}".format, point, ("ranks", "micro-batches", "stages a rank")))
        _in_context(where, _check_rows_of, schedule, rows, point)
    if not answered:
        raise MpsimError(f"the schedule refuses all numbers of ranks and micro-batches tried: {points}")


def _in_context(where: str, check: Callable[..., None], *arguments: object) -> None:
    try:
        check(*arguments)
    except MpsimError as error:
        raise at(where, error) from None


def _check_rows_of(schedule: Schedule, rows: Rows, point: tuple[int, ...]) -> None:
    ranks, microbatches = point[:2]
    check_rows(rows, ranks, microbatches)
    if schedule(*point) != rows:
        raise MpsimError("asked twice, the schedule gave two orders: let it depend on its arguments alone")
    if parse_rows(format_rows(rows)) != [list(row) for row in rows]:
        raise MpsimError(
            "its rows are not the same once written and read again: number stages and micro-batches from 0"
        )
    if len(point) > 2 and max(operation.stage for row in rows for operation in row) + 1 != ranks * point[2]:
        raise MpsimError(f"it was asked for {point[2]} stages a rank and gave another number of them")
    step_s = max(end_s for row in unit_times(rows) for _, end_s in row)
    simulated_s = _simulated_s(rows, microbatches)
    if simulated_s != step_s:
        raise MpsimError(
            f"on an ideal network the step takes {simulated_s} times a third of a stage's pass, by unit times {step_s}:"
            " report this, the rows run but not as they should"
        )


def _simulated_s(rows: Rows, microbatches: int) -> float:
    layers = [
        Layer.given(f"layer{s}", forward_s=1.0, backward_s=2.0, saved_bytes=1) for s in range(shape_of(rows).stages)
    ]
    work = Workload.chain("contract", layers)
    plan = Plan(pp=len(rows), microbatches=microbatches, schedule=rows)
    return simulate(work, chain(len(rows), link=Wire(math.inf)), plan, spans=False).step_s


@checked
def check_topology(builder: Callable[..., Topology], *arguments: object, **keywords: object) -> None:
    """Check that a builder makes the same sound topology each time: every route is one, files keep it, bytes flow.

    Parameters
    ----------
    builder : callable
        Returns a `Topology`.
    *arguments, **keywords
        What it is called with.

    Raises
    ------
    MpsimError
        What is broken.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> check_topology(ring, 4, link="50GB/s@2us")
    >>> check_topology(lambda: "a ring of four")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: the builder returned a str, expected a Topology
    """
    topology = builder(*arguments, **keywords)
    if not isinstance(topology, Topology):
        raise MpsimError(f"the builder returned a {type(topology).__name__}, expected a Topology")
    _in_context(f"topology {topology.name!r}", _check_built, topology, builder(*arguments, **keywords))


def _check_built(topology: Topology, again: Topology) -> None:
    if topology != again:
        raise MpsimError("asked twice, the builder made two topologies: let it depend on its arguments alone")
    if not topology.name.strip() or "\n" in topology.name:
        raise MpsimError(f"its name is {topology.name!r}, expected one line of text")
    with tempfile.TemporaryDirectory() as folder:
        save_topology(Path(folder) / "topology.json", topology)
        if load_topology(Path(folder) / "topology.json") != topology:
            raise MpsimError("it is not the same once saved and loaded: give numbers and text that a file holds")
    routes = Routes(topology)
    for source, target in itertools.permutations(range(len(topology.devices)), 2):
        _check_route(topology, routes.path(source, target), source, target)
    if len(topology.devices) > 1:
        simulate_collectives([2**20], topology)


def _check_route(topology: Topology, path: Sequence[int], source: int, target: int) -> None:
    """Refuse a route that does not lead from device to device, or meets a node twice."""
    at = topology.devices[source].name
    met = [at]
    for link in (topology.links[i] for i in path):
        if link.source != at:
            raise MpsimError(f"the route {source} -> {target} is broken at {at!r}: its next is {link}")
        at = link.target
        met.append(at)
    if at != topology.devices[target].name or len(set(met)) < len(met):
        raise MpsimError(f"the route {source} -> {target} goes by {met}: it must end there and meet no node twice")


@checked
def check_collective(
    kind: str, algorithm: Callable[[int], Rounds], sizes: Iterable[int] = (2, 3, 4, 5, 7, 8, 16)
) -> None:
    """Check that the rounds of a collective can do what it is for: everyone hears what they must, in enough bytes.

    Parameters
    ----------
    kind : str
        A kind of `collective`.
    algorithm : callable
        ``(ranks) -> Rounds``; it may refuse a number of ranks with an `MpsimError`, but not all of them.
    sizes : iterable of int
        Numbers of ranks to try.

    Raises
    ------
    MpsimError
        A message of a rank to itself or to none, a rank that never hears from another, fewer bytes than the
        bandwidth bound of any algorithm.

    Examples
    --------
    >>> from mpsim.collectives.algorithms import ring_all_gather, ring_all_reduce
    >>> check_collective("all_reduce", ring_all_reduce)
    >>> check_collective("all_reduce", ring_all_gather)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: all_reduce over 2 ranks: nothing is reduced: count the pieces in `reduced`
    """
    done = 0
    for ranks in sizes:
        try:
            rounds = algorithm(ranks)
        except MpsimError:
            continue
        done += 1
        _in_context(f"{kind} over {ranks} ranks", _check_rounds, kind, rounds, ranks)
    if not done:
        raise MpsimError(f"the algorithm refuses every number of ranks tried: {list(sizes)}")


def _check_rounds(kind: str, rounds: Rounds, ranks: int) -> None:
    if rounds.pieces < 1 or not rounds.rounds:
        raise MpsimError(f"it has {rounds.pieces} pieces and {len(rounds.rounds)} rounds, expected 1 or more of both")
    for one in rounds.rounds:
        _check_round(one, ranks)
    heard = _heard(rounds, ranks)
    for rank in range(ranks):
        missing = must_hear(kind, rank, ranks) - heard[rank]
        if missing:
            raise MpsimError(f"rank {rank} never hears, not even through others, from rank {min(missing)}")
    reduced = sum(one.reduced for one in rounds.rounds)
    if (reduced > 0) != (kind in ("all_reduce", "reduce_scatter", "reduce")):
        raise MpsimError(
            "nothing is reduced: count the pieces in `reduced`"
            if not reduced
            else f"{reduced} pieces are reduced, which this kind never does"
        )
    _check_bytes(kind, rounds, ranks)


def _check_round(one: Round, ranks: int) -> None:
    for source, target in one.messages:
        if source == target or not (0 <= source < ranks and 0 <= target < ranks):
            raise MpsimError(f"there is a message from rank {source} to rank {target}: ranks are 0 to {ranks - 1}")
    counts = (one.pieces, one.repeat, one.hops, one.streams, len(one.messages))
    if min(counts) < 1 or len(one.messages) % one.streams:
        raise MpsimError(f"a round has (pieces, repeat, hops, streams, messages) = {counts}: each must be 1 or more")


def _heard(rounds: Rounds, ranks: int) -> list[set[int]]:
    """Return whose data each rank may have at the end, passed on as early as the rounds allow."""
    heard = [{rank} for rank in range(ranks)]
    for one in rounds.rounds:
        for _ in range(one.repeat):
            # In a round that streams, a rank passes on what has just reached it.
            source_of = heard if one.hops > 1 else [set(known) for known in heard]
            for source, target in one.messages:
                heard[target] = heard[target] | source_of[source]
    return heard


def _check_bytes(kind: str, rounds: Rounds, ranks: int) -> None:
    """Refuse less traffic than any algorithm needs where each rank sends and receives a byte a second."""
    sent, received = [0.0] * ranks, [0.0] * ranks
    for one in rounds.rounds:
        for (source, target), pieces in zip(one.messages, one.counts, strict=True):
            sent[source] += pieces * one.repeat / rounds.pieces
            received[target] += pieces * one.repeat / rounds.pieces
    routes = Routes(switch(ranks, link=Wire(1.0)))
    bound_s, busiest_s = lower_bound_s(routes, kind, range(ranks), 1), max(*sent, *received)
    if busiest_s < bound_s * (1 - 1e-9):
        raise MpsimError(
            f"the busiest rank moves {busiest_s:.4g} of the tensor, any algorithm needs {bound_s:.4g}: send all of it"
        )
