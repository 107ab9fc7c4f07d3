"""What could be otherwise: a link, a launch, a node, a schedule; each as the topology and plan that it makes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction

from mpsim.errors import MpsimError
from mpsim.explanation.kinds import link_kind
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import global_batch
from mpsim.plan.model import Plan
from mpsim.plan.rescheduled import under
from mpsim.plan.schedule_file import GivenRows
from mpsim.plan.schedules import SCHEDULES
from mpsim.topology.costs import CollectiveCost
from mpsim.topology.grown import grown
from mpsim.topology.model import Link, Topology

__all__ = [
    "Changed",
    "best_cut",
    "cuda_graphs",
    "faster_links",
    "kinds_in_use",
    "more_microbatches",
    "no_latency",
    "one_more_node",
    "other_schedules",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A topology and a plan of which something is otherwise, and what follows from it in words."""

    topology: Topology
    plan: Plan
    detail: str = ""


def faster_links(lowering: Lowering, kind: str, factor: float = 2.0) -> Changed:
    """Return links of a kind that carry `factor` times as much, wires of cards that are as wide included.

    Costs that were measured over them move bytes as much faster; what a message takes stays.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> changed = faster_links(lower(work, ring(2, link="1GB/s@0"), Plan(dp=2)), "1 GB/s links")
    >>> {link.bandwidth_bytes_per_s for link in changed.topology.links}
    {2000000000.0}
    """
    topology = lowering.topology
    widths = {link.bandwidth_bytes_per_s for link in topology.links if link_kind(link) == kind}

    def faster(link: Link) -> Link:
        if link_kind(link) == kind or (link.type == "host" and link.bandwidth_bytes_per_s in widths):
            return replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor)
        return link

    costs = tuple(_faster_cost(cost, factor) if cost.link == kind else cost for cost in topology.costs)
    made = replace(topology, links=tuple(map(faster, topology.links)), costs=costs)
    return Changed(topology=made, plan=lowering.plan)


def _faster_cost(cost: CollectiveCost, factor: float) -> CollectiveCost:
    """Return a cost whose links carry more; where it says how wide those were, wider ones already do."""
    if cost.link_bytes_per_s:
        return cost
    regimes = (replace(one, bandwidth_bytes_per_s=one.bandwidth_bytes_per_s * factor) for one in cost.regimes)
    return replace(cost, regimes=tuple(regimes))


def no_latency(lowering: Lowering) -> Changed:
    """Return links without latency; what measured costs say of a message and of a launch of collectives goes too.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> {one.latency_s for one in no_latency(lower(work, ring(2, link="1GB/s@2us"), Plan(dp=2))).topology.links}
    {0.0}
    """
    topology = lowering.topology
    links = tuple(replace(link, latency_s=0.0) for link in topology.links)
    costs = tuple(
        replace(cost, regimes=tuple(replace(one, launch_s=0.0, step_s=0.0) for one in cost.regimes))
        for cost in topology.costs
    )
    return Changed(topology=replace(topology, links=links, costs=costs), plan=lowering.plan)


def cuda_graphs(lowering: Lowering) -> Changed:
    """Return a plan that launches by graphs.

    Raises
    ------
    MpsimError
        It launches for nothing already, or launching is in the trace's times.
    """
    if not lowering.launches:
        if lowering.plan.launch == "graphs":
            raise MpsimError("the plan launches by graphs already")
        raise MpsimError("the trace has one clock: launching is in its times, and nobody knows how much of them")
    return Changed(topology=lowering.topology, plan=replace(lowering.plan, launch="graphs"))


def best_cut(lowering: Lowering) -> Changed:
    """Return a plan that leaves its stages open: they are cut where the step is the shortest.

    Raises
    ------
    MpsimError
        It does so already, or has one stage.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> best_cut(lower(work, parse_topology("chain:2,link=1GB/s@0"), Plan(pp=2, boundaries=(1,)))).plan.text
    'pp=2 naive'
    """
    if lowering.shape.stages == 1:
        raise MpsimError("the plan has one stage")
    if lowering.plan.boundaries is None:
        raise MpsimError("the plan leaves its stages open: they are cut where its step is the shortest already")
    return Changed(topology=lowering.topology, plan=replace(lowering.plan, boundaries=None))


def more_microbatches(lowering: Lowering, *, larger_batch: bool) -> Changed:
    """Return a plan of twice as many micro-batches: of the same batch, or of twice as large a one.

    Raises
    ------
    MpsimError
        The rows of its schedule are given, or a micro-batch does not divide.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> plan = Plan(dp=2, microbatches=4)
    >>> more_microbatches(lower(work, parse_topology("chain:2,link=1GB/s@0"), plan), larger_batch=True).detail
    '8 micro-batches of 1, batch 16'
    """
    plan, batch = lowering.plan, global_batch(lowering.workload, lowering.plan)
    _refuse_rows(plan)
    size = batch // plan.dp // plan.microbatches
    if not larger_batch and size % 2:
        raise MpsimError(f"a micro-batch of {size} samples has no halves")
    batch *= 2 if larger_batch else 1
    made = replace(plan, microbatches=2 * plan.microbatches, batch=batch)
    each = f"{made.microbatches} micro-batches of {batch // plan.dp // made.microbatches}"
    return Changed(topology=lowering.topology, plan=made, detail=f"{each}, batch {batch}")


def one_more_node(lowering: Lowering) -> Changed:
    """Return the next larger topology of its builder, and the plan with as many more replicas, or else stages.

    A replica keeps its batch.

    Raises
    ------
    MpsimError
        The topology is of no builder, or one of several sizes; the plan leaves devices free, or does not grow so.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> one_more_node(lower(work, parse_topology("switch:2,link=1GB/s@0"), Plan(dp=2))).detail
    'of 33.3 % at best: switch:3,link=1GB/s@0, dp=3, batch 3'
    """
    plan, old = lowering.plan, lowering.topology
    new = grown(old)
    if plan.devices or plan.ranks < len(old.devices):
        raise MpsimError(
            f"the plan stands on {plan.ranks} of {len(old.devices)} devices"
            + (", each named" if plan.devices else ": give it those first")
        )
    growth = Fraction(len(new.devices), len(old.devices))
    for axis in ("dp", "pp"):
        size = getattr(plan, axis) * growth
        if size.denominator == 1 and (axis == "dp" or (plan.pp > 1 and not isinstance(plan.schedule, GivenRows))):
            changes = {axis: int(size)} | (
                {"batch": int(plan.batch * growth)} if axis == "dp" else {"boundaries": None}
            )
            made = replace(plan, **changes)
            batch = global_batch(lowering.workload, made)
            most = f"of {100 * (1 - 1 / float(growth)):.1f} % at best"
            return Changed(topology=new, plan=made, detail=f"{most}: {new.name}, {axis}={int(size)}, batch {batch}")
    raise MpsimError(f"neither dp={plan.dp} nor pp={plan.pp} grows by {growth} as the devices do")


def other_schedules(lowering: Lowering) -> list[Changed]:
    """Return the plan under every other schedule whose stages update at the end of the step.

    Raises
    ------
    MpsimError
        It has one pipeline rank, its rows are given, or its own updates amid the step.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> plan = Plan(pp=2, microbatches=2)
    >>> other_schedules(lower(work, parse_topology("chain:2,link=1GB/s@0"), plan))[1].plan.schedule
    'gpipe'
    """
    plan = lowering.plan
    if plan.pp == 1:
        raise MpsimError("the plan has one pipeline rank")
    _refuse_rows(plan)
    if lowering.asynchronous:
        raise MpsimError(f"{plan.schedule_name} updates amid the step: no other schedule computes the same")
    return [
        Changed(topology=lowering.topology, plan=made, detail=made.text)
        for name in SCHEDULES
        if name not in (plan.schedule, "pipedream")
        for made in [under(plan, name, lowering.shape.stages, lowering.rows)]
        if made is not None
    ]


def _refuse_rows(plan: Plan) -> None:
    if not isinstance(plan.schedule, str):
        raise MpsimError(f"its schedule {plan.schedule_name!r} is no registered one: it may know no other rows")


def kinds_in_use(lowering: Lowering, links: Collection[int]) -> list[str]:
    """Return the kinds of links among some of a topology, by their indices.

    Free ones are as fast as can be, and a card's wire to its device is changed with what it is for.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("w", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> kinds_in_use(lower(work, parse_topology("chain:2,link=1GB/s@0"), Plan(pp=2)), [0])
    ['1 GB/s links']
    """
    found = [lowering.topology.links[link] for link in sorted(links)]
    named = {link.bandwidth_bytes_per_s for link in found if link.type != "host"}
    return list(
        dict.fromkeys(
            link_kind(link)
            for link in found
            if link.bandwidth_bytes_per_s < math.inf
            and (link.type != "host" or link.bandwidth_bytes_per_s not in named)
        )
    )
